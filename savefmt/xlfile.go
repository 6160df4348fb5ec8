package savefmt

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// The outermost layer, of xl itself (tools/xl/xl.h). All integers are u32 in
// the byte order of the machine that wrote them:
//
//	 0                    32         36           40           44            48
//	+--------------------+----------+------------+------------+-------------+---------------+
//	| magic              | byte     | mandatory  | optional   | length of   | optional data |
//	|                    | order    | flags      | flags      | opt. data   | ...           |
//	+--------------------+----------+------------+------------+-------------+---------------+
//
// The optional data is a u32 length and so many bytes of configuration, then
// anything: a reader skips what it does not understand.

const (
	xlMagic      = "Xen saved domain, xl format\n \x00 \r" // 32 bytes, no NUL behind
	xlHeaderSize = 48
	xlByteOrder  = 0x01020304

	xlFlagJSON     = 1 << 0 // the configuration is JSON
	xlFlagStreamV2 = 1 << 1 // a libxl stream of version 2 follows
)

// ConfigOffset is where an xl save file has its optional data, and so the
// guest's configuration.
const ConfigOffset = xlHeaderSize

// AppendXLHeader appends the header of an xl save file with the guest's
// configuration, the JSON of libxl_domain_config.
func AppendXLHeader(dst, config []byte) ([]byte, error) {
	config = bytes.TrimSuffix(config, []byte{0})
	if len(config) == 0 || len(config) >= MaxConfig {
		return dst, fmt.Errorf("guest configuration of %d bytes: it must have 1 to %d", len(config), MaxConfig-1)
	}
	length := uint32(len(config) + 1) // xl counts and writes the NUL
	le := binary.LittleEndian
	dst = append(dst, xlMagic...)
	for _, v := range []uint32{xlByteOrder, xlFlagJSON | xlFlagStreamV2, 0, 4 + length, length} {
		dst = le.AppendUint32(dst, v)
	}
	return append(append(dst, config...), 0), nil
}

// xlHeader is a header that was read.
type xlHeader struct {
	mandatory, optional uint32
	length              uint32 // of the optional data
}

// parseXLHeader reads the first xlHeaderSize bytes of a file.
func parseXLHeader(b []byte) (xlHeader, error) {
	le := binary.LittleEndian
	h := xlHeader{mandatory: le.Uint32(b[36:]), optional: le.Uint32(b[40:]), length: le.Uint32(b[44:])}
	switch order := le.Uint32(b[32:]); {
	case string(b[:32]) != xlMagic:
		return h, fmt.Errorf("the magic is %q, want %q", b[:32], xlMagic)
	case order != xlByteOrder:
		return h, fmt.Errorf("byte order mark %#x: it was written on a machine of another byte order", order)
	case h.mandatory&^uint32(xlFlagJSON|xlFlagStreamV2) != 0:
		return h, fmt.Errorf("unknown mandatory flags %#x: it needs a newer Xen", h.mandatory)
	case h.mandatory&xlFlagStreamV2 == 0:
		return h, fmt.Errorf("a stream of the time before Xen 4.6; Xen's convert-legacy-stream can turn it into a later one")
	case h.mandatory&xlFlagJSON == 0:
		return h, fmt.Errorf("its configuration is not in JSON; no Xen since 4.5 writes that")
	case h.length < 4 || h.length > MaxConfig+4:
		return h, fmt.Errorf("%d bytes of optional data: they must be 4 to %d", h.length, MaxConfig+4)
	}
	return h, nil
}

// parseXLConfig takes the configuration, without its NUL, out of the optional
// data.
func parseXLConfig(data []byte) ([]byte, error) {
	n := binary.LittleEndian.Uint32(data)
	if n == 0 || uint64(n) > uint64(len(data)-4) {
		return nil, fmt.Errorf("a configuration of %d bytes in %d bytes of optional data", n, len(data))
	}
	config := bytes.TrimSuffix(data[4:4+n], []byte{0})
	if bytes.IndexByte(config, 0) >= 0 {
		return nil, fmt.Errorf("a NUL byte inside the configuration")
	}
	return config, nil
}
