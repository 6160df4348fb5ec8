package memcheck

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sync"
)

// PageSize is the size of a page in bytes.
const PageSize = 4096

// DefaultZeroShare is the share of zero pages in a guest that has run for a
// while, as the published traces of data centres have it.
const DefaultZeroShare = 0.4

// MinPages is the size of the smallest area in pages.
const MinPages = 3

// Layout of page 0.
const (
	areaMagic   = 0x4B43454843464558 // "XEFCHECK", little-endian
	areaLayout  = 1
	offMagic    = 0  // u64
	offLayout   = 8  // u32
	offAreaCRC  = 12 // u32, CRC32C of bytes 16..4095
	offAreaSeed = 16 // u64
	offPages    = 24 // u64, pages of the whole area
	offZero     = 32 // u32, share of zero pages in 1/2^32
	entrySize   = 8
	perTable    = PageSize / entrySize
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Options say how an area is made.
type Options struct {
	// Seed makes the contents. Attach wants the one that New had.
	Seed uint64
	// ZeroShare is the share of pages that New leaves zero, 0 to 1. Attach
	// takes it from the area.
	ZeroShare float64
	// Workers is how many goroutines New fills with; 0 is one.
	Workers int
	// Touched, if not nil, is called after each change of a page with its
	// number in the area. New calls it from several goroutines.
	Touched func(page int)
}

// Area is checked memory. See the package comment for who may call what.
type Area struct {
	mem       []byte
	seed      uint64
	zeroBelow uint32 // a page is zero at first if its hash is below this
	dataStart int    // number of the first data page
	data      int    // data pages
	touched   func(page int)
}

// New makes an area of the whole of mem and fills it. What mem held is lost.
// The length must be a multiple of PageSize, MinPages pages or more.
func New(mem []byte, opts Options) (*Area, error) {
	if opts.ZeroShare < 0 || opts.ZeroShare > 1 {
		return nil, fmt.Errorf("memcheck: share of zero pages %g is not from 0 to 1", opts.ZeroShare)
	}
	a, err := layOut(mem, opts)
	if err != nil {
		return nil, err
	}
	a.zeroBelow = uint32(min(opts.ZeroShare*(1<<32), 1<<32-1))
	a.writeHeader()
	clear(mem[PageSize : a.dataStart*PageSize])
	a.fill(max(opts.Workers, 1))
	for p := range a.dataStart {
		a.touched(p)
	}
	return a, nil
}

// Attach takes over an area that New made, here or elsewhere. It reads only
// the header, and fails if that is damaged or of another area.
func Attach(mem []byte, opts Options) (*Area, error) {
	a, err := layOut(mem, opts)
	if err != nil {
		return nil, err
	}
	if err := a.VerifyHeader(); err != nil {
		return nil, err
	}
	a.zeroBelow = binary.LittleEndian.Uint32(mem[offZero:])
	return a, nil
}

func layOut(mem []byte, opts Options) (*Area, error) {
	pages := len(mem) / PageSize
	if len(mem)%PageSize != 0 || pages < MinPages {
		return nil, fmt.Errorf("memcheck: %d bytes are not %d or more whole pages", len(mem), MinPages)
	}
	tables := (pages - 1 + perTable) / (perTable + 1)
	a := &Area{
		mem:       mem,
		seed:      opts.Seed,
		dataStart: 1 + tables,
		data:      pages - 1 - tables,
		touched:   opts.Touched,
	}
	if a.touched == nil {
		a.touched = func(int) {}
	}
	return a, nil
}

func (a *Area) writeHeader() {
	h := a.mem[:PageSize]
	clear(h)
	binary.LittleEndian.PutUint64(h[offMagic:], areaMagic)
	binary.LittleEndian.PutUint32(h[offLayout:], areaLayout)
	binary.LittleEndian.PutUint64(h[offAreaSeed:], a.seed)
	binary.LittleEndian.PutUint64(h[offPages:], uint64(len(a.mem)/PageSize))
	binary.LittleEndian.PutUint32(h[offZero:], a.zeroBelow)
	binary.LittleEndian.PutUint32(h[offAreaCRC:], crc32.Checksum(h[offAreaSeed:], castagnoli))
}

// fill writes version 1 of every page, each worker its own pages.
func (a *Area) fill(workers int) {
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < a.data; i += workers {
				a.put(i, 1, a.kindFor(i, 1))
			}
		})
	}
	wg.Wait()
}

// Pages returns the number of data pages.
func (a *Area) Pages() int { return a.data }

// PageOf returns the number in the area of data page i.
func (a *Area) PageOf(i int) int { return a.dataStart + i }

// Version returns the version that data page i must have, from the table. A
// fresh page has version 1, and each write adds one.
func (a *Area) Version(i int) uint64 { return a.entry(i).version() }

// page returns the memory of data page i.
func (a *Area) page(i int) []byte {
	off := (a.dataStart + i) * PageSize
	return a.mem[off : off+PageSize : off+PageSize]
}

// entry is what the table says of a data page.
type entry uint64

func (a *Area) makeEntry(i int, version uint64, kind Kind) entry {
	e := version<<24 | uint64(kind)<<20
	return entry(e | a.entryCheck(i, e))
}

func (a *Area) entryCheck(i int, e uint64) uint64 {
	return mix(a.seed^mix(e>>20^uint64(i)<<40)) & (1<<20 - 1)
}

func (e entry) version() uint64 { return uint64(e) >> 24 }
func (e entry) kind() Kind      { return Kind(e >> 20 & 0xF) }

func (a *Area) entry(i int) entry {
	return entry(binary.LittleEndian.Uint64(a.mem[PageSize+i*entrySize:]))
}

func (a *Area) setEntry(i int, e entry) {
	off := PageSize + i*entrySize
	binary.LittleEndian.PutUint64(a.mem[off:], uint64(e))
	a.touched(off / PageSize)
}
