package memcheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Layout of a data page that is not zero.
const (
	pageMagic   = 0x50434658 // "XFCP", little-endian
	offPMagic   = 0          // u32
	offPCRC     = 4          // u32, CRC32C of bytes 8..4095
	offPIndex   = 8          // u64
	offPVersion = 16         // u64
	offPSeed    = 24         // u64
	offPKind    = 32         // u32
	offPSmall   = 36         // u32, small writes since the body was made
	offBody     = 40
)

// The kinds of damage, for errors.Is.
var (
	// ErrCorrupt: a page is not whole: its CRC or its fields are wrong.
	ErrCorrupt = errors.New("corrupt page")
	// ErrStale: a page is whole, but an older version than the last written.
	ErrStale = errors.New("stale page, a write was lost")
	// ErrMisplaced: a page is whole, but belongs elsewhere.
	ErrMisplaced = errors.New("page at the wrong place")
	// ErrTable: an entry of the table is damaged, or older than its page.
	ErrTable = errors.New("damaged table")
	// ErrLostWrites: table and pages agree, but writes are missing in both.
	ErrLostWrites = errors.New("writes were lost, with their table entries")
)

var zeroPage [PageSize]byte

// Write puts a new version into data page i, and tells what Verify found wrong
// with the old one. The page is good afterwards in any case.
func (a *Area) Write(i int) error {
	err := a.Verify(i)
	a.rewrite(i, err)
	return err
}

// rewrite writes the version after the one in the table, whole. An entry that
// is itself damaged counts for nothing.
func (a *Area) rewrite(i int, damage error) {
	version := a.entry(i).version() + 1
	if errors.Is(damage, ErrTable) {
		version = 1
	}
	a.put(i, version, a.kindFor(i, version))
}

// WriteSmall changes up to 32 bytes of data page i, besides its header: the
// write of a program that updates a field. A page that is zero or damaged is
// written as a whole.
func (a *Area) WriteSmall(i int) error {
	e := a.entry(i)
	if err := a.Verify(i); err != nil || e.kind() == KindZero {
		a.rewrite(i, err)
		return err
	}
	p, version := a.page(i), e.version()+1
	rng := newRand(a.seed, i, version)
	for range 1 + rng.next()%4 {
		at := offBody + rng.next()%((PageSize-offBody)/8)*8
		binary.LittleEndian.PutUint64(p[at:], rng.next())
	}
	small := binary.LittleEndian.Uint32(p[offPSmall:])
	binary.LittleEndian.PutUint32(p[offPSmall:], small+1)
	binary.LittleEndian.PutUint64(p[offPVersion:], version)
	a.seal(i, version, e.kind())
	return nil
}

// put writes the given version of data page i as a whole.
func (a *Area) put(i int, version uint64, kind Kind) {
	p := a.page(i)
	if kind == KindZero {
		clear(p)
		a.touched(a.PageOf(i))
		a.setEntry(i, a.makeEntry(i, version, kind))
		return
	}
	binary.LittleEndian.PutUint32(p[offPMagic:], pageMagic)
	binary.LittleEndian.PutUint64(p[offPIndex:], uint64(i))
	binary.LittleEndian.PutUint64(p[offPVersion:], version)
	binary.LittleEndian.PutUint64(p[offPSeed:], a.seed)
	binary.LittleEndian.PutUint32(p[offPKind:], uint32(kind))
	binary.LittleEndian.PutUint32(p[offPSmall:], 0)
	fillBody(p[offBody:], kind, newRand(a.seed, i, version))
	a.seal(i, version, kind)
}

// seal sets the CRC of data page i and its entry: the end of every write.
func (a *Area) seal(i int, version uint64, kind Kind) {
	p := a.page(i)
	binary.LittleEndian.PutUint32(p[offPCRC:], crc32.Checksum(p[offPIndex:], castagnoli))
	a.touched(a.PageOf(i))
	a.setEntry(i, a.makeEntry(i, version, kind))
}

// Verify checks data page i and its table entry. The error wraps the kind of
// damage and names the page.
func (a *Area) Verify(i int) error {
	e, p := a.entry(i), a.page(i)
	if uint64(e)&(1<<20-1) != a.entryCheck(i, uint64(e)) || e.version() == 0 || e.kind() >= kinds {
		return a.damage(i, ErrTable, "entry %#x does not check", uint64(e))
	}
	if e.kind() == KindZero {
		if bytes.Equal(p, zeroPage[:]) {
			return nil
		}
		if !whole(p) {
			return a.damage(i, ErrCorrupt, "version %d should be zero, and is not", e.version())
		}
		return a.verifyHeader(i, e, p)
	}
	if !whole(p) {
		if bytes.Equal(p, zeroPage[:]) {
			return a.damage(i, ErrStale, "version %d was written, holds only zeros", e.version())
		}
		return a.damage(i, ErrCorrupt, "version %d was written, CRC does not match", e.version())
	}
	return a.verifyHeader(i, e, p)
}

// whole tells whether p is an undamaged page with a header.
func whole(p []byte) bool {
	return binary.LittleEndian.Uint32(p[offPMagic:]) == pageMagic &&
		binary.LittleEndian.Uint32(p[offPCRC:]) == crc32.Checksum(p[offPIndex:], castagnoli)
}

// verifyHeader compares a whole page with what the table wants at its place.
func (a *Area) verifyHeader(i int, e entry, p []byte) error {
	seed := binary.LittleEndian.Uint64(p[offPSeed:])
	index := binary.LittleEndian.Uint64(p[offPIndex:])
	version := binary.LittleEndian.Uint64(p[offPVersion:])
	kind := Kind(binary.LittleEndian.Uint32(p[offPKind:]))
	switch {
	case seed != a.seed:
		return a.damage(i, ErrMisplaced, "is of an area with seed %#x, not %#x", seed, a.seed)
	case index != uint64(i):
		return a.damage(i, ErrMisplaced, "holds data page %d", index)
	case version < e.version():
		return a.damage(i, ErrStale, "version %d was written, holds version %d", e.version(), version)
	case version > e.version():
		return a.damage(i, ErrTable, "holds version %d, entry is of version %d", version, e.version())
	case kind != e.kind():
		return a.damage(i, ErrCorrupt, "is %s, should be %s", kind, e.kind())
	}
	return nil
}

func (a *Area) damage(i int, kind error, format string, args ...any) error {
	return fmt.Errorf("data page %d (page %d of the area): %w: %s",
		i, a.PageOf(i), kind, fmt.Sprintf(format, args...))
}

// VerifyHeader checks page 0 of the area.
func (a *Area) VerifyHeader() error {
	h := a.mem[:PageSize]
	if binary.LittleEndian.Uint64(h[offMagic:]) != areaMagic ||
		binary.LittleEndian.Uint32(h[offAreaCRC:]) != crc32.Checksum(h[offAreaSeed:], castagnoli) {
		return fmt.Errorf("header of the area: %w", ErrCorrupt)
	}
	if l := binary.LittleEndian.Uint32(h[offLayout:]); l != areaLayout {
		return fmt.Errorf("header of the area: layout %d, this program knows %d", l, areaLayout)
	}
	if s := binary.LittleEndian.Uint64(h[offAreaSeed:]); s != a.seed {
		return fmt.Errorf("header of the area: %w: has seed %#x, not %#x", ErrMisplaced, s, a.seed)
	}
	if n := binary.LittleEndian.Uint64(h[offPages:]); n != uint64(len(a.mem)/PageSize) {
		return fmt.Errorf("header of the area: has %d pages, memory has %d", n, len(a.mem)/PageSize)
	}
	return nil
}

// VerifyAll checks the whole area while nobody writes it. It returns the
// number of bad pages and the errors of the first few.
func (a *Area) VerifyAll() (bad int, first []error) {
	const few = 8
	note := func(err error) {
		if err == nil {
			return
		}
		if bad++; len(first) < few {
			first = append(first, err)
		}
	}
	note(a.VerifyHeader())
	for i := range a.data {
		note(a.Verify(i))
	}
	return bad, first
}
