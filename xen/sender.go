package xen

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// sender sends the pages of a guest, round by round.
//
// Stages of a round: a cursor hands out batches of pfns in order (one at a
// time, a lock a batch); each connection's worker, in parallel with the
// others, maps its batch, finds the zero pages, sums the others, and writes
// table and pages from guest memory to its connection. A round ends when every
// worker has written its round-end frame: no pfn is in flight twice.
type sender struct {
	dom     Domain
	workers []*sendWorker

	pages     atomic.Uint64 // done in this round
	ofPages   atomic.Uint64 // in this round
	wireBytes atomic.Uint64 // since the start
	round     atomic.Int64
}

// frameWriter writes the pieces of one frame, together and in order.
type frameWriter interface {
	writeFrame(pieces *net.Buffers) error
}

// connWriter writes to a data connection: by writev where it is plain TCP.
type connWriter struct{ net.Conn }

func (c connWriter) writeFrame(pieces *net.Buffers) error {
	if _, err := pieces.WriteTo(c.Conn); err != nil {
		return fmt.Errorf("data connection: %w: %w", ErrPeerLost, err)
	}
	return nil
}

// writeFrame makes the link a frameWriter, for DataControl.
func (l *Link) writeFrame(pieces *net.Buffers) error { return l.write(*pieces...) }

func newSender(dom Domain, outs []frameWriter) *sender {
	s := &sender{dom: dom}
	for _, out := range outs {
		s.workers = append(s.workers, &sendWorker{s: s, out: out, batch: NewBatch()})
	}
	return s
}

// cursor hands out the pfns of a bitmap in batches, ascending.
type cursor struct {
	mu    sync.Mutex
	bm    Bitmap
	next  uint64
	pages uint64
	// aligned ends each batch at a multiple of BatchPages, so that the pages
	// of one large page stay together.
	aligned bool
}

// fill fills b, and tells whether there was anything left.
func (c *cursor) fill(b *Batch) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	b.Reset()
	for c.next < c.pages && len(b.PFNs) < BatchPages {
		// What still fits, at most: a step never finds more than it covers.
		step := min(c.pages, c.next+uint64(BatchPages-len(b.PFNs)))
		if c.aligned {
			step = min(step, (c.next/BatchPages+1)*BatchPages)
		}
		b.PFNs = c.bm.AppendRange(b.PFNs, c.next, step)
		c.next = step
		if c.aligned && len(b.PFNs) > 0 {
			break
		}
	}
	return len(b.PFNs) > 0
}

// send sends the pages in bm as one round, and returns when all are written.
func (s *sender) send(ctx context.Context, round int, bm Bitmap, flags uint16) (RoundStats, error) {
	start := time.Now()
	s.round.Store(int64(round))
	s.pages.Store(0)
	s.ofPages.Store(bm.Count())
	cur := &cursor{bm: bm, pages: s.dom.Pages(), aligned: round == 0}
	errs := make(chan error, len(s.workers))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, w := range s.workers {
		go func() {
			err := w.run(ctx, cur, uint32(round), flags)
			if err != nil {
				cancel() // the others stop at their next batch
			}
			errs <- err
		}()
	}
	var first error
	for range s.workers {
		if err := <-errs; err != nil && (first == nil || first == context.Canceled) {
			first = err
		}
	}
	stats := RoundStats{Round: round, Time: time.Since(start)}
	for _, w := range s.workers {
		stats.Pages += w.stats.Pages
		stats.Zero += w.stats.Zero
		stats.Empty += w.stats.Empty
		stats.WireBytes += w.stats.WireBytes
	}
	return stats, first
}

// sendWorker sends the batches of one connection. Its buffers are reused.
type sendWorker struct {
	s     *sender
	out   frameWriter
	batch *Batch
	stats RoundStats

	entries []savefmt.PageEntry
	sums    []uint32
	head    []byte // header and table
	runs    [][]byte
	list    [][]byte    // all pieces of a frame: head, then runs
	pieces  net.Buffers // what of list is still to be written
}

func (w *sendWorker) run(ctx context.Context, cur *cursor, round uint32, flags uint16) error {
	w.stats = RoundStats{}
	sent := uint64(0)
	for cur.fill(w.batch) {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := w.sendBatch(round, flags)
		if err != nil {
			return err
		}
		sent += uint64(n)
		w.s.pages.Add(uint64(len(w.batch.PFNs)))
	}
	w.head = savefmt.AppendRoundEnd(w.head[:0], round, flags, sent)
	w.stats.WireBytes += uint64(len(w.head))
	w.list = append(w.list[:0], w.head)
	return w.write()
}

// sendBatch sends the worker's batch as one frame, and returns its entries.
func (w *sendWorker) sendBatch(round uint32, flags uint16) (int, error) {
	b := w.batch
	if err := w.s.dom.Map(b); err != nil {
		return 0, err
	}
	w.classify(round)
	err := w.writePages(round, flags)
	if unmapErr := w.s.dom.Unmap(b); err == nil {
		err = unmapErr
	}
	return len(w.entries), err
}

// classify fills entries, sums and runs from the mapped batch.
func (w *sendWorker) classify(round uint32) {
	b := w.batch
	w.entries, w.sums, w.runs = w.entries[:0], w.sums[:0], w.runs[:0]
	w.stats.Pages += uint64(len(b.PFNs))
	for i, pfn := range b.PFNs {
		page, typ := b.Pages[i], b.Types[i]
		content, sum := savefmt.ContentData, uint32(0)
		switch {
		case page == nil:
			w.stats.Empty++
			if round == 0 && !typ.Populated() {
				continue // a hole that the other side has as well
			}
			content = savefmt.ContentNone
		case isZero(page):
			w.stats.Zero++
			content = savefmt.ContentZero
		default:
			sum = savefmt.Checksum(page)
			w.runs = appendRun(w.runs, page)
		}
		w.entries = append(w.entries, savefmt.NewPageEntry(uint8(typ), content, pfn))
		w.sums = append(w.sums, sum)
	}
}

func (w *sendWorker) writePages(round uint32, flags uint16) error {
	if len(w.entries) == 0 {
		return nil
	}
	length := 0
	for _, run := range w.runs {
		length += len(run)
	}
	var room [savefmt.HeaderSize]byte
	w.head = savefmt.AppendTable(append(w.head[:0], room[:]...), w.entries, w.sums)
	h := savefmt.Header{
		Type: savefmt.FramePages, Codec: savefmt.CodecRaw, Flags: flags, Round: round,
		Count: uint32(len(w.entries)), Length: uint32(length), BodyCRC: savefmt.Checksum(w.head[savefmt.HeaderSize:]),
	}
	h.Put(w.head)
	w.list = append(append(w.list[:0], w.head), w.runs...)
	w.stats.WireBytes += uint64(len(w.head) + length)
	w.s.wireBytes.Add(uint64(len(w.head) + length))
	return w.write()
}

// write writes list. WriteTo consumes the slice that it is given, so it gets
// one of its own over the same array.
func (w *sendWorker) write() error {
	w.pieces = w.list
	if err := w.out.writeFrame(&w.pieces); err != nil {
		return fmt.Errorf("sending pages: %w", err)
	}
	return nil
}
