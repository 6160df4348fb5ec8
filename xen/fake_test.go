package xen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// fakeHost is a host in this process, without concurrency of its own: what
// "runs" is a field. It fails where it is told to.
type fakeHost struct {
	mu      sync.Mutex
	name    string
	failAt  map[string]error // by method
	blockAt map[string]bool  // by method: wait for the context's end
	calls   []string
	onCall  func(method string) // called first, if set
	others  []DomainInfo
	in      *fakeIncoming
	signs   []Sign // of guests that arrive here
}

// enter is called at the beginning of each method.
func (h *fakeHost) enter(ctx context.Context, method string) error {
	h.mu.Lock()
	h.calls = append(h.calls, method)
	err, block := h.failAt[method], h.blockAt[method]
	h.mu.Unlock()
	if h.onCall != nil {
		h.onCall(method)
	}
	if block {
		<-ctx.Done()
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

func (h *fakeHost) called(method string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Contains(h.calls, method)
}

func (h *fakeHost) Info(ctx context.Context) (HostInfo, error) {
	return HostInfo{Name: h.name, Hypervisor: "fake"}, h.enter(ctx, "Host.Info")
}
func (h *fakeHost) List(ctx context.Context) ([]DomainInfo, error) {
	return h.others, h.enter(ctx, "List")
}
func (h *fakeHost) Find(context.Context, string) (DomainInfo, error) {
	return DomainInfo{}, ErrNoDomain
}
func (h *fakeHost) Open(context.Context, uint32) (Domain, error) { return nil, ErrNoDomain }
func (h *fakeHost) Close() error                                 { return nil }
func (h *fakeHost) Reopen(context.Context, DomainRef) (Domain, error) {
	return nil, ErrNoDomain
}
func (h *fakeHost) Start(context.Context, DomainRef, string, bool) error { return ErrNoDomain }

func (h *fakeHost) Unused(_ context.Context, ref DomainRef) error {
	switch {
	case ref.Domid != 9 || h.in.destroyed:
		return ErrNoDomain
	case h.in.state == StateRunning:
		return ErrHasRun
	}
	return nil
}

func (h *fakeHost) Discard(_ context.Context, ref DomainRef) error {
	if ref.Domid == 9 && h.in.state == StateRunning {
		return ErrHasRun
	}
	return nil
}

func (h *fakeHost) Receive(ctx context.Context, spec Spec) (Incoming, error) {
	if err := h.enter(ctx, "Receive"); err != nil {
		return nil, err
	}
	h.in = &fakeIncoming{h: h, name: spec.Name, mem: bytes.Repeat([]byte{0xA5}, int(spec.Pages)*PageSize), state: StatePaused}
	return h.in, nil
}

// fakeDomain is a guest whose memory changes before each CleanDirty and before
// the suspend: as if it had run meanwhile.
type fakeDomain struct {
	h      *fakeHost
	mem    []byte
	types  map[uint64]PageType
	dirty  Bitmap
	rnd    *rand.Rand
	writes int    // pages changed between two rounds
	more   uint64 // pages that came since
	// clean and stop, if set, are called before a round's log is read, with how
	// often that was, and before the guest stops.
	clean  func(times int)
	stop   func()
	cleans int
	looked sync.RWMutex

	state     RunState
	name      string
	logDirty  bool
	destroyed bool
	stoppedAt time.Time

	failsLate bool // Suspend fails, and the guest suspends all the same, once it was resumed
	due       bool // it will
}

func newFakeDomain(h *fakeHost, pages int) *fakeDomain {
	d := &fakeDomain{
		h: h, mem: make([]byte, pages*PageSize), dirty: NewBitmap(uint64(pages)), rnd: rand.New(rand.NewPCG(1, 2)),
		writes: 20, state: StateRunning, name: "db1",
		types: map[uint64]PageType{5: PageXTab, 7: PageXAlloc, 600: PageXTab},
	}
	for i := 0; i < pages; i += 3 { // two of three stay zero
		d.scribble(uint64(i))
	}
	return d
}

func (d *fakeDomain) scribble(pfn uint64) {
	page := d.mem[pfn*PageSize:][:PageSize]
	for i := range page {
		page[i] = byte(d.rnd.Uint32())
	}
	d.dirty.Set(pfn)
}

func (d *fakeDomain) work() {
	d.looked.Lock()
	defer d.looked.Unlock()
	for range d.writes {
		d.scribble(d.rnd.Uint64N(d.Pages()))
	}
}

// balloon gives pfn a page, and writes it, which no log says.
func (d *fakeDomain) balloon(pfn uint64) {
	d.looked.Lock()
	defer d.looked.Unlock()
	d.scribble(pfn)
	d.dirty.Clear(pfn)
	delete(d.types, pfn)
	d.more++
}

func (d *fakeDomain) kib() uint64 { return uint64(len(d.mem)/1024) + d.more*PageSize/1024 }

func (d *fakeDomain) Info(ctx context.Context) (DomainInfo, error) {
	if d.due {
		d.due, d.state = false, StateSuspended
	}
	return DomainInfo{Domid: 3, Name: d.name, UUID: "u", Type: TypeSim, State: d.state, MemKiB: d.kib()}, d.h.enter(ctx, "Info")
}
func (d *fakeDomain) Config(ctx context.Context) ([]byte, error) {
	return []byte(`{"name":"db1"}`), d.h.enter(ctx, "Config")
}
func (d *fakeDomain) Pages() uint64 { return uint64(len(d.mem) / PageSize) }
func (d *fakeDomain) StaticState(ctx context.Context) ([]savefmt.Record, error) {
	return []savefmt.Record{{Type: savefmt.RecCPUIDPolicy, Body: []byte("policy")}}, d.h.enter(ctx, "StaticState")
}
func (d *fakeDomain) Preparable(ctx context.Context) error { return d.h.enter(ctx, "Preparable") }
func (d *fakeDomain) EarlyState(ctx context.Context) ([]savefmt.Record, error) {
	return []savefmt.Record{{Type: savefmt.RecHVMParams, Body: []byte("early")}}, d.h.enter(ctx, "EarlyState")
}
func (d *fakeDomain) Likely(ctx context.Context) (Bitmap, error) {
	bm := NewBitmap(d.Pages())
	for pfn := range d.Pages() * 3 / 4 {
		bm.Set(pfn)
	}
	return bm, d.h.enter(ctx, "Likely")
}
func (d *fakeDomain) StartLogDirty(ctx context.Context) error {
	clear(d.dirty)
	d.logDirty = true
	return d.h.enter(ctx, "StartLogDirty")
}
func (d *fakeDomain) StopLogDirty(ctx context.Context) error {
	d.logDirty = false
	return d.h.enter(ctx, "StopLogDirty")
}

func (d *fakeDomain) CleanDirty(ctx context.Context, bm Bitmap, final bool) (DirtyStats, error) {
	if err := d.h.enter(ctx, "CleanDirty"); err != nil {
		return DirtyStats{}, err
	}
	kib := d.kib()
	if !final {
		d.work() // what it wrote while the round was sent
		if d.cleans++; d.clean != nil {
			d.clean(d.cleans)
		}
	}
	d.looked.Lock()
	defer d.looked.Unlock()
	copy(bm, d.dirty)
	clear(d.dirty)
	return DirtyStats{Dirty: bm.Count(), MemKiB: kib}, nil
}

func (d *fakeDomain) Map(b *Batch) error {
	if err := d.h.enter(context.Background(), "Map"); err != nil {
		return err
	}
	d.looked.RLock() // a page that changes while it is looked at is a race to Go, if not to us
	b.Mapping = d
	b.Grow()
	for i, pfn := range b.PFNs {
		b.Types[i], b.Pages[i] = d.types[pfn], nil
		if b.Types[i].HasData() {
			b.Pages[i] = d.mem[pfn*PageSize:][:PageSize]
		}
	}
	return nil
}
func (d *fakeDomain) Unmap(b *Batch) error {
	if b.Mapping != nil {
		b.Mapping = nil
		d.looked.RUnlock()
	}
	return nil
}

func (d *fakeDomain) Suspend(ctx context.Context) error {
	if err := d.h.enter(ctx, "Suspend"); err != nil {
		return fmt.Errorf("%w: %w", ErrSuspendRefused, err)
	}
	if d.failsLate {
		d.due = true
		return errors.New("the answer to the request is lost")
	}
	if d.work(); d.stop != nil {
		d.stop()
	}
	d.state, d.stoppedAt = StateSuspended, time.Now()
	return nil
}
func (d *fakeDomain) StoppedAt() time.Time { return d.stoppedAt }
func (d *fakeDomain) FinalState(ctx context.Context) ([]savefmt.Record, error) {
	return []savefmt.Record{{Type: savefmt.RecHVMContext, Body: []byte("context")}}, d.h.enter(ctx, "FinalState")
}
func (d *fakeDomain) Resume(ctx context.Context) error {
	d.state = StateRunning
	return d.h.enter(ctx, "Resume")
}
func (d *fakeDomain) Rename(ctx context.Context, name string) error {
	if err := d.h.enter(ctx, "Rename"); err != nil {
		return err
	}
	d.name = name
	return nil
}
func (d *fakeDomain) Destroy(ctx context.Context) error {
	if err := d.h.enter(ctx, "Destroy"); err != nil {
		return err
	}
	d.destroyed = true
	return nil
}
func (d *fakeDomain) Close() error { return nil }

type fakeIncoming struct {
	h         *fakeHost
	name      string
	mem       []byte
	state     RunState
	prepared  bool
	finished  bool
	destroyed bool
}

func (in *fakeIncoming) Domid() uint32 { return 9 }
func (in *fakeIncoming) LoadStatic(ctx context.Context, recs []savefmt.Record) error {
	if len(recs) != 1 || string(recs[0].Body) != "policy" {
		return fmt.Errorf("static state %v", recs)
	}
	return in.h.enter(ctx, "LoadStatic")
}
func (in *fakeIncoming) Map(b *Batch) error {
	b.Grow()
	for i, pfn := range b.PFNs {
		b.Pages[i] = nil
		if b.Types[i].HasData() {
			b.Pages[i] = in.mem[pfn*PageSize:][:PageSize]
		}
	}
	return in.h.enter(context.Background(), "In.Map")
}
func (in *fakeIncoming) Unmap(*Batch) error { return nil }
func (in *fakeIncoming) NewPagesZero() bool { return false }
func (in *fakeIncoming) Prepare(ctx context.Context, recs []savefmt.Record) error {
	if len(recs) != 1 || string(recs[0].Body) != "early" {
		return fmt.Errorf("early state %v", recs)
	}
	in.prepared = true
	return in.h.enter(ctx, "Prepare")
}
func (in *fakeIncoming) Finish(ctx context.Context, recs []savefmt.Record) error {
	if len(recs) != 1 || string(recs[0].Body) != "context" {
		return fmt.Errorf("final state %v", recs)
	}
	in.finished = true
	return in.h.enter(ctx, "Finish")
}
func (in *fakeIncoming) Whole(ctx context.Context) error { return in.h.enter(ctx, "Whole") }
func (in *fakeIncoming) Rename(ctx context.Context, name string) error {
	in.name = name
	return in.h.enter(ctx, "In.Rename")
}
func (in *fakeIncoming) Unpause(ctx context.Context) error {
	if err := in.h.enter(ctx, "Unpause"); err != nil {
		return err
	}
	in.state = StateRunning
	return nil
}
func (in *fakeIncoming) Destroy(context.Context) error { in.destroyed = true; return nil }
func (in *fakeIncoming) Close() error {
	if !in.finished {
		in.destroyed = true
	}
	return nil
}

// move is one migration between two fake hosts.
type move struct {
	src, dst *fakeHost
	dom      *fakeDomain
	opts     SourceOptions
	limits   Limits
	// onMessage, if set, sees each frame of the control connection before it
	// is passed on; false cuts the connection.
	onMessage func(fromSource bool, frame []byte) bool

	report    *Report
	srcErr    error
	dstErr    error
	dstReport *ReceiveReport
}

func newMove() *move {
	src, dst := &fakeHost{name: "alpha"}, &fakeHost{name: "beta"}
	return &move{
		src: src, dst: dst, dom: newFakeDomain(src, 1000), limits: Limits{Silence: 5 * time.Second},
		opts: SourceOptions{Data: DataPlain},
	}
}

// run runs both ends to their end.
func (m *move) run(ctx context.Context, t *testing.T) {
	t.Helper()
	nearSrc, farSrc := net.Pipe()
	nearDst, farDst := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { m.relay(farDst, farSrc, true) })
	wg.Go(func() { m.relay(farSrc, farDst, false) })
	wg.Go(func() {
		link := NewLink(nearDst, "source", m.limits)
		defer link.Close()
		m.dstReport, m.dstErr = Receive(context.Background(), m.dst, link, DestinationOptions{
			Listen: []net.IP{net.IPv4(127, 0, 0, 1)}, Limits: m.limits})
	})
	link := NewLink(nearSrc, "beta", m.limits)
	m.opts.Limits = m.limits
	m.report, m.srcErr = Migrate(ctx, m.src, m.dom, link, m.opts)
	_ = link.Close()
	wg.Wait()
}

// relay passes frames on, one at a time. When one end has closed, what the
// other still sends is thrown away, as a network would.
func (m *move) relay(to, from net.Conn, fromSource bool) {
	defer to.Close()
	in := newFrameReader(from)
	for {
		frame, err := readFrame(in)
		if err != nil {
			return
		}
		if m.onMessage != nil && !m.onMessage(fromSource, frame) {
			_ = from.Close()
			return
		}
		if _, err := to.Write(frame); err != nil {
			_, _ = io.Copy(io.Discard, from)
			return
		}
	}
}

// readFrame reads a whole frame as bytes.
func readFrame(in *frameReader) ([]byte, error) {
	h, err := in.header()
	if err != nil {
		return nil, err
	}
	n := int(h.Length + h.Table)
	frame := append(bytes.Clone(in.head[:]), make([]byte, n)...)
	_, err = io.ReadFull(in.r, frame[savefmt.HeaderSize:])
	return frame, err
}

// expectAtSource checks that the guest runs at the source as if nothing had
// been, and that nothing is left of it at the destination.
func (m *move) expectAtSource(t *testing.T) {
	t.Helper()
	if m.srcErr == nil {
		t.Fatal("the migration succeeded")
	}
	if m.report.Outcome != OutcomeAtSource {
		t.Errorf("outcome %q (%v)", m.report.Outcome, m.srcErr)
	}
	if m.dom.state != StateRunning || m.dom.destroyed || m.dom.name != "db1" || m.dom.logDirty {
		t.Errorf("source: state %s, destroyed %v, name %s, log-dirty %v", m.dom.state, m.dom.destroyed, m.dom.name, m.dom.logDirty)
	}
	if in := m.dst.in; in != nil && (!in.destroyed || in.state == StateRunning) {
		t.Errorf("destination: destroyed %v, state %s", in.destroyed, in.state)
	}
}

// expectMoved checks that the guest runs at the destination, whole, and that
// the source's copy is gone.
func (m *move) expectMoved(t *testing.T) {
	t.Helper()
	if m.srcErr != nil || m.dstErr != nil {
		t.Fatalf("source: %v; destination: %v", m.srcErr, m.dstErr)
	}
	in := m.dst.in
	if in.state != StateRunning || in.destroyed || in.name != "db1" {
		t.Errorf("destination: state %s, destroyed %v, name %s", in.state, in.destroyed, in.name)
	}
	if m.dom.state != StateSuspended || !m.dom.destroyed {
		t.Errorf("source: state %s, destroyed %v", m.dom.state, m.dom.destroyed)
	}
	for pfn := range m.dom.Pages() {
		if m.dom.types[pfn].HasData() && !bytes.Equal(in.mem[pfn*PageSize:][:PageSize], m.dom.mem[pfn*PageSize:][:PageSize]) {
			t.Fatalf("pfn %#x differs", pfn)
		}
	}
}
