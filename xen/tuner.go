package xen

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// tuner measures lanes and link, and lets the controller choose. Its lock is
// taken a few times for each batch.
type tuner struct {
	methods methodList
	plan    atomic.Pointer[plan] // set while lanes are at work

	mu      sync.Mutex
	lanes   int // that work
	rates   [maxMethods]laneRate
	link    linkMeter
	load    *hostLoad
	cap     func() float64 // bytes a second that may be sent
	current int            // index of a method
	spare   bool           // this host had a core to spare when that was chosen
}

// laneRate is what one lane does with a method.
type laneRate struct {
	speed, ratio average
	took         time.Duration // in all, to measure that
	last         time.Time
	trust        time.Duration // how long it is trusted after that; 0 is rateStale
}

// known tells whether it was measured well enough to be trusted.
func (r *laneRate) known() bool { return r.speed.seen >= rateLeast || r.took >= rateLong }

// stale tells whether too much may have changed since it was measured.
func (r *laneRate) stale(now time.Time) bool { return now.Sub(r.last) > max(r.trust, rateStale) }

// left notes that another method was found better: each time it is longer
// until this one is tried again. slow: not for what became of these pages, which
// the next may be unlike, but for the time that it takes.
func (r *laneRate) left(slow bool) {
	least := rateStale
	if slow {
		least = rateStaleSlow / 2
	}
	r.trust = min(2*max(r.trust, least), rateStalest)
}

// average forgets: a sample of weight w counts w/memory of the whole.
type average struct{ value, seen float64 }

func (a *average) add(v, w, memory float64) {
	a.seen = min(a.seen+w, memory)
	if a.seen > 0 {
		a.value += (v - a.value) * min(w/a.seen, 1)
	}
}

// rateMemory is over how many bytes of pages a method's figures are averaged.
const rateMemory = 16 << 20

// rateStale is how long an unused method's figures are trusted at first, if it
// is too slow rateStaleSlow, and rateStalest how long at most. They need rateLeast
// bytes of pages to be trusted at all, or rateLong of work: a processor that does
// not come to so many bytes in that time is not to go on with what it cannot do.
const (
	rateStale     = time.Second
	rateStaleSlow = 8 * time.Second
	rateStalest   = time.Minute
	rateLeast     = 6 << 20
	rateLong      = 250 * time.Millisecond
)

func newTuner(c Compression, lanes int) *tuner {
	t := &tuner{lanes: lanes, load: newHostLoad(), cap: func() float64 { return math.Inf(1) }}
	t.plan.Store(newPlan(&t.methods, c)) // there is room for the first
	return t
}

// planFor returns the plan for another way to encode.
func (t *tuner) planFor(c Compression) (*plan, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := newPlan(&t.methods, c)
	if p == nil {
		return nil, fmt.Errorf("%d ways to compress were used in this migration, which is the most: choose one of them (%s)",
			maxMethods, t.methods.names())
	}
	return p, nil
}

// set makes lanes encode by another plan from their next batches on.
func (t *tuner) set(p *plan) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current, t.link.mixed = 0, true // the controller begins with what is fastest
	t.plan.Store(p)
}

// setLanes says how many lanes work.
func (t *tuner) setLanes(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lanes, t.link.mixed = n, true
}

// choose returns the index of the method for a lane's next batch of n bytes.
func (t *tuner) choose(l *lane, n int) int {
	p := t.plan.Load()
	if len(p.methods) == 1 {
		return 0
	}
	t.mu.Lock()
	current, full, starting := t.current, t.link.full(t.current, time.Now()), t.link.starting()
	methods := p.choice(t.spare)
	t.mu.Unlock()
	if current == 0 && !p.fixed {
		if starting && l.s.startsSlowly(l.out) {
			return p.methods[p.frugal-1]
		}
		return 0
	}
	waiting := l.backlog()
	if waiting == backlogNone && full {
		waiting = backlogSome // of this lane alone: others keep the link busy
	}
	switch {
	case waiting == backlogNone && l.local.skip(n): // else the link is busy while it is tried
		return 0
	case p.fixed:
		return p.last()
	}
	return methods[shift(p.position(current, methods), len(methods), waiting)]
}

// prepared notes that a lane made raw bytes of pages into encoded ones.
func (t *tuner) prepared(method, raw, encoded int, took time.Duration) {
	if t.plan.Load().fixed || raw == 0 || took <= 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	r, w, now := &t.rates[method], float64(raw), time.Now()
	if r.stale(now) {
		*r = laneRate{trust: r.trust}
	}
	r.speed.add(w/took.Seconds(), w, rateMemory)
	r.ratio.add(w/float64(encoded), w, rateMemory)
	r.took += took
	r.last = now
}

// decide lets the controller look at the figures again.
func (t *tuner) decide(now time.Time, p *plan) {
	rates := make([]methodRate, 0, maxMethods)
	methods := make([]savefmt.Method, 0, maxMethods)
	t.spare = !t.load.busy(now)
	choice := p.choice(t.spare)
	for _, m := range choice {
		r := &t.rates[m]
		methods = append(methods, t.methods.at(m))
		rates = append(rates, methodRate{
			speed: r.speed.value * float64(t.lanes), ratio: r.ratio.value,
			link:     min(t.link.speed(m, now), t.cap()),
			measured: r.known() && !r.stale(now),
		})
	}
	complete(methods, t.lanes, rates)
	at := p.position(t.current, choice)
	best := bestMethod(rates, at, !t.spare)
	if choice[best] != t.current {
		t.rates[t.current].left(rates[at].speed < rates[best].throughput()*slowShare)
		t.current, t.link.mixed = choice[best], true
	}
}

// slowShare of what a better method yields is less than what a method's figures
// can be wrong by: it is too slow for this host.
const slowShare = 0.7

// linkMeter measures what the link takes, from what was written and what of it
// has not yet arrived.
type linkMeter struct {
	begun     time.Time
	written   int           // bytes in all
	wrote     time.Duration // writing, all lanes, since begun
	delivered int           // bytes in all, at begun
	backlog   bool          // at begun
	recent    float64       // bytes a second that were delivered in the last windows
	mixed     bool          // pages of two methods travel in this window
	windows   int           // that are over
	busy      time.Time     // when the link was last what all waited for
	speeds    [maxMethods]linkSpeed
}

// linkSpeed is what the link took while one method was in use.
type linkSpeed struct {
	best  float64 // bytes a second
	known bool    // it was what all waited for; else it is faster
	at    time.Time
	waits time.Duration // in which all waited for it, all windows together
}

// What the link took is trusted for linkStale at most once another method is in use.
// While the link is not what all wait for, it is trusted for no more than trustPerWait
// of the time in which all did, but for linkTrust in any case: an end that stood still
// for a moment, for whatever reason, looks like a slow link.
const (
	linkStale    = 3 * time.Second
	linkTrust    = 200 * time.Millisecond
	trustPerWait = 10
)

// lapsed tells whether a speed is no longer trusted.
func (m *linkMeter) lapsed(l *linkSpeed, now time.Time) bool {
	seen := l.at
	if m.busy.After(seen) {
		seen = m.busy
	}
	return now.Sub(l.at) > linkStale || now.Sub(seen) > max(linkTrust, trustPerWait*l.waits)
}

// linkWindow is how long a measurement of the link takes at least.
const linkWindow = 20 * time.Millisecond

// A slow link would take a tenth of a second for the raw pages that the kernel's
// buffers hold when its speed is first known. So in the first startWindows of
// them, as long as it is not, a lane that has startMost bytes on their way waits
// for them, looking every startLook, and if in startTime less than startSlow bytes a
// second have arrived it makes its next pages smaller. Each wait is measured anew: an
// end that was slow to begin is no slow link.
const (
	startWindows = 5
	startMost    = 256 << 10
	startTime    = 2 * time.Millisecond
	startLook    = 100 * time.Microsecond
	startSlow    = 400e6
)

// linkWeight is how much a window counts beside those before it, fullShare of
// what the link takes means that it has no room.
const (
	linkWeight = 0.3
	fullShare  = 0.9
)

// backlogBytes waiting to be delivered, or busyShare of the time spent
// writing, mean that the link was what all waited for.
const (
	backlogBytes = 256 << 10
	busyShare    = 0.7
)

// due notes a write, and tells whether the window is over.
func (m *linkMeter) due(now time.Time, size int, took time.Duration) bool {
	m.written += size
	m.wrote += took
	if m.begun.IsZero() {
		m.begun = now.Add(-took)
	}
	return now.Sub(m.begun) >= linkWindow
}

// sample ends the window, in which method was used. unsent is how much of what
// was written is on its way.
func (m *linkMeter) sample(now time.Time, unsent, lanes, method int) {
	window := now.Sub(m.begun)
	delivered := m.written - unsent
	rate := float64(delivered-m.delivered) / window.Seconds()
	backlog := unsent >= backlogBytes
	busy := backlog && m.backlog || m.wrote.Seconds() > busyShare*window.Seconds()*float64(lanes)
	l := &m.speeds[method]
	if m.lapsed(l, now) {
		*l = linkSpeed{waits: l.waits}
	}
	if busy {
		m.busy = now
	}
	if busy && !m.mixed {
		l.waits += window
	}
	switch {
	case rate <= 0 || m.mixed:
	case busy && l.known:
		l.best, l.at = l.best+(rate-l.best)*linkWeight, now
	case busy:
		l.best, l.known, l.at = rate, true, now
	default: // it takes at least that; how much more is not known
		l.best, l.at = max(l.best, rate), now
	}
	m.recent += (rate - m.recent) * linkWeight
	m.mixed = false
	m.windows++
	m.begun, m.wrote, m.delivered, m.backlog = now, 0, delivered, backlog
}

// speed returns bytes a second for a method: its own, if it was used lately,
// or else the highest of the others. It is infinite while the link was never
// the limit.
func (m *linkMeter) speed(method int, now time.Time) float64 {
	if l := &m.speeds[method]; l.known && !m.lapsed(l, now) {
		return l.best
	}
	highest := 0.0
	for i := range m.speeds {
		if l := &m.speeds[i]; l.known && !m.lapsed(l, now) {
			highest = max(highest, l.best)
		}
	}
	if highest == 0 {
		return math.Inf(1)
	}
	return highest
}

// starting tells whether too little of the link was seen to know its speed.
func (m *linkMeter) starting() bool { return m.windows < startWindows }

// startsSlowly waits until out has less than startMost on its way, which a link
// that keeps up brings about, or startTime is over: then it tells whether little
// has arrived meanwhile.
func (s *sender) startsSlowly(out frameWriter) bool {
	begun, before := time.Now(), s.arrived()
	for out.unsent() >= startMost {
		if took := time.Since(begun); took >= startTime {
			return float64(s.arrived()-before) < startSlow*took.Seconds()
		}
		time.Sleep(startLook)
	}
	return false
}

// arrived returns how many bytes have reached the other end, on all connections.
func (s *sender) arrived() uint64 {
	n := uint64(0)
	for _, l := range s.lanes {
		n += l.out.arrived()
	}
	return n
}

// unsent returns how much of what was written is on its way, on all connections.
func (s *sender) unsent() int {
	n := 0
	for _, l := range s.lanes {
		n += l.out.unsent()
	}
	return n
}

// full tells whether the link has lately been given nearly all that it takes.
func (m *linkMeter) full(method int, now time.Time) bool {
	return m.recent >= fullShare*m.speed(method, now)
}

// written notes that a lane wrote size bytes.
func (s *sender) written(size int, took time.Duration) {
	t := s.tuner
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.plan.Load()
	if p.fixed {
		return
	}
	now := time.Now()
	if !t.link.due(now, size, took) {
		return
	}
	t.link.sample(now, s.unsent(), t.lanes, t.current)
	t.decide(now, p)
}

// methodNow names the method in use.
func (t *tuner) methodNow() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.plan.Load(); p.fixed {
		return t.methods.at(p.last()).String()
	}
	return t.methods.at(t.current).String()
}
