package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/sim"
)

var flagDowntimes = flag.Int("downtimes", 0, "how often a guest of 2 GiB is moved to measure its downtime")

// mostDowntime is what the median of the downtimes is held to.
const mostDowntime = 15 * time.Millisecond

// TestDowntime moves a simulated guest of 2 GiB that writes 100 MB/s to and fro
// and prints its downtime, as the guest sees it from beat to beat of its heart
// and as the engine does. With CHECK=1 in the environment it fails where the
// median is too long.
func TestDowntime(t *testing.T) {
	if *flagDowntimes == 0 {
		t.Skip("a measurement, not a test: run make bench-downtime")
	}
	l := newLab(t, sim.GuestConfig{MemMiB: 2048, Workload: "uniform:100MB/s"})
	at, other := l.alpha, l.beta
	names := [2]string{"sim:alpha", "sim:beta"}
	var guest, engine []time.Duration
	var longest *xen.Report
	for i := range *flagDowntimes {
		code, out, errs := l.xenferry("-c", names[i%2], "migrate", "--json", "db1", names[(i+1)%2])
		if code != exitOK {
			t.Fatalf("exit %d\n%s", code, errs)
		}
		at, other = other, at
		var last xen.Event
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Report == nil {
			t.Fatalf("%v: %s", err, lines[len(lines)-1])
		}
		info, err := at.Find(l.context(), "db1")
		if err != nil {
			t.Fatal(err)
		}
		status, err := at.Status(l.context(), info.Domid)
		if err != nil {
			t.Fatal(err)
		}
		if len(guest) == 0 || status.ArrivalGap > slices.Max(guest) {
			longest = last.Report
		}
		guest, engine = append(guest, status.ArrivalGap), append(engine, last.Report.Downtime)
		t.Logf("downtime: guest %v, engine %v, %d rounds, total %v", status.ArrivalGap, last.Report.Downtime, len(last.Report.Rounds), last.Report.Total)
	}
	l.expectAt(at, other)
	fmt.Printf("guest of 2 GiB, 100 MB/s of writes, %d moves; downtime in ms, median (least to most): guest %s, engine %s\n",
		len(guest), spread(guest), spread(engine))
	fmt.Printf("parts of the longest, of %v: from the guest's stop, and how long each took\n", slices.Max(guest))
	for _, b := range longest.Budget {
		fmt.Printf("  %9.3f ms  %9.3f ms  %s, %s\n", inMS(b.From), inMS(b.Time), b.Host, b.Name)
	}
	slices.Sort(guest)
	if m := guest[len(guest)/2]; os.Getenv("CHECK") == "1" && m > mostDowntime {
		t.Errorf("the median is %v, at most %v were promised", m, mostDowntime)
	}
}

func spread(d []time.Duration) string {
	d = slices.Sorted(slices.Values(d))
	return fmt.Sprintf("%.1f (%.1f to %.1f)", inMS(d[len(d)/2]), inMS(d[0]), inMS(d[len(d)-1]))
}

func inMS(t time.Duration) float64 { return float64(t) / float64(time.Millisecond) }
