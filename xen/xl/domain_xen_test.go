//go:build xen

package xl

import (
	"bytes"
	"context"
	"errors"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xenctrl"
)

// These tests need a real Xen host and a running guest, PVH or HVM: see
// liveGuest.

// suspendLimit is what a guest may take here: some of these hosts are emulated.
const suspendLimit = 60 * time.Second

// realDomain opens the guest. At the test's end nothing of ours may be left.
func realDomain(t *testing.T) *domain {
	t.Helper()
	name := liveGuest(t)
	files := openFiles(t)
	t.Cleanup(func() {
		if h, m := xenctrl.OpenHandles(), xenctrl.LiveMappings(); h != 0 || m != 0 {
			t.Errorf("leaked: %d handles, %d mappings", h, m)
		}
		if n := openFiles(t); n > files {
			t.Errorf("leaked: %d descriptors", n-files)
		}
	})
	h, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	info, err := h.Find(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	d, err := h.Open(t.Context(), info.Domid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := d.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
	})
	return d.(*domain)
}

// goesOn fails the test unless the guest gets processor time, as one that
// prints a tick each second does.
func goesOn(t *testing.T, d *domain) {
	t.Helper()
	first, err := d.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		time.Sleep(200 * time.Millisecond)
		now, err := d.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if now.State != xen.StateRunning {
			t.Fatalf("guest is %s, want running", now.State)
		}
		if now.CPUTime > first.CPUTime+time.Millisecond {
			return
		}
	}
	t.Fatalf("guest has had no processor time for 20 s: it hangs")
}

func mustSuspend(t *testing.T, d *domain) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), suspendLimit)
	defer cancel()
	if err := d.Suspend(ctx); err != nil {
		t.Fatal(err)
	}
	info, err := d.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.State != xen.StateSuspended {
		t.Fatalf("after Suspend the guest is %s", info.State)
	}
}

func mustResume(t *testing.T, d *domain) {
	t.Helper()
	if err := d.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestRealLogDirty(t *testing.T) {
	d := realDomain(t)
	ctx := t.Context()
	bm := xen.NewBitmap(d.Pages())
	if _, err := d.CleanDirty(ctx, bm, false); err == nil {
		t.Fatal("CleanDirty works without log-dirty mode")
	}
	// A leftover of a crash: on, and nobody knows.
	if err := d.h.xc.EnableLogDirty(d.domid); err != nil {
		t.Fatal(err)
	}
	if err := d.StartLogDirty(ctx); err != nil {
		t.Fatal(err)
	}
	total := uint64(0)
	for round := range 5 {
		time.Sleep(500 * time.Millisecond)
		st, err := d.CleanDirty(ctx, bm, false)
		if err != nil {
			t.Fatal(err)
		}
		if st.Dirty != bm.Count() || st.Dirty > d.Pages() {
			t.Errorf("round %d: %d dirty, the bitmap has %d of %d", round, st.Dirty, bm.Count(), d.Pages())
		}
		t.Logf("round %d: %d of %d pages dirty", round, st.Dirty, d.Pages())
		total += st.Dirty
	}
	if total == 0 {
		t.Error("a running guest has written no page in 2.5 s")
	}
	if n := testing.AllocsPerRun(5, func() { d.CleanDirty(ctx, bm, false) }); n > 5 {
		t.Errorf("CleanDirty allocates %v times", n)
	}
	for range 2 {
		if err := d.StopLogDirty(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.CleanDirty(ctx, bm, false); err == nil {
		t.Error("CleanDirty works after StopLogDirty")
	}
}

// mapAll maps all pages of the guest, in several goroutines.
func mapAll(t *testing.T, d *domain) (data, populated uint64) {
	t.Helper()
	const workers = 4
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := uint64(0)
	work := func() {
		b := xen.NewBatch()
		for {
			mu.Lock()
			from := next
			next += xen.BatchPages
			mu.Unlock()
			if from >= d.Pages() {
				return
			}
			b.Reset()
			for pfn := from; pfn < min(from+xen.BatchPages, d.Pages()); pfn++ {
				b.PFNs = append(b.PFNs, pfn)
			}
			if err := d.Map(b); err != nil {
				t.Error(err)
				return
			}
			sum := byte(0)
			for i, page := range b.Pages {
				if b.Types[i].HasData() != (page != nil) {
					t.Errorf("pfn %#x: type %#x, %d bytes", b.PFNs[i], b.Types[i], len(page))
				}
				for off := 0; off < len(page); off += 64 {
					sum ^= page[off]
				}
				mu.Lock()
				if page != nil {
					data++
				}
				if b.Types[i].Populated() {
					populated++
				}
				mu.Unlock()
			}
			_ = sum
			for range 2 {
				if err := d.Unmap(b); err != nil {
					t.Error(err)
				}
			}
		}
	}
	for range workers {
		wg.Go(work)
	}
	wg.Wait()
	return data, populated
}

func TestRealMap(t *testing.T) {
	d := realDomain(t)
	info, err := d.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	data, populated := mapAll(t, d)
	t.Logf("%d pfns, %d populated, %d with contents; Xen says %d KiB", d.Pages(), populated, data, info.MemKiB)
	if has := info.MemKiB / 4; data > has || data < has-has/10 {
		t.Errorf("%d pages with contents, the guest has %d", data, has)
	}
	b := xen.NewBatch()
	for pfn := range uint64(xen.BatchPages) {
		b.PFNs = append(b.PFNs, pfn)
	}
	run := func() {
		if err := errors.Join(d.Map(b), d.Unmap(b)); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(20, run); n > 8 {
		t.Errorf("Map of %d pages allocates %v times", xen.BatchPages, n)
	}
}

func TestRealStaticState(t *testing.T) {
	d := realDomain(t)
	recs, err := d.StaticState(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, err := parseStatic(recs)
	if err != nil || s.missing() != 0 {
		t.Errorf("own static state is not good for the other end: %v, missing %#x", err, s.missing())
	}
	cfg, err := d.Config(t.Context())
	if err != nil || len(cfg) == 0 {
		t.Errorf("config: %d bytes, %v", len(cfg), err)
	}
}

func TestRealSuspendResume(t *testing.T) {
	d := realDomain(t)
	ctx := t.Context()
	if _, err := d.FinalState(ctx); err == nil {
		t.Fatal("FinalState works on a running guest")
	}
	bm := xen.NewBitmap(d.Pages())
	var port string
	for round := range 10 {
		if err := d.StartLogDirty(ctx); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		mustSuspend(t, d)
		down := time.Since(start)
		st, err := d.CleanDirty(ctx, bm, true)
		if err != nil {
			t.Fatal(err)
		}
		recs, err := d.FinalState(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseFinal(recs, d.typ, d.Pages()); err != nil {
			t.Errorf("own final state is not good for the other end: %v", err)
		}
		if err := d.StopLogDirty(ctx); err != nil {
			t.Fatal(err)
		}
		stopped, err := d.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := d.Info(ctx); again.CPUTime != stopped.CPUTime {
			t.Error("a suspended guest uses processor time")
		}
		mustResume(t, d)
		mustResume(t, d)
		goesOn(t, d)
		t.Logf("round %d: suspended in %v, %d pages dirty, resumed", round, down.Round(time.Millisecond), st.Dirty)
		p, _, err := d.store.read(portStore{}.path(d.domid))
		if err != nil || p == "" || port != "" && p != port {
			t.Errorf("suspend port %q, before %q: %v", p, port, err)
		}
		port = p
	}
}

func TestRealFinalState(t *testing.T) {
	d := realDomain(t)
	mustSuspend(t, d)
	defer mustResume(t, d)
	recs, err := d.FinalState(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again, err := d.FinalState(t.Context())
	if err != nil || len(again) != len(recs) {
		t.Fatalf("the second time %d records, the first %d: %v", len(again), len(recs), err)
	}
	for _, r := range recs {
		t.Logf("record %#x: %d bytes", r.Type, len(r.Body))
	}
	if last := recs[len(recs)-1].Type; (last == savefmt.RecDeviceModel) != (d.typ == xen.TypeHVM) {
		t.Errorf("a guest of type %s, last record %#x", d.typ, last)
	}
}

// A request that is taken back must leave no trace, and a guest that was
// quicker than the end of ctx must run again.
func TestRealSuspendRefused(t *testing.T) {
	d := realDomain(t)
	for _, limit := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 30 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		err := d.Suspend(ctx)
		cancel()
		switch {
		case err == nil:
			t.Logf("suspended within %v", limit)
			mustResume(t, d)
		case !errors.Is(err, xen.ErrSuspendRefused):
			t.Fatalf("limit %v: %v, want ErrSuspendRefused", limit, err)
		}
		goesOn(t, d)
		if v, _, err := d.store.read(d.requestPath()); v != "" || err != nil {
			t.Errorf("limit %v: control/shutdown is %q afterwards: %v", limit, v, err)
		}
	}
	mustSuspend(t, d)
	mustResume(t, d)
	goesOn(t, d)
}

// A guest can name any port as the one to be asked through. One that nothing in
// it listens to, or that cannot be bound, does not keep it from suspending.
func TestRealSuspendPort(t *testing.T) {
	d := realDomain(t)
	deaf, err := d.h.xc.AllocUnbound(d.domid, dom0)
	if err != nil {
		t.Fatal(err)
	}
	mustSuspend(t, d) // so that there is a port of ours
	mustResume(t, d)
	ours, err := portStore{d.store}.SuspendPort(d.domid)
	if err != nil || ours == 0 {
		t.Fatalf("our own suspend port is %d: %v", ours, err)
	}
	for _, tc := range []struct {
		offer         string
		usable, wrong bool
	}{
		{offer: ""},
		{offer: "no port", wrong: true},
		{offer: "1000", wrong: true},
		{offer: strconv.Itoa(int(ours)), wrong: true},
		{offer: strconv.Itoa(int(deaf)), usable: true},
	} {
		goesOn(t, d)
		if err := d.store.write(d.offerPath(), tc.offer); err != nil {
			t.Fatal(err)
		}
		s, err := d.newSuspender(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if (s.port != nil) != tc.usable || (s.portErr != nil) != tc.wrong {
			t.Errorf("offer %q: used %v, error %v", tc.offer, s.port != nil, s.portErr)
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
		start := time.Now()
		mustSuspend(t, d)
		if took := time.Since(start); tc.usable && took < portPatience {
			t.Errorf("offer %q: suspended after %v: not asked through it", tc.offer, took)
		}
		mustResume(t, d)
	}
	if err := d.store.write(d.offerPath(), ""); err != nil {
		t.Error(err)
	}
	goesOn(t, d)
}

func TestRealSuspendPaused(t *testing.T) {
	d := realDomain(t)
	if err := d.h.xc.Pause(d.domid); err != nil {
		t.Fatal(err)
	}
	err := d.Suspend(t.Context())
	if unpauseErr := d.h.xc.Unpause(d.domid); unpauseErr != nil {
		t.Fatal(unpauseErr)
	}
	if !errors.Is(err, xen.ErrSuspendRefused) {
		t.Errorf("suspend of a paused guest: %v, want ErrSuspendRefused", err)
	}
	goesOn(t, d)
}

// TestRealCheckConfig: a configuration that libxl cannot read is known before
// the guest is saved with it.
func TestRealCheckConfig(t *testing.T) {
	d := realDomain(t)
	config, err := d.Config(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.CheckConfig(t.Context(), config); err != nil {
		t.Errorf("the guest's own configuration: %v", err)
	}
	// libxl leaves out what has another type than it expects; a word that it
	// does not know it refuses.
	bad := regexp.MustCompile(`"type": *"[a-z]+"`).ReplaceAll(config, []byte(`"type": "vax"`))
	if bytes.Equal(bad, config) {
		t.Fatalf("no type in the configuration:\n%s", config)
	}
	for what, text := range map[string][]byte{"an unknown type": bad, "half of it": config[:len(config)/2]} {
		if err := d.CheckConfig(t.Context(), text); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
}

func TestRealOpenTwice(t *testing.T) {
	d := realDomain(t)
	other, err := d.h.Open(t.Context(), d.domid)
	if err == nil {
		other.Close()
		t.Fatal("a domain can be opened twice")
	}
	t.Log(err)
	if _, err := d.h.Open(t.Context(), 32000); !errors.Is(err, xen.ErrNoDomain) {
		t.Errorf("open of a domain that is not there: %v, want ErrNoDomain", err)
	}
}

func TestRealRename(t *testing.T) {
	d := realDomain(t)
	info, err := d.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{info.Name + "--moving", info.Name + "--moving", info.Name} {
		if err := d.Rename(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if now, err := d.Info(t.Context()); err != nil || now.Name != name {
			t.Errorf("renamed to %q, its name is %q: %v", name, now.Name, err)
		}
	}
}
