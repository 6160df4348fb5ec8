//go:build xen && lab

package xl

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/xenferry/xenferry/scripts/lab/signal"
	"github.com/xenferry/xenferry/xen"
)

// These are measurements, which scripts/lab/labtest starts in dom0. How and
// why so: docs/testing.md.
var (
	signalClients = flag.Int("signal.clients", 0, "clients that hammer xenstored")
	signalRounds  = flag.Int("signal.rounds", 30, "suspends by each way, or saves by each command")
	signalOut     = flag.String("signal.out", "", "file for the figures, in JSON; without it nothing is measured")
)

// signalLimit bounds each wait for a signal: many times what any has taken.
const signalLimit = 2 * time.Minute

// TestSignals suspends the guest by the product's own code and measures how
// long after its stop that is known: by the event channel, and by the watch
// that stock tools wait for, in turns. They cannot be measured together, as Xen
// raises what the watch needs only while nobody has subscribed to the event.
func TestSignals(t *testing.T) {
	if *signalOut == "" {
		t.Skip("a measurement: see make lab-bench-signal")
	}
	d := realDomain(t)
	t.Cleanup(func() { // a measurement that has failed leaves it suspended
		if err := d.Resume(context.Background()); err != nil {
			t.Error(err)
		}
	})
	p := startPoller(t, d.domid)
	l := startLoad(t, *signalClients)
	result := signal.Signals{Clients: *signalClients}
	for range *signalRounds {
		result.Event = append(result.Event, measured(t, &result, func() signal.Sample { return measure(t, d, p, l, byEvent) }))
		result.Watch = append(result.Watch, measured(t, &result, func() signal.Sample { return measure(t, d, p, l, byWatch) }))
	}
	result.Requests = l.stop(t)
	writeFigures(t, result)
}

// measured repeats a suspend whose stop the poller has not seen well enough: this
// machine kept it from looking. It is counted.
func measured(t *testing.T, result *signal.Signals, measure func() signal.Sample) signal.Sample {
	t.Helper()
	const most = 5
	for range most {
		x := measure()
		if x.Doubt() <= signal.MostDoubt {
			return x
		}
		result.Unseen++
	}
	t.Fatalf("the poller's doubt was more than %v in %d suspends: is this machine busy with something else?", signal.MostDoubt, most)
	return signal.Sample{}
}

// signalled prepares a suspend of the guest and returns how to wait for it.
type signalled func(t *testing.T, d *domain) (s *suspender, wait func(context.Context) error, end func() error)

func byEvent(t *testing.T, d *domain) (*suspender, func(context.Context) error, func() error) {
	s, err := d.newSuspender(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s, s.wait, s.close
}

func byWatch(t *testing.T, d *domain) (*suspender, func(context.Context) error, func() error) {
	w, err := openWatch(releaseDomain)
	if err != nil {
		t.Fatal(err)
	}
	return &suspender{domain: d, asks: true}, w.wait, func() error { w.close(); return nil }
}

// heardOf returns when a signal has come after which the guest is found
// suspended. It never looks at it without a signal.
func heardOf(ctx context.Context, s *suspender, wait func(context.Context) error) error {
	for {
		if err := wait(ctx); err != nil {
			return err
		}
		f, err := s.flags()
		if err == nil && f.Shutdown() && !f.Suspended() {
			err = fmt.Errorf("the guest has not suspended, but shut down (%v)", f.ShutdownReason())
		}
		if err != nil || f.Suspended() {
			return err
		}
	}
}

// measure suspends the guest once under the load, and resumes it without: until
// it runs again takes a minute under load, and is not what is measured.
func measure(t *testing.T, d *domain, p *poller, l *load, by signalled) signal.Sample {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), signalLimit)
	defer cancel()
	s, wait, end := by(t, d)
	p.begin(t)
	var known, told int64
	err := urgently(func() error {
		if s.event != nil {
			s.event.Rehearse()
		}
		if err := s.request(); err != nil {
			return err
		}
		err := heardOf(ctx, s, wait)
		told = ticks()
		known = told
		if s.seenAt != 0 { // the product's moment of the stop: the downtime counts from it
			known = ticksAt(s.seenAt, p.tick)
		}
		return err
	})
	if err != nil {
		t.Fatalf("no signal of the suspend: %v", err)
	}
	x := p.sample(t, known, told)
	t.Logf("known %v after the stop, doubt %v, told %v later", x.AtMost(), x.Doubt(), x.AfterKnown())
	if err := end(); err != nil {
		t.Error(err)
	}
	l.without(t, func() {
		mustResume(t, d)
		settle(t)
	})
	return x
}

// settle waits until the guest's programs run again, as its kernel drops what
// it is asked before.
func settle(t *testing.T) {
	t.Helper()
	const beats = 2 // of the guest: one may have been on its way
	const pause = 20 * time.Millisecond
	log := "/var/log/xen/console/guest-" + liveGuest(t) + ".log"
	seen, last, start := -1, int64(-1), time.Now()
	// Pauses are counted, not time: an emulated host that loses a timer's interrupt
	// stands still for minutes, this program and the guest alike.
	for range int(signalLimit / pause) {
		info, err := os.Stat(log)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() != last {
			seen, last = seen+1, info.Size()
		}
		if seen == beats {
			if took := time.Since(start); took > signalLimit {
				t.Logf("the guest ran again after %v: was this host standing still?", took)
			}
			return
		}
		time.Sleep(pause)
	}
	t.Fatalf("the guest has printed nothing in %d looks, one each %v: it hangs", signalLimit/pause, pause)
}

func writeFigures(t *testing.T, figures any) {
	t.Helper()
	text, err := json.MarshalIndent(figures, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(*signalOut, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestSavesUnderLoad saves the guest by xl and by xenferry in turns, while
// clients hammer xenstored. It measures: a save that fails is a figure.
func TestSavesUnderLoad(t *testing.T) {
	if *signalOut == "" {
		t.Skip("a measurement: see make lab-bench-signal")
	}
	name := liveGuest(t)
	l := startLoad(t, *signalClients)
	result := signal.Saves{Clients: *signalClients}
	for range *signalRounds {
		for _, tool := range []string{"xl", "xenferry"} {
			one := saveOnce(t, tool, name)
			l.without(t, func() { bringBack(t, name) })
			t.Logf("%s: %v %s", tool, one.Took.Round(time.Millisecond), one.Error)
			result.Saves = append(result.Saves, one)
		}
	}
	result.Requests = l.stop(t)
	writeFigures(t, result)
}

// saveLimit is beyond all of the tools' own.
const saveLimit = 10 * time.Minute

func saveOnce(t *testing.T, tool, guest string) signal.Save {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), saveLimit)
	defer cancel()
	file := t.TempDir() + "/saved"
	defer os.Remove(file)
	start := time.Now()
	out, err := exec.CommandContext(ctx, tool, "save", "-c", guest, file).CombinedOutput()
	one := signal.Save{Tool: tool, Took: time.Since(start)}
	if err != nil {
		one.Error = err.Error() + ": " + string(out)
	}
	return one
}

// bringBack makes the guest run again where a save has left it suspended, and
// waits until it does.
func bringBack(t *testing.T, name string) {
	t.Helper()
	h, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	info, err := h.Find(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	d, err := h.Open(t.Context(), info.Domid)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if info.State != xen.StateRunning {
		mustResume(t, d.(*domain))
	}
	settle(t)
}
