//go:build lab

package labtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xenferry/xenferry/scripts/lab/signal"
)

// signalLoads are numbers of clients of xenstored; the last is the heaviest.
var signalLoads = []int{0, 12, 24, 48}

// perCommand is how many rounds one command in dom0 does: it has to end within
// CommandLimit, also under load.
const perCommand = 5

// TestSignals measures, in dom0 of one host, how long after its stop a guest's
// suspend is known, and how saves fare under the same load. XENFERRY_LAB_SIGNAL
// names the file for all figures. What it does there is in package xen/xl,
// signal_lab_test.go; docs/testing.md says why so.
func TestSignals(t *testing.T) {
	file := os.Getenv("XENFERRY_LAB_SIGNAL")
	if file == "" {
		t.Skip("a measurement, not a test: run make lab-bench-signal")
	}
	rounds := roundsOr(t, 30)
	l := Open(t)
	// With the processor of dom0 that is not the poller's, and as much of it as
	// dom0 where both want it; few devices and little work, as only its suspend
	// matters.
	g := l.CreateGuest(t, l.A, "signal", GuestOptions{
		NoDisk: true, Alone: true, MemoryMB: 128, Config: []string{`vif=[]`, `cpus="0"`, "cpu_weight=2048"},
		Args: []string{"xfg.net=none", "xfg.mem=16", "xfg.workload=idle", "xfg.verify=64kB"},
	})
	doc := &signal.Document{Started: time.Now(), Xen: l.A.Release}
	err := g.measureSignals(t, doc, rounds)
	doc.Took = time.Since(doc.Started).Seconds()
	doc.SetBars()
	text, jsonErr := json.MarshalIndent(doc, "", " ")
	if err := errors.Join(err, jsonErr); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		t.Error(err)
	}
	missed := doc.Print(os.Stdout)
	fmt.Printf("\nAll figures are in %s.\n", file)
	if os.Getenv("CHECK") == "1" && missed > 0 {
		t.Errorf("%d of %d bars are missed", missed, len(doc.Bars))
	}
	g.AssertNothingBad(t)
	g.Shutdown(t, l.A)
}

// measureSignals fills doc as far as it comes.
func (g *Guest) measureSignals(t *testing.T, doc *signal.Document, rounds int) error {
	defer g.Lab.B.freeze(t)() // it has no part in this, and takes its share of this machine
	g.Lab.A.setNice(t, preferred)
	defer g.Lab.A.setNice(t, 0)
	for _, clients := range signalLoads {
		all := signal.Signals{Clients: clients}
		for done := 0; done < rounds; done += perCommand {
			var some signal.Signals
			err := g.measureInDom0(t, "TestSignals", clients, min(perCommand, rounds-done), &some)
			if err != nil {
				return err
			}
			all.Unseen += some.Unseen
			all.Event = append(all.Event, some.Event...)
			all.Watch = append(all.Watch, some.Watch...)
			all.Requests = mean(all.Requests, done, some.Requests, len(some.Event))
			event, watch := all.EventSpread(), all.WatchSpread()
			t.Logf("%d clients: %d of %d rounds; p50 and p99: event %v, %v, watch %v, %v; doubt at most %v",
				clients, len(all.Event), rounds, event.P50, event.P99, watch.P50, watch.P99, all.Doubt())
		}
		doc.Signals = append(doc.Signals, all)
	}
	heaviest := signalLoads[len(signalLoads)-1]
	doc.Saves = &signal.Saves{Clients: heaviest}
	saves := (rounds*2 + 2) / 3 // 20 for 30
	for done := 0; done < saves; done += perCommand {
		var some signal.Saves
		n := min(perCommand, saves-done)
		if err := g.measureInDom0(t, "TestSavesUnderLoad", heaviest, n, &some); err != nil {
			return err
		}
		doc.Saves.Saves = append(doc.Saves.Saves, some.Saves...)
		doc.Saves.Requests = mean(doc.Saves.Requests, done, some.Requests, n)
		t.Logf("%d clients: %d of %d saves by each", heaviest, done+n, saves)
	}
	return nil
}

// freeze stops a host's QEMU until thaw is called.
func (h *Host) freeze(t *testing.T) (thaw func()) {
	t.Helper()
	pid := h.qemu(t)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Error(err)
		}
	}
}

// preferred is the nice value of a host that is measured: what this machine does
// beside it waits, and the host has no pauses of its own because of that.
const preferred = -15

// setNice sets the nice value of a host's processors.
func (h *Host) setNice(t *testing.T, value int) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", h.qemu(t)))
	if err != nil || len(threads) == 0 {
		t.Fatalf("threads of %s: %v", h.Name, err)
	}
	for _, path := range threads {
		tid, err := strconv.Atoi(filepath.Base(path))
		if err == nil {
			err = syscall.Setpriority(syscall.PRIO_PROCESS, tid, value)
		}
		if err != nil && !errors.Is(err, syscall.ESRCH) { // a thread for disks has ended
			t.Fatalf("%s: %v", path, err)
		}
	}
}

// qemu returns the process of a host.
func (h *Host) qemu(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(os.Getenv("XENFERRY_LAB_RUN"), h.Name+".pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// mean adds a figure of more rounds to the mean of those before.
func mean(before, n, figure, more int) int { return (before*n + figure*more) / (n + more) }

// measureInDom0 runs one measurement on hostA and decodes its figures.
func (g *Guest) measureInDom0(t *testing.T, test string, clients, rounds int, figures any) error {
	t.Helper()
	const file = "/root/tests/figures.json"
	h := g.Lab.A
	out, err := h.Run(context.Background(), fmt.Sprintf("cd /root/tests && rm -f %s && TMPDIR=/root/tests XENFERRY_LAB=1 XENFERRY_XL_GUEST=%s "+
		"./xen-xl.test -test.v -test.timeout 19m -test.run '^%s$' -signal.clients %d -signal.rounds %d -signal.out %[1]s", file, g.Name, test, clients, rounds))
	if err != nil {
		return err
	}
	t.Logf("%s", out)
	return json.Unmarshal([]byte(h.Must(t, "cat "+file)), figures)
}
