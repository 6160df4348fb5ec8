package xl

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xenctrl"
)

const (
	stRunning   xenctrl.DomainFlags = 1<<1 | 1<<5
	stPaused    xenctrl.DomainFlags = 1<<1 | 1<<3
	stSuspended xenctrl.DomainFlags = 1<<1 | 1<<2 | 2<<16
	stCrashed   xenctrl.DomainFlags = 1<<1 | 1<<2 | 3<<16
	stPoweroff  xenctrl.DomainFlags = 1<<1 | 1<<2
	stDying     xenctrl.DomainFlags = 1<<1 | 1<<0
	stGone      xenctrl.DomainFlags = 0
)

// fakeGuest reacts to a request: it takes it after takes, and is in the state
// after from takes+after on. Without event nobody hears of that.
type fakeGuest struct {
	state       xenctrl.DomainFlags // before the request
	takes       time.Duration       // never, if negative
	after       time.Duration
	end         xenctrl.DomainFlags
	event       bool
	requestErr  error
	resumeErr   error
	waitErr     error
	port        bool // it offers one, through which it is asked
	deaf        bool // but does not hear it
	requested   time.Time
	requests    int  // in the common way
	back        bool // the request has been taken back in time
	resumed     bool
	takenBack   int
	resumeCalls int
}

func (g *fakeGuest) taken() bool {
	return !g.requested.IsZero() && g.takes >= 0 && !g.back && time.Since(g.requested) >= g.takes
}

func (g *fakeGuest) ended() bool {
	return g.taken() && !g.resumed && time.Since(g.requested) >= g.takes+g.after
}

func (g *fakeGuest) flags() (xenctrl.DomainFlags, error) {
	f := g.state
	if g.ended() {
		f = g.end
	}
	if f == stGone {
		return 0, &xenctrl.Error{Op: "get domain information", Domid: 1, Err: unix.ESRCH}
	}
	return f, nil
}

func (g *fakeGuest) askByPort() bool {
	if g.port && !g.deaf {
		g.requested = time.Now()
	}
	return g.port
}

func (g *fakeGuest) request() error {
	g.requests++
	if g.requestErr == nil && g.requested.IsZero() {
		g.requested = time.Now()
	}
	return g.requestErr
}

func (g *fakeGuest) takeBack() (bool, error) {
	g.takenBack++
	if g.taken() {
		return true, nil
	}
	g.back = true
	return false, nil
}

func (g *fakeGuest) wait(ctx context.Context) error {
	if g.waitErr != nil {
		return g.waitErr
	}
	var fires <-chan time.Time
	if g.event && !g.requested.IsZero() && g.takes >= 0 && !g.back && !g.ended() {
		fires = time.After(g.takes + g.after - time.Since(g.requested))
	}
	select {
	case <-fires:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (g *fakeGuest) resume(context.Context) error {
	g.resumeCalls++
	g.resumed = g.resumeErr == nil
	return g.resumeErr
}

func TestSuspendGuest(t *testing.T) {
	const limit = 5 * time.Second
	errTest := errors.New("no")
	for _, tc := range []struct {
		name     string
		g        fakeGuest
		is       error         // what the error wraps; nil for success
		fails    bool          // an error that wraps nothing in particular
		within   time.Duration // the call's duration at most
		back     int           // calls of takeBack
		resumes  int
		requests bool
	}{
		{name: "event", g: fakeGuest{state: stRunning, takes: 1, after: time.Second, end: stSuspended, event: true},
			within: time.Second + time.Millisecond, requests: true},
		{name: "no event", g: fakeGuest{state: stRunning, takes: 1, after: time.Second, end: stSuspended},
			within: time.Second + suspendPoll, requests: true},
		{name: "at once", g: fakeGuest{state: stRunning, end: stSuspended}, within: 1, requests: true},
		{name: "suspended before", g: fakeGuest{state: stSuspended}, within: 1},
		{name: "paused", g: fakeGuest{state: stPaused}, is: xen.ErrSuspendRefused, within: 1},
		{name: "gone before", g: fakeGuest{state: stGone}, is: xen.ErrNoDomain, within: 1},
		{name: "does not answer", g: fakeGuest{state: stRunning, takes: -1},
			is: xen.ErrSuspendRefused, within: limit, back: 1, requests: true},
		{name: "takes it, suspends late", g: fakeGuest{state: stRunning, takes: time.Second, after: 10 * time.Second, end: stSuspended, event: true},
			within: 11*time.Second + 1, back: 1, requests: true},
		{name: "takes it, never suspends", g: fakeGuest{state: stRunning, takes: time.Second, after: time.Hour, end: stSuspended},
			is: xen.ErrSuspendRefused, within: limit + suspendGrace, back: 1, requests: true},
		{name: "late, crashes", g: fakeGuest{state: stRunning, takes: time.Second, after: 10 * time.Second, end: stCrashed},
			fails: true, within: 11*time.Second + suspendPoll, back: 1, requests: true},
		{name: "crashes", g: fakeGuest{state: stRunning, takes: 1, after: time.Second, end: stCrashed},
			fails: true, within: time.Second + suspendPoll, back: 1, requests: true},
		{name: "powers off", g: fakeGuest{state: stRunning, takes: 1, after: time.Second, end: stPoweroff},
			fails: true, within: time.Second + suspendPoll, back: 1, requests: true},
		{name: "is destroyed", g: fakeGuest{state: stRunning, takes: 1, after: time.Second, end: stDying},
			is: xen.ErrNoDomain, within: time.Second + suspendPoll, back: 1, requests: true},
		{name: "vanishes", g: fakeGuest{state: stRunning, takes: 1, after: time.Second, end: stGone},
			is: xen.ErrNoDomain, within: time.Second + suspendPoll, back: 1, requests: true},
		{name: "cannot be asked", g: fakeGuest{state: stRunning, requestErr: errTest}, is: errTest, within: 1, back: 1},
		{name: "event channel breaks", g: fakeGuest{state: stRunning, takes: -1, waitErr: errTest},
			is: errTest, within: 1, back: 1, requests: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				start := time.Now()
				err := suspendGuest(ctx, &tc.g)
				if took := time.Since(start); took > tc.within {
					t.Errorf("took %v, want at most %v", took, tc.within)
				}
				switch {
				case tc.is == nil && (err != nil) != tc.fails:
					t.Errorf("error %v", err)
				case tc.is != nil && !errors.Is(err, tc.is):
					t.Errorf("error %v, want %v", err, tc.is)
				case tc.fails && errors.Is(err, xen.ErrSuspendRefused):
					t.Errorf("error %v says that the guest runs on", err)
				}
				if tc.g.takenBack != tc.back || tc.g.resumeCalls != tc.resumes || !tc.g.requested.IsZero() != tc.requests {
					t.Errorf("taken back %d times, resumed %d times, requested %v; want %d, %d, %v",
						tc.g.takenBack, tc.g.resumeCalls, !tc.g.requested.IsZero(), tc.back, tc.resumes, tc.requests)
				}
			})
		})
	}
}

// A guest that offers a port is asked through it, and in the common way if it
// does not hear that.
func TestSuspendByPort(t *testing.T) {
	const limit = 5 * time.Second
	errTest := errors.New("no")
	for _, tc := range []struct {
		name     string
		g        fakeGuest
		limit    time.Duration
		is       error
		also     error         // what the error wraps, too
		takes    time.Duration // the call's duration, to a millisecond
		requests int
		back     int
		resumes  int
	}{
		{name: "hears it", g: fakeGuest{after: time.Second, end: stSuspended, event: true}, takes: time.Second},
		{name: "takes longer", g: fakeGuest{after: 3 * time.Second, end: stSuspended, event: true},
			takes: 3 * time.Second, requests: 1},
		{name: "deaf", g: fakeGuest{deaf: true, after: time.Second, end: stSuspended, event: true},
			takes: portPatience + time.Second, requests: 1},
		{name: "deaf, short limit", g: fakeGuest{deaf: true, after: 100 * time.Millisecond, end: stSuspended, event: true},
			limit: time.Second, takes: 600 * time.Millisecond, requests: 1},
		{name: "deaf, does not answer", g: fakeGuest{deaf: true, takes: -1},
			is: xen.ErrSuspendRefused, takes: limit + suspendGrace, requests: 1, back: 1},
		{name: "deaf, cannot be asked", g: fakeGuest{deaf: true, requestErr: errTest},
			is: xen.ErrSuspendRefused, also: errTest, takes: limit + suspendGrace, requests: 1, back: 1},
		{name: "suspends late", g: fakeGuest{after: 10 * time.Second, end: stSuspended, event: true},
			takes: 10 * time.Second, requests: 1, back: 1},
		{name: "no time", g: fakeGuest{after: 10 * time.Second, end: stSuspended, event: true},
			limit: time.Nanosecond, takes: 10 * time.Second, requests: 1, back: 1},
		{name: "is destroyed", g: fakeGuest{after: time.Second, end: stDying, event: true},
			is: xen.ErrNoDomain, takes: time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &tc.g
				g.state, g.port = stRunning, true
				if tc.limit == 0 {
					tc.limit = limit
				}
				ctx, cancel := context.WithTimeout(t.Context(), tc.limit)
				defer cancel()
				start := time.Now()
				err := suspendGuest(ctx, g)
				if took := time.Since(start); took.Round(time.Millisecond) != tc.takes {
					t.Errorf("took %v, want %v", took, tc.takes)
				}
				if !errors.Is(err, tc.is) || tc.also != nil && !errors.Is(err, tc.also) || tc.is == nil && err != nil {
					t.Errorf("error %v, want %v and %v", err, tc.is, tc.also)
				}
				if g.requests != tc.requests || g.takenBack != tc.back || g.resumeCalls != tc.resumes {
					t.Errorf("requested %d times, taken back %d times, resumed %d times; want %d, %d, %d",
						g.requests, g.takenBack, g.resumeCalls, tc.requests, tc.back, tc.resumes)
				}
			})
		})
	}
	// Cancelled on its way down.
	for _, resumeErr := range []error{nil, errTest} {
		synctest.Test(t, func(t *testing.T) {
			g := &fakeGuest{state: stRunning, takes: time.Second, after: 10 * time.Second, end: stSuspended, event: true, resumeErr: resumeErr}
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(2*time.Second, func() { cancel(errors.New("enough")) })
			err := suspendGuest(ctx, g)
			if !errors.Is(err, xen.ErrSuspendRefused) || !errors.Is(err, resumeErr) && resumeErr != nil || g.resumeCalls != 1 || g.takenBack != 1 {
				t.Errorf("cancelled: %v, taken back %d times, resumed %d times", err, g.takenBack, g.resumeCalls)
			}
		})
	}
	// Cancelled while only the port has been tried.
	synctest.Test(t, func(t *testing.T) {
		g := &fakeGuest{state: stRunning, port: true, after: 10 * time.Second, end: stSuspended, event: true}
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(errTest) })
		err := suspendGuest(ctx, g)
		if !errors.Is(err, xen.ErrSuspendRefused) || !errors.Is(err, errTest) || g.requests != 0 || g.resumeCalls != 1 {
			t.Errorf("cancelled: %v, requested %d times, resumed %d times", err, g.requests, g.resumeCalls)
		}
	})
}
