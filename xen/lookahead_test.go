package xen

import (
	"net"
	"testing"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// fullWriter is a link that takes nothing until all has been looked at.
type fullWriter struct {
	nullWriter
	t *testing.T
	s *sender
}

func (w *fullWriter) writeFrame(b *net.Buffers) error {
	for end := time.Now().Add(time.Minute); !w.s.ahead.over(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Error("not all was looked at")
			break
		}
	}
	return w.nullWriter.writeFrame(b)
}

func (a *lookahead) over() bool {
	a.cur.mu.Lock()
	defer a.cur.mu.Unlock()
	return a.cur.next == a.cur.pages
}

// TestLookahead: while the link takes no more of a round's pages, the other pfns are
// looked at, and those without a page need no round.
func TestLookahead(t *testing.T) {
	const pages, likely = 16 * BatchPages, 12 * BatchPages
	dom := benchDomain(pages)
	dom.types = map[uint64]PageType{}
	now, rest := NewBitmap(pages), NewBitmap(pages)
	for pfn := range uint64(pages) {
		switch {
		case pfn < likely:
			now.Set(pfn)
			continue
		case pfn%100 != 0:
			dom.types[pfn] = PageXTab
		}
		rest.Set(pfn)
	}
	full := &fullWriter{t: t}
	s, err := newSender(dom, []frameWriter{full, full}, &PipeOptions{Compress: Compression{Fixed: true, Method: savefmt.FastMethod}})
	if err != nil {
		t.Fatal(err)
	}
	full.s, s.ahead = s, newLookahead(dom, rest)
	if _, err := s.send(t.Context(), 0, now, 0, true); err != nil {
		t.Fatal(err)
	}
	for pfn := uint64(likely); pfn < pages; pfn++ {
		if rest.Has(pfn) != (pfn%100 == 0) {
			t.Fatalf("pfn %d: left to be sent %v", pfn, rest.Has(pfn))
		}
	}
	if s.ahead.look() {
		t.Error("there was more to look at")
	}
}
