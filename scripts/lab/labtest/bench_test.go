//go:build lab

package labtest

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"text/tabwriter"
	"time"
)

// way is one way to move a guest.
type way struct {
	name    string
	command string // up to the guest's name
}

// The lab's ssh is emulated and slow, so stock xl is measured over plain TCP as
// well: nc takes the place of ssh, and a waiting nc starts the receiver.
var ways = []way{
	{"xl migrate, over ssh", "xl migrate"},
	{"xl migrate, over plain TCP", "xl migrate -s /tmp/tcp-to"},
	{"xenferry migrate (TLS)", "xenferry migrate"},
	{"xenferry migrate --data plain", "xenferry migrate --data plain"},
}

// TestBench moves one guest with each tool, there and back, as often as
// XENFERRY_LAB_ROUNDS says (3), and prints total time and downtime side by
// side. Downtime is the longest silence that the listener of the host where
// the guest arrives heard on the guests' network, with one clock for both.
func TestBench(t *testing.T) {
	if os.Getenv("XENFERRY_LAB_BENCH") == "" {
		t.Skip("a measurement, not a test: run make lab-bench")
	}
	rounds := roundsOr(t, 3)
	for _, kind := range []string{"pvh", "hvm"} {
		t.Run(kind, func(t *testing.T) { bench(t, kind, rounds) })
	}
}

// roundsOr returns XENFERRY_LAB_ROUNDS, or usual where that is not set.
func roundsOr(t *testing.T, usual int) int {
	t.Helper()
	s := os.Getenv("XENFERRY_LAB_ROUNDS")
	if s == "" {
		return usual
	}
	rounds, err := strconv.Atoi(s)
	if err != nil || rounds < 1 {
		t.Fatalf("XENFERRY_LAB_ROUNDS=%q: a number from 1", s)
	}
	return rounds
}

func bench(t *testing.T, kind string, rounds int) {
	l := Open(t)
	g := l.CreateGuest(t, l.A, "bench-"+kind, GuestOptions{Type: kind, Args: []string{"xfg.mem=64", "xfg.workload=hot:4MB/s,set=8MiB", "xfg.net_ms=10"}})
	results := make([][]result, len(ways))
	from := l.A
	for range rounds {
		for i, w := range ways {
			results[i] = append(results[i], g.measure(t, from, w))
			from = l.Other(from)
		}
	}
	printResults(kind, results)
	g.Shutdown(t, from)
}

type result struct {
	total time.Duration
	pause Pause
}

func (g *Guest) measure(t *testing.T, from *Host, w way) result {
	t.Helper()
	to := g.Lab.Other(from)
	installTCP(t, from, to, stockReceive)
	before := g.AssertClean(t, from)
	g.Lab.Mark(t)
	start := time.Now()
	from.Must(t, fmt.Sprintf("%s %s %s", w.command, g.Name, to.Name))
	total := time.Since(start)
	g.AssertClean(t, to)
	p := g.Pause(t, to, before.N)
	t.Logf("%s, %s to %s: total %v, %v", w.name, from.Name, to.Name, total, p)
	return result{total, p}
}

// stockReceive is a receiver. Its stdout, and its descriptor 3, lead to the
// sender.
const stockReceive = "xl migrate-receive 2> /tmp/xl-receive.log"

// installTCP makes /tmp/tcp-to on from, which stands in for ssh: it connects
// its stdin and stdout with a receiver on to.
func installTCP(t *testing.T, from, to *Host, receive string) {
	t.Helper()
	to.Must(t, fmt.Sprintf(`pkill -x nc; rm -f /tmp/xl-pipe; mkfifo /tmp/xl-pipe
(setsid sh -c 'nc -l -p 7010 < /tmp/xl-pipe | { %s; } 3> /tmp/xl-pipe > /tmp/xl-pipe' > /dev/null 2>&1 < /dev/null &)`, receive))
	from.Must(t, fmt.Sprintf("printf '#!/bin/sh\\nexec nc -N %s 7010\\n' > /tmp/tcp-to; chmod +x /tmp/tcp-to", to.Name))
}

// printResults prints a table to stdout: it is what the command is for.
func printResults(kind string, results [][]result) {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "%s guest\ttotal, median\tmin to max\tdowntime, median\tmin to max\n", kind)
	for i, rs := range results {
		var totals, downs []time.Duration
		for _, r := range rs {
			totals, downs = append(totals, r.total), append(downs, r.pause.Network)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", ways[i].name, spread(totals), spread(downs))
	}
	w.Flush()
}

// spread returns median, least and most in seconds.
func spread(d []time.Duration) string {
	d = slices.Sorted(slices.Values(d))
	return fmt.Sprintf("%.2f s\t%.2f to %.2f", d[len(d)/2].Seconds(), d[0].Seconds(), d[len(d)-1].Seconds())
}
