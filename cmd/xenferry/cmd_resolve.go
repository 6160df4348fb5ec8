package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/fallback"
)

func resolveCommand() *cli.Command {
	return &cli.Command{
		Name:      "resolve",
		Usage:     "decide a migration in doubt yourself, when its destination will never answer",
		ArgsUsage: "<id>",
		Description: "For the person who has looked at the destination. --resume there where the\n" +
			"guest runs, or has run, destroys its data; --destroy where it does not loses the\n" +
			"guest. It tells what is known, and wants the destination's name typed in.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "resume", Usage: "the guest does not run at the destination and never will: let it run on here"},
			&cli.BoolFlag{Name: "destroy", Usage: "the guest runs at the destination: destroy the copy here"},
			&cli.StringFlag{Name: "yes-i-know", Usage: "the destination's `name`, in place of typing it in"},
			jsonFlag,
		},
		OnUsageError: usageError,
		Action:       resolve,
	}
}

func resolve(c *cli.Context) error {
	if c.NArg() != 1 || c.Bool("resume") == c.Bool("destroy") {
		return usagef("resolve takes --resume or --destroy, and the id of one migration (see xenferry status)")
	}
	store, _, err := openStore(c)
	if err != nil {
		return err
	}
	// The journal is not held while a person thinks: if the destination answers
	// meanwhile, its guardian ends the doubt.
	sum, err := store.Read(c.Args().First(), fallback.SideSource)
	if err != nil {
		return err
	}
	if sum.State != fallback.SourceInDoubt && sum.State != fallback.SourceHandedOn {
		return fmt.Errorf("guest %s of migration %s is not in doubt, it is %s: nothing to resolve", sum.Guest, sum.ID, sum.State)
	}
	if err := confirm(c, sum, peerNames(store, sum)); err != nil {
		return err
	}
	recovery, closeHost, err := openRecovery(c, store)
	if err != nil {
		return err
	}
	defer closeHost()
	j, err := openForPerson(c, store, sum)
	if err != nil {
		return err
	}
	defer j.Close()
	err = recovery.Resolve(c.Context, j, c.Bool("resume"))
	r := recoveredOf(sum)
	r.State, r.Done = j.State(), j.Finished()
	if err != nil {
		r.Error = err.Error()
	}
	if r.Done {
		keepMonitored(c, store, sum.ID, sum.Side)
	}
	told := printRecovered(c, []recovered{r})
	if r.Done { // also if it was decided meanwhile, and perhaps in the other way
		return errors.Join(told, err)
	}
	return told
}

// openForPerson opens a journal, and waits if a program holds it: a guardian
// that acts, or a sender that still asks.
func openForPerson(c *cli.Context, store *fallback.Store, sum fallback.Summary) (*fallback.Journal, error) {
	j, err := store.Open(sum.ID, sum.Side)
	if !errors.Is(err, fallback.ErrBusy) {
		return j, err
	}
	fmt.Fprintln(os.Stderr, "another process is at work on this migration: waiting for it, for a minute at most")
	return store.Await(c.Context, sum.ID, sum.Side)
}

// peerNames returns what the destination is called: as it was typed when the
// migration began and, if that is known, as it calls itself.
func peerNames(store *fallback.Store, sum fallback.Summary) []string {
	names := []string{sum.Peer}
	if r := readReport(store, sum); r != nil && r.To != sum.Peer && r.To != "" {
		names = append(names, r.To)
	}
	return names
}

// confirm says what is believed and has one of the destination's names repeated.
func confirm(c *cli.Context, sum fallback.Summary, names []string) error {
	either := strings.Join(names, " or ")
	typed := c.String("yes-i-know")
	if typed == "" {
		outcome := "no answer came"
		if sum.State == fallback.SourceHandedOn {
			outcome = "counts as handed on"
		}
		fmt.Fprintf(os.Stderr, "Guest %s (UUID %s, domain %d here) was handed over to %s at %s, and %s.\n",
			sum.Guest, sum.UUID, sum.Domid, sum.Peer, sum.Updated().Local().Format(time.DateTime), outcome)
		deed := "let it run on here: it must not run at %s, nor have run there"
		if c.Bool("destroy") {
			deed = "destroy the copy here: it must run at %s"
		}
		fmt.Fprintf(os.Stderr, "You ask to "+deed+".\nType the destination's name, %s, to go on: ", sum.Peer, either)
		line, err := bufio.NewReader(io.LimitReader(os.Stdin, 1024)).ReadString('\n')
		if err != nil && line == "" {
			return usagef("nothing was typed in, nothing is done")
		}
		typed = strings.TrimSpace(line)
	}
	if !slices.Contains(names, typed) {
		return usagef("%q is not the destination's name, %s: nothing is done", typed, either)
	}
	return nil
}
