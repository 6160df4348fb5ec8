package signal

import (
	"fmt"
	"io"

	"github.com/xenferry/xenferry/scripts/lab/bar"
)

// Print writes the tables, in Markdown, and how each bar stands. It returns how
// many bars are missed.
func (d *Document) Print(out io.Writer) (missed int) {
	if len(d.Signals) > 0 {
		fmt.Fprintf(out, "\nXen %s: from the guest's stop until dom0 knows it, in ms\n\n", d.Xen)
		fmt.Fprintln(out, "| clients | requests/s | suspends | event p50 | p99 | worst | program told, p50 | p99 | worst | watch p50 | p99 | worst | poller's doubt | suspends not seen well |")
		fmt.Fprintln(out, "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
	}
	for _, s := range d.Signals {
		e, w := s.EventSpread(), s.WatchSpread()
		fmt.Fprintf(out, "| %d | %d | %d + %d | %s | + %s | %s | %.2f | %d |\n", s.Clients, s.Requests, e.N, w.N, e, s.ToldSpread(), w, milliseconds(s.Doubt()), s.Unseen)
	}
	if s := d.Saves; s != nil {
		fmt.Fprintf(out, "\nThe same guest saved with %d clients (%d requests/s), in s\n\n", s.Clients, s.Requests)
		fmt.Fprintln(out, "| command | saves | failed | p50 | worst |")
		fmt.Fprintln(out, "|---|---:|---:|---:|---:|")
		for _, tool := range []string{"xl", "xenferry"} {
			failed, took := s.Of(tool)
			fmt.Fprintf(out, "| %s save -c | %d | %d | %.1f | %.1f |\n", tool, failed+took.N, failed, took.P50.Seconds(), took.Worst.Seconds())
		}
	}
	fmt.Fprintln(out)
	return bar.Print(out, d.Bars)
}

// String is three cells of the table.
func (s Spread) String() string {
	return fmt.Sprintf("%.2f | %.2f | %.2f", milliseconds(s.P50), milliseconds(s.P99), milliseconds(s.Worst))
}
