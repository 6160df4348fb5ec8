package memcheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

func workload(t testing.TB, s string) Workload {
	t.Helper()
	w, err := ParseWorkload(s)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// run steps a worker through d of simulated time.
func run(w *Worker, from, d time.Duration) time.Duration {
	now := from
	for now < from+d {
		now += w.Step(now)
	}
	return now
}

func newWorker(t testing.TB, a *Area, opts WorkerOptions) *Worker {
	t.Helper()
	if opts.Workers == 0 {
		opts.Workers = 1
	}
	w, err := NewWorker(a, opts)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestParseWorkload(t *testing.T) {
	good := map[string]string{ // input: canonical form
		"idle":                       "idle",
		"uniform:100MB/s":            "uniform:100MB/s",
		"uniform:0.5GB/s,set=1GiB":   "uniform:500MB/s,set=1GiB",
		"hot:200MB/s":                "hot:200MB/s,set=64MiB",
		"hot:200MB/s,set=8MiB":       "hot:200MB/s,set=8MiB",
		"cyclic:100MB/s":             "cyclic:100MB/s,period=2s",
		"cyclic:1GB/s,period=500ms":  "cyclic:1GB/s,period=500ms",
		"small:4096B/s":              "small:4096B/s",
		"small:50MiB/s,set=128KiB":   "small:52428800B/s,set=128KiB",
		"uniform:12kB/s,set=10000kB": "uniform:12kB/s,set=10000000B",
	}
	for in, want := range good {
		w, err := ParseWorkload(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got := w.String(); got != want {
			t.Errorf("%s: reads as %s, want %s", in, got, want)
		}
		if again, err := ParseWorkload(w.String()); err != nil || again != w {
			t.Errorf("%s: written and read again is %+v (%v), want %+v", in, again, err, w)
		}
	}
	bad := map[string]string{ // input: part of the message
		"":                         "unknown pattern",
		"busy:1MB/s":               "unknown pattern",
		"idle:1MB/s":               "no rate",
		"uniform":                  "for example uniform:100MB/s",
		"uniform:100MB":            "does not end in /s",
		"uniform:100/s":            "no unit",
		"uniform:xMB/s":            "not a size",
		"uniform:-1MB/s":           "not a size",
		"uniform:NaNMB/s":          "not a size",
		"uniform:1e300GB/s":        "not a size",
		"uniform:1B/s":             "is not from",
		"uniform:1TB/s":            "is not from",
		"uniform:1MB/s,period=2s":  "no option",
		"uniform:1MB/s,":           "no option",
		"hot:1MB/s,set=1B":         "is not from",
		"hot:1MB/s,set=":           "no unit",
		"cyclic:1MB/s,set=1MiB":    "no option",
		"cyclic:1MB/s,period=x":    "not a time",
		"cyclic:1MB/s,period=1us":  "is not from",
		"cyclic:1MB/s,period=100h": "is not from",
	}
	for in, want := range bad {
		_, err := ParseWorkload(in)
		if in == "idle:1MB/s" {
			want = "takes no rate"
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", in, err, want)
		}
	}
}

func TestWorkersKeepTheirRates(t *testing.T) {
	for _, c := range []struct {
		load   string
		writes float64 // bytes in 4 s
	}{
		{"idle", 0},
		{"uniform:2MB/s", 8e6},
		{"hot:2MB/s,set=256KiB", 8e6},
		{"small:2MB/s", 8e6},
		{"cyclic:2MB/s,period=1s", 4e6},
	} {
		t.Run(c.load, func(t *testing.T) {
			a, _ := newArea(t, 256, Options{Seed: 1, ZeroShare: 0.4})
			var wrote, verified uint64
			for id := range 3 {
				w := newWorker(t, a, WorkerOptions{
					ID: id, Workers: 3, Workload: workload(t, c.load), VerifyBytesPerSec: 1e6,
				})
				run(w, 0, 4*time.Second)
				n := w.Counts()
				wrote += n.Writes
				verified += n.Verified
				if n.Bad != 0 {
					t.Errorf("worker %d found %d bad pages", id, n.Bad)
				}
			}
			near(t, "written", float64(wrote)*PageSize, c.writes)
			near(t, "verified", float64(verified)*PageSize, 4e6)
			mustBeClean(t, a)
		})
	}
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if got < want*0.97-3*PageSize || got > want*1.03+3*PageSize {
		t.Errorf("%g bytes %s, want %g", got, what, want)
	}
}

func TestPatternsChoosePages(t *testing.T) {
	count := func(load string) (pages int, most uint64) {
		a, _ := newArea(t, 512, Options{Seed: 1})
		run(newWorker(t, a, WorkerOptions{Workload: workload(t, load)}), 0, time.Second)
		for i := range a.Pages() {
			if v := a.Version(i) - 1; v > 0 {
				pages++
				most = max(most, v)
			}
		}
		return pages, most
	}
	// Some 4880 writes on 510 pages: 10 a page if uniform.
	if pages, most := count("uniform:20MB/s"); pages < 500 || most > 40 {
		t.Errorf("uniform wrote %d pages, one of them %d times", pages, most)
	}
	if pages, most := count("hot:20MB/s,set=256KiB"); pages < 50 || pages > 64 || most < 400 {
		t.Errorf("hot wrote %d pages of 64, one of them %d times", pages, most)
	}
	if pages, _ := count("uniform:20MB/s,set=256KiB"); pages != 64 {
		t.Errorf("uniform in a set wrote %d pages of 64", pages)
	}
}

func TestNoBurstAfterAStop(t *testing.T) {
	a, _ := newArea(t, 1024, Options{Seed: 1})
	w := newWorker(t, a, WorkerOptions{Workload: workload(t, "uniform:100MB/s")})
	now := run(w, 0, 100*time.Millisecond)
	before := w.Counts().Writes
	run(w, now+time.Hour, 10*time.Millisecond)
	if n := w.Counts().Writes - before; n > 2000 {
		t.Errorf("%d pages written in 10 ms after an hour's stop", n)
	}
}

// A worker that is saved and restored must go on exactly as one that is not.
func TestStateIsWholePosition(t *testing.T) {
	opts := WorkerOptions{Workers: 1, Workload: workload(t, "cyclic:20MB/s,period=100ms"), VerifyBytesPerSec: 10e6}
	a1, m1 := newArea(t, 500, Options{Seed: 4, ZeroShare: 0.4})
	w1 := newWorker(t, a1, opts)
	a2, m2 := newArea(t, 500, Options{Seed: 4, ZeroShare: 0.4})
	w2 := newWorker(t, a2, opts)
	for range 50 {
		for range 10 {
			w1.writeOne()
			w1.verifyOne()
			w2.writeOne()
			w2.verifyOne()
		}
		text, err := json.Marshal(w2.State())
		if err != nil {
			t.Fatal(err)
		}
		state := State{}
		if err := json.Unmarshal(text, &state); err != nil {
			t.Fatal(err)
		}
		m2 = bytes.Clone(m2)
		if a2, err = Attach(m2, Options{Seed: 4}); err != nil {
			t.Fatal(err)
		}
		opts.State = &state
		w2 = newWorker(t, a2, opts)
	}
	if w1.State() != w2.State() || !bytes.Equal(m1, m2) {
		t.Errorf("restored worker is at %+v, the other at %+v", w2.State(), w1.State())
	}
	if w1.state.Bad != 0 || w1.state.Sweeps == 0 {
		t.Errorf("odd end: %+v", w1.state)
	}
}

// Page and table entry both go back to an older state: only the sum tells.
func TestLostWriteWithItsEntryIsFound(t *testing.T) {
	a, mem := newArea(t, 100, Options{Seed: 4})
	var found []error
	w := newWorker(t, a, WorkerOptions{
		Workload: workload(t, "uniform:10MB/s"),
		OnBad:    func(err error) { found = append(found, err) },
	})
	old := bytes.Clone(mem)
	for range 50 {
		w.writeOne()
	}
	copy(mem, old)
	if bad, _ := a.VerifyAll(); bad != 0 {
		t.Fatal("the old memory is not whole in itself")
	}
	ticket := w.SweepNow()
	for now := time.Duration(0); !w.Swept(ticket); now += time.Microsecond {
		w.Step(now)
	}
	if len(found) != 1 || !errors.Is(found[0], ErrLostWrites) {
		t.Errorf("found %v, want one of kind %q", found, ErrLostWrites)
	}
}

func TestSweepNowFindsDamage(t *testing.T) {
	a, _ := newArea(t, 300, Options{Seed: 4})
	w := newWorker(t, a, WorkerOptions{})
	w.Step(0)
	a.page(200)[50] ^= 1
	ticket := w.SweepNow()
	if w.Swept(ticket) {
		t.Error("swept before it began")
	}
	for now := time.Duration(0); !w.Swept(ticket); now++ {
		if w.Step(now) != 0 {
			t.Fatal("a step waits during a sweep")
		}
	}
	if n := w.Counts(); n.Bad != 1 || n.Verified != uint64(a.Pages()) {
		t.Errorf("after the sweep: %+v", n)
	}
	if w.Step(time.Millisecond) == 0 {
		t.Error("nothing is due, and the step does not wait")
	}
}

func TestNewWorkerRefuses(t *testing.T) {
	a, _ := newArea(t, 6, Options{})
	for _, opts := range []WorkerOptions{
		{ID: 0, Workers: 0},
		{ID: 2, Workers: 2},
		{ID: -1, Workers: 2},
		{ID: 0, Workers: 5},
		{ID: 0, Workers: 1, State: &State{Cursor: 4}},
		{ID: 0, Workers: 1, State: &State{Run: -1}},
	} {
		if _, err := NewWorker(a, opts); err == nil {
			t.Errorf("NewWorker(%+v) succeeded", opts)
		}
	}
}
