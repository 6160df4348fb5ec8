package savefmt

import (
	"encoding/binary"
	"fmt"
	"io"
)

// The inner stream by itself: libxl's save helper reads and writes no more
// than that, over a descriptor on which libxl reads on behind its END.

// InnerReader passes a libxc stream on, and never reads a byte past its END:
// however much a Read asks for, it ends with the header of the next record.
// After END it returns io.EOF. What it passes on is not checked.
type InnerReader struct {
	r     io.Reader
	known uint64 // bytes that are part of the stream for certain: a record header is the last of them
	// head gathers the record header that the known bytes end with.
	head   [recordHeaderSize]byte
	inHead int // bytes of it that are there
	ended  bool
}

// NewInnerReader returns an InnerReader of r, which is at the beginning of the
// stream.
func NewInnerReader(r io.Reader) *InnerReader {
	return &InnerReader{r: r, known: libxcImageSize + libxcDomainSize + recordHeaderSize}
}

// Read implements io.Reader.
func (in *InnerReader) Read(b []byte) (int, error) {
	if in.ended {
		return 0, io.EOF
	}
	if uint64(len(b)) > in.known {
		b = b[:in.known]
	}
	n, err := in.r.Read(b)
	in.pass(b[:n])
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
		if in.ended {
			err = nil // it is said with the next Read
		}
	}
	return n, err
}

// pass notes what has been read.
func (in *InnerReader) pass(b []byte) {
	if first := int64(in.known) - recordHeaderSize; int64(len(b)) > first {
		// Of the last recordHeaderSize known bytes, these have come now.
		in.inHead += copy(in.head[in.inHead:], b[max(first, 0):])
	}
	in.known -= uint64(len(b))
	if in.known > 0 {
		return
	}
	typ, size := binary.LittleEndian.Uint32(in.head[:]), binary.LittleEndian.Uint32(in.head[4:])
	in.inHead = 0
	if typ == RecEnd {
		in.ended = true // a body that it claims is not read: it has none
		return
	}
	in.known = padded(size) + recordHeaderSize
}

// padded is the size of a body with its padding.
func padded(size uint32) uint64 { return (uint64(size) + recordAlign - 1) &^ (recordAlign - 1) }

// CopyInner writes the records that follow in r, up to and including the END
// of its libxc stream, to w, where Start has been called with the head of r.
// Each is checked on the way. A stream of version 2 becomes one of version 3,
// whose order it need not have: its state is held back until its END.
// pages is called with the number of entries of each PAGE_DATA record.
func CopyInner(w *Writer, r *Reader, pages func(int)) error {
	old := r.head.Version < libxcVersion
	ended := !old // STATIC_DATA_END comes by itself
	var held State
	var run []byte
	for {
		item, err := r.Next()
		if err != nil {
			return err
		}
		if item.Layer != LayerLibxc {
			return fmt.Errorf("saved guest: a record of the %s in place of one of the %s", item.Layer, LayerLibxc)
		}
		if item.Type&RecOptional != 0 {
			continue
		}
		if old && rules[item.Type].section == secState {
			if err := held.Add(Record{Type: item.Type, Body: item.Body}, item.Offset); err != nil {
				return err
			}
			continue
		}
		if !ended && item.Type != RecPVInfo {
			ended = true
			if err := w.Record(Record{Type: RecStaticDataEnd}); err != nil {
				return err
			}
		}
		switch item.Type {
		case RecEnd: // Finish writes it
			return w.records(held.Records())
		case RecPageData:
			run = grown(run, r.left)
			err = r.ReadPages([][]byte{run})
			if err == nil {
				err = w.Pages(item.Pages, [][]byte{run})
			}
			pages(len(item.Pages))
		default:
			err = w.Record(Record{Type: item.Type, Body: item.Body})
		}
		if err != nil {
			return err
		}
	}
}

// grown returns n bytes, in b where it has room.
func grown(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}
