package xen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/savefmt"
)

// RestoreOptions says how a saved guest is restored.
type RestoreOptions struct {
	Config      []byte // instead of the one in the file, if set
	LeavePaused bool
	Limits      Limits
	Observe     Observer
	// Protect begins the journal and starts the guardian; nil: a crash of this
	// process may leave a half-built guest.
	Protect   Protect
	Monitored bool   // a monitor is to look after the guest
	From      string // where it comes from, for people who read the journal
}

// RestoreReport is what a restore did, for people and for --json.
type RestoreReport struct {
	Name      string                 `json:"name"`
	Type      GuestType              `json:"type"`
	Domid     uint32                 `json:"domid"`
	Xen       string                 `json:"xen"` // release of the host that saved it
	Pages     uint64                 `json:"pages"`
	Container *savefmt.ContainerInfo `json:"container,omitempty"`
	Phases    []PhaseTime            `json:"phases"`
	Total     time.Duration          `json:"total_ns"`
	Running   bool                   `json:"running"`
	Error     string                 `json:"error,omitempty"`
	Code      Code                   `json:"code,omitempty"`
}

// restore is one restore of a guest.
type restore struct {
	host Host
	in   *savefmt.Reader
	opts RestoreOptions

	phaseRunner
	protected
	report   *RestoreReport
	head     savefmt.Head
	uuid     string // as its configuration has it
	suffix   string // of the name that it is built under
	incoming Incoming
	left     bool   // it was not destroyed: that failed, or it may have run
	pages    uint64 // pfns are below it

	static   []savefmt.Record
	state    savefmt.State
	model    []savefmt.Record             // of QEMU, if it has one
	loaded   bool                         // static
	compared bool                         // a VERIFY record has come: pages are there already
	differs  func(pfn uint64, t PageType) // of those that are compared; nil: none are
	second   []byte                       // one page, to compare
	batch    *Batch
	runs     [][]byte
}

// Restore builds the guest that was saved to in, a stock save file or a
// container of one, and lets it run. On failure nothing of it is left. The
// report is never nil. A Read of in that blocks must end when ctx does.
func Restore(ctx context.Context, host Host, in io.Reader, opts RestoreOptions) (*RestoreReport, error) {
	r := newRestore(host, in, opts)
	begun := time.Now()
	err := r.undo(r.runAll(ctx, append(r.build(), phase{"start", r.start})))
	r.finishReport(begun, err)
	return r.report, err
}

func newRestore(host Host, in io.Reader, opts RestoreOptions) *restore {
	opts.Limits = opts.Limits.WithDefaults()
	return &restore{
		host: host, in: savefmt.NewReader(in), opts: opts,
		phaseRunner: phaseRunner{observe: opts.Observe},
		protected:   newProtected(fallback.SideDestination, fallback.Destination),
		report:      &RestoreReport{}, batch: NewBatch(),
	}
}

func (r *restore) finishReport(begun time.Time, err error) {
	r.report.Container = r.in.Container()
	r.report.Total, r.report.Phases = time.Since(begun), r.times
	if err != nil {
		r.report.Error, r.report.Code = err.Error(), CodeOf(err)
	}
}

// build is the phases that make the guest, whole and paused.
func (r *restore) build() []phase {
	return []phase{
		{"headers", r.open},
		{"build", r.create},
		{"memory", r.load},
		{"final state", r.finish},
	}
}

// undo frees what the restore holds, and after an error destroys the guest.
// What it cannot do is left to the guardian.
func (r *restore) undo(err error) error {
	defer r.release()
	defer r.in.Close()
	if err != nil {
		do, stepErr := r.step(fallback.EventFailure, err)
		if do == fallback.DoCheck {
			do, stepErr = r.checkStart(r.host, r.copied(), r.opts.Limits.Undo)
			r.left = do != fallback.DoUnmake
			if errors.Is(stepErr, ErrHasRun) {
				stepErr = fmt.Errorf("%w; so it is left here, as domain %d: look at it with xenferry list, and if it is of no use destroy it (xl destroy, xenferry sim destroy)", stepErr, r.report.Domid)
			}
			r.report.Running = do == fallback.DoSendStarted
		}
		err = errors.Join(err, stepErr)
	}
	err = r.destroy(err)
	if err != nil && !r.left {
		_, stepErr := r.step(fallback.EventDestroyed, nil)
		err = errors.Join(err, stepErr)
	}
	return err
}

// copied names the domain that has been built. Where its configuration has no
// UUID, Xen has given it one.
func (r *restore) copied() DomainRef {
	ref := DomainRef{Domid: r.incoming.Domid(), UUID: r.uuid}
	if ref.UUID == "" {
		ctx, cancel := context.WithTimeout(context.Background(), r.opts.Limits.Undo)
		defer cancel()
		if info, err := r.host.Find(ctx, strconv.FormatUint(uint64(ref.Domid), 10)); err == nil && info.Domid == ref.Domid {
			ref.UUID = info.UUID
		}
	}
	return ref
}

func (r *restore) destroy(err error) error {
	if r.incoming == nil {
		return err
	}
	if err != nil && !r.left {
		undo, cancel := context.WithTimeout(context.Background(), r.opts.Limits.Undo)
		defer cancel()
		if destroyErr := r.incoming.Destroy(undo); destroyErr != nil {
			r.left = true
			err = errors.Join(err, fmt.Errorf("destroying the incomplete guest: %w", destroyErr))
		}
	}
	return errors.Join(err, r.incoming.Close())
}

func (r *restore) open(context.Context) error {
	var err error
	if r.head, err = r.in.Open(); err != nil {
		return err
	}
	if r.opts.Config != nil {
		r.head.Config = r.opts.Config
	}
	if r.head.Config == nil {
		return fmt.Errorf("this is a bare %s without the guest's configuration: name a configuration file", r.head.Outer)
	}
	return nil
}

// create begins to build the guest, under its name.
func (r *restore) create(ctx context.Context) error {
	spec, uuid, err := restoreSpec(r.head)
	if err != nil {
		return r.badConfig(err)
	}
	r.uuid = uuid
	r.report.Name, r.report.Type = spec.Name, spec.Type
	spec.Name += r.suffix
	r.report.Xen = fmt.Sprintf("%d.%d", r.head.XenMajor, r.head.XenMinor)
	r.pages = spec.Pages
	limited, cancel := context.WithTimeout(ctx, r.opts.Limits.Handshake)
	defer cancel()
	if err := r.protect(limited, uuid); err != nil {
		return err
	}
	if r.incoming, err = r.host.Receive(limited, spec); err != nil {
		r.incoming = nil
		return err
	}
	r.report.Domid = r.incoming.Domid()
	if r.shield == nil {
		return nil
	}
	if err := r.shield.Append(fallback.Record{State: r.machine.State(), Domid: r.report.Domid}, false); err != nil {
		return err
	}
	return r.ready(limited)
}

// badConfig is the error of a configuration: one that the saved guest came with
// is damage, and has a place.
func (r *restore) badConfig(err error) error {
	if r.opts.Config != nil {
		return fmt.Errorf("the configuration that was given: %w", err)
	}
	return &savefmt.FormatError{Layer: savefmt.LayerXL, Record: "configuration", Offset: savefmt.ConfigOffset, Err: err}
}

// protect begins the journal. A guest without a UUID could not be told from
// another by its guardian, and has none.
func (r *restore) protect(ctx context.Context, uuid string) error {
	if uuid == "" {
		return nil
	}
	return r.begin(ctx, r.opts.Protect, fallback.Migration{
		ID: newID(), Side: fallback.SideDestination, Began: time.Now(), Guest: r.report.Name, UUID: uuid,
		Peer: r.opts.From, LeavePaused: r.opts.LeavePaused, Monitored: r.opts.Monitored,
	})
}

// restoreSpec makes the Spec of a saved guest.
func restoreSpec(h savefmt.Head) (spec Spec, uuid string, err error) {
	spec, conf, err := configSpec(h.Kind, h.Config)
	return spec, conf.UUID, err
}

// configSpec makes the Spec of a guest of that kind with that configuration.
func configSpec(kind savefmt.GuestKind, config []byte) (Spec, savefmt.GuestConfig, error) {
	conf, err := savefmt.ParseGuestConfig(kind, config)
	if err != nil {
		return Spec{}, conf, err
	}
	return Spec{
		Config: config, Name: conf.Name, Type: GuestType(conf.Type), Pages: conf.PageLimit(),
		MemKiB: conf.MemKiB, Domid: conf.Domid,
	}, conf, nil
}

// load takes the libxc stream, up to its END.
func (r *restore) load(ctx context.Context) error {
	if into, ok := r.incoming.(SelfLoader); ok {
		return r.loadSelf(ctx, into)
	}
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		item, err := r.in.Next()
		if err != nil {
			return err
		}
		if item.Layer != savefmt.LayerLibxc {
			return fmt.Errorf("%w: a record of the %s inside the libxc stream", ErrCorrupt, item.Layer)
		}
		switch item.Type {
		case savefmt.RecEnd:
			return nil
		case savefmt.RecCPUIDPolicy, savefmt.RecMSRPolicy:
			r.static = append(r.static, savefmt.Record{Type: item.Type, Body: item.Body})
		case savefmt.RecStaticDataEnd:
			err = r.loadStatic(ctx)
		case savefmt.RecPageData:
			err = r.loadPages(ctx, item.Pages)
		case savefmt.RecVerify:
			r.compared = true
			if r.differs == nil {
				r.note("the file has a second copy of all memory, for comparison: it is passed over")
			}
		default:
			if item.Body != nil && item.Type&savefmt.RecOptional == 0 {
				err = r.state.Add(savefmt.Record{Type: item.Type, Body: item.Body}, item.Offset)
			}
		}
		if err != nil {
			return err
		}
	}
}

func (r *restore) loadStatic(ctx context.Context) error {
	if r.loaded {
		return nil
	}
	r.loaded = true
	return r.incoming.LoadStatic(ctx, r.static)
}

// loadPages puts the pages of a record into the guest's memory.
func (r *restore) loadPages(ctx context.Context, pages []savefmt.StockPage) error {
	if err := r.loadStatic(ctx); err != nil { // version 2 has no STATIC_DATA_END
		return err
	}
	if r.compared && r.differs != nil {
		return r.comparePages(pages)
	}
	if r.compared {
		return nil
	}
	for len(pages) > 0 {
		n, err := r.fillBatch(pages)
		if err == nil {
			err = r.loadBatch()
		}
		if err != nil {
			return err
		}
		pages = pages[n:]
		r.report.Pages += uint64(n)
	}
	return nil
}

// fillBatch makes a batch of the first pages, as far as they ascend.
func (r *restore) fillBatch(pages []savefmt.StockPage) (int, error) {
	b := r.batch
	b.Reset()
	for i, p := range pages {
		pfn := p.PFN()
		if pfn >= r.pages {
			return 0, r.beyond(pfn)
		}
		if i == BatchPages || i > 0 && pfn <= b.PFNs[i-1] {
			break
		}
		b.PFNs = append(b.PFNs, pfn)
		b.Types = append(b.Types, PageType(p.Type()))
	}
	b.Pages = b.Pages[:len(b.PFNs)]
	return len(b.PFNs), nil
}

// beyond is the error of a pfn that the guest cannot have.
func (r *restore) beyond(pfn uint64) error {
	if r.opts.Config != nil {
		return fmt.Errorf("the configuration that was given is of a smaller guest: with its maxmem it has %#x pages, and the saved one has pfn %#x", r.pages, pfn)
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, savefmt.BeyondLimit(pfn, r.pages))
}

func (r *restore) loadBatch() error {
	if err := r.incoming.Map(r.batch); err != nil {
		return err
	}
	r.runs = r.runs[:0]
	for _, page := range r.batch.Pages {
		if page != nil {
			r.runs = appendRun(r.runs, page)
		}
	}
	err := r.in.ReadPages(r.runs)
	if unmapErr := r.incoming.Unmap(r.batch); err == nil {
		err = unmapErr
	}
	return err
}

// finish takes what follows the libxc stream, to the end of the file, and
// completes the guest. Only now is the file known to be whole.
func (r *restore) finish(ctx context.Context) error {
	for {
		item, err := r.in.Next()
		if err == io.EOF {
			break
		}
		if err == nil {
			err = r.libxlItem(item)
		}
		if err != nil {
			return err
		}
	}
	limited, cancel := context.WithTimeout(ctx, r.opts.Limits.Ready)
	defer cancel()
	if err := r.incoming.Finish(limited, append(r.state.Records(), r.model...)); err != nil {
		return err
	}
	_, err := r.step(fallback.EventBuilt, nil)
	return err
}

func (r *restore) libxlItem(item savefmt.Item) error {
	switch item.Type {
	case savefmt.LibxlEmulatorContext:
		state, err := savefmt.DeviceModelState(item)
		if err != nil {
			return err
		}
		r.model = []savefmt.Record{{Type: savefmt.RecDeviceModel, Body: state}}
	case savefmt.LibxlEmulatorXenstore:
		return fmt.Errorf("%w: the guest was saved with a QEMU of before 2018, which keeps its memory map in xenstore; xl restore can restore it", ErrUnsupported)
	}
	return nil
}

func (r *restore) start(ctx context.Context) error {
	if _, err := r.step(fallback.EventGo, nil); err != nil {
		return err
	}
	return r.unpause(ctx)
}

// unpause is the last step of a guest that is ours.
func (r *restore) unpause(ctx context.Context) error {
	if !r.opts.LeavePaused {
		if err := r.incoming.Unpause(ctx); err != nil {
			return err
		}
		r.report.Running = true
	}
	// It runs: a journal that cannot be written must not end it any more.
	_, err := r.step(fallback.EventUnpaused, nil)
	if err == nil {
		// A file cannot ask what has become of the guest, nor can a sender of
		// xl's protocol. So its journal need not be kept for that.
		_, err = r.step(fallback.EventAck, nil)
	}
	if err != nil {
		r.note(fmt.Sprintf("the guest is here, but the journal could not be brought to its end: %v", err))
	}
	return nil
}

func (r *restore) note(text string) {
	r.emit(Event{Kind: EventNote, Phase: r.current, Text: text})
}
