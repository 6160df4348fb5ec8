package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/xenferry/xenferry/xen"
)

// display shows the events of a migration: as JSON lines on out, or for people
// on status: a progress bar where that is a terminal, else a line now and then.
type display struct {
	*courier
	out    io.Writer
	status *os.File
	json   *json.Encoder
	bar    *progressbar.ProgressBar
	budget bool      // print where the downtime went
	saves  bool      // what is shown is a save
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
	d.courier = newCourier(d.print)
	return d
}

// print shows one event; the courier calls it.
func (d *display) print(e xen.Event) {
	if d.json != nil {
		_ = d.json.Encode(e) // a reader that has gone must not stop the migration
		return
	}
	switch e.Kind {
	case xen.EventProgress:
		d.progress(e.Progress)
	case xen.EventRound:
		d.endBar()
		if d.saves {
			fmt.Fprintf(d.status, "round %d: %d pages, %s in %s, %d dirtied meanwhile\n", e.Round.Round, e.Round.Pages-e.Round.Empty,
				bytesText(e.Round.WireBytes), e.Round.Time.Round(time.Millisecond), e.Round.Dirty)
			return
		}
		then := fmt.Sprintf("%d dirtied meanwhile", e.Round.Dirty)
		if e.Round.Part {
			then = "the rest follows"
		}
		fmt.Fprintf(d.status, "round %d: %d pages (%d zero), %s in %s, %s\n", e.Round.Round, e.Round.Pages,
			e.Round.Zero, bytesText(e.Round.WireBytes), e.Round.Time.Round(time.Millisecond), then)
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

// close waits until everything is shown.
func (d *display) close() {
	d.courier.close()
	select {
	case <-d.done:
		d.endBar()
	default: // nobody reads
	}
}

// report prints how a migration ended. A failure's text is printed by main.
func (d *display) report(r *xen.Report) {
	switch r.Outcome {
	case xen.OutcomeMoved:
		fmt.Fprintf(d.out, "%s moved from %s to %s in %s: downtime %s, %d rounds, %s on the wire (%d pages sent, %d zero), data over %s\n",
			nameText(r.Guest.Name), r.From, r.To, r.Total.Round(time.Millisecond), r.Downtime.Round(100*time.Microsecond), len(r.Rounds),
			bytesText(r.WireBytes), r.PagesSent, r.PagesZero, r.Data)
		d.pipe(r)
		if d.budget {
			printDowntime(d.out, r)
		}
	case xen.OutcomeAtSource:
		if r.Guest.State == "" || r.Guest.State == xen.StateRunning {
			paused := ""
			if r.Paused > 0 {
				paused = fmt.Sprintf("; it was suspended for %s", r.Paused.Round(100*time.Microsecond))
			}
			fmt.Fprintf(d.status, "%s runs on here%s\n", guestText(r), paused)
		} else {
			fmt.Fprintf(d.status, "%s was not touched: it is %s here, as before\n", guestText(r), r.Guest.State)
		}
	case xen.OutcomeInDoubt:
		fmt.Fprintf(d.status, inDoubtText, guestText(r), r.To, r.From, r.Guest.Domid, r.ID)
	case xen.OutcomeSuspended:
		fmt.Fprintf(d.status, "%s is still suspended at %s (domain %d), whole: its memory was not touched; its guardian goes on trying, see xenferry status\n", guestText(r), r.From, r.Guest.Domid)
	case xen.OutcomeEnded:
		fmt.Fprintf(d.status, "%s has ended at %s meanwhile: it has shut down, rebooted as another domain, or was destroyed; it has not moved\n", guestText(r), r.From)
	case xen.OutcomeLeftover:
		fmt.Fprintf(d.status, "%s runs at %s; its suspended copy at %s (domain %d) could not be destroyed yet: its guardian goes on trying, see xenferry status\n", guestText(r), r.To, r.From, r.Guest.Domid)
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
	held := ""
	if share := percent(r.Stages.Held); share > 0 {
		held = fmt.Sprintf(", held by the bandwidth limit %d%%", share)
	}
	fmt.Fprintf(d.out, "pages, compression %s: %s; %.1f:1 in all; busy on %d connections: read %d%%, compress %d%%, write %d%%%s, there decompress %d%%, store %d%%; waited for: %s; CPU %s here, %s there\n",
		r.Compress, ways, r.Ratio, r.Lanes, percent(r.Stages.Read), percent(r.Stages.Compress), percent(r.Stages.Write), held,
		percent(r.Receiver.Decompress), percent(r.Receiver.Store), r.Bottleneck,
		r.CPU.Round(10*time.Millisecond), r.Receiver.CPU.Round(10*time.Millisecond))
}

// printDowntime prints its parts.
func printDowntime(out io.Writer, r *xen.Report) {
	fmt.Fprintf(out, "downtime, in ms since the guest was known to have stopped; parts overlap; clocks compared to within %s\n", r.ClockUncertain.Round(time.Microsecond))
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "from\ttook\t  at\t  what\t")
	ms := func(t time.Duration) float64 { return float64(t) / float64(time.Millisecond) }
	for _, b := range r.Budget {
		fmt.Fprintf(w, "%.1f\t%.1f\t  %s\t  %s\t\n", ms(b.From), ms(b.Time), b.Host, b.Name)
	}
	w.Flush()
	fmt.Fprintf(out, "before it, while the guest ran: its domain at %s made in %.1f ms, waited for its devices there for %.1f ms, asked to suspend for %.1f ms\n",
		r.To, ms(r.Created), ms(r.Devices), ms(r.SuspendWait))
}

const inDoubtText = `in doubt: %[1]s was handed to %[2]s and no answer came. It may run there, so it is kept suspended at %[3]s (domain %[4]d).
Its guardian goes on asking %[2]s, and brings it to its end as soon as that answers: see xenferry status. Only if %[2]s will
never answer, look there, and decide: xenferry resolve %[5]s
`

func guestText(r *xen.Report) string {
	if r.Guest.Name == "" {
		return "the guest"
	}
	return "guest " + nameText(r.Guest.Name)
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
