//go:build libzstd && cgo

package savefmt

import "github.com/xenferry/xenferry/savefmt/libzstd"

// ZstdLibrary names what codes Zstandard in this program.
func ZstdLibrary() string { return "libzstd " + libzstd.Version() }

func newZstdEncoder(level int) (Encoder, error) { return libzstd.NewEncoder(level, zstdWindowLog) }
func newZstdDecoder() (Decoder, error)          { return libzstd.NewDecoder(zstdWindowLog) }
