package memcheck

import (
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// Bounds of one Step: it ends soon, so that a guest can stop between two.
const (
	stepWrites   = 16
	stepVerifies = 32
	rushVerifies = 64
	// maxElapsed bounds the time that a Step makes up for: what a guest missed
	// while it was stopped is not written afterwards in one burst.
	maxElapsed = 50 * time.Millisecond
	// minWait keeps a worker from waking for each page.
	minWait = time.Millisecond
	maxWait = time.Second
)

// State is a worker's position: what a processor keeps outside memory. It is
// saved when the guest is suspended and restored where it runs on.
type State struct {
	Rand     uint64        `json:"rand"`
	Run      time.Duration `json:"run_ns"`   // time worked, for the phases
	Cursor   uint64        `json:"cursor"`   // next own page to verify
	Seen     uint64        `json:"seen"`     // writes seen by this sweep up to Cursor
	Writes   uint64        `json:"writes"`   // pages written
	Verified uint64        `json:"verified"` // pages verified by sweeps
	Sweeps   uint64        `json:"sweeps"`   // times that all own pages were verified
	Bad      uint64        `json:"bad"`      // pages found damaged
}

// Counts are a worker's counters.
type Counts struct {
	Writes   uint64 // pages written
	Verified uint64 // pages verified by sweeps; writes verify as well
	Sweeps   uint64
	Bad      uint64
}

// WorkerOptions say what a worker does.
type WorkerOptions struct {
	ID, Workers int // this worker, of how many: 0 <= ID < Workers
	Workload    Workload
	// VerifyBytesPerSec is how fast all workers together verify; 0 is not at
	// all, though every write still verifies what it overwrites.
	VerifyBytesPerSec uint64
	// OnBad, if not nil, is told of each damaged page.
	OnBad func(error)
	// State, if not nil, is where the worker goes on.
	State *State
}

// Worker writes and verifies its own pages of an area. Step and State are for
// one goroutine; Counts and SweepNow for any.
type Worker struct {
	area   *Area
	opts   WorkerOptions
	slots  uint64 // own pages
	set    uint64 // of them, those that are written
	stride uint64 // scatters the set over the slots
	logSet float64

	state                     State
	writeCredit, verifyCredit float64 // bytes due
	last                      time.Duration
	started                   bool

	rush                          uint64        // pages left to verify at once
	rushFor                       uint64        // the sweep asked for that this is
	asked, done                   atomic.Uint64 // sweeps asked for, and done
	writes, verified, sweeps, bad atomic.Uint64
}

// NewWorker returns a worker of area. It fails if the area is too small for so
// many workers, or if the state cannot be one of this area.
func NewWorker(area *Area, opts WorkerOptions) (*Worker, error) {
	if opts.Workers < 1 || opts.ID < 0 || opts.ID >= opts.Workers {
		return nil, fmt.Errorf("memcheck: worker %d of %d does not exist", opts.ID, opts.Workers)
	}
	if area.data < opts.Workers {
		return nil, fmt.Errorf("memcheck: %d pages are too few for %d workers", area.data, opts.Workers)
	}
	if opts.OnBad == nil {
		opts.OnBad = func(error) {}
	}
	w := &Worker{area: area, opts: opts}
	w.slots = uint64((area.data - opts.ID + opts.Workers - 1) / opts.Workers)
	w.set = w.slots
	if s := opts.Workload.Set; s != 0 {
		w.set = min(max(s/PageSize/uint64(opts.Workers), 1), w.slots)
	}
	w.logSet = math.Log(float64(w.set + 1))
	w.stride = coprime(w.slots)
	w.state.Rand = mix(area.seed ^ uint64(opts.ID+1))
	if opts.State != nil {
		w.state = *opts.State
	}
	if w.state.Cursor >= w.slots || w.state.Run < 0 {
		return nil, fmt.Errorf("memcheck: worker %d cannot go on at page %d of %d after %v",
			opts.ID, w.state.Cursor, w.slots, w.state.Run)
	}
	w.publish()
	return w, nil
}

// coprime returns a stride near n's golden section that visits all of n.
func coprime(n uint64) uint64 {
	gcd := func(a, b uint64) uint64 {
		for b != 0 {
			a, b = b, a%b
		}
		return a
	}
	s := max(uint64(float64(n)*0.618), 1)
	for gcd(s, n) != 1 {
		s++
	}
	return s
}

// State returns the worker's position between two steps.
func (w *Worker) State() State { return w.state }

// Counts returns the counters as of the last step.
func (w *Worker) Counts() Counts {
	return Counts{w.writes.Load(), w.verified.Load(), w.sweeps.Load(), w.bad.Load()}
}

func (w *Worker) publish() {
	w.writes.Store(w.state.Writes)
	w.verified.Store(w.state.Verified)
	w.sweeps.Store(w.state.Sweeps)
	w.bad.Store(w.state.Bad)
}

// SweepNow asks for every own page to be verified once from now on, at full
// speed, by the next steps. Swept tells whether that has been done.
func (w *Worker) SweepNow() (ticket uint64) { return w.asked.Add(1) }

// Swept tells whether the sweep of that ticket is complete.
func (w *Worker) Swept(ticket uint64) bool { return w.done.Load() >= ticket }

// Step does what is due at time now, which counts from any fixed moment, but
// no more than some 100 pages. It returns how long nothing more is due, 0 if
// it should be called again at once.
func (w *Worker) Step(now time.Duration) time.Duration {
	writing, phaseLeft := w.accrue(now)
	defer w.publish()
	for n := 0; n < stepWrites && w.writeCredit >= PageSize; n++ {
		w.writeCredit -= PageSize
		w.writeOne()
	}
	for n := 0; n < stepVerifies && w.verifyCredit >= PageSize; n++ {
		w.verifyCredit -= PageSize
		w.verifyOne()
	}
	if w.sweep() {
		return 0
	}
	wait := min(maxWait, phaseLeft)
	if writing {
		wait = min(wait, w.due(w.writeCredit, w.opts.Workload.BytesPerSec))
	}
	return min(wait, w.due(w.verifyCredit, w.opts.VerifyBytesPerSec))
}

// sweep goes on with a sweep that was asked for. It tells whether there was
// one to go on with.
func (w *Worker) sweep() bool {
	if asked := w.asked.Load(); asked != w.rushFor {
		w.rush, w.rushFor = w.slots, asked
	}
	if w.rush == 0 {
		return false
	}
	n := min(w.rush, rushVerifies)
	for range n {
		w.verifyOne()
	}
	if w.rush -= n; w.rush == 0 {
		w.publish()
		w.done.Store(w.rushFor)
	}
	return true
}

// accrue adds what became due since the last step. It tells whether the
// workload is in a phase that writes, and when the phase ends.
func (w *Worker) accrue(now time.Duration) (writing bool, phaseLeft time.Duration) {
	elapsed := time.Duration(0)
	if w.started {
		elapsed = min(max(now-w.last, 0), maxElapsed)
	}
	w.last, w.started = now, true
	load := w.opts.Workload
	writing, phaseLeft = load.BytesPerSec > 0, maxWait
	if half := load.Period / 2; half > 0 {
		in := w.state.Run % load.Period
		writing = in < half
		phaseLeft = half - in%half
	}
	w.state.Run += elapsed
	share := elapsed.Seconds() / float64(w.opts.Workers)
	if writing {
		w.writeCredit += share * float64(load.BytesPerSec)
	}
	w.verifyCredit += share * float64(w.opts.VerifyBytesPerSec)
	return writing, phaseLeft
}

// due returns how long it takes until credit is a page, for a rate shared by
// all workers.
func (w *Worker) due(credit float64, bytesPerSec uint64) time.Duration {
	if credit >= PageSize {
		return 0
	}
	if bytesPerSec == 0 {
		return maxWait
	}
	sec := (PageSize - credit) * float64(w.opts.Workers) / float64(bytesPerSec)
	return time.Duration(max(min(sec*float64(time.Second), float64(maxWait)), float64(minWait)))
}

// page returns the data page of one of this worker's slots.
func (w *Worker) page(slot uint64) int {
	return int(slot)*w.opts.Workers + w.opts.ID
}

// writeOne writes the page that the pattern chooses.
func (w *Worker) writeOne() {
	rng := rand(w.state.Rand)
	rank := rng.next() % w.set
	if w.opts.Workload.Pattern == PatternHot {
		// Zipf's law with exponent 1: the rank's logarithm is uniform.
		u := float64(rng.next()>>11) / (1 << 53)
		rank = min(uint64(math.Exp(u*w.logSet))-1, w.set-1)
	}
	w.state.Rand = uint64(rng)
	slot := rank
	if w.set < w.slots {
		slot = rank * w.stride % w.slots
	}
	if w.opts.Workload.Pattern == PatternSmall {
		w.note(w.area.WriteSmall(w.page(slot)))
	} else {
		w.note(w.area.Write(w.page(slot)))
	}
	w.state.Writes++
	if slot < w.state.Cursor {
		w.state.Seen++
	}
}

// verifyOne verifies the next page of the sweep, and at the end of a sweep
// that the table knows of as many writes as this worker.
func (w *Worker) verifyOne() {
	i := w.page(w.state.Cursor)
	w.note(w.area.Verify(i))
	w.state.Seen += w.area.Version(i) - 1
	w.state.Verified++
	if w.state.Cursor++; w.state.Cursor < w.slots {
		return
	}
	if w.state.Seen != w.state.Writes {
		w.note(fmt.Errorf("worker %d: %w: %d pages were written, the table knows of %d",
			w.opts.ID, ErrLostWrites, w.state.Writes, w.state.Seen))
	}
	if w.opts.ID == 0 {
		w.note(w.area.VerifyHeader())
	}
	w.state.Cursor, w.state.Seen = 0, 0
	w.state.Sweeps++
}

// Damaged counts a page that somebody else found damaged, outside the area. It
// is for the goroutine that steps the worker.
func (w *Worker) Damaged(err error) { w.note(err) }

func (w *Worker) note(err error) {
	if err != nil {
		w.state.Bad++
		w.opts.OnBad(err)
	}
}
