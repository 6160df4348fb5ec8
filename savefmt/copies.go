package savefmt

import (
	"encoding/binary"
	"fmt"
)

// Copy is one entry of a copies frame: the page of Entry has the same contents
// as the page Source, which travels as data in the same round.
//
//	offset 0       8        16    20
//	       +-------+--------+-----+
//	       | entry | source | crc |
//	       | u64   | u64    | u32 |
//	       +-------+--------+-----+
//
// crc is the PageSum of the contents.
type Copy struct {
	Entry  PageEntry
	Source uint64 // pfn
	Sum    uint32
}

const copySize = 20

// MaxCopies bounds the copies of one round on one connection: the destination
// keeps them until the round has ended. It is 6 MiB of memory there.
const MaxCopies = 1 << 18

// AppendCopies appends a copies frame with 1 to MaxPages entries.
func AppendCopies(dst []byte, round uint32, flags uint16, copies []Copy) []byte {
	head := len(dst)
	var room [HeaderSize]byte
	dst = append(dst, room[:]...)
	for _, c := range copies {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(c.Entry))
		dst = binary.LittleEndian.AppendUint64(dst, c.Source)
		dst = binary.LittleEndian.AppendUint32(dst, c.Sum)
	}
	body := dst[head+HeaderSize:]
	h := Header{Type: FrameCopies, Flags: flags, Round: round, Count: uint32(len(copies)), Length: uint32(len(body)), BodyCRC: Checksum(body)}
	h.Put(dst[head:])
	return dst
}

// AppendParsedCopies reads the body of a copies frame and appends its entries
// to dst. It checks that pfns ascend, and that all are below limit.
func AppendParsedCopies(dst []Copy, body []byte, limit uint64) ([]Copy, error) {
	if len(body)%copySize != 0 {
		return dst, fmt.Errorf("copies of %d bytes", len(body))
	}
	next := uint64(0)
	for ; len(body) > 0; body = body[copySize:] {
		c := Copy{
			Entry:  PageEntry(binary.LittleEndian.Uint64(body)),
			Source: binary.LittleEndian.Uint64(body[8:]),
			Sum:    binary.LittleEndian.Uint32(body[16:]),
		}
		if err := checkRun(c.Entry, 1, next, limit); err != nil {
			return dst, err
		}
		if c.Entry.Content() != ContentData || c.Source >= limit || c.Source == c.Entry.PFN() {
			return dst, fmt.Errorf("page %#x cannot be a copy of %#x", uint64(c.Entry), c.Source)
		}
		next = c.Entry.PFN() + 1
		dst = append(dst, c)
	}
	return dst, nil
}
