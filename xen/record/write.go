package record

import (
	"net"
	"sync/atomic"
)

// writer makes records, and writes many of them by one system call.
type writer struct {
	keys
	to     net.Conn
	asked  *atomic.Bool
	out    []byte // records, not yet written
	joined []byte // the content of one that is in several pieces
	perKey uint64 // records, at most
}

// gather is how many bytes of records are written together.
const gather = 256 << 10

// recordsPerKey is below what AES-GCM may protect with one key, 2^24.5 full
// records (RFC 8446 section 5.5): 256 GiB.
const recordsPerKey = 1 << 24

// Write writes p, in records that are as full as can be.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.WriteBuffers([][]byte{p}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteBuffers writes the pieces, in order, as if they were one. They may be
// changed by others meanwhile, each byte of them is read once.
func (c *Conn) WriteBuffers(pieces [][]byte) error {
	w := &c.writer
	if w.out == nil {
		w.out = make([]byte, 0, gather)
		w.joined = make([]byte, 0, maxContent)
	}
	for i := 0; i < len(pieces); {
		for rest := pieces[i]; len(rest) > 0; {
			content := rest[:min(len(rest), maxContent)]
			rest = rest[len(content):]
			if len(rest) == 0 && len(content) < maxContent && i+1 < len(pieces) {
				content, i, rest = w.join(content, pieces, i)
			}
			if err := w.data(content); err != nil {
				return err
			}
		}
		i++
	}
	return w.flush()
}

// join fills a record that begins with the end of pieces[i], and returns it, the
// piece in which it ends and what is left of that.
func (w *writer) join(content []byte, pieces [][]byte, i int) (full []byte, last int, rest []byte) {
	w.joined = append(w.joined[:0], content...)
	for i+1 < len(pieces) && len(w.joined) < maxContent {
		i++
		rest = pieces[i]
		n := min(len(rest), maxContent-len(w.joined))
		w.joined = append(w.joined, rest[:n]...)
		rest = rest[n:]
	}
	return w.joined, i, rest
}

// data adds a record of content, behind new keys where it is time for them.
func (w *writer) data(content []byte) error {
	if w.seq >= w.perKey || w.asked.Load() {
		w.asked.Store(false)
		if err := w.add([]byte{messageKeyUpdate, 0, 0, 1, 0}, typeHandshake); err != nil {
			return err
		}
		if err := w.keys.update(); err != nil {
			return err
		}
	}
	return w.add(content, typeData)
}

func (w *writer) add(content []byte, typ byte) error {
	sealed := len(content) + 1 + tagSize
	if len(w.out)+headerSize+sealed > cap(w.out) {
		if err := w.flush(); err != nil {
			return err
		}
	}
	at := len(w.out)
	h := header(sealed)
	w.out = append(w.out, h[:]...)
	w.out = w.seal(w.out, w.next(), w.out[at:at+headerSize], content, typ)
	return nil
}

func (w *writer) flush() error {
	_, err := w.to.Write(w.out)
	w.out = w.out[:0]
	return err
}
