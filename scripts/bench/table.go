package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// summary is the medians of all runs of one mode on one link.
type summary struct {
	Link     string        `json:"link"`
	Mode     string        `json:"mode"`
	Runs     int           `json:"runs"`
	Total    time.Duration `json:"total_ns"`
	TotalMin time.Duration `json:"total_min_ns"`
	TotalMax time.Duration `json:"total_max_ns"`
	Wall     time.Duration `json:"wall_ns"`
	Downtime time.Duration `json:"downtime_ns"`
	Wire     uint64        `json:"wire_bytes"`
	CPU      time.Duration `json:"cpu_ns"`
}

// isQEMU tells whether a mode is one of the peer's.
func isQEMU(mode string) bool { return strings.HasPrefix(mode, "qemu-") }

// median returns the middle of what get takes from the results, the lower one
// of two.
func median[T cmp.Ordered](rs []Result, get func(Result) T) T {
	var all []T
	for _, r := range rs {
		all = append(all, get(r))
	}
	slices.Sort(all)
	return all[(len(all)-1)/2]
}

// summarize makes the medians, in the order in which modes first ran.
func summarize(results []Result) []summary {
	var list []summary
	groups := map[[2]string][]Result{}
	for _, r := range results {
		key := [2]string{r.Link, r.Mode}
		if groups[key] == nil {
			list = append(list, summary{Link: r.Link, Mode: r.Mode})
		}
		groups[key] = append(groups[key], r)
	}
	for i := range list {
		s := &list[i]
		rs := groups[[2]string{s.Link, s.Mode}]
		total := func(r Result) time.Duration { return r.Total }
		s.Runs = len(rs)
		s.Total = median(rs, total)
		s.TotalMin = total(slices.MinFunc(rs, func(a, b Result) int { return cmp.Compare(a.Total, b.Total) }))
		s.TotalMax = total(slices.MaxFunc(rs, func(a, b Result) int { return cmp.Compare(a.Total, b.Total) }))
		s.Wall = median(rs, func(r Result) time.Duration { return r.Wall })
		s.Downtime = median(rs, func(r Result) time.Duration { return r.Downtime })
		s.Wire = median(rs, func(r Result) uint64 { return r.Wire })
		s.CPU = median(rs, func(r Result) time.Duration { return r.CPU })
	}
	return list
}

// best returns the summary with the least total of those that are wanted on a
// link, nil if there is none.
func best(list []summary, link string, wanted func(mode string) bool) *summary {
	var b *summary
	for i := range list {
		if s := &list[i]; s.Link == link && wanted(s.Mode) && (b == nil || s.Total < b.Total) {
			b = s
		}
	}
	return b
}

const rowFormat = "| %-18s | %8s | %12s | %12s | %9s | %11s | %8s | %6s |\n"

// printTable writes one table a link, in Markdown.
func printTable(out io.Writer, list []summary, links []link) {
	for _, l := range links {
		if !slices.ContainsFunc(list, func(s summary) bool { return s.Link == l.Name }) {
			continue
		}
		peer := best(list, l.Name, isQEMU)
		fmt.Fprintf(out, "\n%s, idle guest\n\n", l.Text)
		fmt.Fprintf(out, rowFormat, "mode", "total s", "least-most", "to best QEMU", "outside s", "downtime ms", "wire MB", "CPU s")
		fmt.Fprintln(out, "|---|---:|---:|---:|---:|---:|---:|---:|")
		for _, s := range list {
			if s.Link != l.Name {
				continue
			}
			ratio := "-"
			if peer != nil {
				ratio = fmt.Sprintf("%.2f", s.Total.Seconds()/peer.Total.Seconds())
			}
			name := s.Mode
			if !isQEMU(name) {
				name = "xenferry " + name
			}
			text := func(format string, v ...any) string { return fmt.Sprintf(format, v...) }
			fmt.Fprintf(out, rowFormat, name, text("%.2f", s.Total.Seconds()),
				text("%.2f-%.2f", s.TotalMin.Seconds(), s.TotalMax.Seconds()), ratio, text("%.2f", s.Wall.Seconds()),
				text("%.1f", s.Downtime.Seconds()*1e3), text("%.0f", float64(s.Wire)/1e6), text("%.2f", s.CPU.Seconds()))
		}
	}
}

// document is what the JSON file holds.
type document struct {
	Started  time.Time `json:"started"`
	Took     float64   `json:"took_s"`
	Machine  string    `json:"machine"`
	Cores    int       `json:"cores"`
	Go       string    `json:"go"`
	Image    string    `json:"image"`
	MiB      int       `json:"memory_mib"`
	Medians  []summary `json:"medians"`
	Bars     []bar     `json:"bars"`
	Measured []Result  `json:"measured"`
	Peaks    []Peak    `json:"peaks,omitempty"`
}

// publish prints the tables and the bars, and writes the JSON file.
func (s *session) publish(out io.Writer) error {
	list := summarize(s.results)
	bars := checkBars(list, s.peaks)
	printTable(out, list, s.opts.links)
	doc := document{
		Started: s.started, Took: time.Since(s.started).Seconds(), Machine: machine(), Cores: runtime.NumCPU(),
		Go: runtime.Version(), Image: s.img.made.String(), MiB: s.opts.mib, Medians: list, Bars: bars, Measured: s.results, Peaks: s.peaks,
	}
	text, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.opts.out, append(text, '\n'), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nAll figures are in %s.\n\n", s.opts.out)
	missed := printBars(out, bars)
	if s.opts.check && len(bars) == 0 {
		return errors.New("nothing that has a bar was measured: leave out LINKS and MODES")
	}
	if s.opts.check && missed > 0 {
		return fmt.Errorf("%d of %d bars are missed: %s", missed, len(bars), bars[0])
	}
	return nil
}

// machine returns the processor's name and the kernel's release.
func machine() string {
	name := "unknown processor"
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			name = strings.TrimSpace(value)
			break
		}
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return name + ", Linux " + strings.TrimSpace(string(release))
}
