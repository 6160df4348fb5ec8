package xen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/savefmt"
)

// The suffixes that xl gives a guest's name while it exists on two hosts.
const (
	suffixIncoming = "--incoming"
	suffixAway     = "--migratedaway"
)

// SourceOptions says how a guest is moved away.
type SourceOptions struct {
	Program string   // version of this program
	Config  []byte   // send this configuration instead of Domain.Config, if set
	Data    DataMode // default DataTLS
	// MustData: where no data connection can be opened fail, and do not let the
	// pages go over the control connection, which may be another network.
	MustData    bool
	Pipe        PipeOptions
	Policy      Policy // default DefaultPolicy
	Verify      bool   // send everything once more while suspended, to be compared
	MemoryHash  bool   // compare a hash of all memory, taken while suspended
	LeavePaused bool   // do not let it run at the destination
	KeepDomid   bool   // give it the same domid there
	// MaxDowntime is how long the guest may be suspended before GO; after it
	// the guest runs on here. 0: however long the limits allow.
	MaxDowntime time.Duration
	// Panel shows figures in shared memory, and takes changes from there: see
	// OpenPanel.
	Panel   bool
	Limits  Limits
	Observe Observer
	// Transport is the shell command that reaches the destination, for Ask and
	// for the journal.
	Transport string
	// Protect makes the migration survive the end of this process; nil: it
	// does not.
	Protect Protect
	// Ask asks the destination, over a connection of its own, what has become
	// of the migration. nil: there is no way to.
	Ask func(ctx context.Context, m fallback.Migration) (fallback.Answer, error)
}

// source is the sending end of one migration.
type source struct {
	host Host
	dom  Domain
	link *Link
	opts SourceOptions

	phaseRunner
	protected
	migration fallback.Migration
	report    *Report
	started   time.Time

	cpuBefore time.Duration

	keys    *keyPair
	welcome *welcome
	conns   []net.Conn
	pages   *sender
	dirty   Bitmap
	size    sizeWatch
	round   int
	// firstLook: no page of dirty was sent before.
	firstLook bool
	early     bool             // the destination builds the devices while the guest runs here
	final     []savefmt.Record // the guest's state, once it is suspended
	watch     stopwatch
	theirs    []step // of the destination
	signs     int    // that it will tell of, from heard on
	heard     time.Time
	touched   bool // something has been done to the guest that may have to be undone; written with mu held

	stopped time.Time   // the guest was known to have stopped
	tooLong *time.Timer // runs out when the pause is longer than allowed
	cancel  context.CancelCauseFunc

	tunable
}

// Migrate moves the guest dom away over link. On success it runs at the
// destination and is destroyed here. On failure the error is a *MigrateError
// that says where the guest is. The end of ctx cancels the migration, until GO
// is sent. The report is never nil.
func Migrate(ctx context.Context, host Host, dom Domain, link *Link, opts SourceOptions) (*Report, error) {
	opts.Limits = opts.Limits.WithDefaults()
	if opts.Policy == nil {
		opts.Policy = DefaultPolicy
	}
	if opts.Data == "" {
		opts.Data = DataTLS
	}
	s := &source{
		host: host, dom: dom, link: link, opts: opts, started: time.Now(),
		protected: newProtected(fallback.SideSource, fallback.Source),
		report:    &Report{ID: newID(), To: link.peer, Compress: opts.Pipe.Compress.String()},
		cpuBefore: processCPU(),
	}
	s.prepareTuning()
	err := s.run(ctx)
	s.finishReport(err)
	return s.report, err
}

func (s *source) run(ctx context.Context) error {
	defer s.release()
	defer func() { s.panel.close() }()
	defer func() { closeAll(s.conns) }()
	// The link's end, whatever its cause, ends every phase before the commit.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.cancel = cancel
	defer context.AfterFunc(s.link.Context(), func() { cancel(context.Cause(s.link.Context())) })()

	err := s.runAll(ctx, []phase{
		{PhaseHello, s.hello},
		{"connect", s.connect},
		{"log-dirty", s.startLogDirty},
		{"copy", s.copyAll},
		{"devices", s.awaitDevices},
		{"suspend", s.suspend},
		{"last pages", s.copyLast},
		{"verify", s.verify},
		{"final state", s.finalState},
		{"destination ready", s.awaitReady},
	})
	if err != nil {
		return s.fail(err)
	}
	// From here on a cancel comes too late: only the other side's word counts.
	after := context.WithoutCancel(ctx)
	if err := s.runAll(after, []phase{{"commit", s.commit}}); err != nil {
		return s.fail(err)
	}
	if err := s.runAll(after, []phase{{"destroy", s.destroy}}); err != nil {
		return s.fail(err)
	}
	return nil
}

// connect opens the data connections and sends the static state.
func (s *source) connect(ctx context.Context) error {
	static, err := s.dom.StaticState(ctx)
	if err != nil {
		return err
	}
	if s.opts.Data != DataControl {
		conns, err := dialStreams(ctx, s.welcome, s.report.ID, s.opts, s.keys)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && s.opts.MustData:
			return fmt.Errorf("no data connection, and one was asked for: %w", err)
		case err != nil:
			s.note("no data connection (%v): the pages go over the control connection", err)
		default:
			s.report.Data = fmt.Sprintf("%s %s", s.opts.Data, describeLink(conns[0]))
		}
		s.conns = conns
	}
	var outs []frameWriter
	for _, c := range s.conns {
		outs = append(outs, newConnWriter(c, s.opts.Limits.Silence))
	}
	if len(outs) == 0 {
		s.report.Data = "control connection"
		outs = append(outs, s.link)
	}
	if err := s.startSender(outs); err != nil {
		return err
	}
	return s.link.sendState(static, &message{Kind: kindStreams, Streams: &streams{Connections: len(s.conns)}})
}

func (s *source) note(format string, args ...any) {
	s.emit(Event{Kind: EventNote, Phase: s.current, Text: fmt.Sprintf(format, args...)})
}

func (s *source) startLogDirty(ctx context.Context) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	s.touched = true
	s.mu.Unlock()
	s.dirty = NewBitmap(s.dom.Pages())
	s.dirty.SetAll(s.dom.Pages())
	s.firstLook = true
	s.size = sizeWatch{kib: s.report.Guest.MemKiB}
	return s.dom.StartLogDirty(ctx)
}

// copyAll sends every page once, and more rounds until the policy says stop.
// Where most pfns have no page, those are looked at while the link is busy, and
// what is left of them last, while the destination builds the devices.
func (s *source) copyAll(ctx context.Context) error {
	likely, err := s.likely(ctx)
	switch {
	case err != nil:
		return err
	case likely == nil:
		return s.copyLive(ctx)
	}
	rest := s.dirty
	for i, word := range likely {
		rest[i] &^= word
	}
	s.dirty, s.pages.ahead = likely, newLookahead(s.dom, rest)
	stats, err := s.liveRound(ctx)
	if err != nil {
		return err
	}
	stats.Part = true
	s.endRound(stats)
	s.dirty, s.pages.ahead, s.firstLook = rest, nil, true
	return s.copyLive(ctx)
}

// likely returns what is sent before the devices are asked for, nil for all.
func (s *source) likely(ctx context.Context) (Bitmap, error) {
	if !s.early {
		return nil, nil
	}
	return s.dom.Likely(ctx)
}

// copyLive sends rounds until the policy, which sees only these, says stop.
func (s *source) copyLive(ctx context.Context) error {
	first := len(s.report.Rounds)
	return copyLive(ctx, s.dom, &s.size, s.dirty, s.liveRound, func(stats RoundStats) bool {
		s.endRound(stats)
		return s.opts.Policy(s.report.Rounds[first:])
	}, func(what string) { s.note("%s", what) })
}

// liveRound sends one round of a running guest. After the first the destination
// has a place for all pages, and can begin with the devices.
func (s *source) liveRound(ctx context.Context) (RoundStats, error) {
	stats, err := s.sendRound(ctx, savefmt.FlagLive)
	if err == nil && stats.Round == 0 {
		err = s.askForDevices(ctx)
	}
	if err == nil {
		err = s.awaitStored(ctx, &stats)
	}
	return stats, err
}

// sendRound sends the pages in s.dirty while it reports progress. A blocked
// write ends when ctx does.
func (s *source) sendRound(ctx context.Context, flags uint16) (RoundStats, error) {
	defer context.AfterFunc(ctx, func() { closeAll(s.conns) })()
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.pages.watch(stop, s.observe, s.panel)
	}()
	stats, err := s.pages.send(ctx, s.round, s.dirty, flags, s.firstLook)
	s.firstLook = false
	close(stop)
	<-stopped
	s.round++
	if ctx.Err() == nil {
		err = s.link.reason(err)
	}
	return stats, err
}

func (s *source) endRound(stats RoundStats) {
	s.report.addRound(stats)
	s.emit(Event{Kind: EventRound, Round: &stats})
}

// copyLast sends what the guest wrote since the last live round began, and
// fetches its state meanwhile.
func (s *source) copyLast(ctx context.Context) error {
	clear(s.dirty) // that round has sent it
	begun := time.Now()
	if err := addLast(ctx, s.dom, &s.size, s.dirty, s.report.Rounds); err != nil {
		return err
	}
	s.watch.note("last dirty pages", begun)
	flags := uint16(0)
	if !s.opts.Verify {
		flags |= savefmt.FlagLast
	}
	begun = time.Now()
	fetched := make(chan error, 1)
	var fetchedAt time.Time
	go func() {
		var err error
		s.final, err = s.dom.FinalState(ctx)
		fetchedAt = time.Now()
		fetched <- err
	}()
	stats, err := s.sendRound(ctx, flags)
	s.watch.note("last pages", begun)
	if fetchErr := <-fetched; err == nil {
		err = fetchErr
	}
	s.watch.add("guest's state", begun, fetchedAt)
	if err != nil {
		return err
	}
	s.endRound(stats)
	return nil
}

// verify sends all pages again, to be compared. The guest is suspended.
func (s *source) verify(ctx context.Context) error {
	if !s.opts.Verify {
		return nil
	}
	begun := time.Now()
	defer func() { s.watch.note("verify round", begun) }()
	s.dirty.SetAll(s.dom.Pages())
	stats, err := s.sendRound(ctx, savefmt.FlagVerify|savefmt.FlagLast)
	if err != nil {
		return err
	}
	s.endRound(stats)
	return nil
}

func (s *source) finalState(ctx context.Context) error {
	if s.opts.MemoryHash {
		var err error
		begun := time.Now()
		s.report.MemoryHash, err = hashMemory(ctx, s.dom)
		s.watch.note("memory hashed", begun)
		if err != nil {
			return err
		}
	}
	begun := time.Now()
	defer func() { s.watch.note("state sent", begun) }()
	return s.link.sendState(s.final, &message{Kind: kindFinal, Final: &final{MemoryHash: s.report.MemoryHash}})
}

// awaitReady waits for the destination, and frees the guest's name here
// meanwhile.
func (s *source) awaitReady(ctx context.Context) error {
	renamed := make(chan error, 1)
	go func() { renamed <- s.rename(ctx) }()
	begun := time.Now()
	m, _, err := s.link.receive(ctx, kindReady, s.opts.Limits.Ready)
	if renameErr := <-renamed; err == nil {
		err = renameErr
	}
	if err != nil {
		return err
	}
	s.watch.note("READY awaited", begun)
	s.theirs = append(s.theirs, m.Ready.Steps...)
	s.report.Receiver = m.Ready.Receiver
	if n := m.Ready.Differ; n > 0 {
		s.report.Differing = n
		s.note("the verify round found %d pages that differ, the first are pfns %#x: backends in dom0 write pages"+
			" that they share with a guest (rings, buffers) even while it is suspended; others must not differ", n, m.Ready.DifferFirst)
	}
	_, err = s.step(fallback.EventReady, nil)
	return err
}

// rename gives the guest another name, as xl does: the destination may be the
// same host.
func (s *source) rename(ctx context.Context) error {
	begun := time.Now()
	defer func() { s.watch.note("renamed", begun) }()
	return s.dom.Rename(ctx, s.report.Guest.Name+suffixAway)
}

// commit hands the guest over.
func (s *source) commit(ctx context.Context) error {
	if s.tooLong != nil {
		s.tooLong.Stop() // a busy host may be late with it
		if limit := s.settleDowntime(); time.Since(s.stopped) > limit {
			return fmt.Errorf("%w: %s", ErrDowntime, limit)
		}
	}
	if err := context.Cause(s.link.Context()); err != nil {
		return err // lost before GO: no reason for doubt
	}
	begun := time.Now()
	if _, err := s.step(fallback.EventSendGo, nil); err != nil {
		return err
	}
	s.watch.note("GO on disk", begun)
	m, err := s.handOver(ctx)
	event := fallback.EventStarted
	if err != nil {
		event = s.doubt(ctx, err)
	}
	if event == fallback.EventFailure {
		return err
	}
	if _, stepErr := s.step(event, err); stepErr != nil || event == fallback.EventDiscarded {
		return errors.Join(err, stepErr)
	}
	s.heard = time.Now()
	s.report.Downtime = s.heard.Sub(s.stopped)
	if m != nil {
		s.report.Build = time.Duration(m.Started.BuildNs)
		s.report.Start = time.Duration(m.Started.StartNs)
		s.theirs = append(s.theirs, m.Started.Steps...)
		s.signs = min(max(m.Started.Signs, 0), maxSteps)
	}
	return nil
}

// handOver sends GO and waits for the answer.
func (s *source) handOver(ctx context.Context) (*message, error) {
	if err := s.link.send(&message{Kind: kindGo}); err != nil {
		return nil, err
	}
	m, _, err := s.link.receive(ctx, kindStarted, s.opts.Limits.Commit)
	return m, err
}

// destroy ends the guest here. It runs at the destination.
func (s *source) destroy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Limits.Undo)
	defer cancel()
	if err := s.dom.Destroy(ctx); err != nil {
		return err
	}
	if _, err := s.step(fallback.EventDestroyed, nil); err != nil {
		return err
	}
	_ = s.link.send(&message{Kind: kindAck}) // only so that the other end knows that nobody will ask
	s.collectSigns(ctx)
	return nil
}

// fail does what the table says after a failure.
func (s *source) fail(cause error) *MigrateError {
	seen := time.Now()
	state := s.machine.State()
	stopped := state != fallback.SourceRunning && state != fallback.SourceSuspending
	failure := &MigrateError{Phase: s.current, Cause: cause}
	if state != fallback.SourceResuming { // the destination's word has not brought it there already
		if _, err := s.step(fallback.EventFailure, cause); err != nil {
			failure.Cleanup = err
		}
	}
	switch s.machine.State() {
	case fallback.SourceResuming:
		s.resume(failure, seen, stopped)
	case fallback.SourceInDoubt:
		failure.Outcome = OutcomeInDoubt
	default:
		failure.Outcome = OutcomeLeftover
	}
	return failure
}

// resume makes the guest run on here: the one place where that is done.
func (s *source) resume(failure *MigrateError, seen time.Time, stopped bool) {
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.Limits.Undo)
	defer cancel()
	failure.Outcome = OutcomeAtSource
	if !s.touched { // nor is it known to be in a state that this program has brought about
		s.link.abort(failure.Cause)
		_, failure.Cleanup = s.step(fallback.EventResumed, nil)
		return
	}
	err := s.dom.Resume(ctx)
	if err == nil && stopped {
		failure.ResumedAfter = time.Since(seen)
		if !s.stopped.IsZero() {
			s.report.Paused = time.Since(s.stopped)
		}
	}
	s.link.abort(failure.Cause)
	if err == nil {
		err = s.resumeLate(ctx, s.dom, s.opts.Limits.Suspend)
	}
	undo := errors.Join(s.endThrottle(), s.dom.StopLogDirty(ctx), restoreName(ctx, s.dom, s.report.Guest.Name))
	if err != nil {
		failure.Outcome = OutcomeSuspended
		undo = errors.Join(fmt.Errorf("resuming it failed: %w", err), undo)
	}
	event := undone(undo)
	if event == fallback.EventMissing {
		failure.Outcome = OutcomeEnded
	}
	_, stepErr := s.step(event, undo)
	failure.Cleanup = errors.Join(failure.Cleanup, undo, stepErr)
}

func (s *source) finishReport(err error) {
	r := s.report
	r.Total = time.Since(s.started)
	r.CPU = processCPU() - s.cpuBefore
	r.Phases = s.times
	r.Budget = s.budget()
	r.Outcome = OutcomeMoved
	var failure *MigrateError
	if errors.As(err, &failure) {
		r.Outcome, r.Error, r.Code = failure.Outcome, failure.Error(), CodeOf(failure)
		r.FailedIn, r.ResumedAfter = failure.Phase, failure.ResumedAfter
	}
	s.emit(Event{Kind: EventEnd, Report: r, Text: r.Error})
}
