package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/fallback"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "show the migrations of this host that are under way, unfinished or in doubt",
		Description: "Reads the journals and touches nothing. WORKED ON tells whether a sender, a\n" +
			"receiver or a guardian is at it now; what nobody works on, xenferry recover does.",
		Flags: []cli.Flag{
			jsonFlag,
			&cli.BoolFlag{Name: "history", Usage: "show finished ones, too"},
		},
		OnUsageError: usageError,
		Action:       status,
	}
}

// migrationStatus is one line of status, and one value of its JSON.
type migrationStatus struct {
	fallback.Summary
	WorkedOn bool `json:"worked_on"`
}

func status(c *cli.Context) error {
	if c.NArg() > 0 {
		return usagef("status takes no arguments")
	}
	store, _, err := openStore(c)
	if err != nil {
		return err
	}
	all, err := store.List() // shown as far as it can be read
	shown := []migrationStatus{}
	for _, sum := range all {
		// Nothing can be done about an unsure one here, but its source waits for a person.
		if !sum.Finished || sum.State == fallback.DestinationUnsure || c.Bool("history") {
			shown = append(shown, migrationStatus{sum, store.Held(sum.ID, sum.Side)})
		}
	}
	return errors.Join(err, printMigrations(c, shown))
}

func printMigrations(c *cli.Context, shown []migrationStatus) error {
	if c.Bool(jsonFlag.Name) {
		return json.NewEncoder(c.App.Writer).Encode(shown)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "MIGRATION\tGUEST\tTHIS SIDE\tOTHER HOST\tSTATE\tSINCE\tWORKED ON")
	for _, s := range shown {
		worked := "no"
		if s.WorkedOn {
			worked = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			s.ID, s.Guest, s.Side, s.Peer, s.State, s.Updated().Local().Format(time.DateTime), worked)
	}
	return w.Flush()
}
