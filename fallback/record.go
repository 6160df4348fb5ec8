package fallback

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// A journal is a file of fixed size, so that no step can fail for want of room
// on the disk once the migration has begun. Each record starts at a multiple of
// slotSize, the unit that a disk writes whole, so that writing one cannot
// damage another. The rest of the file is zero.
//
//	0      4        8      12
//	+------+--------+------+----------------+- - - -
//	|"XFJ1"| length | crc  | JSON, length   | zeros to the next slot
//	+------+--------+------+----------------+- - - -
//
// Integers are little-endian, crc is CRC-32C of the JSON. The first record is
// a Migration, each other one a Record.
const (
	slotSize    = 512
	journalSize = 40 * slotSize
	recordHead  = 12
	// maxFirst bounds the first record, so that room for steps is left: the
	// tables allow no more than a dozen.
	maxFirst = 16 * slotSize
	maxNote  = 240 // bytes of a note
)

var (
	recordMagic = [4]byte{'X', 'F', 'J', '1'}
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

// ErrDamaged: a journal cannot be read. Nothing is done by it.
var ErrDamaged = errors.New("journal is damaged")

// Side is an end of a migration.
type Side string

// The two sides.
const (
	SideSource      Side = "source"
	SideDestination Side = "destination"
)

// table returns the table of that side.
func (s Side) table() (Table, error) {
	switch s {
	case SideSource:
		return Source, nil
	case SideDestination:
		return Destination, nil
	}
	return nil, fmt.Errorf("a migration has no side %.40q", string(s))
}

// Migration is what recovery must know of a migration, from its beginning on.
type Migration struct {
	ID    string    `json:"id"` // 32 hexadecimal digits
	Side  Side      `json:"side"`
	Began time.Time `json:"began"`
	// Boot names the run of this host, from its start until it goes down. The
	// domains of another one are gone, and their ids are given to others.
	Boot  string `json:"boot,omitempty"`
	Guest string `json:"guest"` // its name, when it runs
	UUID  string `json:"uuid"`
	// Domid is the guest's at the source. At the destination it is 0 and the
	// Record that first knows it has it.
	Domid uint32 `json:"domid,omitempty"`
	Peer  string `json:"peer"` // the other host, for people
	// Transport is, at the source, the shell command whose stdin and stdout
	// are a control connection to the destination.
	Transport string `json:"transport,omitempty"`
	// LeavePaused: the guest is not to run at the destination, only to be there.
	LeavePaused bool `json:"leave_paused,omitempty"`
	// Monitored: at the destination a monitor is to look after the guest.
	Monitored bool `json:"monitored,omitempty"`
}

// Record is one step of a migration.
type Record struct {
	Time  time.Time `json:"time"`
	State State     `json:"state"` // the one that is entered
	Domid uint32    `json:"domid,omitempty"`
	Note  string    `json:"note,omitempty"`
}

// encodeRecord returns v as slots.
func encodeRecord(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(body) > maxFirst-recordHead {
		return nil, fmt.Errorf("journal record of %d bytes, the limit is %d", len(body), maxFirst-recordHead)
	}
	size := (recordHead + len(body) + slotSize - 1) / slotSize * slotSize
	b := make([]byte, size)
	copy(b, recordMagic[:])
	binary.LittleEndian.PutUint32(b[4:], uint32(len(body)))
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(body, castagnoli))
	copy(b[recordHead:], body)
	return b, nil
}

// decodeRecord returns the JSON of the record at the start of b and the slots'
// size in bytes, or 0 if no whole record is there.
func decodeRecord(b []byte) (body []byte, size int) {
	if len(b) < slotSize || [4]byte(b[:4]) != recordMagic {
		return nil, 0
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if n > maxFirst-recordHead || recordHead+int(n) > len(b) {
		return nil, 0
	}
	body = b[recordHead:][:n]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[8:]) {
		return nil, 0
	}
	return body, (recordHead + int(n) + slotSize - 1) / slotSize * slotSize
}

// parseJournal reads a whole journal. A last record that is not whole was never
// on disk before its step: it does not count, and the next one takes its place,
// at end.
func parseJournal(b []byte) (m Migration, steps []Record, end int, err error) {
	if len(b) != journalSize {
		return m, nil, 0, fmt.Errorf("%w: %d bytes long, not %d", ErrDamaged, len(b), journalSize)
	}
	body, size := decodeRecord(b)
	if size == 0 || size > maxFirst {
		return m, nil, 0, fmt.Errorf("%w: the first record is not whole", ErrDamaged)
	}
	if err := strict(body, &m); err != nil {
		return m, nil, 0, fmt.Errorf("%w: the first record: %w", ErrDamaged, err)
	}
	table, err := m.Side.table()
	if err != nil {
		return m, nil, 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	for end = size; end < journalSize; end += size {
		if body, size = decodeRecord(b[end:]); size == 0 {
			break
		}
		var r Record
		if err := strict(body, &r); err != nil {
			return m, nil, 0, fmt.Errorf("%w: the record at %d: %w", ErrDamaged, end, err)
		}
		if !table.knows(r.State) {
			return m, nil, 0, fmt.Errorf("%w: the record at %d: a %s has no state %.40q", ErrDamaged, end, m.Side, string(r.State))
		}
		steps = append(steps, r)
	}
	for at := end + slotSize; at < journalSize; at += slotSize {
		if _, size := decodeRecord(b[at:]); size > 0 {
			return m, nil, 0, fmt.Errorf("%w: the record at %d is not whole, one behind it is", ErrDamaged, end)
		}
	}
	return m, steps, end, nil
}

// strict reads JSON that has no other fields than v.
func strict(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	return d.Decode(v)
}
