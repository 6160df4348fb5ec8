package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/xen"
)

// keepReport keeps the report of a migration beside its journal, if it has come
// so far as to have one. That it cannot is no failure of the migration.
func keepReport(c *cli.Context, report *xen.Report) {
	store, _, err := openStore(c)
	if err == nil {
		if _, err := store.Read(report.ID, fallback.SideSource); err != nil {
			return
		}
		var text []byte
		if text, err = json.Marshal(report); err == nil {
			err = store.PutReport(report.ID, fallback.SideSource, text)
		}
	}
	if err != nil {
		logrus.Warnf("the figures of migration %s are not kept for status --history: %v", report.ID, err)
	}
}

// readReport returns the kept report of a migration, nil if there is none that
// can be read.
func readReport(store *fallback.Store, sum fallback.Summary) *xen.Report {
	text, err := store.Report(sum.ID, sum.Side)
	if err != nil || text == nil {
		return nil
	}
	report := &xen.Report{}
	if json.Unmarshal(text, report) != nil {
		return nil
	}
	return report
}

// printReport prints how a migration went.
func printReport(w io.Writer, r *xen.Report) {
	fmt.Fprintf(w, "outcome\t%s after %s", r.Outcome, r.Total.Round(time.Millisecond))
	if r.Outcome == xen.OutcomeMoved {
		fmt.Fprintf(w, ", downtime %s", r.Downtime.Round(time.Microsecond))
	}
	fmt.Fprintf(w, "; %d rounds, %s on the wire\n", len(r.Rounds), bytesText(r.WireBytes))
	if r.Error != "" {
		fmt.Fprintf(w, "error\t%s\n", r.Error)
	}
}
