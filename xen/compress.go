package xen

import (
	"fmt"

	"github.com/xenferry/xenferry/savefmt"
)

// Compression says how the contents of pages are encoded: by one method, or
// (the zero value) by that which moves the guest soonest, batch by batch.
type Compression struct {
	Fixed  bool
	Method savefmt.Method // with Fixed
}

// NoCompression sends pages as they are.
var NoCompression = Compression{Fixed: true}

// ParseCompression reads the value of --compress.
func ParseCompression(s string) (Compression, error) {
	if s == "auto" {
		return Compression{}, nil
	}
	m, err := savefmt.ParseMethod(s)
	if err != nil {
		return Compression{}, fmt.Errorf("--compress %w; it is one of auto, off, s2, zstd, zstd:1 to zstd:22, zlib, zlib:1 to zlib:9, zstd-long, zstd-long:1 to zstd-long:22", err)
	}
	return Compression{Fixed: true, Method: m}, nil
}

// String returns the compression as ParseCompression reads it.
func (c Compression) String() string {
	if !c.Fixed {
		return "auto"
	}
	return c.Method.String()
}
