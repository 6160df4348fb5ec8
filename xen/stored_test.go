package xen

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestPagesStall: the other end says that it is there, but takes no more pages.
// Of a large guest they fill every buffer on the way, a small one's are all on
// the way.
func TestPagesStall(t *testing.T) {
	for _, mode := range []DataMode{DataPlain, DataTLS, DataControl} {
		for _, pages := range []int{1000, 16000} {
			t.Run(fmt.Sprintf("%s/%d", mode, pages), func(t *testing.T) {
				t.Parallel()
				m := newMove()
				m.dom = newFakeDomain(m.src, pages)
				m.opts.Data, m.opts.Pipe = mode, PipeOptions{Connections: 1, Compress: Compression{Fixed: true}}
				m.limits.Silence, m.limits.Ready = 3*time.Second, 4*time.Second
				resumed := make(chan struct{})
				once := sync.OnceFunc(func() { close(resumed) })
				m.src.onCall = func(method string) {
					if method == "Resume" {
						once()
					}
				}
				m.dst.onCall = func(method string) {
					if method == "In.Map" {
						<-resumed
					}
				}
				m.run(t.Context(), t)
				m.expectAtSource(t)
				if !errors.Is(m.srcErr, ErrPeerSilent) && !errors.Is(m.srcErr, ErrPeerLost) {
					t.Errorf("the reason is lost: %v", m.srcErr)
				}
			})
		}
	}
}

func TestDefaultPolicy(t *testing.T) {
	// Each round sends what was dirtied in the one before.
	run := func(dirty ...uint64) bool {
		rounds := []RoundStats{{Pages: 100000, Dirty: dirty[0]}}
		for i, d := range dirty[1:] {
			rounds = append(rounds, RoundStats{Pages: dirty[i], Dirty: d})
		}
		return DefaultPolicy(rounds)
	}
	forever := make([]uint64, mostRounds)
	for i := range forever {
		forever[i] = uint64(1) << (40 - i)
	}
	for _, c := range []struct {
		what  string
		dirty []uint64
		stop  bool
	}{
		{"few pages, at once", []uint64{49}, true},
		{"too many", []uint64{50}, false},
		{"more than before, early", []uint64{100, 200}, false},
		{"five rounds without progress", []uint64{1000, 1000, 1000, 1000, 1000}, true},
		{"hardly any", []uint64{1000, 900, 800, 700, 600}, true},
		{"five that converge", []uint64{16000, 8000, 4000, 2000, 1000}, false},
		{"no longer", []uint64{16000, 8000, 4000, 2000, 1000, 900}, true},
		{"for ever", forever, true},
		{"nearly", forever[:mostRounds-1], false},
	} {
		if got := run(c.dirty...); got != c.stop {
			t.Errorf("%s: stop %v, want %v", c.what, got, c.stop)
		}
	}
}
