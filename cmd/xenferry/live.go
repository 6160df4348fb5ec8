package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/xenferry/xenferry/evtchn"
	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/xen"
)

// liveStatus is what a program shows while it works on a migration.
type liveStatus struct {
	PID     int  `json:"pid"`
	Stopped bool `json:"stopped"` // by a signal: it does nothing until it is continued
	xen.Figures
}

// errNoMigration: there is no migration of that guest.
var errNoMigration = errors.New("no migration of it is under way on this host")

// findMigration finds the migration of a guest, given its name, its domain id
// or the migration's own id. Of several, one that is worked on comes first,
// then the source's, then the latest. Finished ones are found by history only.
func findMigration(store *fallback.Store, all []fallback.Summary, word string, history bool) (fallback.Summary, error) {
	best, rank := fallback.Summary{}, -1
	for _, sum := range all {
		if !isOf(sum, word) || sum.Finished && !history {
			continue
		}
		r := 0
		if !sum.Finished {
			r += 4
		}
		if store.Held(sum.ID, sum.Side) {
			r += 2
		}
		if sum.Side == fallback.SideSource {
			r++
		}
		if r >= rank {
			best, rank = sum, r
		}
	}
	if rank < 0 {
		return best, fmt.Errorf("%s: %w (see xenferry status --history)", word, errNoMigration)
	}
	return best, nil
}

func isOf(sum fallback.Summary, word string) bool {
	domid, err := strconv.ParseUint(word, 10, 32)
	return sum.Guest == word || sum.ID == word || sum.UUID == word || err == nil && domid > 0 && uint64(sum.GuestDomid()) == domid
}

// openView opens what the program at work on a migration shows.
func openView(sum fallback.Summary) (*xen.PanelView, error) {
	view, err := xen.OpenPanel(sum.ID, sum.Side, false)
	return view, explainNoPage(err)
}

// explainNoPage says why there may be no page.
func explainNoPage(err error) error {
	if errors.Is(err, evtchn.ErrNoPage) {
		return fmt.Errorf("%w: migrate and save do; a guardian, a receiver, and older releases do not", evtchn.ErrNoPage)
	}
	return err
}

// look reads it.
func look(view *xen.PanelView) (*liveStatus, error) {
	figures, err := view.Figures()
	if err != nil {
		return nil, err
	}
	return &liveStatus{PID: view.Owner().PID, Stopped: view.Owner().Stopped(), Figures: figures}, nil
}

// lookOnce opens and reads it.
func lookOnce(sum fallback.Summary) (*liveStatus, error) {
	view, err := openView(sum)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	return look(view)
}

// short is the figures in a few words.
func (l *liveStatus) short() string {
	text := l.Phase
	if l.OfPages > 0 {
		text += fmt.Sprintf(", round %d, %d%%, %s/s", l.Round, percent(l.Pages, l.OfPages), bytesText(l.BytesPerS))
	}
	if l.Stopped {
		text += fmt.Sprintf(", process %d is stopped", l.PID)
	}
	return text
}

func percent(part, of uint64) uint64 {
	if of == 0 {
		return 0
	}
	return min(uint64(100*float64(part)/float64(of)), 100)
}

// text is a migration in all detail, for people.
func (s migrationStatus) text() string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "guest\t%s, domain %d; here is the %s, the other host is %s\n", nameText(s.Guest), s.GuestDomid(), s.Side, s.Peer)
	fmt.Fprintf(w, "migration\t%s\n", s.ID)
	state := fmt.Sprintf("%s since %s", s.State, s.Updated().Local().Format(time.DateTime))
	if !s.WorkedOn && !s.Finished {
		state += "; nobody works on it: see xenferry recover"
	}
	fmt.Fprintf(w, "state\t%s\n", state)
	if s.Live != nil {
		s.Live.print(w)
	} else if s.NotLive != "" {
		fmt.Fprintf(w, "figures\t%s\n", s.NotLive)
	}
	if s.Report != nil {
		printReport(w, s.Report)
	}
	_ = w.Flush() // into memory
	if s.Report != nil && s.Report.Outcome == xen.OutcomeMoved {
		printDowntime(&out, s.Report)
	}
	return out.String()
}

func (l *liveStatus) print(w *tabwriter.Writer) {
	stopped := ""
	if l.Stopped {
		stopped = fmt.Sprintf("; IT IS STOPPED: kill -CONT %d lets it go on", l.PID)
	}
	fmt.Fprintf(w, "program\tprocess %d, for %s%s\n", l.PID, time.Since(l.Began).Round(time.Second), stopped)
	fmt.Fprintf(w, "phase\t%s\n", l.Phase)
	fmt.Fprintf(w, "round\t%d: %d of %d pages (%d%%), %d zero, %d copies\n", l.Round, l.Pages, l.OfPages, percent(l.Pages, l.OfPages), l.Zero, l.Copied)
	fmt.Fprintf(w, "by the guest\t%d pages (%s) written in the round before, of %d\n", l.Dirty, bytesText(l.Dirty*xen.PageSize), l.MemoryPages)
	fmt.Fprintf(w, "sent\t%s, %s/s\n", bytesText(l.WireBytes), bytesText(l.BytesPerS))
	if all := float64(l.RoundTime) * float64(l.Threads); all > 0 {
		share := func(d time.Duration) float64 { return min(100*float64(d)/all, 100) }
		fmt.Fprintf(w, "busy\t%d of %d connections at work: read %.0f%%, compress %.0f%%, write %.0f%%\n", l.Threads, l.Connections, share(l.Stages.Read), share(l.Stages.Compress), share(l.Stages.Write))
	}
	fmt.Fprintf(w, "compression\t%s, now %s\n", l.Compress, l.Method)
	if !l.Tunable {
		return
	}
	downtime := "none"
	if l.MaxDowntime > 0 {
		downtime = l.MaxDowntime.String()
	}
	fmt.Fprintf(w, "limits\tbandwidth %s, downtime %s; changes by xenferry tune: %d\n", xen.RateText(l.RateBits), downtime, l.Changes)
	if l.Throttle > 0 {
		fmt.Fprintf(w, "throttle\tthe guest has %d%% less processor time\n", l.Throttle)
	}
}

func countLines(text string) int { return strings.Count(text, "\n") }
