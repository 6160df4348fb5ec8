package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/xen"
)

func recoverCommand() *cli.Command {
	return &cli.Command{
		Name:      "recover",
		Usage:     "finish the migrations of this host that a crash or a reboot has cut short",
		ArgsUsage: "<id>...",
		Description: "Does what the journals allow: lets a guest run on here, destroys a copy that\n" +
			"never ran, or the suspended one of a guest that has moved; asks the destination\n" +
			"where only that knows. Guests that a program still works on are left alone.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Usage: "all unfinished migrations"},
			jsonFlag,
		},
		OnUsageError: usageError,
		Action:       recoverMigrations,
	}
}

// recovered is what recover did to one migration.
type recovered struct {
	ID    string         `json:"id"`
	Side  fallback.Side  `json:"side"`
	Guest string         `json:"guest"`
	Peer  string         `json:"peer"`
	State fallback.State `json:"state"`
	Done  bool           `json:"done"` // nothing is left to do
	// WorkedOn: a program is at it, which recover --all leaves alone.
	WorkedOn bool   `json:"worked_on,omitempty"`
	Error    string `json:"error,omitempty"`
}

func recoverMigrations(c *cli.Context) error {
	if c.Bool("all") == (c.NArg() > 0) {
		return usagef("recover takes --all or the ids of migrations (see xenferry status)")
	}
	store, _, err := openStore(c)
	if err != nil {
		return err
	}
	work, unread := toRecover(c, store)
	return errors.Join(printRecovered(c, recoverEach(c, store, work)), unread)
}

// recoverEach works on one migration after the other.
func recoverEach(c *cli.Context, store *fallback.Store, work []fallback.Summary) (results []recovered) {
	if len(work) == 0 {
		return nil // needs no host
	}
	recovery, closeHost, err := openRecovery(c, store)
	if err != nil {
		for _, sum := range work {
			r := recoveredOf(sum)
			r.Error = err.Error()
			results = append(results, r)
		}
		return results
	}
	defer closeHost()
	for _, sum := range work {
		results = append(results, recoverOne(c, recovery, sum))
	}
	return results
}

// openRecovery opens the host that is worked on, to recover its migrations.
func openRecovery(c *cli.Context, store *fallback.Store) (*fallback.Recovery, func() error, error) {
	host, err := openHost(c.Context, c.String("connect"))
	if err != nil {
		return nil, nil, err
	}
	return xen.NewRecovery(host, store, peer{}, xen.Limits{}), host.Close, nil
}

// toRecover returns the unfinished migrations, or both sides of those that are
// named. The error names what could not be found or read: that stays as it is,
// and keeps the others from nothing.
func toRecover(c *cli.Context, store *fallback.Store) ([]fallback.Summary, error) {
	all, unread := store.List()
	var work []fallback.Summary
	if c.Bool("all") {
		for _, sum := range all {
			if !sum.Finished {
				work = append(work, sum)
			}
		}
		return work, unread
	}
	var errs error
	for _, id := range c.Args().Slice() {
		found := len(work)
		for _, sum := range all {
			if sum.ID == id {
				work = append(work, sum)
			}
		}
		if len(work) == found {
			errs = errors.Join(errs, fmt.Errorf("migration %s: %w", id, fallback.ErrUnknown), unread)
		}
	}
	return work, errs
}

func recoveredOf(sum fallback.Summary) recovered {
	return recovered{ID: sum.ID, Side: sum.Side, Guest: sum.Guest, Peer: sum.Peer, State: sum.State, Done: sum.Finished}
}

func recoverOne(c *cli.Context, recovery *fallback.Recovery, sum fallback.Summary) recovered {
	r := recoveredOf(sum)
	j, err := recovery.Store.Open(sum.ID, sum.Side)
	if err == nil {
		var now fallback.Summary
		now, err = recovery.Finish(c.Context, j)
		r.State, r.Done = now.State, now.Finished
		if r.Done && !sum.Finished {
			keepMonitored(c, recovery.Store, sum.ID, sum.Side)
		}
	}
	r.WorkedOn = errors.Is(err, fallback.ErrBusy)
	if err != nil && !r.Done {
		r.Error = err.Error()
	}
	return r
}

// unfinished is what recover and resolve return while something is left.
type unfinished struct{ recovered }

// errInDoubt is in the error of each migration that is left in doubt.
var errInDoubt = errors.New("in doubt")

func (u unfinished) Is(target error) bool {
	return target == errInDoubt && u.State == fallback.SourceInDoubt
}

func (u unfinished) Error() string {
	return fmt.Sprintf("guest %s of migration %s is %s: %s", u.Guest, u.ID, u.State, u.recovered.Error)
}

func printRecovered(c *cli.Context, results []recovered) error {
	var errs error
	for _, r := range results {
		if !r.Done && !(r.WorkedOn && c.Bool("all")) {
			errs = errors.Join(errs, unfinished{r})
		}
	}
	if c.Bool(jsonFlag.Name) {
		if results == nil {
			results = []recovered{}
		}
		return errors.Join(errs, json.NewEncoder(c.App.Writer).Encode(results))
	}
	for _, r := range results {
		switch {
		case r.Done:
			fmt.Fprintf(c.App.Writer, "%s (migration %s, here the %s): %s\n", nameText(r.Guest), r.ID, r.Side, inWords(r.Side, r.State))
		case r.WorkedOn && c.Bool("all"):
			fmt.Fprintf(c.App.Writer, "%s (migration %s, here the %s): a program is at work on it: left alone\n", nameText(r.Guest), r.ID, r.Side)
		}
	}
	return errs
}

// inWords says what a state means for the guest.
func inWords(side fallback.Side, s fallback.State) string {
	if side == fallback.SideDestination {
		switch s {
		case fallback.DestinationRunning, fallback.DestinationSettled:
			return "it runs here"
		case fallback.DestinationDiscarded:
			return "its copy here is gone"
		case fallback.DestinationUnsure:
			return "it was handed over to this host and is not there: it may have run; the source keeps it suspended if it still has it"
		}
		return string(s)
	}
	switch s {
	case fallback.SourceResumed:
		return "it runs on here"
	case fallback.SourceGone:
		return "it runs at the destination, its copy here is destroyed"
	case fallback.SourceLost:
		return "it has ended on this host (with the host, or it has shut down, rebooted or was destroyed), and has not moved: if it is not here again, start it here"
	case fallback.SourceInDoubt:
		return "in doubt: it was handed over, and only the destination knows whether it runs there"
	}
	return string(s)
}
