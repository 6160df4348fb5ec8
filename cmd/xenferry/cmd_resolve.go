package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

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
	// Held from the look to the deed: no guardian decides in between.
	j, err := store.Open(c.Args().First(), fallback.SideSource)
	if err != nil {
		return err
	}
	defer j.Close()
	if j.State() != fallback.SourceInDoubt {
		return fmt.Errorf("guest %s of migration %s is not in doubt, it is %s: nothing to resolve", j.Migration.Guest, j.Migration.ID, j.State())
	}
	if err := confirm(c, j); err != nil {
		return err
	}
	recovery, closeHost, err := openRecovery(c, store)
	if err != nil {
		return err
	}
	defer closeHost()
	err = recovery.Resolve(c.Context, j, c.Bool("resume"))
	r := recovered{ID: j.Migration.ID, Side: j.Migration.Side, Guest: j.Migration.Guest, Peer: j.Migration.Peer, State: j.State(), Done: j.Finished()}
	if err != nil {
		r.Error = err.Error()
	}
	return printRecovered(c, []recovered{r})
}

// confirm says what is believed and has the destination's name repeated.
func confirm(c *cli.Context, j *fallback.Journal) error {
	m := j.Migration
	typed := c.String("yes-i-know")
	if typed == "" {
		last := j.Steps[len(j.Steps)-1]
		fmt.Fprintf(os.Stderr, "Guest %s (UUID %s, domain %d here) was handed over to %s at %s, and no answer came.\n",
			m.Guest, m.UUID, m.Domid, m.Peer, last.Time.Local().Format("2006-01-02 15:04:05"))
		deed := "let it run on here: it must not run at %s, nor have run there"
		if c.Bool("destroy") {
			deed = "destroy the copy here: it must run at %s"
		}
		fmt.Fprintf(os.Stderr, "You ask to "+deed+".\nType the destination's name to go on: ", m.Peer)
		line, err := bufio.NewReader(io.LimitReader(os.Stdin, 1024)).ReadString('\n')
		if err != nil && line == "" {
			return usagef("nothing was typed in, nothing is done")
		}
		typed = strings.TrimSpace(line)
	}
	if typed != m.Peer {
		return usagef("%q is not the destination, %q: nothing is done", typed, m.Peer)
	}
	return nil
}
