package conformance

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/xenferry/xenferry/xen"
)

func (s *suite) suspendAndResume(t *testing.T) {
	h, dom := s.open(t)
	for range 5 {
		must(t, "suspend", dom.Suspend(s.context(t)))
		if st := s.info(t, dom).State; st != xen.StateSuspended {
			t.Errorf("suspended, the guest is %s", st)
		}
		recs, err := dom.FinalState(s.context(t))
		must(t, "final state", err)
		if len(recs) == 0 {
			t.Error("the final state is empty")
		}
		must(t, "resume", dom.Resume(s.context(t)))
		if st := s.info(t, dom).State; st != xen.StateRunning {
			t.Errorf("resumed, the guest is %s", st)
		}
		must(t, "resume again", dom.Resume(s.context(t)))
	}
	s.RunCheck(t, h, s.domid)
}

func (s *suite) resumeRunning(t *testing.T) {
	h, dom := s.open(t)
	must(t, "resume a guest that runs", dom.Resume(s.context(t)))
	s.RunCheck(t, h, s.domid)
}

// A request that has no time to be answered leaves the guest running.
func (s *suite) suspendCancelled(t *testing.T) {
	h, dom := s.open(t)
	ctx, cancel := context.WithCancel(s.context(t))
	cancel()
	if err := dom.Suspend(ctx); !errors.Is(err, xen.ErrSuspendRefused) {
		t.Errorf("suspend without time: %v, want %q", err, xen.ErrSuspendRefused)
	}
	// Whatever comes first, the end of the time or the guest: both are good.
	for _, limit := range []time.Duration{20 * time.Microsecond, 200 * time.Microsecond, 2 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(s.context(t), limit)
		err := dom.Suspend(ctx)
		cancel()
		if err != nil && !errors.Is(err, xen.ErrSuspendRefused) {
			t.Errorf("suspend within %v: %v, want %q", limit, err, xen.ErrSuspendRefused)
		}
		want := xen.StateSuspended
		if err != nil {
			want = xen.StateRunning
		}
		if st := s.info(t, dom).State; st != want {
			t.Errorf("suspend within %v: %v, and the guest is %s", limit, err, st)
		}
		must(t, "resume", dom.Resume(s.context(t)))
	}
	must(t, "suspend", dom.Suspend(s.context(t)))
	must(t, "resume", dom.Resume(s.context(t)))
	s.RunCheck(t, h, s.domid)
}

func (s *suite) suspendRefused(t *testing.T) {
	if s.StubbornGuest == nil {
		t.Skip("this host has no guest that never suspends")
	}
	domid := s.StubbornGuest(t)
	defer s.destroyGuest(t, domid)
	h := s.host(t)
	dom, err := h.Open(s.context(t), domid)
	must(t, "open", err)
	defer dom.Close()
	for range 2 {
		ctx, cancel := context.WithTimeout(s.context(t), 100*time.Millisecond)
		err := dom.Suspend(ctx)
		cancel()
		if !errors.Is(err, xen.ErrSuspendRefused) {
			t.Errorf("suspend: %v, want %q", err, xen.ErrSuspendRefused)
		}
		if st := s.info(t, dom).State; st != xen.StateRunning {
			t.Errorf("the guest is %s", st)
		}
	}
	s.RunCheck(t, h, domid)
}

// spec describes the guest to a destination, under another name.
func (s *suite) spec(t *testing.T, dom xen.Domain, name string) xen.Spec {
	t.Helper()
	info := s.info(t, dom)
	config, err := dom.Config(s.context(t))
	must(t, "configuration", err)
	return xen.Spec{Config: config, Name: name, Type: info.Type, Pages: dom.Pages(), MemKiB: info.MemKiB}
}

// receive begins to build the guest at the peer, for the length of a case.
func (s *suite) receive(t *testing.T, peer xen.Host, dom xen.Domain, name string) xen.Incoming {
	t.Helper()
	return s.receiveSpec(t, peer, s.spec(t, dom, name))
}

func (s *suite) receiveSpec(t *testing.T, peer xen.Host, spec xen.Spec) xen.Incoming {
	t.Helper()
	in, err := peer.Receive(s.context(t), spec)
	must(t, "receive", err)
	t.Cleanup(func() {
		for range 2 {
			if err := in.Close(); err != nil {
				t.Errorf("close what arrives: %v", err)
			}
		}
	})
	return in
}

func (s *suite) receiveNameTaken(t *testing.T) {
	_, dom := s.open(t)
	spec := s.spec(t, dom, "Domain-0")
	if in, err := s.peer(t).Receive(s.context(t), spec); !errors.Is(err, xen.ErrNameTaken) {
		t.Errorf("receive: %v, want %q", err, xen.ErrNameTaken)
		if err == nil {
			in.Close()
		}
	} else {
		mentions(t, err, "Domain-0")
	}
}

func (s *suite) receiveNoMemory(t *testing.T) {
	if s.TooLarge == nil {
		t.Skip("this host has no guest that is too large")
	}
	_, dom := s.open(t)
	peer := s.peer(t)
	spec := s.TooLarge(t, s.spec(t, dom, "conformance-large"))
	if in, err := peer.Receive(s.context(t), spec); !errors.Is(err, xen.ErrNoMemory) {
		t.Errorf("receive: %v, want %q", err, xen.ErrNoMemory)
		if err == nil {
			in.Close()
		}
	}
	s.mustBeGone(t, peer, "conformance-large")
}

func (s *suite) mustBeGone(t *testing.T, h xen.Host, name string) {
	t.Helper()
	if d, err := h.Find(s.context(t), name); !errors.Is(err, xen.ErrNoDomain) {
		t.Errorf("%q is still there: %+v, %v", name, d, err)
	}
}

// freeKiB returns the free memory of a host when it no longer rises: a
// hypervisor gives the memory of a domain back bit by bit.
func (s *suite) freeKiB(t *testing.T, h xen.Host, atLeast uint64) uint64 {
	t.Helper()
	for end := time.Now().Add(s.Limit); ; time.Sleep(20 * time.Millisecond) {
		info, err := h.Info(s.context(t))
		must(t, "info of the host", err)
		if info.FreeKiB >= atLeast || time.Now().After(end) {
			return info.FreeKiB
		}
	}
}

func (s *suite) receiveAbandoned(t *testing.T) {
	_, dom := s.open(t)
	peer := s.peer(t)
	before := s.freeKiB(t, peer, 0)
	in := s.receive(t, peer, dom, "conformance--incoming")
	got, err := peer.Find(s.context(t), "conformance--incoming")
	must(t, "find what arrives", err)
	if got.Domid != in.Domid() || got.State != xen.StatePaused {
		t.Errorf("what arrives is %+v, want domain %d paused", got, in.Domid())
	}
	must(t, "close", in.Close())
	s.mustBeGone(t, peer, "conformance--incoming")
	s.mustHaveFree(t, peer, before)
}

// mustHaveFree fails the test if a host has lost memory, but for little that a
// hypervisor may keep for its own lists.
func (s *suite) mustHaveFree(t *testing.T, h xen.Host, before uint64) {
	t.Helper()
	if after := s.freeKiB(t, h, before); after+1024 < before {
		t.Errorf("%d KiB were free, now %d", before, after)
	}
}

func (s *suite) receiveHalfCopied(t *testing.T) {
	h, dom := s.open(t)
	peer := s.peer(t)
	before := s.freeKiB(t, peer, 0)
	in := s.receive(t, peer, dom, "conformance--incoming")
	s.loadStatic(t, dom, in)
	all := xen.NewBitmap(dom.Pages())
	all.SetAll(dom.Pages() / 2)
	s.copyPages(t, dom, in, all)
	if err := in.Finish(s.context(t), nil); err == nil {
		t.Error("finished without any state")
	}
	must(t, "close", in.Close())
	must(t, "destroy after close", in.Destroy(s.context(t)))
	s.mustBeGone(t, peer, "conformance--incoming")
	s.mustHaveFree(t, peer, before)
	s.RunCheck(t, h, s.domid)
}

func (s *suite) loadStatic(t *testing.T, dom xen.Domain, in xen.Incoming) {
	t.Helper()
	static, err := dom.StaticState(s.context(t))
	must(t, "static state", err)
	must(t, "load the static state", in.LoadStatic(s.context(t), static))
}

// copyPages copies the pages whose bits are set.
func (s *suite) copyPages(t *testing.T, dom xen.Domain, in xen.Incoming, which xen.Bitmap) {
	t.Helper()
	to := xen.NewBatch()
	eachBatchOf(t, dom, which, func(from *xen.Batch) {
		to.Reset()
		to.PFNs = append(to.PFNs, from.PFNs...)
		to.Types = append(to.Types, from.Types...)
		must(t, "map at the destination", in.Map(to))
		for i, page := range from.Pages {
			if (page == nil) != (to.Pages[i] == nil) {
				t.Fatalf("pfn %#x of type %#x: a view of %d bytes here, %d there",
					from.PFNs[i], from.Types[i], len(page), len(to.Pages[i]))
			}
			copy(to.Pages[i], page)
		}
		must(t, "unmap at the destination", in.Unmap(to))
	})
}

// arrive copies the guest live to the peer, by hand. It is then suspended here
// and complete and paused there, as name--incoming. early: its devices are
// built while it runs here.
func (s *suite) arrive(t *testing.T, dom xen.Domain, peer xen.Host, name string, early bool) xen.Incoming {
	t.Helper()
	spec := s.spec(t, dom, name+"--incoming")
	spec.Early = early
	in := s.receiveSpec(t, peer, spec)
	s.loadStatic(t, dom, in)

	must(t, "start log-dirty", dom.StartLogDirty(s.context(t)))
	first, rest := s.likely(t, dom)
	s.copyPages(t, dom, in, first)
	if early {
		s.prepare(t, dom, in)
	}
	s.copyPages(t, dom, in, rest)
	s.copyPages(t, dom, in, s.clean(t, dom, false))
	must(t, "suspend", dom.Suspend(s.context(t)))
	s.copyPages(t, dom, in, s.clean(t, dom, true))
	must(t, "stop log-dirty", dom.StopLogDirty(s.context(t)))
	final, err := dom.FinalState(s.context(t))
	must(t, "final state", err)
	must(t, "finish", in.Finish(s.context(t), final))
	return in
}

// likely returns what has to be there before the devices are built, and the
// rest.
func (s *suite) likely(t *testing.T, dom xen.Domain) (first, rest xen.Bitmap) {
	t.Helper()
	first, err := dom.Likely(s.context(t))
	must(t, "likely pages", err)
	rest = xen.NewBitmap(dom.Pages())
	rest.SetAll(dom.Pages())
	if first == nil {
		return rest, xen.NewBitmap(dom.Pages())
	}
	for i, word := range first {
		if word&^rest[i] != 0 {
			t.Fatalf("a likely page is beyond the guest's %#x", dom.Pages())
		}
		rest[i] &^= word
	}
	return first, rest
}

// prepare builds the guest's devices at the peer while it runs here.
func (s *suite) prepare(t *testing.T, dom xen.Domain, in xen.Incoming) {
	t.Helper()
	must(t, "the devices may be built early", dom.Preparable(s.context(t)))
	early, err := dom.EarlyState(s.context(t))
	must(t, "early state", err)
	must(t, "prepare", in.Prepare(s.context(t), early))
	if st := s.info(t, dom).State; st != xen.StateRunning {
		t.Errorf("while its devices are built the guest is %s", st)
	}
}

// prepareAbandoned gives up a guest whose devices are there already.
func (s *suite) prepareAbandoned(t *testing.T) {
	h, dom := s.open(t)
	peer := s.peer(t)
	before := s.freeKiB(t, peer, 0)
	spec := s.spec(t, dom, "conformance--incoming")
	spec.Early = true
	in := s.receiveSpec(t, peer, spec)
	s.loadStatic(t, dom, in)
	first, _ := s.likely(t, dom)
	s.copyPages(t, dom, in, first)
	if err := in.Prepare(s.context(t), nil); err == nil {
		t.Error("prepared without any state")
	}
	s.prepare(t, dom, in)
	s.copyPages(t, dom, in, first)
	must(t, "close", in.Close())
	s.mustBeGone(t, peer, "conformance--incoming")
	s.mustHaveFree(t, peer, before)
	s.RunCheck(t, h, s.domid)
}

// A whole live migration by hand: the guest is then at the peer, and a new one
// takes its place here.
func (s *suite) move(t *testing.T) {
	h, dom := s.open(t)
	peer := s.peer(t)
	name := s.info(t, dom).Name
	in := s.arrive(t, dom, peer, name, true)
	got, err := peer.Find(s.context(t), name+"--incoming")
	must(t, "find what has arrived", err)
	if got.State != xen.StatePaused {
		t.Errorf("before it is unpaused the guest is %s", got.State)
	}
	must(t, "rename the source", dom.Rename(s.context(t), name+"--migratedaway"))
	must(t, "rename what has arrived", in.Rename(s.context(t), name))
	must(t, "destroy the source", dom.Destroy(s.context(t)))
	s.domid = 0
	must(t, "destroy the source again", dom.Destroy(s.context(t)))
	s.mustBeGone(t, h, name+"--migratedaway")
	must(t, "unpause", in.Unpause(s.context(t)))
	must(t, "close", in.Close())

	s.RunCheck(t, peer, in.Domid())
	must(t, "destroy what has arrived", in.Destroy(s.context(t)))
	s.mustBeGone(t, peer, name)
}

func (s *suite) destroy(t *testing.T) {
	h, dom := s.open(t)
	info := s.info(t, dom)
	before := s.freeKiB(t, h, 0)
	b := xen.NewBatch()
	b.PFNs = append(b.PFNs, lastData(t, dom))
	must(t, "map", dom.Map(b)) // somebody looks at it: no hindrance
	must(t, "destroy", dom.Destroy(s.context(t)))
	s.domid = 0
	must(t, "unmap", dom.Unmap(b))
	must(t, "destroy again", dom.Destroy(s.context(t)))
	must(t, "close", dom.Close())
	s.mustBeGone(t, h, info.Name)
	s.mustHaveFree(t, h, before+info.MemKiB*9/10)
}
