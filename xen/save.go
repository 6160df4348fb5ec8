package xen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/savefmt"
)

// AfterSave is what becomes of a guest whose save file is whole.
type AfterSave string

// What a guest can become.
const (
	AfterDestroy AfterSave = "destroy" // it lives on in the file only
	AfterResume  AfterSave = "resume"  // it runs on
	AfterPause   AfterSave = "pause"   // it is there, paused
	AfterNothing AfterSave = "suspend" // it stays suspended
)

// Pauser is a Domain that can be left paused.
type Pauser interface {
	// ResumePaused ends a suspension as Resume does, but leaves the guest
	// paused.
	ResumePaused(ctx context.Context) error
}

// ConfigChecker is a Domain that can tell why it could not be built from
// another configuration than its own: what its kind of host asks for, beyond
// what checkConfig does.
type ConfigChecker interface {
	CheckConfig(ctx context.Context, config []byte) error
}

// SaveTarget is where a saved guest is written to.
type SaveTarget interface {
	io.Writer
	// Commit makes what was written last. Until then nobody may take it for a
	// saved guest.
	Commit() error
}

// SaveOptions says how a guest is saved.
type SaveOptions struct {
	Config    []byte    // write this configuration instead of Domain.Config, if set
	Live      bool      // copy in rounds while the guest runs, suspend for the rest only
	Verify    bool      // write all memory a second time, for the reader to compare
	Policy    Policy    // when to suspend, with Live; default DefaultPolicy
	After     AfterSave // default AfterDestroy
	KeepDomid bool      // put the domid into the configuration
	// Codec makes a container of blocks compressed with it; nil is what stock
	// Xen reads.
	Codec   *savefmt.BlockCodec
	Limits  Limits
	Observe Observer
	// Protect begins the journal and starts the guardian; nil: a crash of this
	// process leaves the guest as it is.
	Protect Protect
	Target  string // what it is saved to, for people who read the journal
	Panel   bool   // show figures in shared memory: see OpenPanel
}

// SaveReport is what a save did, for people and for --json.
type SaveReport struct {
	Guest  DomainInfo    `json:"guest"`
	Format string        `json:"format"` // "xl", or the codec of the container
	Bytes  int64         `json:"bytes"`  // written
	Plain  int64         `json:"plain_bytes"`
	Rounds []RoundStats  `json:"rounds"`
	Phases []PhaseTime   `json:"phases"`
	Total  time.Duration `json:"total_ns"`
	// Pause is from the moment that the guest was known to have stopped until
	// it was resumed; where it is not, until the file was whole.
	Pause time.Duration `json:"pause_ns"`
	After AfterSave     `json:"after"`
	// Suspended: the guest was asked to suspend.
	Suspended bool   `json:"suspended"`
	Error     string `json:"error,omitempty"`
	Code      Code   `json:"code,omitempty"`
	// Outcome says where the guest is after a failure.
	Outcome Outcome `json:"outcome,omitempty"`
}

// SaveError is the failure of a save: the cause, and where the guest is now.
type SaveError struct {
	What    string // "save", or "migration" to stock xl
	Phase   string
	Outcome Outcome // at source: it runs on; suspended: it could not be resumed; in doubt
	Written bool    // the file is whole: only what was to follow has failed
	Cause   error
	Cleanup error // what else could not be put back, or nil
}

func (e *SaveError) Error() string {
	text := fmt.Sprintf("%s failed (%s): %v", e.What, e.Phase, e.Cause)
	if e.Written {
		text = fmt.Sprintf("the %s is done, but then (%s): %v", e.What, e.Phase, e.Cause)
	}
	return text + andThen(text, e.Cleanup)
}

func (e *SaveError) Unwrap() error { return e.Cause }

// save is one save of a guest.
type save struct {
	host Host
	dom  Domain
	to   SaveTarget
	opts SaveOptions

	phaseRunner
	protected
	report  *SaveReport
	packer  *savefmt.Packer // nil for a stock file
	writer  *savefmt.Writer
	dirty   Bitmap
	size    sizeWatch // of a live save
	entries []savefmt.StockPage
	again   bool       // the pages that are written are the second copy
	told    wireSample // last progress
	panel   *panel     // nil where none is wanted

	written bool // the target is committed
	touched bool // the guest may be in another state than before
	stopped time.Time
	model   []byte // the device model's state
}

// Save writes the guest dom to a target. If it fails before the target is
// committed, the guest runs on here. The error is a *SaveError. The end of ctx
// cancels it, until the target is committed. The report is never nil.
func Save(ctx context.Context, host Host, dom Domain, to SaveTarget, opts SaveOptions) (*SaveReport, error) {
	return newSave(host, dom, to, opts).all(ctx)
}

func newSave(host Host, dom Domain, to SaveTarget, opts SaveOptions) *save {
	opts.Limits = opts.Limits.WithDefaults()
	if opts.Policy == nil {
		opts.Policy = DefaultPolicy
	}
	if opts.After == "" {
		opts.After = AfterDestroy
	}
	return &save{
		host: host, dom: dom, to: to, opts: opts,
		phaseRunner: phaseRunner{observe: opts.Observe},
		protected:   newProtected(fallback.SideSource, fallback.Source),
		report:      &SaveReport{Format: "xl", After: opts.After},
	}
}

// all saves, and reports.
func (s *save) all(ctx context.Context) (*SaveReport, error) {
	begun := time.Now()
	err := s.run(ctx)
	s.report.Total, s.report.Phases = time.Since(begun), s.times
	var failure *SaveError
	if errors.As(err, &failure) {
		s.report.Error, s.report.Code, s.report.Outcome = failure.Error(), CodeOf(failure), failure.Outcome
	}
	return s.report, err
}

func (s *save) run(ctx context.Context) error {
	defer s.release()
	defer func() { s.panel.close() }()
	defer s.stopPacker()
	phases := append([]phase{{PhaseHello, s.hello}, {"headers", s.start}}, s.memoryPhases()...)
	after, file := phase{string(s.opts.After), s.after}, phase{"file", s.commit}
	if s.opts.After == AfterResume {
		// It is to run on in any case: why should it wait for the disk? One that
		// is to stay paused can wait, and runs on if there is no file in the end.
		phases = append(phases, after)
		after.run = nil
	}
	err := s.runAll(ctx, append(phases, file))
	if err == nil && after.run != nil {
		// The file is whole: from here on a cancel comes too late.
		err = s.runAll(context.WithoutCancel(ctx), []phase{after})
	}
	if err != nil {
		return s.fail(err)
	}
	return nil
}

// memoryPhases write everything behind the header of the libxc stream.
func (s *save) memoryPhases() []phase {
	if _, ok := s.dom.(SelfSaver); ok {
		return []phase{{"copy", s.copySelf}}
	}
	phases := []phase{{"static state", s.staticState}}
	if s.opts.Live {
		phases = append(phases, phase{"log-dirty", s.startLogDirty}, phase{"copy", s.copyLive})
	}
	phases = append(phases, phase{"suspend", s.suspend}, phase{"last pages", s.copyLast})
	if s.opts.Verify {
		phases = append(phases, phase{"verify", s.copyAgain})
	}
	return append(phases, phase{"final state", s.finalState})
}

func (s *save) stopPacker() {
	if s.packer != nil {
		s.packer.Abort() // harmless after Close
	}
}

// hello looks whether the guest can be saved, before anything is touched.
func (s *save) hello(ctx context.Context) error {
	info, err := s.dom.Info(ctx)
	if err != nil {
		return err
	}
	s.report.Guest = info
	if info.State != StateRunning {
		return notRunning(info, "saved")
	}
	if _, ok := s.dom.(Pauser); s.opts.After == AfterPause && !ok {
		return fmt.Errorf("%w: this host cannot leave a guest paused", ErrUnsupported)
	}
	if s.opts.Config == nil {
		s.opts.Config, err = s.dom.Config(ctx)
	} else {
		err = checkConfig(ctx, s.dom, info, s.opts.Config)
	}
	if err != nil {
		return err
	}
	m := fallback.Migration{
		ID: newID(), Side: fallback.SideSource, Began: time.Now(),
		Guest: info.Name, UUID: info.UUID, Domid: info.Domid, Peer: s.opts.Target,
	}
	if err := s.begin(ctx, s.opts.Protect, m); err != nil {
		return err
	}
	s.startPanel(m)
	return nil
}

// guestKinds are the kinds in a stream's header by the type of the guest.
var guestKinds = map[GuestType]savefmt.GuestKind{
	TypePV: savefmt.KindPV, TypePVH: savefmt.KindHVM, TypeHVM: savefmt.KindHVM, TypeSim: savefmt.KindSim,
}

// notRunning says why a guest that does not run is not saved or migrated, and
// what to do.
func notRunning(info DomainInfo, done string) error {
	hint := ""
	if info.State == StatePaused {
		hint = "; unpause it first"
	}
	return fmt.Errorf("domain %s is %s, and was not touched: only a running guest can answer the suspend request and be %s%s", info.Name, info.State, done, hint)
}

// sparedKiB is more than what Xen counts as a guest's memory beside what its
// configuration calls so: pages for video, rings and firmware.
const sparedKiB = 32 << 10

// checkConfig refuses a configuration that was given and that the guest could
// not be restored with: it is about to live on in the file only.
func checkConfig(ctx context.Context, dom Domain, info DomainInfo, config []byte) error {
	spec, conf, err := configSpec(guestKinds[info.Type], config)
	switch {
	case err != nil:
	case spec.Type != info.Type:
		err = fmt.Errorf("it is for a guest of type %s, this one is of type %s", spec.Type, info.Type)
	case spec.Type != TypePV && spec.Pages < dom.Pages(): // the pages of a PV guest do not tell its size
		err = fmt.Errorf("it is of a smaller guest: it allows %#x pages, this one has %#x", spec.Pages, dom.Pages())
	case info.MemKiB > conf.MaxKiB+sparedKiB:
		err = fmt.Errorf("it is of a smaller guest: it allows %d KiB of memory, this one has %d", conf.MaxKiB, info.MemKiB)
	case conf.VCPUMax < info.VCPUs:
		err = fmt.Errorf("it is of a smaller guest: it allows %d vCPUs, this one has %d", conf.VCPUMax, info.VCPUs)
	default:
		if checker, ok := dom.(ConfigChecker); ok {
			err = checker.CheckConfig(ctx, config)
		}
	}
	if err != nil {
		return fmt.Errorf("the guest could not be restored with the configuration that was given: %w", err)
	}
	return nil
}

// start writes the headers.
func (s *save) start(ctx context.Context) error {
	head, err := s.head(ctx)
	if err != nil {
		return err
	}
	var out io.Writer = s.to
	if s.opts.Codec != nil {
		s.packer = savefmt.NewPacker(s.to, *s.opts.Codec)
		out = s.packer
		s.report.Format = s.opts.Codec.String()
	}
	s.writer = savefmt.NewWriter(out)
	return s.writer.Start(head)
}

// staticState writes what comes before the pages.
func (s *save) staticState(ctx context.Context) error {
	static, err := s.dom.StaticState(ctx)
	if err != nil {
		return err
	}
	for _, r := range append(static, savefmt.Record{Type: savefmt.RecStaticDataEnd}) {
		if err := s.writer.Record(r); err != nil {
			return err
		}
	}
	s.dirty = NewBitmap(s.dom.Pages())
	s.dirty.SetAll(s.dom.Pages())
	return nil
}

func (s *save) head(ctx context.Context) (savefmt.Head, error) {
	h, err := s.innerHead(ctx)
	h.Outer, h.Config = savefmt.LayerXL, s.opts.Config
	if err != nil || h.Kind == savefmt.KindSim {
		return h, err
	}
	domid := uint32(0)
	if s.opts.KeepDomid {
		domid = s.report.Guest.Domid
	}
	h.Config, err = configWithDomid(h.Config, domid)
	return h, err
}

// innerHead is what the header of the libxc stream says.
func (s *save) innerHead(ctx context.Context) (h savefmt.Head, err error) {
	var known bool
	if h.Kind, known = guestKinds[s.report.Guest.Type]; !known {
		return h, fmt.Errorf("%w: a guest of type %s cannot be saved", ErrUnsupported, s.report.Guest.Type)
	}
	host, err := s.host.Info(ctx)
	if err != nil {
		return h, err
	}
	if h.Kind == savefmt.KindSim {
		return h, nil
	}
	if n, _ := fmt.Sscanf(host.Hypervisor, "Xen %d.%d", &h.XenMajor, &h.XenMinor); n != 2 {
		return h, fmt.Errorf("the hypervisor calls itself %q, which names no Xen release", host.Hypervisor)
	}
	return h, nil
}

// configWithDomid sets the domid in a libxl_domain_config: xl restore would
// otherwise insist on the one that the guest has now. 0 is any.
func configWithDomid(config []byte, domid uint32) ([]byte, error) {
	var all, create map[string]json.RawMessage
	err := json.Unmarshal(config, &all)
	if err == nil {
		err = json.Unmarshal(all["c_info"], &create)
	}
	if err != nil {
		return nil, fmt.Errorf("guest configuration: %w", err)
	}
	if create == nil {
		return nil, errors.New("guest configuration: it has no c_info")
	}
	delete(create, "domid")
	if domid != 0 {
		create["domid"] = fmt.Append(nil, domid)
	}
	if all["c_info"], err = json.Marshal(create); err != nil {
		return nil, err
	}
	return json.Marshal(all)
}

func (s *save) startLogDirty(ctx context.Context) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	s.touched = true
	s.size = sizeWatch{kib: s.report.Guest.MemKiB}
	return s.dom.StartLogDirty(ctx)
}

// suspend stops the guest.
func (s *save) suspend(ctx context.Context) error {
	if !s.opts.Live {
		if err := s.ready(ctx); err != nil {
			return err
		}
	}
	s.touched, s.report.Suspended = true, true // or about to be
	var err error
	if s.stopped, err = s.stopGuest(ctx, s.dom, s.opts.Limits.Suspend); err != nil {
		return err
	}
	_, err = s.step(fallback.EventSuspended, nil)
	return err
}

// finalState writes what comes after the pages.
func (s *save) finalState(ctx context.Context) error {
	records, err := s.dom.FinalState(ctx)
	if err != nil {
		return err
	}
	for _, r := range records {
		if r.Type == savefmt.RecDeviceModel {
			s.model = r.Body // it belongs behind the inner stream
			continue
		}
		if err := s.writer.Record(r); err != nil {
			return err
		}
	}
	return s.writer.Finish(s.model)
}

// commit makes the file last.
func (s *save) commit(context.Context) error {
	s.report.Plain, s.report.Bytes = s.writer.Written(), s.writer.Written()
	if s.packer != nil {
		if err := s.packer.Close(); err != nil {
			return err
		}
		s.report.Bytes = s.packer.Written()
	}
	if err := s.to.Commit(); err != nil {
		return err
	}
	s.written = true
	if s.machine.State() == fallback.SourceResumed || s.opts.After == AfterPause {
		return nil // it does not live on in the file only
	}
	s.report.Pause = time.Since(s.stopped)
	if s.machine.State() != fallback.SourceSuspended {
		return nil // the target has seen to it
	}
	_, err := s.step(fallback.EventSaved, nil)
	return err
}

var errAsAsked = errors.New("as it was asked for")

// after does with the guest what was asked for.
func (s *save) after(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Limits.Undo)
	defer cancel()
	switch s.opts.After {
	case AfterResume, AfterPause:
		return s.goOn(ctx)
	case AfterDestroy:
		if err := s.dom.Destroy(ctx); err != nil {
			return err
		}
	case AfterNothing: // it counts as gone: nobody has to do anything about it
		if err := s.dom.StopLogDirty(ctx); err != nil {
			return err
		}
	}
	_, err := s.step(fallback.EventDestroyed, nil)
	return err
}

// goOn ends the suspension of a guest that is to stay.
func (s *save) goOn(ctx context.Context) error {
	if _, err := s.step(fallback.EventFailure, errAsAsked); err != nil {
		return err
	}
	resume := s.dom.Resume
	if s.opts.After == AfterPause {
		resume = s.dom.(Pauser).ResumePaused
	}
	if err := errors.Join(resume(ctx), s.dom.StopLogDirty(ctx)); err != nil {
		return err
	}
	s.report.Pause = time.Since(s.stopped)
	_, err := s.step(fallback.EventResumed, nil)
	return err
}

// fail makes the guest run on, unless its file is whole: then it stays as it
// is, for there must not be two of it by accident.
func (s *save) fail(cause error) *SaveError {
	failure := &SaveError{What: "save", Phase: s.current, Cause: cause, Outcome: OutcomeAtSource, Written: s.written}
	switch s.machine.State() {
	case fallback.SourceResumed: // it is as it was to be left, and only the file is not
		return failure
	case fallback.SourceInDoubt:
		failure.Outcome = OutcomeInDoubt
		return failure
	case fallback.SourceResuming: // tried already, or the receiver's word
	default:
		if _, err := s.step(fallback.EventFailure, cause); err != nil {
			failure.Cleanup = err
		}
	}
	if s.machine.State() == fallback.SourceHandedOn {
		failure.Outcome = OutcomeSuspended
		return failure
	}
	s.putBack(failure)
	return failure
}

// putBack lets the guest run on after a failure, under its name. What it cannot
// do is left to the guardian.
func (s *save) putBack(failure *SaveError) {
	var err error
	if s.touched {
		ctx, cancel := context.WithTimeout(context.Background(), s.opts.Limits.Undo)
		defer cancel()
		if err = s.dom.Resume(ctx); err == nil {
			err = s.resumeLate(ctx, s.dom, s.opts.Limits.Suspend)
		}
		if err != nil {
			failure.Outcome, err = OutcomeSuspended, fmt.Errorf("resuming it failed: %w", err)
		}
		err = errors.Join(err, s.dom.StopLogDirty(ctx), restoreName(ctx, s.dom, s.report.Guest.Name))
	}
	event := undone(err)
	if event == fallback.EventMissing {
		failure.Outcome = OutcomeEnded
	}
	_, stepErr := s.step(event, err)
	failure.Cleanup = errors.Join(failure.Cleanup, err, stepErr)
}
