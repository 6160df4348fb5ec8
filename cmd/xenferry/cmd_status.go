package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/xenferry/xenferry/evtchn"
	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/xen"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:      "status",
		Usage:     "show the migrations of this host that are under way, unfinished or in doubt",
		ArgsUsage: "[domain]",
		Description: "Reads the journals, and the figures that a sender at work shows in shared memory;\n" +
			"touches nothing. WORKED ON tells whether a sender, a receiver or a guardian is at\n" +
			"it now, which one that only asks the destination is not; what nobody works on,\n" +
			"xenferry recover does. With [domain] (a name, a domain id or the id of a\n" +
			"migration), all that is known of its migration; with --history also of one that is\n" +
			"over: at its source, the parts of the downtime.",
		Flags: []cli.Flag{
			jsonFlag,
			&cli.BoolFlag{Name: "history", Usage: "show finished ones, too"},
			&cli.BoolFlag{Name: "watch", Usage: "with [domain]: show it again each second, until its program has ended"},
		},
		OnUsageError: usageError,
		Action:       status,
	}
}

// migrationStatus is one line of status, and one value of its JSON.
type migrationStatus struct {
	fallback.Summary
	WorkedOn bool        `json:"worked_on"`
	Live     *liveStatus `json:"live,omitempty"`       // where a program shows its figures
	NotLive  string      `json:"live_error,omitempty"` // why there are none
	Report   *xen.Report `json:"report,omitempty"`     // of a migration from here that has ended
}

func status(c *cli.Context) error {
	args := c.Args().Slice()
	if len(args) > 1 || c.Bool("watch") && (len(args) == 0 || c.Bool("history")) {
		return usagef("status takes one domain, or none; --watch goes with a domain, and not with --history")
	}
	store, _, err := openStore(c)
	if err != nil {
		return err
	}
	all, err := store.List() // shown as far as it can be read
	if len(args) == 1 {
		found, findErr := findMigration(store, all, args[0], c.Bool("history"))
		if findErr != nil {
			return errors.Join(findErr, err)
		}
		return errors.Join(err, showMigration(c, store, found))
	}
	shown := []migrationStatus{}
	for _, sum := range all {
		// Nothing can be done about an unsure one here, but its source waits for a person.
		if !sum.Finished || sum.State == fallback.DestinationUnsure || c.Bool("history") {
			shown = append(shown, statusOf(store, sum))
		}
	}
	return errors.Join(err, printMigrations(c, shown))
}

// statusOf adds to a journal what the program at work on it shows now.
func statusOf(store *fallback.Store, sum fallback.Summary) migrationStatus {
	s := migrationStatus{Summary: sum, WorkedOn: store.Held(sum.ID, sum.Side)}
	if s.WorkedOn && !sum.Finished {
		live, err := lookOnce(sum)
		if s.Live = live; err != nil {
			s.NotLive = err.Error()
		}
	}
	return s
}

func printMigrations(c *cli.Context, shown []migrationStatus) error {
	if c.Bool(jsonFlag.Name) {
		return json.NewEncoder(c.App.Writer).Encode(shown)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "MIGRATION\tGUEST\tTHIS SIDE\tOTHER HOST\tSTATE\tSINCE\tWORKED ON\tNOW")
	for _, s := range shown {
		worked, now := "no", ""
		if s.WorkedOn {
			worked = "yes"
		}
		if s.Live != nil {
			now = s.Live.short()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			s.ID, nameText(s.Guest), s.Side, s.Peer, s.State, s.Updated().Local().Format(time.DateTime), worked, now)
	}
	return w.Flush()
}

// watchEvery is how often --watch shows a migration.
const watchEvery = time.Second

// showMigration shows one migration, again and again if that is wanted.
func showMigration(c *cli.Context, store *fallback.Store, sum fallback.Summary) error {
	show := statusPrinter(c)
	if !c.Bool("watch") {
		s := statusOf(store, sum)
		s.Report = readReport(store, sum)
		return show(s)
	}
	view, err := openView(sum)
	if err != nil {
		return errors.Join(show(statusOf(store, sum)), err)
	}
	defer view.Close()
	ctx, cancel := view.Owner().Context(c.Context)
	defer cancel()
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		live, err := look(view)
		if err != nil {
			return err
		}
		if again, err := store.Read(sum.ID, sum.Side); err == nil {
			sum = again
		}
		if err := show(migrationStatus{Summary: sum, WorkedOn: true, Live: live}); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return watchEnd(c, store, sum, show)
		}
	}
}

// watchEnd shows how the migration stands when its program has ended. Ctrl-C
// is no failure: it ends the looking only.
func watchEnd(c *cli.Context, store *fallback.Store, sum fallback.Summary, show func(migrationStatus) error) error {
	if c.Context.Err() != nil {
		return nil
	}
	if again, err := store.Read(sum.ID, sum.Side); err == nil {
		sum = again
	}
	return show(migrationStatus{Summary: sum, WorkedOn: store.Held(sum.ID, sum.Side), NotLive: evtchn.ErrGone.Error()})
}

// statusPrinter returns what prints a migration: a JSON value a line, or a
// block for people, which takes the place of the one before on a terminal.
func statusPrinter(c *cli.Context) func(migrationStatus) error {
	if c.Bool(jsonFlag.Name) {
		return func(s migrationStatus) error { return json.NewEncoder(c.App.Writer).Encode(s) }
	}
	var out io.Writer = c.App.Writer
	onTerminal := out == os.Stdout && term.IsTerminal(int(os.Stdout.Fd()))
	lines := 0
	return func(s migrationStatus) error {
		text := s.text()
		if onTerminal && lines > 0 {
			text = fmt.Sprintf("\x1b[%dA\x1b[J", lines) + text // up, and clear from there
		} else if lines > 0 {
			text = "\n" + text
		}
		lines = countLines(text)
		_, err := io.WriteString(out, text)
		return err
	}
}
