package xen

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/savefmt"
)

// lane is one data connection at the source. In a round, run's goroutine
// prepares jobs and another writes them:
//
//	free -> prepare: map, classify, sum (copy, encode) -> ready -> write -> free
//
// A lane has jobsPerLane jobs, whose buffers are reused. The pages of a raw job
// are written from guest memory, and stay mapped until then. While nothing
// waits to be written, the goroutine that has prepared a raw job writes it as
// well: its core has the pages in its cache.
type lane struct {
	s     *sender
	index int
	out   frameWriter
	n     counters
	free  chan *job // has room for all jobs of the lane

	// Of the goroutine that prepares:
	encoders [maxMethods]savefmt.Encoder // by index of tuner.methods; nil for raw, and until it is used
	known    [maxMethods]bool            // the other end has the history of its blocks; else the next is a first one
	warm     [maxMethods]bool            // it has its memory: what it does now can be measured
	local    locality
	scratch  []byte // stable copies of one batch's pages
	copies   copyList
	quiet    bool // its thread has a low priority
	usual    int  // nice value of that thread else
}

// jobsPerLane: one is prepared, one waits, one is written.
const jobsPerLane = 3

func newLane(s *sender, index int, out frameWriter) (*lane, error) {
	l := &lane{s: s, index: index, out: out, local: locality{rule: s.skip}, free: make(chan *job, jobsPerLane)}
	for i, m := range s.tuner.methods.all() {
		if m.Codec == savefmt.CodecRaw {
			continue
		}
		if _, err := l.encoder(i); err != nil {
			return nil, err
		}
	}
	for range jobsPerLane {
		l.free <- &job{batch: NewBatch()}
	}
	return l, nil
}

// run sends batches of cur until there are none, and then the round's end.
func (l *lane) run(ctx context.Context, cur *cursor, round uint32, flags uint16) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ready := make(chan *job, 1) // closed by this goroutine
	written := make(chan error, 1)
	go func() { written <- l.writeJobs(ctx, cancel, ready) }()
	err := l.prepareJobs(ctx, cur, round, flags, ready)
	close(ready)
	if writeErr := <-written; writeErr != nil {
		return writeErr // it is why preparing was stopped
	}
	return err
}

// prepareJobs fills ready. The writer always gives jobs back to free.
func (l *lane) prepareJobs(ctx context.Context, cur *cursor, round uint32, flags uint16, ready chan<- *job) error {
	l.quiet = false
	l.copies.begin()
	sent := uint64(0)
	for {
		l.s.gate.pass(ctx, l.index)
		j := <-l.free
		j.reset()
		if err := ctx.Err(); err != nil {
			l.free <- j
			return err
		}
		if !cur.fill(j.batch) {
			l.s.gate.finish()
			l.copies.flush(j, round, flags, 1)
			j.head = savefmt.AppendRoundEnd(j.head, round, flags, sent)
			ready <- j
			return nil
		}
		n, err := l.prepare(j, round, flags)
		if err != nil {
			l.free <- j
			return err
		}
		sent += uint64(n)
		if j.mapped && l.othersFree() {
			if err := l.release(j, l.writeJob(ctx, j)); err != nil {
				return err
			}
			continue
		}
		for len(ready) == cap(ready) && l.s.ahead.look() {
			// The writer has enough to do.
		}
		ready <- j
	}
}

// othersFree tells whether all jobs but one are free: nothing is being written.
// It takes each and gives it back, as only that puts what the writer has done
// before what this goroutine does next.
func (l *lane) othersFree() bool {
	if len(l.free) < jobsPerLane-1 {
		return false
	}
	for range jobsPerLane - 1 {
		l.free <- <-l.free
	}
	return true
}

// starving is how many bytes on their way are too few to keep a link busy while
// a batch is encoded.
const starving = 256 << 10

// backlog tells what there is to be written when this goroutine has taken a job.
func (l *lane) backlog() backlog {
	switch {
	case len(l.free) < jobsPerLane-1:
		return backlogQueued
	case l.out.unsent() < starving:
		return backlogNone
	}
	return backlogSome
}

// prepare makes frames of a job's batch, and returns how many pages are in
// them or on the list of copies.
func (l *lane) prepare(j *job, round uint32, flags uint16) (int, error) {
	start := time.Now()
	if err := l.s.dom.Map(j.batch); err != nil {
		return 0, err
	}
	j.mapped = true
	h := savefmt.Header{Type: savefmt.FramePages, Flags: flags, Round: round}
	method := l.s.tuner.choose(l, PageSize*len(j.batch.PFNs))
	copies := l.copies.total
	if l.s.tuner.methods.at(method).Codec == savefmt.CodecRaw {
		l.restorePriority()
		j.data = j.classify(l.s.first) * PageSize
		took := time.Since(start)
		l.n.read.Add(int64(took))
		l.s.tuner.prepared(method, j.data, j.data, took)
		l.n.methods[method].add(j.data, j.data, 0)
	} else if err := l.encode(j, method, &h, start); err != nil {
		return 0, err
	}
	l.copies.flush(j, round, flags, savefmt.MaxPages)
	j.addPages(h)
	l.n.pages.Add(uint64(len(j.batch.PFNs)))
	l.n.zero.Add(uint64(j.zero))
	l.n.empty.Add(uint64(j.empty))
	l.n.copied.Add(uint64(l.copies.total - copies))
	return len(j.entries) + l.copies.total - copies, nil
}

// encode compresses a job's pages. They are copied out of guest memory first:
// a page that changes while it is compressed would spoil its neighbours.
func (l *lane) encode(j *job, method int, h *savefmt.Header, start time.Time) error {
	if h.Flags&savefmt.FlagLive != 0 {
		l.lowerPriority()
	}
	l.copyOut(j, h)
	if err := j.unmap(l.s.dom); err != nil {
		return err
	}
	begun := time.Now()
	l.n.read.Add(int64(begun.Sub(start)))
	raw := len(l.scratch)
	if raw == 0 {
		return nil
	}
	enc, err := l.encoder(method)
	if err != nil {
		return err
	}
	l.enter(method)
	if j.payload, err = enc.Encode(j.payload[:0], l.scratch); err != nil {
		return fmt.Errorf("compressing pages: %w", err)
	}
	now := time.Now()
	l.n.encode.Add(int64(now.Sub(begun)))
	if l.warm[method] {
		l.s.tuner.prepared(method, raw, len(j.payload), now.Sub(start))
	}
	l.warm[method] = true
	l.local.saw(raw, len(j.payload))
	l.n.methods[method].add(raw, len(j.payload), now.Sub(begun))
	m := l.s.tuner.methods.at(method)
	if len(j.payload) < raw || m.Codec == savefmt.CodecZstdLong { // whose history is worth more than a block without it
		h.Codec = m.Codec
		if !l.known[method] {
			h.Flags |= savefmt.FlagFresh
		}
		l.known[method] = !m.Whole()
	} else { // larger than before: the block is left out, and history begins anew
		j.payload = append(j.payload[:0], l.scratch...)
		enc.Reset()
		l.known[method] = false
	}
	j.data = raw
	j.runs = append(j.runs, j.payload)
	return nil
}

// enter prepares the use of a method. The other end has one decoder for each
// codec, so an encoder that takes over from another of its codec begins anew.
func (l *lane) enter(method int) {
	methods := l.s.tuner.methods.all()
	for i, m := range methods {
		if i != method && m.Codec == methods[method].Codec && l.known[i] {
			l.encoders[i].Reset()
			l.known[i] = false
		}
	}
}

// encoder returns the encoder of a method. To make one is the moment to drop
// those that the plan has no use for any more: each has some MiB.
func (l *lane) encoder(method int) (savefmt.Encoder, error) {
	if l.encoders[method] != nil {
		return l.encoders[method], nil
	}
	p := l.s.tuner.plan.Load()
	for i := range l.encoders {
		if !p.has(i) {
			l.encoders[i], l.known[i], l.warm[i] = nil, false, false
		}
	}
	var err error
	l.encoders[method], err = savefmt.NewEncoder(l.s.tuner.methods.at(method), l.s.connections)
	return l.encoders[method], err
}

// lowPriority is by how much the nice value of threads that compress while the
// guest runs is higher: whatever else runs on this host comes first.
const lowPriority = 5

// lowerPriority makes the kernel prefer all others to this thread, which the
// goroutine keeps meanwhile.
func (l *lane) lowerPriority() {
	if l.quiet {
		return
	}
	l.quiet = true
	runtime.LockOSThread()
	l.usual = nice()
	_ = setNice(l.usual + lowPriority) // a kindness; nothing depends on it
}

// restorePriority takes that back: pages that go as they are cost little, and what
// sends them waits for it. Where that is not allowed the thread stays as it is, and
// ends with the round.
func (l *lane) restorePriority() {
	if l.quiet && setNice(l.usual) == nil {
		l.quiet = false
		runtime.UnlockOSThread()
	}
}

// nice returns the nice value of this thread, 0 if that is not known.
func nice() int {
	n, err := unix.Getpriority(unix.PRIO_PROCESS, unix.Gettid())
	if err != nil {
		return 0
	}
	return 20 - n // as the system call has it
}

func setNice(n int) error { return unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), n) }

// writeJobs writes what comes from ready until it is closed. After a failure
// it only gives the jobs back.
func (l *lane) writeJobs(ctx context.Context, cancel context.CancelCauseFunc, ready <-chan *job) error {
	var first error
	for j := range ready {
		err := first
		if err == nil {
			err = l.writeJob(ctx, j)
		}
		if err = l.release(j, err); err != nil && first == nil {
			first = err
			cancel(err)
		}
	}
	return first
}

// release gives a job back, unmapped. It returns err, or else why that failed.
func (l *lane) release(j *job, err error) error {
	if unmapErr := j.unmap(l.s.dom); err == nil {
		err = unmapErr
	}
	l.free <- j
	return err
}

func (l *lane) writeJob(ctx context.Context, j *job) error {
	size := j.seal()
	if size == 0 {
		return nil
	}
	if l.s.limit != nil {
		asked := time.Now()
		err := l.s.limit.take(ctx, size)
		l.n.held.Add(int64(time.Since(asked)))
		if err != nil {
			return err
		}
	}
	start := time.Now()
	j.pieces = j.list // WriteTo consumes the slice that it is given
	if err := l.out.writeFrame(&j.pieces); err != nil {
		return fmt.Errorf("sending pages: %w", err)
	}
	took := time.Since(start)
	l.n.write.Add(int64(took))
	l.n.wire.Add(uint64(size))
	l.s.written(size, took)
	return nil
}
