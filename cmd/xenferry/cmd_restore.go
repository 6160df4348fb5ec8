package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/xen"
)

func restoreCommand() *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "restore a guest from a file",
		ArgsUsage: "[config] <file>",
		Description: "Builds the guest that xl save or xenferry save, with or without -z, has written\n" +
			"to <file>, and lets it run. If anything fails nothing of it is left here. <file>\n" +
			"may be - for standard input. [config] replaces the configuration in the file.\n" +
			"The options of one letter mean what they mean for xl restore, of which -F, -c, -V\n" +
			"and -A are not there: it runs in the foreground until the guest is there, and\n" +
			"xl console and xl vncviewer connect to it.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "p", Usage: "leave the guest paused"},
			&cli.BoolFlag{Name: "e", Usage: "do not wait in the background for the death of the domain"},
			&cli.BoolFlag{Name: "d", Usage: "log what is done, as the global --verbose does"},
			jsonFlag,
		},
		OnUsageError: usageError,
		Action:       restore,
	}
}

func restore(c *cli.Context) error {
	if c.NArg() < 1 || c.NArg() > 2 {
		return usagef("restore takes [config] <file>, not %d arguments (see xenferry restore --help)", c.NArg())
	}
	if c.Bool("d") {
		logVerbose()
	}
	report, err := restoreSaved(c)
	if report == nil {
		report = &xen.RestoreReport{Error: err.Error(), Code: xen.CodeOf(err)}
	}
	if err == nil && monitored(c) {
		startMonitor(report.Domid)
	}
	return tellRestored(c, report, err)
}

// restoreSaved opens the saved guest and restores it. The report is nil if
// that was not begun.
func restoreSaved(c *cli.Context) (*xen.RestoreReport, error) {
	name := c.Args().Get(c.NArg() - 1)
	log := newCourier(logEvents)
	defer log.close()
	opts := xen.RestoreOptions{LeavePaused: c.Bool("p"), Observe: log.event, From: name, Monitored: monitored(c)}
	opts.Protect = protect(c, opts.Limits)
	if c.NArg() == 2 {
		var err error
		if opts.Config, err = readConfig(c.Context, c.Args().First()); err != nil {
			return nil, err
		}
	}
	in, err := openInput(c.Context, name)
	if err != nil {
		return nil, err
	}
	defer in.close()
	if err := in.checkEnd(); err != nil {
		return nil, err
	}
	host, err := openHost(c.Context, c.String("connect"))
	if err != nil {
		return nil, err
	}
	defer host.Close()
	return xen.Restore(c.Context, host, in.saved(), opts)
}

// tellRestored tells how it went. That it could not be told does not undo it.
func tellRestored(c *cli.Context, report *xen.RestoreReport, err error) error {
	name := c.Args().Get(c.NArg() - 1)
	if c.Bool(jsonFlag.Name) {
		warnUntold(encodeEnd(c.App.Writer, "restore", report))
	}
	if err != nil {
		return fmt.Errorf("restore from %s: %w", name, err)
	}
	if c.Bool(jsonFlag.Name) {
		return nil
	}
	state := "runs"
	if !report.Running {
		state = "is paused"
	}
	_, outputErr := fmt.Fprintf(c.App.Writer, "%s restored from %s in %s: it %s as domain %d\n",
		nameText(report.Name), name, report.Total.Round(time.Millisecond), state, report.Domid)
	warnUntold(outputErr)
	return nil
}
