package savefmt

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Writer writes a saved guest that stock Xen reads, in the order in which its
// methods stand here. A call out of order is an error. Errors are sticky. It
// makes one Write for each record, and for PAGE_DATA one for each run of pages
// besides, so that w need not be buffered.
type Writer struct {
	w     io.Writer
	order *order
	outer Layer
	n     int64
	head  []byte
	err   error
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Written returns the bytes written so far.
func (w *Writer) Written() int64 { return w.n }

// Start writes the headers: that of h.Outer and of the layers inside it. Of
// h, Version and Converted are ignored: it is version 3, and not converted.
func (w *Writer) Start(h Head) error {
	if w.err != nil || w.order != nil {
		return w.fail(fmt.Errorf("saved guest: Start is called twice"))
	}
	w.order, w.outer = newOrder(h.Kind, libxcVersion), h.Outer
	if h.Outer == LayerXL {
		var head []byte
		if head, w.err = AppendXLHeader(nil, h.Config); w.err != nil {
			return w.err
		}
		w.write("xl header", head)
	}
	if h.Outer != LayerLibxc {
		w.keep(NewLibxlWriter(writerOf(w)).Start())
	}
	be, le := binary.BigEndian, binary.LittleEndian
	b := be.AppendUint64(nil, libxcMarker)
	b = be.AppendUint32(b, libxcIdent)
	b = be.AppendUint32(b, libxcVersion)
	b = be.AppendUint64(b, 0) // options: little-endian; reserved
	b = le.AppendUint32(b, uint32(h.Kind))
	b = le.AppendUint32(b, pageShift) // u16, and u16 reserved
	b = le.AppendUint32(b, h.XenMajor)
	b = le.AppendUint32(b, h.XenMinor)
	return w.write("libxc header", b)
}

// Record writes a record of the libxc stream that is not PAGE_DATA.
func (w *Writer) Record(r Record) error {
	rule, known := bodyRules[r.Type]
	err := w.step(r.Type)
	if err == nil && !known {
		err = fmt.Errorf("%s is not written by Record", RecordName(LayerLibxc, r.Type))
	}
	if err == nil {
		err = rule.checkSize(uint32(len(r.Body)))
	}
	if err == nil {
		err = rule.checkBody(r.Body)
	}
	if err == nil {
		err = w.order.body(r.Type, r.Body)
	}
	if err != nil {
		return w.fail(fmt.Errorf("saved guest: %s record: %w", RecordName(LayerLibxc, r.Type), err))
	}
	b := appendRecordHeader(make([]byte, 0, recordHeaderSize+len(r.Body)+recordAlign), r.Type, len(r.Body))
	return w.write(RecordName(LayerLibxc, r.Type), pad(append(b, r.Body...)))
}

func (w *Writer) records(recs []Record) error {
	for _, r := range recs {
		if err := w.Record(r); err != nil {
			return err
		}
	}
	return nil
}

// Pages writes a PAGE_DATA record: the entries, and the contents of those that
// have some, in the order of the entries, in runs of any number of pages.
func (w *Writer) Pages(entries []StockPage, runs [][]byte) error {
	err := w.step(RecPageData)
	data, have := 0, 0
	for _, p := range entries {
		if p.HasData() {
			data += pageSize
		}
	}
	for _, run := range runs {
		have += len(run)
	}
	switch {
	case err != nil:
	case len(entries) == 0 || len(entries) > MaxRecordPages:
		err = fmt.Errorf("%d pages, 1 to %d are possible", len(entries), MaxRecordPages)
	case data != have:
		err = fmt.Errorf("%d bytes of pages for entries that need %d", have, data)
	}
	if err != nil {
		return w.fail(fmt.Errorf("saved guest: PAGE_DATA record: %w", err))
	}
	le := binary.LittleEndian
	w.head = appendRecordHeader(w.head[:0], RecPageData, 8+8*len(entries)+data) // a multiple of 8
	w.head = le.AppendUint32(w.head, uint32(len(entries)))
	w.head = le.AppendUint32(w.head, 0)
	for _, p := range entries {
		w.head = le.AppendUint64(w.head, uint64(p))
	}
	w.write("page table", w.head)
	for _, run := range runs {
		w.write("pages", run)
	}
	return w.err
}

// Finish ends the libxc stream, and the libxl stream around it with QEMU's
// state, which is nil for a guest without QEMU.
func (w *Writer) Finish(deviceModel []byte) error {
	if err := w.Record(Record{Type: RecEnd}); err != nil || w.outer == LayerLibxc {
		return err
	}
	lw := NewLibxlWriter(writerOf(w))
	if deviceModel != nil {
		w.keep(lw.DeviceModel(deviceModel))
	}
	if w.err == nil {
		w.keep(lw.End())
	}
	return w.err
}

func (w *Writer) step(typ uint32) error {
	switch {
	case w.err != nil:
		return w.err
	case w.order == nil:
		return fmt.Errorf("Start comes first")
	}
	return w.order.next(typ)
}

func (w *Writer) write(what string, b []byte) error {
	if w.err != nil {
		return w.err
	}
	n, err := w.w.Write(b)
	w.n += int64(n)
	if err != nil {
		w.err = fmt.Errorf("saved guest: writing the %s: %w", what, err)
	}
	return w.err
}

func (w *Writer) keep(err error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *Writer) fail(err error) error {
	w.keep(err)
	return w.err
}

// counted lets a LibxlWriter write through a Writer's count.
type counted struct{ w *Writer }

func writerOf(w *Writer) io.Writer { return counted{w} }

func (c counted) Write(b []byte) (int, error) {
	n, err := c.w.w.Write(b)
	c.w.n += int64(n)
	return n, err
}
