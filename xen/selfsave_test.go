package xen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// selfDomain is a PV guest: what writes its stream suspends it in the middle.
type selfDomain struct {
	*savedDomain
	notLive error
	live    bool // asked for
	broken  bool // the library fails after the suspend
}

func newSelf() (*savedHost, *selfDomain) {
	host, dom := newSaved(TypePV)
	return host, &selfDomain{savedDomain: dom}
}

func (d *selfDomain) Map(*Batch) error { return ErrSelf() }
func (d *selfDomain) StaticState(context.Context) ([]savefmt.Record, error) {
	return nil, ErrSelf()
}
func (d *selfDomain) LiveErr(context.Context) error { return d.notLive }

var errLibrary = errors.New("the library has failed")

func (d *selfDomain) SelfSave(_ context.Context, opts SelfSaveOptions) (SelfSaved, error) {
	d.live = opts.Live
	r, w := io.Pipe()
	s := &selfStream{PipeReader: r, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		s.err = d.write(w, opts)
		_ = w.Close()
	}()
	return s, nil
}

func (d *selfDomain) write(to io.Writer, opts SelfSaveOptions) error {
	w := savefmt.NewWriter(to)
	err := w.Start(savefmt.Head{Outer: savefmt.LayerLibxc, Kind: savefmt.KindPV, XenMajor: 4, XenMinor: 17})
	for _, r := range []savefmt.Record{
		{Type: savefmt.RecPVInfo, Body: []byte{8, 4, 0, 0, 0, 0, 0, 0}}, {Type: savefmt.RecStaticDataEnd},
		{Type: savefmt.RecPVP2MFrames, Body: make([]byte, 16)},
	} {
		err = errors.Join(err, w.Record(r))
	}
	if err != nil {
		return err
	}
	if err := opts.Suspend(); err != nil {
		return err
	}
	if d.broken {
		return errLibrary
	}
	for pfn := range d.Pages() {
		page := [][]byte{d.mem[pfn*PageSize:][:PageSize]}
		if err := w.Pages([]savefmt.StockPage{savefmt.NewStockPage(uint8(pfn%5), pfn)}, page); err != nil {
			return err
		}
	}
	for _, r := range []savefmt.Record{
		{Type: savefmt.RecTSCInfo, Body: make([]byte, 24)}, {Type: savefmt.RecSharedInfo, Body: make([]byte, PageSize)},
		{Type: savefmt.RecPVVCPUBasic, Body: make([]byte, 9)},
	} {
		if err := w.Record(r); err != nil {
			return err
		}
	}
	return w.Finish(nil)
}

type selfStream struct {
	*io.PipeReader
	ended chan struct{}
	err   error
}

func (s *selfStream) Close() error {
	_ = s.PipeReader.Close()
	<-s.ended
	return s.err
}

// selfHost builds PV guests.
type selfHost struct {
	*savedHost
	got    *selfIncoming
	reject error // what its library says to the stream
}

type selfIncoming struct {
	*savedIncoming
	stream bytes.Buffer
	reject error
}

func (h *selfHost) Receive(ctx context.Context, spec Spec) (Incoming, error) {
	if _, err := h.savedHost.Receive(ctx, spec); err != nil {
		return nil, err
	}
	h.got = &selfIncoming{savedIncoming: h.savedHost.got, reject: h.reject}
	return h.got, nil
}

func (in *selfIncoming) Map(*Batch) error { return ErrSelf() }
func (in *selfIncoming) SelfLoad(_ context.Context, write func(io.Writer) error) error {
	return errors.Join(write(&in.stream), in.reject)
}

func TestSelfSaveAndRestore(t *testing.T) {
	zstd := savefmt.BlockZstd
	for name, opts := range map[string]SaveOptions{"stopped": {}, "live": {Live: true}, "container": {Codec: &zstd}} {
		t.Run(name, func(t *testing.T) {
			host, dom := newSelf()
			var file memoryTarget
			report, err := Save(t.Context(), host, dom, &file, opts)
			if err != nil || !file.committed || !dom.destroyed || dom.live != opts.Live {
				t.Fatalf("%+v, %v", report, err)
			}
			if len(report.Rounds) != 1 || report.Rounds[0].Pages != dom.Pages() || report.Pause <= 0 {
				t.Errorf("%+v", report)
			}
			to := &selfHost{savedHost: &savedHost{fakeHost: &fakeHost{name: "beta"}}}
			back, err := Restore(t.Context(), to, bytes.NewReader(file.Bytes()), RestoreOptions{})
			if err != nil || to.got.state != StateRunning || back.Pages != dom.Pages() {
				t.Fatalf("%+v, %v", back, err)
			}
			var want bytes.Buffer
			if err := dom.write(&want, SelfSaveOptions{Suspend: func() error { return nil }}); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(to.got.stream.Bytes(), want.Bytes()) {
				t.Errorf("the library gets %d bytes, not the %d that it wrote", to.got.stream.Len(), want.Len())
			}
		})
	}
}

// TestSelfSaveNotLive: it is said, and done all the same.
func TestSelfSaveNotLive(t *testing.T) {
	host, dom := newSelf()
	dom.notLive = errors.New("no shadow paging")
	var notes []string
	_, err := Save(t.Context(), host, dom, &memoryTarget{}, SaveOptions{Live: true, Observe: func(e Event) {
		if e.Kind == EventNote {
			notes = append(notes, e.Text)
		}
	}})
	if err != nil || dom.live || len(notes) != 1 || !strings.Contains(notes[0], "no shadow paging") {
		t.Errorf("%v, live %v, notes %q", err, dom.live, notes)
	}
}

// TestSelfSaveFailures: whatever fails, the guest runs on.
func TestSelfSaveFailures(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare func(*savedHost, *selfDomain, *memoryTarget)
		want    error
	}{
		"suspend": {func(h *savedHost, _ *selfDomain, _ *memoryTarget) {
			h.failAt = map[string]error{"Suspend": errDiskFull}
		}, ErrSuspendRefused},
		"library":   {func(_ *savedHost, d *selfDomain, _ *memoryTarget) { d.broken = true }, errLibrary},
		"disk full": {func(_ *savedHost, _ *selfDomain, m *memoryTarget) { m.limit = 100_000 }, errDiskFull},
	} {
		host, dom := newSelf()
		var file memoryTarget
		tt.prepare(host, dom, &file)
		_, err := Save(t.Context(), host, dom, &file, SaveOptions{})
		if !errors.Is(err, tt.want) || file.committed || dom.state != StateRunning || dom.destroyed {
			t.Errorf("%s: %v, guest %s", name, err, dom.state)
		}
	}
}

// TestSelfSaveCancelled: the library waits for a guest that does not suspend.
func TestSelfSaveCancelled(t *testing.T) {
	host, dom := newSelf()
	host.blockAt = map[string]bool{"Suspend": true}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := Save(ctx, host, dom, &memoryTarget{}, SaveOptions{})
	if !errors.Is(err, context.Canceled) || dom.state != StateRunning {
		t.Errorf("%v, guest %s", err, dom.state)
	}
}

// TestSelfRestoreFailures: nothing is left of a guest whose stream is cut, or
// which its library does not like.
func TestSelfRestoreFailures(t *testing.T) {
	host, dom := newSelf()
	var file memoryTarget
	if _, err := Save(t.Context(), host, dom, &file, SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	check := func(name string, to *selfHost, b []byte) {
		_, err := Restore(t.Context(), to, bytes.NewReader(b), RestoreOptions{})
		if err == nil || to.called("Unpause") || to.got != nil && !to.got.destroyed {
			t.Errorf("%s: %v", name, err)
		}
	}
	host2 := func() *selfHost { return &selfHost{savedHost: &savedHost{fakeHost: &fakeHost{}}} }
	for n := 1; n < file.Len(); n += file.Len() / 20 {
		check(fmt.Sprintf("cut at %d", n), host2(), file.Bytes()[:n])
	}
	to := host2()
	to.reject = errLibrary
	check("rejected", to, file.Bytes())
}
