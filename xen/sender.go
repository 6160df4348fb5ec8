package xen

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sender sends the pages of a guest, round by round.
//
// Stages of a round: a cursor hands out batches of pfns in order (one at a
// time, a lock a batch). Each connection has a lane of two goroutines, which
// work in parallel with each other and with the other lanes: one prepares
// batches (maps, finds the zero pages, sums, copies and compresses), the other
// writes them. A round ends when every lane has written its round-end frame:
// no pfn is in flight twice.
type sender struct {
	dom   Domain
	lanes []*lane
	tuner *tuner
	dedup *dedup // nil where pages are only sent as they are
	limit *RateLimit

	ofPages atomic.Uint64 // in this round
	round   atomic.Int64
	before  traffic // when this round began; written between rounds
	mu      sync.Mutex
}

// frameWriter writes the pieces of one frame, together and in order.
type frameWriter interface {
	writeFrame(pieces *net.Buffers) error
	// unsent returns how many bytes that were written have not yet reached
	// the other end, 0 where that is not known.
	unsent() int
}

// connWriter writes to a data connection: by writev where it is plain TCP.
type connWriter struct {
	net.Conn
	raw syscall.RawConn // of the TCP connection, nil if unknown
}

func newConnWriter(conn net.Conn) *connWriter {
	w := &connWriter{Conn: conn}
	under := conn
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		under = t.NetConn()
	}
	if tcp, ok := under.(*net.TCPConn); ok {
		w.raw, _ = tcp.SyscallConn() // nil on error: then unsent knows nothing
	}
	if w.raw != nil {
		// What waits in the kernel was decided on some time ago: little of it
		// makes the choice of a method follow the link, and a round end.
		_ = w.raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxNotSent)
		})
	}
	return w
}

// maxNotSent bounds, in bytes, what a connection holds beyond what is in flight.
const maxNotSent = 1 << 20

func (c *connWriter) writeFrame(pieces *net.Buffers) error {
	if _, err := pieces.WriteTo(c.Conn); err != nil {
		return fmt.Errorf("data connection: %w: %w", ErrPeerLost, err)
	}
	return nil
}

func (c *connWriter) unsent() int {
	n := 0
	if c.raw != nil {
		_ = c.raw.Control(func(fd uintptr) {
			if v, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil {
				n = v
			}
		})
	}
	return n
}

// writeFrame makes the link a frameWriter, for DataControl.
func (l *Link) writeFrame(pieces *net.Buffers) error { return l.write(*pieces...) }

// unsent: the link is a pipe to another program.
func (l *Link) unsent() int { return 0 }

func newSender(dom Domain, outs []frameWriter, c Compression, limit *RateLimit) (*sender, error) {
	s := &sender{dom: dom, tuner: newTuner(c, len(outs)), limit: limit}
	if c != NoCompression {
		s.dedup = newDedup(dom.Pages())
	}
	if limit != nil {
		s.tuner.cap = limit.bytesPerSec
	}
	for _, out := range outs {
		l, err := newLane(s, out)
		if err != nil {
			return nil, err
		}
		s.lanes = append(s.lanes, l)
	}
	return s, nil
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
	s.begin(round, bm.Count())
	cur := &cursor{bm: bm, pages: s.dom.Pages(), aligned: round == 0}
	errs := make(chan error, len(s.lanes))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, l := range s.lanes {
		go func() {
			err := l.run(ctx, cur, uint32(round), flags)
			if err != nil {
				cancel() // the others stop at their next batch
			}
			errs <- err
		}()
	}
	var first error
	for range s.lanes {
		if err := <-errs; err != nil && (first == nil || first == context.Canceled) {
			first = err
		}
	}
	return s.roundStats(round, time.Since(start)), first
}

func (s *sender) begin(round int, pages uint64) {
	s.mu.Lock()
	s.before = s.traffic()
	s.mu.Unlock()
	s.round.Store(int64(round))
	s.ofPages.Store(pages)
	if s.dedup != nil {
		s.dedup.begin(round)
	}
}

func (s *sender) roundStats(round int, took time.Duration) RoundStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.traffic()
	return now.since(&s.before).stats(round, took, len(s.lanes), s.tuner.methods)
}
