package savefmt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// FrameType tells what a frame carries.
type FrameType uint8

// The frame types. Extend by a new type, never by appending to an old one.
const (
	FrameMessage  FrameType = 1 // control: one JSON message
	FrameState    FrameType = 2 // control: one Record
	FramePing     FrameType = 3 // control: empty, sent while there is nothing to say
	FrameAttach   FrameType = 4 // first frame of a data connection: JSON
	FramePages    FrameType = 5 // data: a page table, then the pages' contents
	FrameRoundEnd FrameType = 6 // data: the last frame of a round on this connection
	FrameCopies   FrameType = 7 // data: pages that are copies of others of this round
)

// Flags of a pages, copies or round-end frame.
const (
	// FlagLive: the guest ran while these pages were read, so one that does
	// not match its checksum was being written, and must come again.
	FlagLive uint16 = 1 << 0
	// FlagVerify: compare with what is there instead of storing.
	FlagVerify uint16 = 1 << 1
	// FlagLast, on a round end: no page follows on this connection.
	FlagLast uint16 = 1 << 2
	// FlagFresh, on pages in a codec with history: the history begins here.
	FlagFresh uint16 = 1 << 3
)

const flagsKnown = FlagLive | FlagVerify | FlagLast | FlagFresh

// HeaderSize is the length of a frame's header in bytes.
const HeaderSize = 32

// Limits on what a frame may claim, checked before anything is allocated.
const (
	MaxMessage = 1 << 20  // bytes of a JSON message
	MaxState   = 16 << 20 // bytes of a state record with its 8-byte head
	MaxPages   = 256      // pages of one frame
	MaxPayload = MaxPages * 4096
	MaxEncoded = MaxPayload + encodeSlack // bytes of pages that a codec made larger
)

const frameMagic = 0x31594658 // "XFY1" in memory order

// ErrNotFrame: the bytes do not begin with a frame's magic. The peer is
// something else, or the stream lost its place.
var ErrNotFrame = errors.New("not a xenferry frame")

// Header is a frame's header. On the wire, little-endian:
//
//	offset  0       4       5       6       8      12      16      20       24     28
//	       +-------+-------+-------+-------+------+-------+-------+--------+------+-------+
//	       | magic | type  | codec | flags | round| count | length| bodyCRC| table| crc   |
//	       | u32   | u8    | u8    | u16   | u32  | u32   | u32   | u32    | u32  | u32   |
//	       +-------+-------+-------+-------+------+-------+-------+--------+------+-------+
//
// crc is CRC-32C of the 28 bytes before it.
type Header struct {
	Type  FrameType
	Codec Codec
	Flags uint16
	Round uint32 // pages, round end: number of the round, from 0
	Count uint32 // pages: how many
	// Table is the number of bytes of the table of a pages frame; 0 for others.
	Table uint32
	// Length is the number of body bytes after the header; for pages, of
	// those after the table.
	Length uint32
	// BodyCRC is CRC-32C of the body; for pages, of the table (which holds the
	// checksums of the pages).
	BodyCRC uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum returns CRC-32C of b, the checksum of everything on the wire but pages.
func Checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// PageSum returns the checksum of a page, the CRC-32 of IEEE 802.3. It finds as
// much in 4 KiB as CRC-32C (any three wrong bits, any burst of 32), and Go reads
// memory straight on for it, but at three places at once for CRC-32C: pages that
// no cache holds are summed at less than a third of the speed then.
func PageSum(page []byte) uint32 { return crc32.ChecksumIEEE(page) }

// Put writes the header to b, which must have room for HeaderSize bytes.
func (h *Header) Put(b []byte) {
	_ = b[HeaderSize-1]
	le := binary.LittleEndian
	le.PutUint32(b[0:], frameMagic)
	b[4], b[5] = byte(h.Type), byte(h.Codec)
	le.PutUint16(b[6:], h.Flags)
	le.PutUint32(b[8:], h.Round)
	le.PutUint32(b[12:], h.Count)
	le.PutUint32(b[16:], h.Length)
	le.PutUint32(b[20:], h.BodyCRC)
	le.PutUint32(b[24:], h.Table)
	le.PutUint32(b[28:], Checksum(b[:28]))
}

// ParseHeader reads a header and checks everything that can be checked
// without the body: magic, checksum, type, and that it stays in its limits.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, fmt.Errorf("frame header: %d bytes, want %d", len(b), HeaderSize)
	}
	le := binary.LittleEndian
	if le.Uint32(b) != frameMagic {
		return Header{}, fmt.Errorf("%w: it begins with %q", ErrNotFrame, b[:HeaderSize])
	}
	if got, want := Checksum(b[:28]), le.Uint32(b[28:]); got != want {
		return Header{}, fmt.Errorf("frame header is corrupt: checksum %08x, says %08x", got, want)
	}
	h := Header{
		Type: FrameType(b[4]), Codec: Codec(b[5]), Flags: le.Uint16(b[6:]), Round: le.Uint32(b[8:]),
		Count: le.Uint32(b[12:]), Length: le.Uint32(b[16:]), BodyCRC: le.Uint32(b[20:]),
		Table: le.Uint32(b[24:]),
	}
	if h.Table != 0 && h.Type != FramePages || h.Flags&^flagsKnown != 0 {
		return Header{}, fmt.Errorf("frame header: reserved bits are set (flags %#x)", h.Flags)
	}
	return h, h.check()
}

func (h *Header) check() error {
	tooLong := func(what string, limit uint32) error {
		return fmt.Errorf("%s frame claims %d bytes, the limit is %d", what, h.Length, limit)
	}
	switch h.Type {
	case FrameMessage, FrameAttach:
		if h.Length > MaxMessage {
			return tooLong("message", MaxMessage)
		}
	case FrameState:
		if h.Length > MaxState {
			return tooLong("state", MaxState)
		}
		if h.Length < recordHead {
			return fmt.Errorf("state frame of %d bytes, want at least %d", h.Length, recordHead)
		}
	case FramePing:
		if h.Length != 0 {
			return tooLong("ping", 0)
		}
	case FramePages:
		if h.Count == 0 || h.Count > MaxPages {
			return fmt.Errorf("pages frame claims %d pages, the limit is 1 to %d", h.Count, MaxPages)
		}
		if least, most := uint32(runSize), uint32(MaxTable(int(h.Count))); h.Table < least || h.Table > most {
			return fmt.Errorf("pages frame claims a table of %d bytes for %d pages, the limit is %d to %d", h.Table, h.Count, least, most)
		}
		limit := uint32(MaxPayload)
		if h.Codec != CodecRaw {
			limit = MaxEncoded
		}
		if h.Length > limit {
			return tooLong("pages", limit)
		}
	case FrameCopies:
		if h.Count == 0 || h.Count > MaxPages || h.Length != h.Count*copySize {
			return fmt.Errorf("copies frame claims %d pages in %d bytes, the limit is 1 to %d of %d", h.Count, h.Length, MaxPages, copySize)
		}
	case FrameRoundEnd:
		if h.Length != roundEndSize {
			return fmt.Errorf("round end frame of %d bytes, want %d", h.Length, roundEndSize)
		}
	default:
		return fmt.Errorf("unknown frame type %d", h.Type)
	}
	return nil
}

// CheckBody compares the body of a frame (for pages: the table) with the
// header's checksum.
func (h *Header) CheckBody(body []byte) error {
	if got := Checksum(body); got != h.BodyCRC {
		return fmt.Errorf("body of a frame of type %d is corrupt: checksum %08x, says %08x", h.Type, got, h.BodyCRC)
	}
	return nil
}

// AppendFrame appends a whole frame that is not a pages frame.
func AppendFrame(dst []byte, t FrameType, body []byte) []byte {
	h := Header{Type: t, Length: uint32(len(body)), BodyCRC: Checksum(body)}
	return appendWhole(dst, &h, body)
}

func appendWhole(dst []byte, h *Header, body []byte) []byte {
	n := len(dst)
	dst = append(dst, make([]byte, HeaderSize)...)
	h.Put(dst[n:])
	return append(dst, body...)
}

const recordHead = 8 // u32 type, u32 zero

// AppendState appends a state frame. An error says that the record is larger
// than MaxState.
func AppendState(dst []byte, r Record) ([]byte, error) {
	if len(r.Body)+recordHead > MaxState {
		return dst, fmt.Errorf("state record %#x has %d bytes, the limit is %d", r.Type, len(r.Body), MaxState-recordHead)
	}
	body := make([]byte, recordHead, recordHead+len(r.Body))
	binary.LittleEndian.PutUint32(body, r.Type)
	return AppendFrame(dst, FrameState, append(body, r.Body...)), nil
}

// ParseState reads the body of a state frame. The record keeps body.
func ParseState(body []byte) (Record, error) {
	if len(body) < recordHead || binary.LittleEndian.Uint32(body[4:]) != 0 {
		return Record{}, fmt.Errorf("malformed state record of %d bytes", len(body))
	}
	return Record{Type: binary.LittleEndian.Uint32(body), Body: body[recordHead:]}, nil
}

const roundEndSize = 8 // u64 pages

// AppendRoundEnd appends the frame that ends a round on a connection, after
// pages page entries on it.
func AppendRoundEnd(dst []byte, round uint32, flags uint16, pages uint64) []byte {
	var body [roundEndSize]byte
	binary.LittleEndian.PutUint64(body[:], pages)
	h := Header{Type: FrameRoundEnd, Flags: flags, Round: round, Length: roundEndSize, BodyCRC: Checksum(body[:])}
	return appendWhole(dst, &h, body[:])
}

// ParseRoundEnd reads the body of a round-end frame.
func ParseRoundEnd(body []byte) (pages uint64, err error) {
	if len(body) != roundEndSize {
		return 0, fmt.Errorf("round end of %d bytes, want %d", len(body), roundEndSize)
	}
	return binary.LittleEndian.Uint64(body), nil
}
