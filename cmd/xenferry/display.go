package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/xenferry/xenferry/xen"
)

// display shows the events of a migration: as JSON lines on out, or for people
// on status: a progress bar where that is a terminal, else a line now and then.
type display struct {
	out    io.Writer
	status *os.File
	json   *json.Encoder
	bar    *progressbar.ProgressBar
	round  int       // of the bar
	last   time.Time // last plain line
}

// plainEvery is how often a line is written where there is no terminal.
const plainEvery = 5 * time.Second

func newDisplay(out io.Writer, status *os.File, asJSON bool) *display {
	d := &display{out: out, status: status, round: -1, last: time.Now()}
	if asJSON {
		d.json = json.NewEncoder(out)
	}
	return d
}

func (d *display) event(e xen.Event) {
	if d.json != nil {
		_ = d.json.Encode(e) // a reader that has gone must not stop the migration
		return
	}
	switch e.Kind {
	case xen.EventProgress:
		d.progress(e.Progress)
	case xen.EventRound:
		d.endBar()
		fmt.Fprintf(d.status, "round %d: %d pages (%d zero), %s in %s, %d dirtied meanwhile\n", e.Round.Round, e.Round.Pages,
			e.Round.Zero, bytesText(e.Round.WireBytes), e.Round.Time.Round(time.Millisecond), e.Round.Dirty)
	case xen.EventNote:
		d.endBar()
		fmt.Fprintf(d.status, "note: %s\n", e.Text)
	case xen.EventEnd:
		d.endBar()
		d.report(e.Report)
	}
}

func (d *display) progress(p *xen.Progress) {
	if !term.IsTerminal(int(d.status.Fd())) {
		if time.Since(d.last) >= plainEvery {
			d.last = time.Now()
			fmt.Fprintf(d.status, "round %d: %d of %d pages, %s/s, %s\n", p.Round, p.Pages, p.OfPages, bytesText(p.BytesPerS), p.Method)
		}
		return
	}
	if d.bar == nil || d.round != p.Round {
		d.endBar()
		d.round = p.Round
		d.bar = progressbar.NewOptions64(int64(p.OfPages), progressbar.OptionSetWriter(d.status),
			progressbar.OptionSetDescription(fmt.Sprintf("round %d", p.Round)), progressbar.OptionFullWidth(),
			progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(true))
	}
	d.bar.Describe(fmt.Sprintf("round %d, %s/s, %s", p.Round, bytesText(p.BytesPerS), p.Method))
	_ = d.bar.Set64(int64(p.Pages))
}

func (d *display) endBar() {
	if d.bar != nil {
		_ = d.bar.Clear()
		d.bar = nil
	}
}

func (d *display) close() { d.endBar() }

// report prints how a migration ended. A failure's text is printed by main.
func (d *display) report(r *xen.Report) {
	switch r.Outcome {
	case xen.OutcomeMoved:
		fmt.Fprintf(d.out, "%s moved from %s to %s in %s: downtime %s, %d rounds, %s on the wire (%d pages sent, %d zero), data over %s\n",
			r.Guest.Name, r.From, r.To, r.Total.Round(time.Millisecond), r.Downtime.Round(100*time.Microsecond), len(r.Rounds),
			bytesText(r.WireBytes), r.PagesSent, r.PagesZero, r.Data)
		d.pipe(r)
	case xen.OutcomeAtSource:
		fmt.Fprintf(d.status, "%s runs on here\n", guestText(r))
	case xen.OutcomeInDoubt:
		fmt.Fprintf(d.status, inDoubtText, guestText(r), r.To, r.From, r.Guest.Domid)
	case xen.OutcomeSuspended:
		fmt.Fprintf(d.status, "%s is still suspended at %s (domain %d), whole: its memory was not touched\n", guestText(r), r.From, r.Guest.Domid)
	case xen.OutcomeLeftover:
		fmt.Fprintf(d.status, "%s runs at %s; destroy its suspended copy at %s: xl destroy %d\n", guestText(r), r.To, r.From, r.Guest.Domid)
	}
}

// pipe prints how the pages travelled.
func (d *display) pipe(r *xen.Report) {
	ways := fmt.Sprintf("%d copies", r.PagesCopied)
	for _, m := range r.Methods {
		ways += fmt.Sprintf(", %d %s", m.Pages, m.Method)
		if m.WireBytes > 0 && m.Method != xen.NoCompression.String() {
			ways += fmt.Sprintf(" (%.1f:1)", float64(m.Pages*xen.PageSize)/float64(m.WireBytes))
		}
	}
	percent := func(t time.Duration) int { return int(100*r.Busy(t) + 0.5) }
	fmt.Fprintf(d.out, "pages, compression %s: %s; %.1f:1 in all; busy on %d connections: read %d%%, compress %d%%, write %d%%, there decompress %d%%, store %d%%; waited for: %s; CPU %s here, %s there\n",
		r.Compress, ways, r.Ratio, r.Lanes, percent(r.Stages.Read), percent(r.Stages.Compress), percent(r.Stages.Write),
		percent(r.Receiver.Decompress), percent(r.Receiver.Store), r.Bottleneck,
		r.CPU.Round(10*time.Millisecond), r.Receiver.CPU.Round(10*time.Millisecond))
}

const inDoubtText = `in doubt: %[1]s was handed to %[2]s and no answer came. It may run there, so it is kept suspended at %[3]s (domain %[4]d).
Look at %[2]s with "xl list": if it runs there, "xl destroy %[4]d" at %[3]s; never resume it while it runs there.
`

func guestText(r *xen.Report) string {
	if r.Guest.Name == "" {
		return "the guest"
	}
	return "guest " + r.Guest.Name
}

// bytesText writes a number of bytes for people, in powers of 1024.
func bytesText(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}
