package sim

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/xenferry/xenferry/xen"
)

func TestGuestWorks(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	for _, load := range []string{
		"idle", "uniform:50MB/s", "hot:100MB/s,set=4MiB", "cyclic:50MB/s,period=40ms", "small:50MB/s",
	} {
		t.Run(load, func(t *testing.T) {
			domid := a.create(t, GuestConfig{Name: "guest", MemMiB: 16, VCPUs: 3, Workload: load, VerifyRate: -1})
			st := checkGuest(t, a.Host, domid)
			if load != "idle" {
				mustWaitFor(t, "writes", func() bool {
					now, err := a.Status(testContext(t), domid)
					return err == nil && now.Writes > st.Writes+100
				})
			} else if st.Writes != 0 {
				t.Errorf("an idle guest has written %d pages", st.Writes)
			}
			if st.Workload != load || st.VCPUs != 3 || st.Arrivals != 0 || st.Instance == "" || st.CPUTime <= 0 {
				t.Errorf("odd status: %+v", st)
			}
			if err := a.Destroy(testContext(t), domid); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// moveGuest moves a guest by hand and returns its id at the other host. It
// runs there.
func moveGuest(t *testing.T, from, to *Host, domid uint32, skip map[uint64]bool) uint32 {
	t.Helper()
	ctx := testContext(t)
	d := openDomain(t, from, domid)
	in, err := receiveCopy(ctx, to, d, "arrived")
	if err != nil {
		t.Fatal(err)
	}
	if err := copyAll(ctx, d, in, skip); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Destroy(ctx), d.Close(), in.Unpause(ctx), in.Close()); err != nil {
		t.Fatal(err)
	}
	return in.Domid()
}

func TestMovedGuestGoesOn(t *testing.T) {
	shortDir(t)
	a, b := startHost(t, "a"), startHost(t, "b")
	domid := a.create(t, GuestConfig{MemMiB: 16, VCPUs: 2, Workload: "uniform:50MB/s"})
	before := checkGuest(t, a.Host, domid)
	domid = moveGuest(t, a.Host, b.Host, domid, nil)
	after := checkGuest(t, b.Host, domid)
	if after.Arrivals != 1 || after.Writes < before.Writes || after.Verified < before.Verified ||
		after.Beats <= before.Beats || after.UUID != before.UUID || after.Instance == before.Instance {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if after.ArrivalGap <= 0 || after.ArrivalGap > time.Minute || after.MaxGap < after.ArrivalGap ||
		after.MaxGapHere <= 0 {
		t.Errorf("gaps: at arrival %v, largest %v, here %v", after.ArrivalGap, after.MaxGap, after.MaxGapHere)
	}
}

// The guest must see each single page that a migration gets wrong.
func TestMovedGuestSeesLostPage(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	for name, pfn := range map[string]uint64{
		"table": areaStart + 1,
		"data":  areaStart + 20,
	} {
		t.Run(name, func(t *testing.T) {
			domid := a.create(t, GuestConfig{Name: "guest", MemMiB: 4, ZeroShare: -1})
			domid = moveGuest(t, a.Host, a.Host, domid, map[uint64]bool{pfn: true})
			st, err := a.Verify(testContext(t), domid)
			if err != nil {
				t.Fatal(err)
			}
			if st.BadPages == 0 || len(st.Errors) == 0 || st.State != xen.StateRunning {
				t.Errorf("a page was lost on the way, and the guest has not seen it: %+v", st)
			}
			if err := a.Destroy(testContext(t), domid); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestMovedGuestWithoutHeaderCrashes(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	domid := a.create(t, GuestConfig{MemMiB: 4})
	ctx := testContext(t)
	d := openDomain(t, a.Host, domid)
	in, err := receiveCopy(ctx, a.Host, d, "arrived")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := copyAll(ctx, d, in, map[uint64]bool{areaStart: true}); err != nil {
		t.Fatal(err)
	}
	if err := in.Unpause(ctx); err == nil || !strings.Contains(err.Error(), "crashed") {
		t.Errorf("unpause: %v", err)
	}
	st, err := a.Status(ctx, in.Domid())
	if err != nil || st.State != xen.StateCrashed || st.Failure == "" {
		t.Errorf("%+v, %v", st, err)
	}
}

// Before it is unpaused, a guest must not look into its memory: it may arrive
// at the last moment.
func TestGuestWaitsForUnpause(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	domid := a.create(t, GuestConfig{MemMiB: 4, Workload: "uniform:10MB/s"})
	ctx := testContext(t)
	d := openDomain(t, a.Host, domid)
	in, err := receiveCopy(ctx, a.Host, d, "arrived")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	late := uint64(areaStart)
	if err := copyAll(ctx, d, in, map[uint64]bool{late: true}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	st, err := a.Status(ctx, in.Domid())
	if err != nil || st.State != xen.StatePaused {
		t.Fatalf("%+v, %v", st, err)
	}
	from := xen.NewBatch()
	from.PFNs = append(from.PFNs, late)
	if err := d.Map(from); err != nil {
		t.Fatal(err)
	}
	copy(in.(*Incoming).view(late), from.Pages[0])
	if err := in.Unpause(ctx); err != nil {
		t.Fatal(err)
	}
	checkGuest(t, a.Host, in.Domid())
	if err := in.Unpause(ctx); err != nil {
		t.Errorf("unpause again: %v", err)
	}
}

func TestSuspendDelay(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	const delay = 150 * time.Millisecond
	domid := a.create(t, GuestConfig{MemMiB: 4, SuspendDelay: delay})
	d := openDomain(t, a.Host, domid)
	start := time.Now()
	if err := d.Suspend(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < delay {
		t.Errorf("suspended after %v, not %v", took, delay)
	}
	if err := d.Resume(testContext(t)); err != nil {
		t.Fatal(err)
	}
	checkGuest(t, a.Host, domid)
}

// Suspending is prompt even with vCPUs that never sleep. The bound is far
// above what it takes, for the sake of busy machines.
func TestSuspendIsPrompt(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	for _, load := range []string{"idle", "uniform:100GB/s"} {
		domid := a.create(t, GuestConfig{Name: "guest", MemMiB: 16, VCPUs: 2, Workload: load})
		d := openDomain(t, a.Host, domid)
		best := time.Hour
		for range 20 {
			start := time.Now()
			if err := d.Suspend(testContext(t)); err != nil {
				t.Fatal(err)
			}
			best = min(best, time.Since(start))
			if err := d.Resume(testContext(t)); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("%s: best of 20: %v", load, best)
		if best > 20*time.Millisecond {
			t.Errorf("%s: suspending takes %v at best", load, best)
		}
		if err := a.Destroy(testContext(t), domid); err != nil {
			t.Fatal(err)
		}
	}
}
