package savefmt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Head is what the headers of a saved guest say.
type Head struct {
	Outer     Layer  // the outermost layer that is there
	Config    []byte // LayerXL only: JSON, without its NUL
	Kind      GuestKind
	Version   uint32 // of the libxc stream, 2 or 3
	XenMajor  uint32 // of the host that wrote it; 0: converted from an older format, or no Xen
	XenMinor  uint32
	Converted bool // the libxl stream was made by convert-legacy-stream
}

// Item is a record of a saved guest, of its libxc or its libxl stream.
type Item struct {
	Layer  Layer
	Type   uint32
	Offset int64  // of the record's header
	Size   uint32 // of the body
	// Body is the caller's to keep. It is nil for PAGE_DATA and for unknown
	// optional records.
	Body []byte
	// Pages are the entries of a PAGE_DATA record, until the next call.
	Pages []StockPage
}

// Reader reads a saved guest from beginning to end, whichever of the three
// layers is the outermost, and checks all that can be checked on the way. Its
// errors are sticky; those about the format are of type *FormatError. It holds
// at most one record, and no page.
type Reader struct {
	src   io.Reader
	box   *Unpacker // nil if src is no container
	in    *input
	head  Head
	order *order
	libxl libxlOrder
	layer Layer // of the next record; "" at the end
	err   error

	connection bool // Rest has been called: there is no end to look for

	left  int    // bytes of pages that the caller has not read yet
	size  uint32 // of the record that they end
	at    int64  // where that record begins
	pages []StockPage
	table []byte
}

// NewReader returns a Reader of r, which may be a stock save file or stream,
// or a container of one, and in either case a Device. It reads ahead. Close
// must be called.
func NewReader(r io.Reader) *Reader { return &Reader{src: r, in: newInput(nil)} }

// Close ends what the reading of a container needs; src is not closed.
// Idempotent.
func (r *Reader) Close() error {
	if r.box == nil {
		return nil
	}
	return r.box.Close()
}

// Container returns what has been read of the container so far, or nil if it
// is none.
func (r *Reader) Container() *ContainerInfo {
	if r.box == nil {
		return nil
	}
	info := r.box.Info()
	return &info
}

// Rest returns what follows the saved guest, and makes Next not mind it: a
// stock migration goes on over the same connection. It is called before Open.
func (r *Reader) Rest() io.Reader {
	r.connection = true
	return rest{r}
}

type rest struct{ r *Reader }

func (x rest) Read(b []byte) (int, error) { return x.r.in.r.Read(b) }

// Open reads the headers. It is called first, once.
func (r *Reader) Open() (Head, error) {
	if r.err == nil {
		r.err = r.open()
	}
	return r.head, r.err
}

func (r *Reader) open() error {
	plain, box, err := Unpack(r.src)
	if err != nil {
		return err
	}
	copied := r.in.copy
	r.box, r.in = box, newInput(plain)
	r.in.copy = copied
	magic, err := r.in.r.Peek(8)
	if err != nil && err != io.EOF {
		return err
	}
	switch {
	case string(magic) == xlMagic[:8]:
		r.head.Outer = LayerXL
		if err := r.openXL(); err != nil {
			return err
		}
	case len(magic) == 8 && binary.BigEndian.Uint64(magic) == libxlIdent:
		r.head.Outer = LayerLibxl
	case len(magic) == 8 && binary.BigEndian.Uint64(magic) == libxcMarker:
		r.head.Outer = LayerLibxc
		return r.openLibxc()
	case box != nil && string(magic) == containerMagic:
		return fmt.Errorf("%w: it is a container inside a container", ErrNotSaved)
	default:
		return fmt.Errorf("%w: it begins with %q", ErrNotSaved, magic)
	}
	return r.openLibxl()
}

// fail makes an error about the record or header that begins at offset at.
// An error that says where it is already stays as it is, and so does one that
// is not about the guest.
func (r *Reader) fail(l Layer, record string, at int64, err error) error {
	if err == nil {
		return nil
	}
	var ours *FormatError
	var damaged *ContainerError
	var outside *outsideError
	if errors.As(err, &ours) || errors.As(err, &damaged) || errors.As(err, &outside) {
		return err
	}
	return &FormatError{Layer: l, Record: record, Offset: at, Err: err}
}

func (r *Reader) openXL() error {
	at := r.in.at
	fail := func(err error) error { return r.fail(LayerXL, "header", at, err) }
	var b [xlHeaderSize]byte
	if err := r.in.full(b[:]); err != nil {
		return fail(err)
	}
	h, err := parseXLHeader(b[:])
	if err != nil {
		return fail(err)
	}
	at = r.in.at
	data, err := r.in.body(h.length)
	if err == nil {
		r.head.Config, err = parseXLConfig(data)
	}
	return r.fail(LayerXL, "configuration", at, err)
}

const libxlOptionsKnown = 1<<0 | 1<<1 // big-endian, converted

func (r *Reader) openLibxl() error {
	at := r.in.at
	fail := func(err error) error { return r.fail(LayerLibxl, "header", at, err) }
	var b [libxlHeaderSize]byte
	if err := r.in.full(b[:]); err != nil {
		return fail(err)
	}
	be := binary.BigEndian
	switch version, options := be.Uint32(b[8:]), be.Uint32(b[12:]); {
	case be.Uint64(b[:]) != libxlIdent:
		return fail(fmt.Errorf("it begins with %q in place of LibxlFmt", b[:8]))
	case version != libxlVersion:
		return fail(fmt.Errorf("version %d, want %d", version, libxlVersion))
	case options&^uint32(libxlOptionsKnown) != 0:
		return fail(fmt.Errorf("unknown options %#x", options))
	case options&1 != 0:
		return fail(errors.New("it was written on a big-endian machine"))
	default:
		r.head.Converted = options&2 != 0
	}
	r.layer = LayerLibxl
	item, err := r.libxlRecord()
	if err == nil && item.Type != LibxlLibxcContext {
		err = r.fail(LayerLibxl, RecordName(LayerLibxl, item.Type), item.Offset, errors.New("the first record must be LIBXC_CONTEXT"))
	}
	if err != nil {
		return err
	}
	return r.openLibxc()
}

// The headers of the libxc stream: the image header, big-endian, and the
// domain header, little-endian.
const (
	libxcMarker     uint64 = 1<<64 - 1
	libxcIdent      uint32 = 0x58454E46 // "XENF"
	libxcVersion    uint32 = 3
	libxcVersionOld uint32 = 2
	libxcImageSize         = 24
	libxcDomainSize        = 16
)

func (r *Reader) openLibxc() error {
	at := r.in.at
	fail := func(err error) error { return r.fail(LayerLibxc, "header", at, err) }
	var b [libxcImageSize + libxcDomainSize]byte
	if err := r.in.full(b[:]); err != nil {
		return fail(err)
	}
	be, le, dom := binary.BigEndian, binary.LittleEndian, b[libxcImageSize:]
	r.head.Version = be.Uint32(b[12:])
	r.head.Kind = GuestKind(le.Uint32(dom))
	r.head.XenMajor, r.head.XenMinor = le.Uint32(dom[8:]), le.Uint32(dom[12:])
	options := be.Uint16(b[16:])
	switch {
	case be.Uint64(b[:]) != libxcMarker || be.Uint32(b[8:]) != libxcIdent:
		return fail(fmt.Errorf("it begins with %x in place of a libxc image header", b[:12]))
	case r.head.Version != libxcVersion && r.head.Version != libxcVersionOld:
		return fail(fmt.Errorf("version %d, want %d or %d", r.head.Version, libxcVersionOld, libxcVersion))
	case options&1 != 0:
		return fail(errors.New("it was written on a big-endian machine"))
	case options != 0 || be.Uint16(b[18:]) != 0 || be.Uint32(b[20:]) != 0 || le.Uint16(dom[6:]) != 0:
		return fail(errReserved)
	case needed[r.head.Kind] == nil:
		return fail(fmt.Errorf("unknown type of guest %#x", uint32(r.head.Kind)))
	case le.Uint16(dom[4:]) != pageShift:
		return fail(fmt.Errorf("pages of 2^%d bytes, want 2^%d", le.Uint16(dom[4:]), pageShift))
	}
	r.order = newOrder(r.head.Kind, r.head.Version)
	r.layer = LayerLibxc
	return nil
}

// Next returns the next record, and io.EOF after the last. The END of the
// inner stream is a record like others. Of a PAGE_DATA record, pages that were
// not read are skipped.
func (r *Reader) Next() (Item, error) {
	if r.err != nil {
		return Item{}, r.err
	}
	item, err := r.next()
	if err != nil {
		r.err = err
		return Item{}, err
	}
	return item, nil
}

func (r *Reader) next() (Item, error) {
	if err := r.skipPages(); err != nil {
		return Item{}, err
	}
	switch {
	case r.order == nil:
		return Item{}, errors.New("reading a saved guest: Next before Open")
	case r.layer == LayerLibxc:
		return r.libxcRecord()
	case r.layer == LayerLibxl:
		return r.libxlRecord()
	}
	if r.connection {
		return Item{}, io.EOF
	}
	if err := r.in.atEnd(); err != nil {
		return Item{}, r.fail(r.head.Outer, "end", r.in.at, err)
	}
	return Item{}, io.EOF
}

// recordHeader reads u32 type, u32 length.
func (r *Reader) recordHeader(l Layer) (Item, error) {
	item := Item{Layer: l, Offset: r.in.at}
	var b [recordHeaderSize]byte
	if err := r.in.full(b[:]); err != nil {
		return item, r.fail(l, "record header", item.Offset, err)
	}
	item.Type, item.Size = binary.LittleEndian.Uint32(b[:]), binary.LittleEndian.Uint32(b[4:])
	return item, nil
}

func (r *Reader) libxcRecord() (Item, error) {
	item, err := r.recordHeader(LayerLibxc)
	if err != nil {
		return item, err
	}
	if err = r.order.next(item.Type); err == nil {
		switch {
		case item.Type == RecPageData:
			err = r.pageTable(&item)
		case item.Type&RecOptional != 0:
			err = r.optional(&item)
		default:
			err = r.body(&item, bodyRules[item.Type])
			if err == nil {
				err = r.order.body(item.Type, item.Body)
			}
		}
	}
	if item.Type == RecEnd && err == nil {
		r.layer = LayerLibxl
		if r.head.Outer == LayerLibxc {
			r.layer = ""
		}
	}
	return item, r.fail(LayerLibxc, RecordName(LayerLibxc, item.Type), item.Offset, err)
}

// body reads a whole body with its padding.
func (r *Reader) body(item *Item, rule bodyRule) error {
	if err := rule.checkSize(item.Size); err != nil {
		return err
	}
	var err error
	if item.Body, err = r.in.body(item.Size); err != nil {
		return err
	}
	if err := r.in.padding(item.Size); err != nil {
		return err
	}
	return rule.checkBody(item.Body)
}

// optional passes over a record that need not be known.
func (r *Reader) optional(item *Item) error {
	if item.Size > MaxRecord {
		return fmt.Errorf("it claims %d bytes, the limit is %d", item.Size, MaxRecord)
	}
	if err := r.in.skip(int(item.Size)); err != nil {
		return err
	}
	return r.in.padding(item.Size)
}

// pageTable reads what stands before the pages of a PAGE_DATA record: u32
// count, u32 zero, count entries.
func (r *Reader) pageTable(item *Item) error {
	const head = 8
	if item.Size > MaxRecord || item.Size < head {
		return fmt.Errorf("it claims %d bytes, want %d to %d", item.Size, head, MaxRecord)
	}
	var b [head]byte
	if err := r.in.full(b[:]); err != nil {
		return err
	}
	count, zero := binary.LittleEndian.Uint32(b[:]), binary.LittleEndian.Uint32(b[4:])
	switch {
	case zero != 0:
		return errReserved
	case count == 0 || count > MaxRecordPages:
		return fmt.Errorf("it claims %d pages, want 1 to %d", count, MaxRecordPages)
	case head+uint64(count)*8 > uint64(item.Size):
		return fmt.Errorf("it claims %d pages in %d bytes", count, item.Size)
	}
	if cap(r.table) < int(count)*8 {
		r.table = make([]byte, count*8)
	}
	table := r.table[:count*8]
	if err := r.in.full(table); err != nil {
		return err
	}
	data, err := r.entries(table)
	if err != nil {
		return err
	}
	if got, want := uint64(item.Size), head+uint64(count)*8+uint64(data); got != want {
		return fmt.Errorf("it has %d bytes, its %d pages need %d", got, count, want)
	}
	item.Pages = r.pages
	r.left, r.size, r.at = data, item.Size, item.Offset
	return nil
}

// entries checks and keeps the entries of a table, and returns how many bytes
// of pages follow it.
func (r *Reader) entries(table []byte) (data int, err error) {
	r.pages = r.pages[:0]
	for ; len(table) > 0; table = table[8:] {
		p := StockPage(binary.LittleEndian.Uint64(table))
		switch {
		case uint64(p)>>52&0xFF != 0:
			return 0, fmt.Errorf("page entry %#x: reserved bits are set", uint64(p))
		case pageTypeNames[p.Type()] == "":
			return 0, fmt.Errorf("page entry %#x: there is no page type %d", uint64(p), p.Type())
		case r.head.Kind != KindPV && p.Type() != 0 && p.HasData():
			return 0, fmt.Errorf("page entry %#x: type %s is one of PV guests only", uint64(p), pageTypeNames[p.Type()])
		case p.PFN() > MaxStockPFN:
			return 0, fmt.Errorf("page entry %#x: the pfn is above %#x", uint64(p), uint64(MaxStockPFN))
		case p.HasData():
			data += pageSize
		}
		r.pages = append(r.pages, p)
	}
	return data, nil
}

// ReadPages fills each of the runs, multiples of 4096 bytes, with the next
// pages of the PAGE_DATA record that Next has returned. They go straight to
// where they belong.
func (r *Reader) ReadPages(runs [][]byte) error {
	for _, run := range runs {
		if r.err != nil {
			return r.err
		}
		if len(run) > r.left {
			r.err = fmt.Errorf("reading a saved guest: %d bytes of pages are asked for, %d are left", len(run), r.left)
			return r.err
		}
		r.left -= len(run)
		r.err = r.fail(LayerLibxc, RecordName(LayerLibxc, RecPageData), r.at, r.in.full(run))
	}
	return r.err
}

// skipPages ends the PAGE_DATA record before the next one.
func (r *Reader) skipPages() error {
	if r.size == 0 {
		return nil
	}
	err := r.in.skip(r.left)
	if err == nil {
		err = r.in.padding(r.size)
	}
	r.left, r.size = 0, 0
	return r.fail(LayerLibxc, RecordName(LayerLibxc, RecPageData), r.at, err)
}
