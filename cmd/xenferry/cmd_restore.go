package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/savefmt"
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
			"The options of one letter mean what they mean for xl restore.",
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
	opts := xen.RestoreOptions{LeavePaused: c.Bool("p"), Observe: logEvents}
	name := c.Args().Get(c.NArg() - 1)
	opts.Protect, opts.From = protect(c, opts.Limits), name
	opts.Monitored = monitored(c)
	if c.NArg() == 2 {
		var err error
		if opts.Config, err = readConfig(c.Context, c.Args().First()); err != nil {
			return err
		}
	}
	in, closeIn, err := openSaved(c.Context, name)
	if err != nil {
		return err
	}
	defer closeIn()
	host, err := openHost(c.Context, c.String("connect"))
	if err != nil {
		return err
	}
	defer host.Close()
	report, err := xen.Restore(c.Context, host, in, opts)
	if c.Bool(jsonFlag.Name) {
		err = joinOutput(err, encodeEnd(c.App.Writer, "restore", report))
	}
	if err != nil {
		return fmt.Errorf("restore from %s: %w", name, err)
	}
	if !c.Bool(jsonFlag.Name) {
		state := "runs"
		if !report.Running {
			state = "is paused"
		}
		fmt.Fprintf(c.App.Writer, "%s restored from %s in %s: it %s as domain %d\n",
			report.Name, name, report.Total.Round(time.Millisecond), state, report.Domid)
	}
	if opts.Monitored {
		startMonitor(report.Domid)
	}
	return nil
}

// openSaved opens a saved guest to read it from beginning to end. A container
// that was cut off is refused here, if that can be seen without reading it.
func openSaved(ctx context.Context, name string) (in io.Reader, closeIn func(), err error) {
	if name == pipeName {
		pipe, err := xen.OpenPipe(int(os.Stdin.Fd()), "standard input", pipeLimit)
		if err != nil {
			return nil, nil, err
		}
		stop := context.AfterFunc(ctx, func() { _ = pipe.Close() })
		return pipe, func() { stop(); _ = pipe.Close() }, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	switch {
	case err == nil && info.IsDir():
		err = fmt.Errorf("%s is a folder, not a saved guest", name)
	case err == nil && info.Mode().IsRegular():
		if err = savefmt.CheckContainerEnd(f, info.Size()); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, func() { _ = f.Close() }, nil
}
