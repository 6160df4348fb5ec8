package record

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"sync/atomic"
)

// reader takes records from what one system call has read, which may be many.
type reader struct {
	keys
	from  Source
	asked *atomic.Bool
	buf   []byte
	have  []byte // of buf: read, and not yet opened
	rest  []byte // of buf, before have: opened, and not yet taken
	idle  int    // records without data, one after the other
}

// readAtOnce is how many bytes a system call reads at most, and mostLow how many
// it waits for, which is well below what the kernel holds for a connection.
const (
	readAtOnce = 256 << 10
	mostLow    = 192 << 10
)

// maxIdle bounds the records without data: they cost time, and an end that sends
// nothing else wants just that.
const maxIdle = 16

// Read reads what there is, up to a record.
func (c *Conn) Read(p []byte) (int, error) {
	r := &c.reader
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.rest) == 0 {
		if _, err := r.one(nil, 1); err != nil {
			return 0, err
		}
	}
	return r.take(p), nil
}

// ReadFull fills bufs, in order, and changes the slice. What is in them is good
// only if there is no error; an end before they are full is one.
func (c *Conn) ReadFull(bufs [][]byte) error {
	r := &c.reader
	due := 0
	for _, b := range bufs {
		due += len(b)
	}
	for len(bufs) > 0 {
		var err error
		n := 0
		switch {
		case len(bufs[0]) == 0:
			bufs = bufs[1:]
			continue
		case len(r.rest) > 0:
			n = r.take(bufs[0])
		default:
			n, err = r.one(bufs[0], due)
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		bufs[0] = bufs[0][n:]
		due -= n
	}
	return nil
}

// take takes what was opened before.
func (r *reader) take(p []byte) int {
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n
}

// one opens the next record: to where to begins if there is room for it, and n is
// then how many bytes of data it had; else to rest. due bytes of data are known
// to follow.
func (r *reader) one(to []byte, due int) (n int, err error) {
	head, sealed, err := r.record(due)
	if err != nil {
		return 0, err
	}
	size := len(sealed) - tagSize - 1
	direct := size <= len(to)
	if !direct {
		to = sealed
	}
	typ, err := r.open(to[:size], r.next(), head, sealed)
	if err != nil {
		return 0, err
	}
	content := to[:size]
	for typ == 0 && len(content) > 0 { // padding
		content, typ = content[:len(content)-1], content[len(content)-1]
	}
	if typ != typeData || len(content) == 0 {
		return 0, r.other(typ, content)
	}
	r.idle = 0
	if direct {
		return len(content), nil
	}
	r.rest = content
	return 0, nil
}

// record returns the next record: its header, and what is sealed in it.
func (r *reader) record(due int) (head, sealed []byte, err error) {
	if err := r.fill(headerSize, due); err != nil {
		return nil, nil, err
	}
	head = r.have[:headerSize]
	size := int(binary.BigEndian.Uint16(head[3:]))
	switch {
	case head[0] != typeData || head[1] != 3 || head[2] != 3:
		return nil, nil, badRecord("it begins with % x", head[:3])
	case size <= tagSize || size > maxSealed:
		return nil, nil, badRecord("it has %d bytes", size)
	case r.seq >= 2*recordsPerKey:
		return nil, nil, badRecord("the other end has used its key for %d of them", r.seq)
	}
	if err := r.fill(headerSize+size, due); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, nil, err
	}
	head, sealed = r.have[:headerSize], r.have[headerSize:headerSize+size]
	r.have = r.have[headerSize+size:]
	return head, sealed, nil
}

// fill reads until there are n bytes. The end is io.EOF only between records.
func (r *reader) fill(n, due int) error {
	if len(r.have) >= n {
		return nil
	}
	if r.buf == nil {
		r.buf = make([]byte, readAtOnce)
	}
	have := copy(r.buf, r.have)
	for have < n {
		// What there is holds fewer bytes of data than its own.
		low := max(n-have, min(due-have, mostLow))
		got, err := r.from.ReadSome(r.buf[have:], low)
		have += got
		if err != nil && have < n {
			r.have = r.buf[:have]
			if have > 0 && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	r.have = r.buf[:have]
	return nil
}

// other handles a record that is not data.
func (r *reader) other(typ byte, content []byte) error {
	if r.idle++; r.idle > maxIdle {
		return badRecord("%d of them came without data", r.idle)
	}
	switch {
	case typ == typeData:
		return nil
	case typ == typeAlert && len(content) == 2:
		const closeNotify = 0
		if content[1] == closeNotify {
			return io.EOF
		}
		return tls.AlertError(content[1])
	case typ == typeHandshake && len(content) == 5 && content[0] == messageKeyUpdate && content[4] <= 1:
		if content[4] == 1 {
			r.asked.Store(true)
		}
		return r.keys.update()
	case typ == typeHandshake && len(content) > 0 && content[0] == messageNewTicket:
		return nil // not asked for, and of no use here
	}
	return badRecord("%d bytes of type %d", len(content), typ)
}
