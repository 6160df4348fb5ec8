package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/evtchn"
	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/xen"
)

// tuneLimit is how long tune waits for an answer, which takes milliseconds of
// a program that runs.
const tuneLimit = 5 * time.Second

func tuneCommand() *cli.Command {
	return &cli.Command{
		Name:      "tune",
		Usage:     "change the settings of a migration while it runs",
		ArgsUsage: "<domain>",
		Description: "Asks the xenferry migrate on this host that moves <domain> (a name, a domain id or\n" +
			"the id of a migration) to go on with other settings, and waits for its answer.\n" +
			"All of what is asked for is changed or, if the program refuses, nothing.\n" +
			"xenferry status <domain> shows what is in force. More connections than there\n" +
			"are cannot be opened on the way. A throttle ends when the guest is asked to\n" +
			"suspend, and whenever the migration does.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "bandwidth-limit", Usage: "cap the data connections at so many `bits` a second on the link (800M, 2.5G); 0: no cap"},
			&cli.StringFlag{Name: "compress", Usage: "encode pages as `auto`, off, s2, zstd[:1-22], zlib[:1-9] or zstd-long[:1-22] from now on"},
			&cli.DurationFlag{Name: "max-downtime", Usage: "let the guest run on here when it would be suspended for longer before it is handed over; 0: whatever the other limits allow"},
			&cli.Uint64Flag{Name: "threads", Usage: "let `n` of the connections work at once, from 1 to all that there are: each keeps about one core busy while pages are compressed"},
			&cli.Uint64Flag{Name: "throttle", Usage: fmt.Sprintf("take `percent` of its processor time from the guest, so that it writes less, up to %d; 0: give all back", xen.MaxThrottle)},
			&cli.DurationFlag{Name: "timeout", Value: tuneLimit, Usage: "how long the program may take to answer"},
			jsonFlag,
		},
		OnUsageError: usageError,
		Action:       tune,
	}
}

// tuned is the JSON of tune.
type tuned struct {
	ID      string       `json:"id"`
	Guest   string       `json:"guest"`
	PID     int          `json:"pid"`
	Outcome string       `json:"outcome"` // applied, refused, no answer, gone, unsure
	Error   string       `json:"error,omitempty"`
	Figures *xen.Figures `json:"figures,omitempty"` // after it
}

func tune(c *cli.Context) error {
	args := c.Args().Slice()
	if len(args) != 1 {
		return usagef("tune takes one domain, not %d arguments (see xenferry tune --help)", len(args))
	}
	change, err := changeArgs(c)
	if err != nil {
		return err
	}
	store, _, err := openStore(c)
	if err != nil {
		return err
	}
	all, listErr := store.List()
	sum, err := findMigration(store, all, args[0], false)
	if err != nil {
		return errors.Join(err, listErr)
	}
	if sum.Side != fallback.SideSource {
		return fmt.Errorf("%s arrives here from %s: tune its migration there, %w", sum.Guest, sum.Peer, errNoMigration)
	}
	view, err := xen.OpenPanel(sum.ID, sum.Side, true)
	if err != nil {
		return fmt.Errorf("the migration of %s cannot be tuned: %w", sum.Guest, explainNoPage(err))
	}
	defer view.Close()
	err = explainAnswer(view, c.Duration("timeout"), view.Change(c.Context, change, c.Duration("timeout")))
	return printTuned(c, view, sum, change, err)
}

// changeArgs turns the flags into a change.
func changeArgs(c *cli.Context) (xen.Change, error) {
	var change xen.Change
	if c.IsSet("bandwidth-limit") {
		bits, err := xen.ParseRate(c.String("bandwidth-limit"))
		if err != nil {
			return change, usagef("--bandwidth-limit: %v", err)
		}
		change.RateBits = &bits
	}
	if c.IsSet("compress") {
		compress, err := xen.ParseCompression(c.String("compress"))
		if err != nil {
			return change, usageErr{err.Error()}
		}
		change.Compress = &compress
	}
	if c.IsSet("max-downtime") {
		d := c.Duration("max-downtime")
		if d < 0 {
			return change, usagef("--max-downtime %s: it cannot be negative", d)
		}
		change.MaxDowntime = &d
	}
	if c.IsSet("threads") {
		n := c.Uint64("threads")
		if n < 1 || n > xen.MaxConnections {
			return change, usagef("--threads %d: 1 to %d are possible, and no more than the migration has connections", n, xen.MaxConnections)
		}
		change.Threads = &n
	}
	if c.IsSet("throttle") {
		n := c.Uint64("throttle")
		if n > xen.MaxThrottle {
			return change, usagef("--throttle %d: 0 to %d percent are possible", n, xen.MaxThrottle)
		}
		change.Throttle = &n
	}
	if change == (xen.Change{}) {
		return change, usagef("tune: say what to change: --bandwidth-limit, --compress, --max-downtime, --threads or --throttle")
	}
	if c.Duration("timeout") <= 0 {
		return change, usagef("--timeout %s: it must be more than nothing", c.Duration("timeout"))
	}
	return change, nil
}

// explainAnswer says what it means that there is none.
func explainAnswer(view *xen.PanelView, limit time.Duration, err error) error {
	pid := view.Owner().PID
	switch {
	case errors.Is(err, evtchn.ErrGone):
		return fmt.Errorf("process %d: %w", pid, err)
	case errors.Is(err, evtchn.ErrNoAnswer) && view.Owner().Stopped():
		return fmt.Errorf("process %d is stopped by a signal (kill -CONT %[1]d lets it go on): %w, nothing was changed", pid, err)
	case errors.Is(err, evtchn.ErrNoAnswer), errors.Is(err, evtchn.ErrDeskBusy):
		return fmt.Errorf("process %d, within %s: %w, nothing was changed", pid, limit, err)
	case errors.Is(err, evtchn.ErrUnsure):
		return fmt.Errorf("process %d: %w: see xenferry status for what is in force", pid, err)
	}
	return err
}

// outcomeOf names an answer.
func outcomeOf(err error) string {
	switch {
	case err == nil:
		return "applied"
	case errors.Is(err, xen.ErrChangeRefused):
		return "refused"
	case errors.Is(err, evtchn.ErrGone):
		return "gone"
	case errors.Is(err, evtchn.ErrNoAnswer), errors.Is(err, evtchn.ErrDeskBusy):
		return "no answer"
	}
	return "unsure"
}

func printTuned(c *cli.Context, view *xen.PanelView, sum fallback.Summary, change xen.Change, err error) error {
	if !c.Bool(jsonFlag.Name) {
		if err == nil {
			fmt.Fprintf(c.App.Writer, "applied to the migration of %s: %s\n", sum.Guest, change)
		}
		return err
	}
	result := tuned{ID: sum.ID, Guest: sum.Guest, PID: view.Owner().PID, Outcome: outcomeOf(err)}
	if err != nil {
		result.Error = err.Error()
	}
	if figures, readErr := view.Figures(); readErr == nil {
		result.Figures = &figures
	}
	return joinOutput(err, json.NewEncoder(c.App.Writer).Encode(result))
}
