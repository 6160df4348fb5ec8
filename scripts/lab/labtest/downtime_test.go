//go:build lab

package labtest

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/xenferry/xenferry/scripts/lab/bar"
	"github.com/xenferry/xenferry/xen"
)

// What the downtime is held to, beside stock xl over plain TCP in the same run.
const (
	mostOfStockPart  = 1.0 / 4 // all but libxl's creation of the guest
	mostOfStockWhole = 1.0 / 3 // as the guest sees it
)

// downtime is what was measured of one type of guest: medians are taken of each.
type downtime struct {
	Type string `json:"type"`
	// From one heartbeat to the next, by the guest's own clock.
	StockBeats []time.Duration `json:"stock_beats_ns"`
	Beats      []time.Duration `json:"beats_ns"`
	// Between two packets, by one clock outside.
	StockNetwork []time.Duration `json:"stock_network_ns"`
	Network      []time.Duration `json:"network_ns"`
	Stock        []stockParts    `json:"stock"`
	Reports      []*xen.Report   `json:"reports"`
}

// stockParts is the downtime of one xl migrate, as its two ends have logged it.
type stockParts struct {
	Last   time.Duration `json:"last_ns"`   // suspended, until the receiver's helper has all
	Create time.Duration `json:"create_ns"` // until libxl has made the guest with its devices
	Hand   time.Duration `json:"hand_ns"`   // until the receiver says that it runs
}

// own is what libxl's creation has no part in.
func (p stockParts) own() time.Duration { return p.Last + p.Hand }

// TestDowntime measures the downtime of stock xl and of xenferry, both over
// plain TCP, part by part. XENFERRY_LAB_DOWNTIME names the file for all figures.
func TestDowntime(t *testing.T) {
	file := os.Getenv("XENFERRY_LAB_DOWNTIME")
	if file == "" {
		t.Skip("a measurement, not a test: run make lab-bench-downtime")
	}
	rounds, link := roundsOr(t, 3), linkRate()
	var all []*downtime
	var bars []bar.Bar
	for _, kind := range []string{"pvh", "hvm"} {
		t.Run(kind, func(t *testing.T) {
			d := &downtime{Type: kind}
			all = append(all, d)
			d.measure(t, link, rounds)
			bars = append(bars, d.bars(rounds)...)
		})
	}
	fmt.Printf("\nLink between the hosts: %s.\n", link)
	for _, d := range all {
		d.print()
	}
	conclude(t, file, map[string]any{"link": link, "downtimes": all, "bars": bars}, bars)
}

// measure moves one guest to and fro: by stock xl, by stock xl again with its
// log, which costs it time, and by xenferry.
func (d *downtime) measure(t *testing.T, link Link, rounds int) {
	l := Open(t)
	link.limit(t, l)
	g := l.CreateGuest(t, l.A, "down-"+d.Type, GuestOptions{Type: d.Type, Args: []string{"xfg.mem=64", "xfg.workload=hot:4MB/s,set=8MiB", "xfg.net_ms=10"}})
	from := l.A
	for range rounds {
		p := g.measure(t, from, stockTCP).Pause
		d.StockBeats, d.StockNetwork = append(d.StockBeats, p.Beats), append(d.StockNetwork, p.Network)
		from = l.Other(from)

		d.Stock = append(d.Stock, g.traceStock(t, from))
		from = l.Other(from)

		before := g.AssertClean(t, from)
		g.MarkHeard(t)
		installTCP(t, from, l.Other(from), ferryReceive)
		report := g.Ferry(t, from, overTCP)
		from = l.Other(from)
		g.AssertClean(t, from)
		p = g.Pause(t, from, before.N)
		t.Logf("xenferry: %s; %v", summary(report), p)
		d.Reports = append(d.Reports, report)
		d.Beats, d.Network = append(d.Beats, p.Beats), append(d.Network, p.Network)
	}
	g.Shutdown(t, from)
}

// Lines of xl's log between which its downtime lies.
var stockMarks = []*regexp.Regexp{
	regexp.MustCompile(`(?m)^(\d+) .*guest has suspended`),                    // source
	regexp.MustCompile(`(?m)^(\d+) .*Restore successful`),                     // receiver: its helper
	regexp.MustCompile(`(?m)^(\d+) migration target: Transfer complete`),      // receiver
	regexp.MustCompile(`(?m)^(\d+) migration target: Domain started success`), // receiver
}

// traceStock moves the guest with stock xl and reads the parts of its downtime
// out of the logs of both ends, whose clocks agree.
func (g *Guest) traceStock(t *testing.T, from *Host) stockParts {
	t.Helper()
	to := g.Lab.Other(from)
	installTCP(t, from, to, "xl -vvv migrate-receive 2>&1 >&3 | listen stamp > /tmp/xl-receive.log")
	from.Must(t, fmt.Sprintf("xl -vvv migrate -s /tmp/tcp-to %s %s 2>&1 | listen stamp > /tmp/xl-send.log", g.Name, to.Name))
	g.AssertClean(t, to)
	sent, received := from.Must(t, "cat /tmp/xl-send.log"), to.Must(t, "cat /tmp/xl-receive.log")
	var at [4]int64
	for i, mark := range stockMarks {
		log := received
		if i == 0 {
			log = sent
		}
		m := mark.FindStringSubmatch(log)
		if m == nil {
			t.Fatalf("xl has not logged %v:\n%s", mark, log)
		}
		at[i], _ = strconv.ParseInt(m[1], 10, 64)
	}
	p := stockParts{Last: time.Duration(at[1] - at[0]), Create: time.Duration(at[2] - at[1]), Hand: time.Duration(at[3] - at[2])}
	t.Logf("xl: %v from the suspend until all is there, %v for libxl's creation, %v for the hand-over", p.Last, p.Create, p.Hand)
	return p
}

func (d *downtime) bars(rounds int) []bar.Bar {
	var own, stock []time.Duration
	for i := range min(len(d.Reports), len(d.Stock)) {
		own, stock = append(own, untilItRuns(d.Reports[i])), append(stock, d.Stock[i].own())
	}
	few := len(own) < rounds || rounds == 0
	return []bar.Bar{
		{Name: d.Type + ": downtime without libxl's creation, to stock's", Figure: ratio(own, stock), Most: mostOfStockPart, Few: few},
		{Name: d.Type + ": downtime as the guest sees it, to stock's", Figure: ratio(d.Beats, d.StockBeats), Most: mostOfStockWhole, Few: few},
	}
}

// untilItRuns is the time from the guest's stop until the destination had let it
// run, which is when stock's receiver says so: the report's downtime has the way
// of the message back in it as well.
func untilItRuns(r *xen.Report) time.Duration {
	for _, b := range r.Budget {
		if b.Name == "unpaused" {
			return b.From + b.Time
		}
	}
	return r.Downtime
}

func ratio(a, b []time.Duration) float64 {
	if len(a) == 0 || len(b) == 0 {
		return 0
	}
	return median(a).Seconds() / median(b).Seconds()
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// print writes the table: it is what the command is for.
func (d *downtime) print() {
	if len(d.Reports) == 0 || len(d.Stock) == 0 || len(d.StockBeats) == 0 {
		return
	}
	part := func(f func(stockParts) time.Duration) time.Duration {
		var all []time.Duration
		for _, p := range d.Stock {
			all = append(all, f(p))
		}
		return median(all)
	}
	var down []time.Duration
	for _, r := range d.Reports {
		down = append(down, untilItRuns(r))
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "\n%s guest, medians of %d\txl migrate over TCP\txenferry migrate over TCP\n", d.Type, len(d.Reports))
	line := func(what string, stock, ours time.Duration) {
		fmt.Fprintf(w, "%s\t%.3f s\t%.3f s\n", what, stock.Seconds(), ours.Seconds())
	}
	line("between two heartbeats, by the guest's clock", median(d.StockBeats), median(d.Beats))
	line("between two packets, by a clock outside", median(d.StockNetwork), median(d.Network))
	line("suspended until it runs there, without libxl's creation", part(stockParts.own), median(down))
	line("libxl's creation of the guest, while it is suspended", part(func(p stockParts) time.Duration { return p.Create }), 0)
	w.Flush()
	r := d.Reports[slices.IndexFunc(d.Reports, func(r *xen.Report) bool { return untilItRuns(r) == median(down) })]
	fmt.Fprintf(w, "\nparts of the downtime of %.3f s, known at the source after %.3f s\tat\tfrom, ms\ttook, ms\n", untilItRuns(r).Seconds(), r.Downtime.Seconds())
	for _, b := range r.Budget {
		fmt.Fprintf(w, "%s\t%s\t%.1f\t%.1f\n", b.Name, b.Host, b.From.Seconds()*1000, b.Time.Seconds()*1000)
	}
	w.Flush()
}
