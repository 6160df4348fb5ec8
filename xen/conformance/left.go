package conformance

import (
	"errors"
	"testing"

	"github.com/xenferry/xenferry/xen"
)

// What recovery does to guests that a dead sender or receiver has left.

const otherUUID = "00000000-0000-4000-8000-00000000dead"

func (s *suite) ref(t *testing.T, dom xen.Domain) xen.DomainRef {
	t.Helper()
	info := s.info(t, dom)
	return xen.DomainRef{Domid: info.Domid, UUID: info.UUID}
}

// A guest that was left suspended, in log-dirty mode and under another name.
func (s *suite) reopenSuspended(t *testing.T) {
	h, dom := s.open(t)
	ref := s.ref(t, dom)
	must(t, "start log-dirty", dom.StartLogDirty(s.context(t)))
	must(t, "suspend", dom.Suspend(s.context(t)))
	must(t, "close", dom.Close())
	for _, wrong := range []xen.DomainRef{{Domid: ref.Domid, UUID: otherUUID}, {Domid: 32000, UUID: ref.UUID}} {
		if _, err := h.Reopen(s.context(t), wrong); !errors.Is(err, xen.ErrNoDomain) {
			t.Errorf("reopen %+v: %v, want %q", wrong, err, xen.ErrNoDomain)
		}
	}
	for range 2 { // the second time it runs already
		again, err := h.Reopen(s.context(t), ref)
		must(t, "reopen", err)
		must(t, "resume", again.Resume(s.context(t)))
		must(t, "stop log-dirty", again.StopLogDirty(s.context(t)))
		if st := s.info(t, again).State; st != xen.StateRunning {
			t.Errorf("the guest is %s", st)
		}
		must(t, "close", again.Close())
	}
	s.RunCheck(t, h, s.domid)
}

func (s *suite) discardRunning(t *testing.T) {
	h, dom := s.open(t)
	ref := s.ref(t, dom)
	if err := h.Discard(s.context(t), ref); !errors.Is(err, xen.ErrHasRun) {
		t.Errorf("discard a guest that runs: %v, want %q", err, xen.ErrHasRun)
	}
	must(t, "discard whatever copy there is", h.Discard(s.context(t), xen.DomainRef{UUID: ref.UUID}))
	must(t, "discard another's", h.Discard(s.context(t), xen.DomainRef{Domid: ref.Domid, UUID: otherUUID}))
	must(t, "suspend", dom.Suspend(s.context(t)))
	if err := h.Discard(s.context(t), ref); !errors.Is(err, xen.ErrHasRun) {
		t.Errorf("discard a suspended guest: %v, want %q", err, xen.ErrHasRun)
	}
	must(t, "resume", dom.Resume(s.context(t)))
	s.RunCheck(t, h, s.domid)
}

func (s *suite) discardUnfinished(t *testing.T) {
	h, dom := s.open(t)
	peer := s.peer(t)
	for _, known := range []bool{true, false} {
		in := s.receive(t, peer, dom, "conformance--incoming")
		ref := xen.DomainRef{UUID: s.ref(t, dom).UUID}
		if known {
			ref.Domid = in.Domid()
		}
		must(t, "discard", peer.Discard(s.context(t), ref))
		must(t, "discard again", peer.Discard(s.context(t), ref))
		s.mustBeGone(t, peer, "conformance--incoming")
		must(t, "close", in.Close())
	}
	s.RunCheck(t, h, s.domid)
}

func (s *suite) discardFinished(t *testing.T) {
	h, dom := s.open(t)
	peer := s.peer(t)
	name := s.info(t, dom).Name
	in := s.arrive(t, dom, peer, name, true)
	must(t, "close", in.Close())
	ref := xen.DomainRef{Domid: in.Domid(), UUID: s.ref(t, dom).UUID}
	must(t, "discard what has no memory", peer.Discard(s.context(t), xen.DomainRef{UUID: ref.UUID}))
	must(t, "look whether it is unused", peer.Unused(s.context(t), ref))
	must(t, "discard", peer.Discard(s.context(t), ref))
	if err := peer.Unused(s.context(t), ref); !errors.Is(err, xen.ErrNoDomain) {
		t.Errorf("a discarded copy is unused: %v, want %q", err, xen.ErrNoDomain)
	}
	s.mustBeGone(t, peer, name+"--incoming")
	must(t, "resume", dom.Resume(s.context(t)))
	s.RunCheck(t, h, s.domid)
}

func (s *suite) startFinished(t *testing.T) {
	_, dom := s.open(t)
	peer := s.peer(t)
	info := s.info(t, dom)
	in := s.arrive(t, dom, peer, info.Name, false)
	must(t, "close", in.Close())
	must(t, "rename the source", dom.Rename(s.context(t), info.Name+"--migratedaway"))
	ref := xen.DomainRef{Domid: in.Domid(), UUID: info.UUID}
	if err := peer.Start(s.context(t), xen.DomainRef{Domid: ref.Domid, UUID: otherUUID}, info.Name, false); !errors.Is(err, xen.ErrNoDomain) {
		t.Errorf("start another one: %v, want %q", err, xen.ErrNoDomain)
	}
	must(t, "name it", peer.Start(s.context(t), ref, info.Name, true))
	if got, err := peer.Find(s.context(t), info.Name); err != nil || got.State != xen.StatePaused {
		t.Errorf("%+v, %v", got, err)
	}
	for range 2 {
		must(t, "start", peer.Start(s.context(t), ref, info.Name, false))
	}
	if err := peer.Unused(s.context(t), ref); !errors.Is(err, xen.ErrHasRun) {
		t.Errorf("a copy that was started is unused: %v, want %q", err, xen.ErrHasRun)
	}
	must(t, "destroy the source", dom.Destroy(s.context(t)))
	s.domid = 0
	if err := peer.Discard(s.context(t), ref); !errors.Is(err, xen.ErrHasRun) {
		t.Errorf("discard a copy that was started: %v, want %q", err, xen.ErrHasRun)
	}
	s.RunCheck(t, peer, ref.Domid)
	s.destroyAt(t, peer, ref.Domid)
}

// destroyAt destroys a guest of a host.
func (s *suite) destroyAt(t *testing.T, h xen.Host, domid uint32) {
	t.Helper()
	dom, err := h.Open(s.context(t), domid)
	must(t, "open", err)
	defer dom.Close()
	must(t, "destroy", dom.Destroy(s.context(t)))
}
