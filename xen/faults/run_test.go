package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/xen"
)

// bug is a deliberate mistake, which the suite must find.
type bug string

const (
	noBug       bug = ""
	bugNoFsync  bug = "journals are not synced"
	bugTooEarly bug = "a step is taken before it is recorded"
)

// limits of the programs: short ones are no harder on them, but on the clock.
var limits = xen.Limits{
	Connect: 20 * time.Second, Handshake: 20 * time.Second, Silence: 10 * time.Second, Suspend: 5 * time.Second,
	Ready: 20 * time.Second, Commit: 20 * time.Second, Doubt: 15 * time.Second, Retry: 20 * time.Second, Undo: 20 * time.Second,
}

// The course of a run, from its start.
const (
	netBackAfter = 4 * time.Minute
	// settledAfter is when everything must be at its end: the programs, their
	// guardians, and what is run at boot.
	settledAfter = 12 * time.Minute
)

// recovery is what a program finishes migrations with.
func recovery(p *proc) *fallback.Recovery {
	return xen.NewRecovery(hostOf{p}, fallback.NewStore(diskOf{p}), asker{p}, limits)
}

// asker reaches the destination from a program at the source.
type asker struct{ p *proc }

func (a asker) Ask(ctx context.Context, m fallback.Migration) (fallback.Answer, error) {
	c, err := a.p.dial("ask")
	if err != nil {
		return fallback.AnswerPending, err
	}
	link := xen.NewLink(end{c, 0}, "beta", limits)
	defer link.Close()
	return xen.Ask(ctx, link, m)
}

// dial starts a receiver at beta and returns the connection to it.
func (p *proc) dial(name string) (*pipe, error) {
	if err := p.alive(); err != nil {
		return nil, err
	}
	w := p.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.dead || !w.reachable() {
		return nil, errors.New("no route to host")
	}
	ready := make(chan *pipe, 1)
	far := w.startLocked(beta, name, func(far *proc) { receive(far, <-ready) })
	c := w.connect(p, far)
	ready <- c
	return c, nil
}

// receive is the life of a receiver.
func receive(p *proc, c *pipe) {
	link := xen.NewLink(end{c, 1}, "alpha", limits)
	defer link.Close()
	_, err := xen.Receive(p.ctx, hostOf{p}, link, xen.DestinationOptions{
		Limits: limits, Protect: protect(p), Answer: recovery(p).Answer,
	})
	p.tell("receive", err)
}

func (p *proc) tell(what string, err error) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if !p.dead {
		p.w.note("%s: %s: %v", p.name, what, err)
	}
}

// send is the life of a sender. paused: the guest is to be paused at the
// destination.
func send(p *proc, paused bool) {
	c, err := p.dial("dest")
	if err != nil {
		return
	}
	link := xen.NewLink(end{c, 0}, "beta", limits)
	defer link.Close()
	host := hostOf{p}
	dom, err := host.Open(p.ctx, guestDomid)
	if err != nil {
		return
	}
	_, err = xen.Migrate(p.ctx, host, dom, link, xen.SourceOptions{
		Data: xen.DataControl, Pipe: xen.PipeOptions{Compress: xen.NoCompression}, Limits: limits, Protect: protect(p), Ask: asker{p}.Ask, Transport: "beta",
		LeavePaused: paused,
	})
	p.tell("migrate", err)
}

// shield is a journal and a guardian. It implements xen.Protection.
type shield struct {
	p       *proc
	journal *fallback.Journal
	turn    chan struct{} // has one value while the journal is used
}

func protect(p *proc) xen.Protect {
	return func(_ context.Context, m fallback.Migration) (xen.Protection, error) {
		p.w.start(p.host.index, p.name+"-guard", func(g *proc) {
			_ = fallback.Guard(g.ctx, ward{p}, recovery(g), m.ID, m.Side, limits.Retry, func(text string) { g.tell("says", errors.New(text)) })
		})
		journal, err := fallback.NewStore(diskOf{p}).Begin(m)
		if err != nil {
			return nil, err
		}
		return &shield{p, journal, make(chan struct{}, 1)}, nil
	}
}

func (s *shield) Append(r fallback.Record, durable bool) error {
	if s.p.w.bug == bugTooEarly && durable {
		go func() {
			time.Sleep(20 * time.Millisecond)
			_ = s.append(r, durable)
		}()
		return nil
	}
	return s.append(r, durable)
}

func (s *shield) append(r fallback.Record, durable bool) error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	return s.journal.Append(r, durable)
}

func (s *shield) Ready(context.Context) error { return nil }

func (s *shield) Release(finished bool) {
	if !finished {
		return
	}
	s.turn <- struct{}{}
	_ = s.journal.Close()
	<-s.turn
	s.p.w.mu.Lock()
	defer s.p.w.mu.Unlock()
	s.p.done = !s.p.dead
}

// ward is a program as its guardian sees it. It implements fallback.Ward.
type ward struct{ p *proc }

func (v ward) Wait(ctx context.Context) (clean bool, err error) {
	for {
		select {
		case <-v.p.died:
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
		v.p.w.mu.Lock()
		if !v.p.hung.IsZero() && time.Since(v.p.hung) > limits.Silence {
			v.p.kill("is killed by its guardian")
		}
		done, dead := v.p.done, v.p.dead
		v.p.w.mu.Unlock()
		if done || dead {
			return done, nil
		}
	}
}

// recoverAll is what runs at boot: again and again until nothing is left.
func recoverAll(p *proc) {
	store, r := fallback.NewStore(diskOf{p}), recovery(p)
	for {
		all, _ := store.List()
		left := false
		for _, sum := range all {
			if sum.Finished {
				continue
			}
			left = true
			if j, err := store.Open(sum.ID, sum.Side); err == nil {
				_, err := r.Finish(p.ctx, j)
				p.tell("recover "+string(sum.Side), err)
			}
		}
		select {
		case <-time.After(30 * time.Second):
		case <-p.ctx.Done():
			return
		}
		if !left && p.ctx.Err() != nil {
			return
		}
	}
}

// play runs one migration under a plan, to its end and beyond. It is called in
// a bubble of synctest.
func play(p *plan, seed uint64, b bug) *world {
	w := newWorld(p, seed, b)
	g := w.hosts[alpha].add(guestName, guestUUID)
	g.state, g.hasRun = xen.StateRunning, true
	g.scribble(w, 3*guestPages)
	w.start(alpha, "source", func(p *proc) { send(p, false) })
	tried := false
	for time.Since(w.begun) < settledAfter {
		time.Sleep(30 * time.Second)
		w.mu.Lock()
		if w.netDown && !w.everMore && time.Since(w.begun) > netBackAfter {
			w.netDown = false
			w.note("the network is back")
		}
		if !tried && w.canTryAgain() {
			tried = true
			w.startLocked(alpha, "source", func(p *proc) { send(p, true) })
		}
		late := time.Since(w.begun) > netBackAfter
		if late {
			w.repair()
		}
		w.mu.Unlock()
		for i, name := range []string{"recover-alpha", "recover-beta"} {
			w.boot(i, name, late)
		}
		if w.quiet() {
			break
		}
	}
	w.mu.Lock()
	w.check()
	for _, p := range w.procs {
		p.kill("is ended with the world")
	}
	w.mu.Unlock()
	w.running.Wait()
	return w
}

// canTryAgain tells whether the guest is as before, so that a pool's manager may
// have it moved once more: now it is to stay paused at the destination, where
// something of the first migration may be left. The world is locked.
func (w *world) canTryAgain() bool {
	g := w.hosts[alpha].guests[guestDomid]
	if g == nil || g.state != xen.StateRunning || g.taken || !w.reachable() {
		return false
	}
	for _, s := range w.journals() {
		if s.Side == fallback.SideSource && !s.Finished {
			return false
		}
	}
	for _, p := range w.procs {
		if p.name == "source" && !p.dead {
			return false
		}
	}
	return true
}

// repair does what a person would do by then: replace disks, and kill what
// hangs and has no guardian that does.
func (w *world) repair() {
	for _, m := range w.hosts {
		m.disk.broken = nil
	}
	for _, p := range w.procs {
		if !p.hung.IsZero() {
			p.kill("is killed by a person")
		}
	}
}

// boot starts recover on a host that has come up again, and late in a run on
// each, as a person would.
func (w *world) boot(host int, name string, late bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.hosts[host]
	if !m.up || !m.lost && !late {
		return
	}
	for _, p := range w.procs {
		if p.name == name && !p.dead {
			return
		}
	}
	w.startLocked(host, name, recoverAll)
}

// quiet tells whether nothing works any more and nothing is to come.
func (w *world) quiet() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.netDown || !w.hosts[alpha].up || !w.hosts[beta].up {
		return false
	}
	for _, p := range w.procs {
		if !p.dead && !strings.HasPrefix(p.name, "recover-") {
			return false
		}
	}
	for _, s := range w.journals() {
		if !s.Finished {
			return false
		}
	}
	return true
}

// journals returns what the disks say, the oldest first. The world is locked.
func (w *world) journals() (all []fallback.Summary) {
	for _, m := range w.hosts {
		for name := range m.disk.files {
			id, side, _ := strings.Cut(strings.TrimSuffix(name, ".journal"), ".")
			store := fallback.NewStore(raw{m.disk})
			sum, err := store.Read(id, fallback.Side(side))
			if err != nil {
				w.violate("journal on %s: %v", m.name, err)
				continue
			}
			all = append(all, sum)
		}
	}
	slices.SortFunc(all, func(a, b fallback.Summary) int { return a.Began.Compare(b.Began) })
	return all
}

// raw reads a disk while the world is locked.
type raw struct{ d *disk }

func (r raw) Create(string, []byte) (fallback.File, error) { return nil, errDead }
func (r raw) Open(string) (fallback.File, error)           { return nil, errDead }
func (r raw) Names() ([]string, error)                     { return nil, nil }
func (r raw) Remove(string) error                          { return nil }
func (r raw) Sweep(time.Time) error                        { return nil }
func (r raw) Path(name string) string                      { return name }
func (r raw) Boot() string                                 { return "" }
func (r raw) Read(name string, _ int) ([]byte, error) {
	if f := r.d.files[name]; f != nil {
		return f.now, nil
	}
	return nil, fmt.Errorf("no file %s", name)
}
