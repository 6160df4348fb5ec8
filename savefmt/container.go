package savefmt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// The container holds a stock save file, any of its three layers, in
// compressed blocks with checksums. All integers are little-endian.
//
//	header, 24 bytes
//	 0              8         12           16      20      24
//	+--------------+---------+------------+-------+-------+
//	| "XFsaved\n"  | version | block size | zero  | crc   |
//	+--------------+---------+------------+-------+-------+
//	block, 32 bytes and its contents
//	 0        4      5      8        12       16       20       24      28      32
//	+--------+------+------+--------+--------+--------+--------+-------+-------+--------
//	| "XFB1" | codec| zero | index  | raw    | stored | raw    | stored| crc   | stored
//	|        | u8   |      |        | length | length | crc    | crc   |       | bytes
//	+--------+------+------+--------+--------+--------+--------+-------+-------+--------
//	end mark, 32 bytes, nothing follows
//	 0        4       8             16            24      28      32
//	+--------+-------+-------------+-------------+-------+-------+
//	| "XFE1" | zero  | raw bytes   | blocks      | chain | crc   |
//	+--------+-------+-------------+-------------+-------+-------+
//
// crc is CRC-32C of the bytes of the header, block header or end mark before
// it. chain is CRC-32C of all block headers, one after the other.
const (
	containerMagic   = "XFsaved\n"
	containerVersion = 1
	containerHead    = 24
	blockHead        = 32
	blockMark        = 0x31424658 // "XFB1" in memory order
	endMark          = 0x31454658 // "XFE1"
)

// Sizes of a container's blocks before compression, in bytes.
const (
	DefaultBlock = 1 << 20
	MaxBlock     = 4 << 20 // more is refused
)

// ContainerInfo says how a saved guest was packed.
type ContainerInfo struct {
	Blocks uint64            `json:"blocks"`
	Bytes  int64             `json:"bytes"`  // of the container
	Codecs map[string]uint64 `json:"codecs"` // blocks by codec
}

// ContainerError says what is wrong with a container, and where.
type ContainerError struct {
	Part   string // "header", "block 17", "end mark"
	Offset int64  // of its first byte in the container
	Err    error
}

func (e *ContainerError) Error() string {
	return fmt.Sprintf("container: %s at offset %#x: %v", e.Part, e.Offset, e.Err)
}

func (e *ContainerError) Unwrap() error { return e.Err }

func putContainerHead() []byte {
	le := binary.LittleEndian
	b := append(make([]byte, 0, containerHead), containerMagic...)
	b = le.AppendUint32(b, containerVersion)
	b = le.AppendUint32(b, DefaultBlock)
	b = le.AppendUint32(b, 0)
	return le.AppendUint32(b, Checksum(b))
}

func parseContainerHead(b []byte) (blockSize int, err error) {
	le := binary.LittleEndian
	version, size := le.Uint32(b[8:]), le.Uint32(b[12:])
	switch {
	case Checksum(b[:20]) != le.Uint32(b[20:]):
		return 0, errDamaged
	case version != containerVersion:
		return 0, fmt.Errorf("version %d, this program reads %d: use a newer one", version, containerVersion)
	case size == 0 || size > MaxBlock || le.Uint32(b[16:]) != 0:
		return 0, fmt.Errorf("blocks of %d bytes, want 1 to %d", size, MaxBlock)
	}
	return int(size), nil
}

var errDamaged = errors.New("it is damaged: its checksum is wrong")

// block is the header of a block.
type block struct {
	codec       BlockCodec
	index       uint32 // its number, from 0, modulo 2^32
	raw, stored uint32 // lengths
	rawCRC      uint32
	storedCRC   uint32
}

func (h *block) put(b []byte) {
	_ = b[blockHead-1]
	le := binary.LittleEndian
	le.PutUint32(b, blockMark)
	le.PutUint32(b[4:], uint32(h.codec))
	for i, v := range []uint32{h.index, h.raw, h.stored, h.rawCRC, h.storedCRC} {
		le.PutUint32(b[8+4*i:], v)
	}
	le.PutUint32(b[28:], Checksum(b[:28]))
}

// parseBlock reads a block header, for the block of that index.
func parseBlock(b []byte, index uint32, blockSize int) (block, error) {
	le := binary.LittleEndian
	h := block{
		codec: BlockCodec(b[4]), index: le.Uint32(b[8:]), raw: le.Uint32(b[12:]), stored: le.Uint32(b[16:]),
		rawCRC: le.Uint32(b[20:]), storedCRC: le.Uint32(b[24:]),
	}
	switch {
	case le.Uint32(b) != blockMark || Checksum(b[:28]) != le.Uint32(b[28:]):
		return h, errDamaged
	case le.Uint32(b[4:])>>8 != 0:
		return h, errReserved
	case h.index != index:
		return h, fmt.Errorf("it is block %d: blocks are missing or in the wrong order", h.index)
	case h.raw == 0 || h.raw > uint32(blockSize) || h.stored == 0 || h.stored > h.raw:
		return h, fmt.Errorf("it claims %d bytes from %d, the limit is %d", h.raw, h.stored, blockSize)
	case h.codec == BlockRaw && h.stored != h.raw:
		return h, fmt.Errorf("%d bytes without a codec from %d", h.raw, h.stored)
	case !h.codec.known():
		return h, fmt.Errorf("unknown codec %d: use a newer program", h.codec)
	}
	return h, nil
}

// containerEnd is the end mark.
type containerEnd struct {
	bytes, blocks uint64
	chain         uint32
}

func (e *containerEnd) put() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(make([]byte, 0, blockHead), endMark)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint64(b, e.bytes)
	b = le.AppendUint64(b, e.blocks)
	b = le.AppendUint32(b, e.chain)
	return le.AppendUint32(b, Checksum(b))
}

func parseContainerEnd(b []byte) (containerEnd, error) {
	le := binary.LittleEndian
	e := containerEnd{bytes: le.Uint64(b[8:]), blocks: le.Uint64(b[16:]), chain: le.Uint32(b[24:])}
	switch {
	case le.Uint32(b) != endMark || Checksum(b[:28]) != le.Uint32(b[28:]):
		return e, errDamaged
	case le.Uint32(b[4:]) != 0:
		return e, errReserved
	case e.bytes > math.MaxInt64:
		return e, fmt.Errorf("it claims %d bytes", e.bytes)
	}
	return e, nil
}

var errNoEndMark = errors.New("there is none at the end: the container was cut off, or something follows it")

// CheckContainerEnd looks whether a container of size bytes ends with its end
// mark, before anything of it is read: for who would have to undo what was done
// with the beginning of one that was cut off. It returns nil for what is no
// container, or none that can be read: its reader says more.
func CheckContainerEnd(r io.ReaderAt, size int64) error {
	var head [containerHead]byte
	if _, err := r.ReadAt(head[:], 0); err != nil || string(head[:8]) != containerMagic {
		return nil
	}
	if _, err := parseContainerHead(head[:]); err != nil {
		return nil
	}
	var end [blockHead]byte
	at := size - blockHead
	if at >= containerHead {
		if _, err := r.ReadAt(end[:], at); err != nil {
			return err
		}
		if le := binary.LittleEndian; le.Uint32(end[:]) == endMark && Checksum(end[:28]) == le.Uint32(end[28:]) {
			return nil
		}
	}
	return &ContainerError{Part: "end mark", Offset: max(at, containerHead), Err: errNoEndMark}
}
