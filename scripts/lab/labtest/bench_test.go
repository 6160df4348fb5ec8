//go:build lab

package labtest

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/xenferry/xenferry/scripts/lab/bar"
	"github.com/xenferry/xenferry/xen"
)

// way is one way to move a guest.
type way struct {
	name    string
	command string // up to the guest's name
	stock   bool
}

// The lab's ssh is emulated and slow, so both are measured over plain TCP as well:
// nc takes the place of ssh, and a waiting nc starts the receiver.
var (
	stockSSH = way{"xl migrate, over ssh", "xl migrate", true}
	stockTCP = way{"xl migrate, over plain TCP", "xl migrate -s /tmp/tcp-to", true}
	ferryTLS = way{"xenferry migrate, over ssh and TLS", "xenferry migrate --json", false}
	ferryTCP = way{"xenferry migrate, over plain TCP", "xenferry migrate --json " + overTCP, false}

	ways = []way{stockSSH, stockTCP, ferryTLS, ferryTCP}
)

// What the total time is held to, beside stock xl in the same run.
const (
	mostOfSSH = 1.0 / 4 // of xl over ssh, with TLS
	mostOfTCP = 1.0 / 3 // of xl over plain TCP, plain as well
)

// result is one migration. Libxl is what of Total libxl took, in which no engine
// has a part: the domain at the destination made, its devices, as far as they
// were waited for, and the domain at the source destroyed.
type result struct {
	Total time.Duration `json:"total_ns"`
	Libxl time.Duration `json:"libxl_ns"`
	Pause Pause         `json:"pause"`
}

// own is what the engine took.
func (r result) own() time.Duration { return r.Total - r.Libxl }

// TestBench moves one guest with each tool, there and back, as often as
// XENFERRY_LAB_ROUNDS says (3), and prints total time and downtime side by
// side. Downtime is the longest silence that the listener of the host where
// the guest arrives heard on the guests' network, with one clock for both.
// XENFERRY_LAB_BENCH names the file for all figures.
func TestBench(t *testing.T) {
	file := os.Getenv("XENFERRY_LAB_BENCH")
	if file == "" {
		t.Skip("a measurement, not a test: run make lab-bench")
	}
	rounds, link := roundsOr(t, 3), linkRate()
	all := map[string]map[string][]result{}
	var bars []bar.Bar
	for _, kind := range []string{"pvh", "hvm"} {
		t.Run(kind, func(t *testing.T) {
			all[kind] = map[string][]result{}
			bench(t, kind, link, rounds, all[kind])
			bars = append(bars, totalBars(kind, rounds, all[kind])...)
		})
	}
	fmt.Printf("\nLink between the hosts: %s.\n", link)
	for kind, results := range all {
		printResults(kind, results)
	}
	conclude(t, file, map[string]any{"link": link, "results": all, "bars": bars}, bars)
}

// conclude writes all figures to the file, and prints how the bars stand: with
// CHECK=1 the test fails where one is missed.
func conclude(t *testing.T, file string, figures any, bars []bar.Bar) {
	t.Helper()
	text, err := json.MarshalIndent(figures, "", " ")
	if err == nil {
		err = os.WriteFile(file, append(text, '\n'), 0o644)
	}
	if err != nil {
		t.Error(err)
	}
	missed := bar.Print(os.Stdout, bars)
	fmt.Printf("\nAll figures are in %s.\n", file)
	if os.Getenv("CHECK") == "1" && missed > 0 {
		t.Errorf("%d of %d bars are missed", missed, len(bars))
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

// benchImageMiB of the guest's 384 MiB are the image; Linux, our program and the
// memory that it writes have most of the rest.
const benchImageMiB = 240

func bench(t *testing.T, kind string, link Link, rounds int, results map[string][]result) {
	l := Open(t)
	link.limit(t, l)
	g := l.CreateGuest(t, l.A, "bench-"+kind, GuestOptions{Type: kind, MemoryMB: 384,
		Args: append(l.putImage(t, benchImageMiB), "xfg.mem=16", "xfg.workload=hot:4MB/s,set=8MiB", "xfg.net_ms=10")})
	from := l.A
	for range rounds {
		for _, w := range ways {
			results[w.name] = append(results[w.name], g.measure(t, from, w))
			from = l.Other(from)
		}
	}
	g.Shutdown(t, from)
}

// measure moves the guest. The clock that takes the time is the host's.
func (g *Guest) measure(t *testing.T, from *Host, w way) result {
	t.Helper()
	to := g.Lab.Other(from)
	receive := ferryReceive
	if w.stock {
		receive = stockReceive
	}
	installTCP(t, from, to, receive)
	before := g.AssertClean(t, from)
	g.MarkHeard(t)
	command := fmt.Sprintf("%s %s %s", w.command, g.Name, to.Name)
	if w.stock {
		command = "{ " + command + " 2>&1; echo \"exit code $?\"; } | listen stamp > /tmp/xl-send.log"
	}
	out := from.Must(t, "began=$(date +%s%N); "+command+" && echo $began $(date +%s%N)")
	var r result
	began, ended := lastTimes(t, out)
	r.Total = ended.Sub(began)
	if w.stock {
		r.Libxl = stockLibxl(t, from.Must(t, "cat /tmp/xl-send.log"), to.Must(t, "cat /tmp/xl-receive.log"), w == stockSSH, ended)
	} else {
		r.Libxl = ferryLibxl(t, out)
	}
	g.AssertClean(t, to)
	r.Pause = g.Pause(t, to, before.N)
	t.Logf("%s, %s to %s: total %v, %v of it libxl's; %v", w.name, from.Name, to.Name, r.Total, r.Libxl, r.Pause)
	return r
}

// lastTimes reads the last line: two times in ns since 1970.
func lastTimes(t *testing.T, out string) (began, ended time.Time) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var a, b int64
	if _, err := fmt.Sscan(lines[len(lines)-1], &a, &b); err != nil {
		t.Fatalf("no times at the end of:\n%s", out)
	}
	return time.Unix(0, a), time.Unix(0, b)
}

// Lines of xl's log between which libxl alone is at work, all but the last of
// the receiver.
var libxlMarks = []*regexp.Regexp{
	regexp.MustCompile(`(?m)^(\d+) Loading new save file`), // before, it waits for the sender, over TCP even before that is started
	regexp.MustCompile(`(?m)^(\d+) .*Restoring domain`),    // its helper begins
	regexp.MustCompile(`(?m)^(\d+) .*Restore successful`),
	regexp.MustCompile(`(?m)^(\d+) migration target: Transfer complete`),
	regexp.MustCompile(`(?m)^(\d+) migration sender: Target reports successful startup`),
}

// stockLibxl reads libxl's part out of the logs of both ends, whose clocks
// agree. Over ssh the sender's log has the receiver's in it.
func stockLibxl(t *testing.T, sent, received string, one bool, ended time.Time) time.Duration {
	t.Helper()
	if !strings.Contains(sent, " exit code 0\n") {
		t.Fatalf("xl migrate failed:\n%s\n%s", sent, received)
	}
	var at []time.Time
	for i, mark := range libxlMarks {
		log := received
		if one || i == len(libxlMarks)-1 {
			log = sent
		}
		m := mark.FindStringSubmatch(log)
		if m == nil {
			t.Fatalf("xl has not logged %v:\n%s\n%s", mark, sent, received)
		}
		ns, _ := strconv.ParseInt(m[1], 10, 64)
		at = append(at, time.Unix(0, ns))
	}
	return at[1].Sub(at[0]) + at[3].Sub(at[2]) + ended.Sub(at[4])
}

// ferryLibxl reads it out of the report.
func ferryLibxl(t *testing.T, out string) time.Duration {
	t.Helper()
	var report *xen.Report
	for line := range strings.Lines(out) {
		var e xen.Event
		if json.Unmarshal([]byte(line), &e) == nil && e.Report != nil {
			report = e.Report
		}
	}
	if report == nil {
		t.Fatalf("no report in:\n%s", out)
	}
	libxl := report.Created + report.Devices
	for _, p := range report.Phases {
		if p.Name == "destroy" {
			libxl += p.Time
		}
	}
	return libxl
}

// totalBars compares the totals without libxl's part.
func totalBars(kind string, rounds int, results map[string][]result) []bar.Bar {
	one := func(most float64, ours, stock way) bar.Bar {
		return bar.Bar{
			Name:   fmt.Sprintf("%s: %s to %s, total without libxl's part", kind, ours.name, stock.name),
			Figure: ratio(owns(results[ours.name]), owns(results[stock.name])), Most: most,
			Few: len(results[ours.name]) < rounds || len(results[stock.name]) < rounds,
		}
	}
	return []bar.Bar{one(mostOfSSH, ferryTLS, stockSSH), one(mostOfTCP, ferryTCP, stockTCP)}
}

func owns(rs []result) (d []time.Duration) {
	for _, r := range rs {
		d = append(d, r.own())
	}
	return d
}

// Receivers. What goes to descriptor 3 goes to the sender.
const (
	stockReceive = "xl migrate-receive 2>&1 >&3 | listen stamp > /tmp/xl-receive.log"
	ferryReceive = "xenferry migrate-receive >&3 2> /tmp/xenferry-receive.log"
)

// overTCP are the options of xenferry migrate for all in plain TCP.
const overTCP = "--data plain -s /tmp/tcp-to"

// installTCP makes /tmp/tcp-to on from, which stands in for ssh: it connects
// its stdin and stdout with a receiver on to.
func installTCP(t *testing.T, from, to *Host, receive string) {
	t.Helper()
	to.Must(t, fmt.Sprintf(`pkill -x nc; rm -f /tmp/xl-pipe; mkfifo /tmp/xl-pipe
(setsid sh -c 'nc -l -p 7010 < /tmp/xl-pipe | { %s; } 3> /tmp/xl-pipe > /tmp/xl-pipe' > /dev/null 2>&1 < /dev/null &)`, receive))
	from.Must(t, fmt.Sprintf("printf '#!/bin/sh\\nexec nc -N %s 7010\\n' > /tmp/tcp-to; chmod +x /tmp/tcp-to", to.Name))
}

// printResults prints a table to stdout: it is what the command is for.
func printResults(kind string, results map[string][]result) {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "%s guest\ttotal, median\tmin to max\tof it libxl's\twithout it\tdowntime, median\tmin to max\n", kind)
	for _, way := range ways {
		var totals, parts, downs []time.Duration
		for _, r := range results[way.name] {
			totals, parts, downs = append(totals, r.Total), append(parts, r.Libxl), append(downs, r.Pause.Network)
		}
		if len(totals) == 0 {
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%.2f s\t%.2f s\t%s\n", way.name, spread(totals), median(parts).Seconds(),
			median(owns(results[way.name])).Seconds(), spread(downs))
	}
	w.Flush()
}

// spread returns median, least and most in seconds.
func spread(d []time.Duration) string {
	d = slices.Sorted(slices.Values(d))
	return fmt.Sprintf("%.2f s\t%.2f to %.2f", d[len(d)/2].Seconds(), d[0].Seconds(), d[len(d)-1].Seconds())
}
