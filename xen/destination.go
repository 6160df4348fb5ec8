package xen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/savefmt"
)

// DestinationOptions says how a guest is taken in.
type DestinationOptions struct {
	Program string // version of this program
	// Listen lists the local IP addresses on which data connections are taken;
	// none: all addresses of this host.
	Listen []net.IP
	// Prefer is the address that the source should try first, if set: the one
	// by which it has reached this host already.
	Prefer net.IP
	// LeavePaused leaves the guest paused even if the source does not ask for it.
	LeavePaused bool
	// Monitored is for the journal: the caller will start a monitor, and a
	// guardian that finishes the start must do that as well.
	Monitored bool
	Limits    Limits
	Observe   Observer
	// Protect makes the migration survive the end of this process; nil: it
	// does not.
	Protect Protect
	// Answer tells a source that asks after a migration what has become of
	// it, see fallback.Recovery. nil: not known.
	Answer func(ctx context.Context, id, uuid string) (fallback.Answer, error)
}

// ReceiveReport is what the destination knows of a migration.
type ReceiveReport struct {
	ID      string     `json:"id"`
	Guest   DomainInfo `json:"guest"` // as it was at the source
	From    string     `json:"from"`
	Domid   uint32     `json:"domid"` // here
	Running bool       `json:"running"`
	// Asked: nothing was received, the source wanted to know what has become
	// of the migration ID.
	Asked bool `json:"asked,omitempty"`
}

// destination is the receiving end of one migration.
type destination struct {
	host Host
	link *Link
	opts DestinationOptions

	phaseRunner
	protected
	report *ReceiveReport

	hello    *hello
	apart    bool // the source is another host
	incoming Incoming
	building bool // the host has been asked to make the domain
	named    bool // it has the guest's name
	listener *dataListener
	keys     *keyPair
	mem      *memory
	streams  int           // data connections
	build    time.Duration // from the source's last word until the guest was whole
	watch    stopwatch
	signs    []Sign    // by which the guest will show that it runs
	unpaused time.Time // when it was let run
}

// Receive takes in one guest that arrives over link. On success it runs here,
// or is paused if the source asked for that. On failure nothing of it is left,
// and the source has been told why. The report is never nil.
func Receive(ctx context.Context, host Host, link *Link, opts DestinationOptions) (*ReceiveReport, error) {
	opts.Limits = opts.Limits.WithDefaults()
	d := &destination{
		host: host, link: link, opts: opts,
		phaseRunner: phaseRunner{observe: opts.Observe},
		protected:   newProtected(fallback.SideDestination, fallback.Destination),
		report:      &ReceiveReport{},
	}
	return d.report, d.run(ctx)
}

func (d *destination) run(ctx context.Context) error {
	defer d.release()
	defer d.close()
	// The link's end ends every phase before GO: the source still has the guest.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(d.link.Context(), func() { cancel(context.Cause(d.link.Context())) })()

	err := d.runAll(ctx, []phase{
		{"hello", d.greet},
		{"build", d.create},
		{"static state", d.loadStatic},
		{"memory", d.receiveMemory},
		{"final state", d.finish},
	})
	if err == nil {
		// GO counts even if the link broke right behind it.
		after := context.WithoutCancel(ctx)
		err = d.runAll(after, []phase{{"await go", d.awaitGo}, {"start", d.start}})
	}
	if errors.Is(err, errAnswered) {
		return nil
	}
	if err != nil {
		return d.fail(err)
	}
	defer d.tellSigns()()
	// The source's last word: it will not ask.
	if _, _, err := d.link.receive(context.WithoutCancel(ctx), kindAck, d.opts.Limits.Undo); err != nil {
		return nil
	}
	_, err = d.step(fallback.EventAck, nil)
	return err
}

func (d *destination) close() {
	if d.listener != nil {
		d.listener.stop()
	}
	if d.incoming != nil {
		_ = d.incoming.Close()
	}
}

// greet reads hello and checks what can be checked without the host.
func (d *destination) greet(ctx context.Context) error {
	m, _, err := d.link.receiveEither(ctx, d.opts.Limits.Connect, kindHello, kindAsk)
	if err != nil {
		return err
	}
	if m.Kind == kindAsk {
		return d.answer(ctx, m.Ask)
	}
	h := m.Hello
	h.Host = peerText(h.Host)
	d.hello = h
	d.report.ID, d.report.Guest, d.report.From = h.ID, h.Guest, h.Host
	switch {
	case h.MaxVersion < ProtocolMin || h.MinVersion > ProtocolMax:
		return fmt.Errorf("%w: the source (%s) speaks %d to %d, this program (%s) %d to %d; update the older one",
			ErrVersion, h.Program, h.MinVersion, h.MaxVersion, d.opts.Program, ProtocolMin, ProtocolMax)
	case h.Guest.Name == "" || len(h.Guest.Name) > 256:
		return fmt.Errorf("%w: the guest's name has %d bytes, 1 to 256 are allowed", ErrCorrupt, len(h.Guest.Name))
	case h.Pages == 0 || h.Pages > MaxPages:
		return fmt.Errorf("%w: a guest of %d pages; 1 to %d are possible", ErrCorrupt, h.Pages, uint64(MaxPages))
	case len(h.ID) != 32:
		return fmt.Errorf("%w: migration id of %d characters, want 32", ErrCorrupt, len(h.ID))
	}
	_, err = ParseDataMode(string(h.Data))
	return err
}

// create checks that the guest fits here, begins to build it and says where
// its pages should go.
func (d *destination) create(ctx context.Context) error {
	info, err := d.host.Info(ctx)
	if err != nil {
		return err
	}
	d.apart = d.hello.Host != "" && d.hello.Host != info.Name
	if err := d.nameFree(ctx); err != nil {
		return err
	}
	err = d.begin(ctx, d.opts.Protect, fallback.Migration{
		ID: d.hello.ID, Side: fallback.SideDestination, Guest: d.hello.Guest.Name, UUID: d.hello.Guest.UUID,
		Peer: d.hello.Host, LeavePaused: d.hello.LeavePause || d.opts.LeavePaused, Monitored: d.opts.Monitored,
	})
	if err != nil {
		return err
	}
	spec := Spec{
		UUID: d.hello.Guest.UUID, Config: d.hello.Config, Name: d.hello.Guest.Name + suffixIncoming, Type: d.hello.Guest.Type,
		Pages: d.hello.Pages, MemKiB: d.hello.Guest.MemKiB,
	}
	spec.Early = d.hello.Early
	if d.hello.KeepDomid {
		spec.Domid = d.hello.Guest.Domid
	}
	d.building = true
	begun := time.Now()
	if d.incoming, err = d.host.Receive(ctx, spec); err != nil {
		return err
	}
	created := time.Since(begun)
	if err := d.created(); err != nil {
		return err
	}
	d.mem = newMemory(d.incoming, d.hello.Pages)
	d.mem.onStored = d.tellStored
	answer := &welcome{
		Version: min(ProtocolMax, d.hello.MaxVersion), Program: d.opts.Program, Host: info.Name,
		Early: d.hello.Early, Stored: d.hello.Stored, Clock: true, Asks: d.asks(), CreateNs: created.Nanoseconds(),
	}
	if d.hello.Data != DataControl {
		if err := d.listen(answer); err != nil {
			return err
		}
	}
	if err := d.link.send(&message{Kind: kindWelcome, Welcome: answer}); err != nil {
		return err
	}
	return d.ready(ctx) // while the source connects
}

// created notes the new domain for the guardian.
func (d *destination) created() error {
	d.report.Domid = d.incoming.Domid()
	if d.shield == nil {
		return nil
	}
	return d.shield.Append(fallback.Record{State: d.machine.State(), Domid: d.report.Domid}, false)
}

// nameFree checks that no other guest here has the name that this one will
// get. The guest itself may be here: it moves to the host that it is on.
func (d *destination) nameFree(ctx context.Context) error {
	domains, err := d.host.List(ctx)
	if err != nil {
		return err
	}
	for _, other := range domains {
		if other.Name == d.hello.Guest.Name && other.UUID != d.hello.Guest.UUID {
			return fmt.Errorf("%w: %q is domain %d here; rename or destroy it first", ErrNameTaken, other.Name, other.Domid)
		}
	}
	return nil
}

// listen opens the port for the data connections and puts it into answer.
func (d *destination) listen(answer *welcome) error {
	var err error
	if d.keys, err = newKeyPair(); err != nil {
		return err
	}
	local := net.IP(nil)
	if len(d.opts.Listen) > 0 {
		local = d.opts.Listen[0]
	}
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: local})
	if err != nil {
		return fmt.Errorf("opening a port for the data connections: %w", err)
	}
	answer.Token, answer.PublicKey = newToken(), d.keys.fingerprint
	d.listener = &dataListener{
		Listener: l, id: d.hello.ID, token: answer.Token,
		mode: d.hello.Data, keys: d.keys, peerKey: d.hello.PublicKey,
		arrived: make(chan *dataConn, MaxConnections),
	}
	go d.listener.serve()
	answer.Addresses, err = addresses(d.opts, l.Addr().(*net.TCPAddr).Port)
	return err
}

// loadStatic applies the state that must be there before any page.
func (d *destination) loadStatic(ctx context.Context) error {
	m, records, err := d.link.receive(ctx, kindStreams, d.opts.Limits.Handshake)
	if err != nil {
		return err
	}
	d.streams = m.Streams.Connections
	if d.streams < 0 || d.streams > MaxConnections || (d.streams > 0 && d.listener == nil) {
		return fmt.Errorf("%w: %d data connections", ErrCorrupt, d.streams)
	}
	return d.incoming.LoadStatic(ctx, records)
}

// receiveMemory takes all rounds of pages, and builds the devices beside them.
// Once the guest is being asked to suspend, what else would be done while it is
// suspended is done as well.
func (d *destination) receiveMemory(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, work := range []func(context.Context) error{d.receivePages, d.prepare} {
		wg.Go(func() {
			if err := work(ctx); err != nil {
				cancel(err) // the first cause stays
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

func (d *destination) receivePages(ctx context.Context) error {
	if d.streams == 0 {
		return d.receiveOverControl(ctx)
	}
	conns, err := d.listener.take(ctx, d.streams, d.opts.Limits.Connect)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { closeAll(conns) })
	defer closeAll(conns)
	defer stop()
	bar := newBarrier(ctx, len(conns))
	var wg sync.WaitGroup
	for _, conn := range conns {
		wg.Go(func() {
			if err := newPageReader(d.mem, bar).serve(conn.in); err != nil {
				cancel(err) // the first cause stays
			}
		})
	}
	wg.Wait()
	return d.link.reason(context.Cause(ctx))
}

// receiveOverControl lets the control connection carry the pages.
func (d *destination) receiveOverControl(ctx context.Context) error {
	reader := newPageReader(d.mem, newBarrier(ctx, 1))
	ended := make(chan struct{})
	d.link.onPages <- func(h savefmt.Header, in *frameReader) error {
		err := reader.frame(h, in)
		if err == nil && reader.ended {
			close(ended)
		}
		return err
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// finish checks that the memory is whole, and completes the guest.
func (d *destination) finish(ctx context.Context) error {
	m, records, err := d.link.receive(ctx, kindFinal, d.opts.Limits.Ready)
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := d.mem.settled(); err != nil {
		return err
	}
	d.watch.note("memory looked over", begun)
	if err := d.checkHash(ctx, m.Final.MemoryHash); err != nil {
		return err
	}
	completed := time.Now()
	if err := d.incoming.Finish(ctx, records); err != nil {
		return err
	}
	d.watch.note("guest completed", completed)
	d.build = time.Since(begun)
	if _, err := d.step(fallback.EventBuilt, nil); err != nil {
		return err
	}
	return d.link.send(&message{Kind: kindReady, Ready: &ready{
		Differ: d.mem.differ.count, DifferFirst: d.mem.differ.first, Receiver: d.mem.work.stats(), Steps: d.watch.take(),
	}})
}

func (d *destination) checkHash(ctx context.Context, want string) error {
	if want == "" {
		return nil
	}
	begun := time.Now()
	got, err := hashArrived(ctx, d.mem)
	d.watch.note("memory hashed", begun)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%w: memory hash is %s here and %s at the source", ErrCorrupt, got, want)
	}
	return nil
}

// asks tells whether the source says when it asks the guest to suspend: the copy
// gets ready then. Without devices there is nothing to get ready.
func (d *destination) asks() bool { return d.hello.Asks && d.hello.Early }

// awaitGo gets the copy ready to run meanwhile, where that was not done before.
func (d *destination) awaitGo(ctx context.Context) error {
	if !d.asks() {
		if err := d.getReady(ctx); err != nil {
			return err
		}
	}
	if _, _, err := d.link.receive(ctx, kindGo, d.opts.Limits.Ready); err != nil {
		return err
	}
	// The last moment at which the source can have it back without a word.
	if err := d.incoming.Whole(ctx); err != nil {
		return err
	}
	begun := time.Now()
	_, err := d.step(fallback.EventGo, nil)
	d.watch.note("GO on disk", begun)
	return err
}

// getReady does what can be done before GO: the copy gets its name, unless the
// guest may have that still, and its signs of life are looked up.
func (d *destination) getReady(ctx context.Context) error {
	if d.apart {
		if err := d.rename(ctx); err != nil {
			return err
		}
	}
	d.expectSigns(ctx)
	return nil
}

// rename gives the copy the guest's name, once.
func (d *destination) rename(ctx context.Context) error {
	if d.named {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.opts.Limits.Undo)
	defer cancel()
	begun := time.Now()
	if err := d.incoming.Rename(ctx, d.hello.Guest.Name); err != nil {
		return err
	}
	d.named = true
	d.watch.note("renamed", begun)
	return nil
}

// start lets the guest run under its name.
func (d *destination) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.opts.Limits.Undo)
	defer cancel()
	begun := time.Now()
	if err := d.rename(ctx); err != nil {
		return err
	}
	if !d.leavePaused() {
		d.unpaused = time.Now()
		if err := d.incoming.Unpause(ctx); err != nil {
			return err
		}
		d.watch.note("unpaused", d.unpaused)
		d.report.Running = true
	}
	if _, err := d.step(fallback.EventUnpaused, nil); err != nil {
		return err
	}
	d.tellStarted(time.Since(begun))
	return nil
}

func (d *destination) leavePaused() bool { return d.hello.LeavePause || d.opts.LeavePaused }

// tellStarted sends STARTED. The guest runs here whether or not that arrives.
func (d *destination) tellStarted(took time.Duration) {
	err := d.link.send(&message{Kind: kindStarted, Started: &started{
		BuildNs: d.build.Nanoseconds(), StartNs: took.Nanoseconds(), Steps: d.watch.take(), Signs: len(d.signs),
	}})
	if err != nil {
		d.emit(Event{Kind: EventNote, Phase: d.current, Text: fmt.Sprintf(
			"the guest runs here, but the source could not be told (%v); it will ask", err)})
	}
}

// fail does what the table says after a failure.
func (d *destination) fail(cause error) error {
	if err := d.disownGo(cause); err != nil {
		return errors.Join(cause, err)
	}
	do, err := d.step(fallback.EventFailure, cause)
	if err != nil {
		return errors.Join(cause, err) // the guardian goes on, from what is on disk
	}
	if do == fallback.DoCheck {
		if do, err = d.checkStart(d.host, d.copied(), d.opts.Limits.Undo); do != fallback.DoUnmake {
			return d.keep(do, errors.Join(cause, err))
		}
	}
	if do == fallback.DoDiscard {
		d.link.abort(cause) // it has never run and never will: the source need not wait for the rest
	}
	if err := d.discard(); err != nil {
		// A source in doubt is not told DISCARDED: the copy is still there.
		return errors.Join(cause, fmt.Errorf("destroying the incomplete copy: %w", err))
	}
	if _, err := d.step(fallback.EventDestroyed, nil); err != nil {
		return errors.Join(cause, err)
	}
	if do == fallback.DoUnmake {
		d.link.abort(cause)
	}
	return cause
}

// keep ends a migration whose start was said to have failed, and whose copy is
// not destroyed: it runs here, or nobody can tell, and the guardian goes on.
func (d *destination) keep(do fallback.Action, err error) error {
	if do == fallback.DoSendStarted {
		d.report.Running, d.signs = true, nil
		d.tellStarted(0)
	}
	return err
}

// copied names the domain that has been built.
func (d *destination) copied() DomainRef {
	return DomainRef{Domid: d.incoming.Domid(), UUID: d.hello.Guest.UUID}
}

// disownGo makes sure, after a disk that has refused GO, that nobody will read
// GO from it one day: before the source is told that this copy will not run.
func (d *destination) disownGo(cause error) error {
	if !d.refused || d.machine.State() != fallback.DestinationReady {
		return nil
	}
	return d.shield.Append(fallback.Record{State: fallback.DestinationDiscarding, Note: cause.Error()}, true)
}

// discard destroys the copy.
func (d *destination) discard() error {
	if !d.building {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), d.opts.Limits.Undo)
	defer cancel()
	if d.incoming == nil { // a host that failed in the middle may have left something
		return discard(ctx, d.host, DomainRef{UUID: d.hello.Guest.UUID})
	}
	if d.machine.State() == fallback.DestinationUnmaking { // whole, so look once more before it goes
		if err := discard(ctx, d.host, d.copied()); err != nil {
			return err
		}
	}
	return d.incoming.Destroy(ctx)
}
