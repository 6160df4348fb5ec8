// Package conformance is one suite of tests for every xen.Host: the simulated
// hosts of xen/sim and the real one of xen/xl pass the same cases, so that the
// engine need not know which one it works on.
//
// The cases follow the comments of the interfaces in package xen. They share
// one guest, for under emulation a guest takes long to start; a case that fails
// throws it away.
package conformance

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/xenferry/xenferry/xen"
)

// Target is what the suite needs to know of the hosts under test.
type Target struct {
	// Host connects to the host under test, Peer to the one that guests are
	// moved to. Both are called anew by each case, which closes what they
	// return, and during cleanup, when t.Context has ended. Without Peer,
	// guests move within the one host.
	Host func(t *testing.T) xen.Host
	Peer func(t *testing.T) xen.Host

	// NewGuest starts a guest that writes its memory all the time and checks
	// it. The suite destroys it.
	NewGuest func(t *testing.T) (domid uint32)
	// StubbornGuest starts one that never suspends. nil: no such case.
	StubbornGuest func(t *testing.T) (domid uint32)
	// RunCheck fails the test unless that guest runs and its own checker has
	// found nothing wrong. It may look for some time.
	RunCheck func(t *testing.T, host xen.Host, domid uint32)
	// TooLarge changes a specification to one of a guest for which the peer
	// has not enough memory. nil: no such case.
	TooLarge func(t *testing.T, spec xen.Spec) xen.Spec

	// LeaveLogDirty leaves log-dirty mode on, as a sender that crashed does.
	LeaveLogDirty func(t *testing.T, host xen.Host, domid uint32)

	// LeaveThrottle throttles the guest as a sender that crashed does.
	LeaveThrottle func(t *testing.T, host xen.Host, domid uint32)
	// Throttle returns by how many percent the guest is throttled.
	Throttle func(t *testing.T, host xen.Host, domid uint32) int

	// SharedPages is how many pages backends write in the guest's memory
	// without a log: their rings, whose contents a resumed guest discards.
	SharedPages int
	// QuietPages is how many pages may be dirtied, by devices and by the
	// hypervisor, while the guest does not run.
	QuietPages uint64
	// MappedFiles are parts of the lines of /proc/self/maps that show a
	// mapping of guest memory or of the host's: none may stay after a case.
	MappedFiles []string
	// Limit bounds each call, suspending included. 0 is 30 s.
	Limit time.Duration
}

// Run runs all cases.
func Run(t *testing.T, target Target) {
	if target.Peer == nil {
		target.Peer = target.Host
	}
	if target.Limit == 0 {
		target.Limit = 30 * time.Second
	}
	s := &suite{Target: target}
	t.Cleanup(func() { s.dropGuest(t) })
	cases := []struct {
		name string
		run  func(*suite, *testing.T)
	}{
		{"HostInfo", (*suite).hostInfo},
		{"FindByNameAndDomid", (*suite).find},
		{"UnknownDomain", (*suite).unknownDomain},
		{"OpenAndClose", (*suite).openAndClose},
		{"MapAll", (*suite).mapAll},
		{"MapTwice", (*suite).mapTwice},
		{"MapIsReadOnly", (*suite).mapIsReadOnly},
		{"MapBeyondEnd", (*suite).mapBeyondEnd},
		{"LogDirtyWhileSuspended", (*suite).logDirtyWhileSuspended},
		{"LogDirtyMissesNothing", (*suite).logDirtyMissesNothing},
		{"LogDirtyLeftover", (*suite).logDirtyLeftover},
		{"StopLogDirtyIdempotent", (*suite).stopLogDirty},
		{"Throttle", (*suite).throttle},
		{"SuspendAndResume", (*suite).suspendAndResume},
		{"ResumeOfRunningGuest", (*suite).resumeRunning},
		{"SuspendCancelled", (*suite).suspendCancelled},
		{"SuspendRefused", (*suite).suspendRefused},
		{"Rename", (*suite).rename},
		{"ReceiveNameTaken", (*suite).receiveNameTaken},
		{"ReceiveNoMemory", (*suite).receiveNoMemory},
		{"ReceiveAbandoned", (*suite).receiveAbandoned},
		{"ReceiveAbandonedHalfCopied", (*suite).receiveHalfCopied},
		{"PrepareAbandoned", (*suite).prepareAbandoned},
		{"ReopenSuspended", (*suite).reopenSuspended},
		{"DiscardRunning", (*suite).discardRunning},
		{"DiscardUnfinished", (*suite).discardUnfinished},
		{"DiscardFinished", (*suite).discardFinished},
		{"StartFinished", (*suite).startFinished},
		{"MoveAndDestroySource", (*suite).move},
		{"Destroy", (*suite).destroy},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { s.run(t, c.run) })
	}
}

// suite is the state that the cases share.
type suite struct {
	Target
	domid uint32 // of the guest, 0 if there is none
}

// run runs a case, and then looks for what it left behind.
func (s *suite) run(t *testing.T, c func(*suite, *testing.T)) {
	s.guest(t) // now, that its start is not taken for a leak
	before := s.holdings(t)
	// The leaks are looked for by the first cleanup: it runs last.
	t.Cleanup(func() {
		if t.Failed() {
			s.dropGuest(t)
			return
		}
		s.checkLeaks(t, before)
	})
	c(s, t)
}

// guest returns the guest that runs on the host.
func (s *suite) guest(t *testing.T) uint32 {
	t.Helper()
	if s.domid == 0 {
		s.domid = s.NewGuest(t)
	}
	return s.domid
}

// dropGuest destroys the guest, in whatever state a case has left it.
func (s *suite) dropGuest(t *testing.T) {
	domid := s.domid
	s.domid = 0
	if domid != 0 {
		s.destroyGuest(t, domid)
	}
}

func (s *suite) destroyGuest(t *testing.T, domid uint32) {
	ctx := s.cleanupContext(t)
	host := s.Host(t)
	defer host.Close()
	dom, err := host.Open(ctx, domid)
	if err != nil {
		t.Logf("clean up: domain %d: %v", domid, err)
		return
	}
	defer dom.Close()
	if err := dom.Destroy(ctx); err != nil {
		t.Errorf("clean up: destroy domain %d: %v", domid, err)
	}
}

// context returns a context that bounds a few calls of a case.
func (s *suite) context(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), s.Limit)
	t.Cleanup(cancel)
	return ctx
}

// cleanupContext is one that works when t.Context has ended.
func (s *suite) cleanupContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), s.Limit)
	t.Cleanup(cancel)
	return ctx
}

// host connects to the host for the length of a case.
func (s *suite) host(t *testing.T) xen.Host { return s.connect(t, s.Host) }

// peer connects to the peer for the length of a case.
func (s *suite) peer(t *testing.T) xen.Host { return s.connect(t, s.Peer) }

func (s *suite) connect(t *testing.T, dial func(*testing.T) xen.Host) xen.Host {
	t.Helper()
	h := dial(t)
	t.Cleanup(func() {
		for range 2 { // Close is idempotent
			if err := h.Close(); err != nil {
				t.Errorf("close the host: %v", err)
			}
		}
	})
	return h
}

// open opens the guest for the length of a case.
func (s *suite) open(t *testing.T) (xen.Host, xen.Domain) {
	t.Helper()
	h := s.host(t)
	dom, err := h.Open(s.context(t), s.guest(t))
	if err != nil {
		t.Fatalf("open domain %d: %v", s.domid, err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := dom.Close(); err != nil {
				t.Errorf("close the domain: %v", err)
			}
		}
	})
	return h, dom
}

func (s *suite) info(t *testing.T, dom xen.Domain) xen.DomainInfo {
	t.Helper()
	info, err := dom.Info(s.context(t))
	if err != nil {
		t.Fatalf("info: %v", err)
	}
	return info
}

// must fails the test at once if err is not nil.
func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// mentions fails the test unless an error names what it is about.
func mentions(t *testing.T, err error, part string) {
	t.Helper()
	if err != nil && !strings.Contains(err.Error(), part) {
		t.Errorf("error %q does not name %q", err, part)
	}
}
