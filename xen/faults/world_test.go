package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"
)

// world is two hosts, what runs on them, and the plan of what goes wrong.
type world struct {
	mu       sync.Mutex
	begun    time.Time
	plan     *plan
	rnd      *rand.Rand
	bug      bug
	hosts    [2]*machine // alpha, the source, and beta
	procs    []*proc
	conns    []*pipe
	names    map[string]int // how often a point has been passed
	points   []string       // that were passed, in order
	trace    []string
	wrong    []string // violations
	netDown  bool
	everMore bool          // the network never comes back
	stopped  time.Time     // when the guest suspended
	longest  time.Duration // that it was suspended, until it ran somewhere
	ranThere bool          // the guest has run at the destination
	running  sync.WaitGroup
}

// The hosts' places in world.hosts.
const (
	alpha = 0
	beta  = 1
)

func newWorld(p *plan, seed uint64, b bug) *world {
	w := &world{begun: time.Now(), plan: p, rnd: rand.New(rand.NewPCG(seed, 1)), bug: b, names: map[string]int{}}
	for i, name := range []string{"alpha", "beta"} {
		w.hosts[i] = &machine{w: w, index: i, name: name, up: true, guests: map[uint32]*guest{}, disk: &disk{files: map[string]*file{}}}
	}
	return w
}

// note adds to the trace. The world is locked.
func (w *world) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%9.3f  %s", time.Since(w.begun).Seconds(), fmt.Sprintf(format, args...)))
}

// violate notes that a rule was broken. The world is locked.
func (w *world) violate(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.wrong = append(w.wrong, text)
	w.note("VIOLATION: %s", text)
}

// errDead is what a dead program's calls return: it goes on as a ghost, without
// effect, to its end.
var errDead = errors.New("this program is dead")

// proc is a program on a host.
type proc struct {
	w      *world
	host   *machine
	name   string
	ctx    context.Context
	cancel context.CancelFunc
	began  time.Time
	died   chan struct{}
	dead   bool
	ended  time.Time
	done   bool      // it has told its guardian that nothing is left
	hung   time.Time // since when, if it hangs
}

// start runs a program. The world is not locked.
func (w *world) start(host int, name string, life func(p *proc)) *proc {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.startLocked(host, name, life)
}

func (w *world) startLocked(host int, name string, life func(p *proc)) *proc {
	p := &proc{w: w, host: w.hosts[host], name: name, began: time.Now(), died: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	if !p.host.up {
		p.dead = true
		close(p.died)
		p.cancel()
		return p
	}
	w.procs = append(w.procs, p)
	w.running.Go(func() {
		life(p)
		w.mu.Lock()
		defer w.mu.Unlock()
		p.kill("ends")
	})
	return p
}

// kill ends a program: its connections and its locks go with it. The world is
// locked.
func (p *proc) kill(why string) {
	if p.dead {
		return
	}
	p.dead, p.ended = true, time.Now()
	p.w.note("%s %s", p.name, why)
	close(p.died)
	p.cancel()
	for _, c := range p.w.conns {
		if c.procs[0] == p || c.procs[1] == p {
			c.closed = true // what it has sent still arrives
			c.wake()
		}
	}
	p.host.disk.release(p)
}

// do is one call of a program to the world: a point before it, its effect, and
// a point after it. The effect happens at once, for all to see.
func (p *proc) do(what string, effect func() error) error {
	if err := p.alive(); err != nil {
		return err
	}
	time.Sleep(callTime)
	w := p.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := p.pass(what); err != nil {
		return err
	}
	if err := effect(); err != nil {
		w.note("%s: %s: %v", p.name, what, err)
		return err
	}
	return p.pass(what + ".done")
}

// callTime is how long each call takes: so that programs come between each
// other's calls.
const callTime = 200 * time.Microsecond

// alive returns at once for a program that lives or is dead, and with its
// death for one that hangs.
func (p *proc) alive() error {
	p.w.mu.Lock()
	dead, hangs := p.dead, !p.hung.IsZero()
	p.w.mu.Unlock()
	if hangs && !dead {
		<-p.died
	}
	if dead || hangs {
		return errDead
	}
	return nil
}

// pass passes a point, at which the plan may want a fault. The world is locked.
func (p *proc) pass(what string) error {
	if p.dead {
		return errDead
	}
	if !p.hung.IsZero() { // came to hang while it waited for its turn
		p.w.mu.Unlock()
		<-p.died
		p.w.mu.Lock()
		return errDead
	}
	w := p.w
	label := p.name + "/" + what
	w.names[label]++
	label = fmt.Sprintf("%s#%d", label, w.names[label])
	w.points = append(w.points, label)
	w.note("%s", label)
	fault, due := w.plan.at(label)
	if !due {
		return nil
	}
	w.note("FAULT %s", fault)
	err := w.strike(fault, p)
	if p.dead {
		return errDead
	}
	if !p.hung.IsZero() {
		w.mu.Unlock()
		<-p.died
		w.mu.Lock()
		return errDead
	}
	return err
}

// strike makes a fault happen at a point that p has come to. The error is that
// of the call which is there. The world is locked.
func (w *world) strike(f fault, p *proc) error {
	switch f {
	case killSource, killDest, killSourceGuard, killDestGuard:
		w.each(f.victim(), func(v *proc) { v.kill("is killed") })
	case killAll:
		for _, v := range w.procs {
			v.kill("is killed")
		}
	case hangSource, hangDest:
		w.each(f.victim(), func(v *proc) { v.hung = time.Now() })
	case cutLink:
		for _, c := range w.conns {
			c.cut()
		}
	case stallLink:
		for _, c := range w.conns {
			c.stalled = true
		}
	case noNetwork, noNetworkEver:
		w.netDown = true
		w.everMore = f == noNetworkEver
		for _, c := range w.conns {
			c.cut()
		}
	case powerSource, powerDest:
		w.hosts[map[fault]int{powerSource: alpha, powerDest: beta}[f]].crash()
	case diskFails:
		p.host.disk.broken = syscall.EIO
	case callFails:
		return fmt.Errorf("a fault at this point: %w", syscall.EIO)
	}
	return nil
}

// each does something to the programs of that name that live.
func (w *world) each(name string, do func(*proc)) {
	for _, p := range w.procs {
		if p.name == name && !p.dead {
			do(p)
		}
	}
}

// reachable tells whether a connection from one host to the other can be made.
func (w *world) reachable() bool {
	return !w.netDown && w.hosts[alpha].up && w.hosts[beta].up
}
