package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// bar is one promise: a figure of ours is at most so many times another.
type bar struct {
	Name  string  `json:"name"`
	Ratio float64 `json:"ratio"`
	Most  float64 `json:"most"`
}

// missed tells whether the bar is not held.
func (b bar) missed() bool { return b.Ratio > b.Most }

// String says how it stands.
func (b bar) String() string {
	word := "held"
	if b.missed() {
		word = "MISSED"
	}
	return fmt.Sprintf("%s: %.2f, at most %.2f: %s", b.Name, b.Ratio, b.Most, word)
}

// The bars on ratios of total times and of CPU seconds.
const (
	mostSlow     = 0.93 // auto to the best of QEMU at 1 Gbit/s
	mostFast     = 1.00 // the same on faster links
	mostOverBest = 1.03 // auto to our own best fixed setting
	mostCPU      = 1.20 // auto to QEMU's multifd at 10 Gbit/s
	mostTLS      = 1.25 // with TLS to without, unshaped
)

// checkBars compares what was measured with the bars, the worst first. A bar
// whose modes were not measured is left out.
func checkBars(list []summary, peaks []Peak) []bar {
	var bars []bar
	for _, p := range peaks {
		name := fmt.Sprintf("peak memory of the %s with a guest of %d GiB, %d MiB of %d", p.Program, largeMiB>>10, p.Bytes>>20, peakMost>>20)
		bars = append(bars, bar{name, float64(p.Bytes) / peakMost, 1})
	}
	add := func(name string, most float64, ours, other *summary, get func(*summary) time.Duration) {
		if ours != nil && other != nil && get(other) > 0 {
			bars = append(bars, bar{fmt.Sprintf(name, other.Mode), get(ours).Seconds() / get(other).Seconds(), most})
		}
	}
	total := func(s *summary) time.Duration { return s.Total }
	cpu := func(s *summary) time.Duration { return s.CPU }
	for _, l := range links {
		auto := best(list, l.Name, is("auto"))
		most := mostFast
		if l.Name == "1g" {
			most = mostSlow
		}
		add("total, "+l.Text+", auto to %s", most, auto, best(list, l.Name, isQEMU), total)
		add("total, "+l.Text+", auto to our %s", mostOverBest, auto, best(list, l.Name, isFixed), total)
	}
	add("CPU seconds, 10 Gbit/s, auto to %s", mostCPU, best(list, "10g", is("auto")), best(list, "10g", is("qemu-multifd")), cpu)
	add("total, unshaped, TLS to plain %s", mostTLS, best(list, "unshaped", is("auto-tls")), best(list, "unshaped", is("auto")), total)
	slices.SortStableFunc(bars, func(a, b bar) int { return cmp.Compare(b.Ratio/b.Most, a.Ratio/a.Most) })
	return bars
}

func is(name string) func(string) bool { return func(mode string) bool { return mode == name } }

// isFixed tells whether a mode is a setting of ours that auto competes with.
func isFixed(mode string) bool { return !isQEMU(mode) && !strings.HasPrefix(mode, "auto") }

// printBars writes how each bar stands, the worst last, and returns how many
// are missed.
func printBars(out io.Writer, bars []bar) (missed int) {
	for _, b := range slices.Backward(bars) {
		if b.missed() {
			missed++
		}
	}
	for i, b := range slices.Backward(bars) {
		if i == 0 {
			fmt.Fprint(out, "worst: ")
		}
		fmt.Fprintln(out, b)
	}
	return missed
}
