package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
)

// codecUsage explains --codec of save and convert.
const codecUsage = "compress with `codec`: s2, zstd or zlib; raw: checksums alone"

func saveCommand() *cli.Command {
	return &cli.Command{
		Name:      "save",
		Usage:     "save a guest to a file",
		ArgsUsage: "<domain> <file> [config]",
		Description: "Writes the guest to <file> and destroys it here, as xl save does; xl restore can\n" +
			"read the file. It gets its name only when it is whole and on the disk; if\n" +
			"anything fails before, nothing of it is left and the guest runs on. <file> may be\n" +
			"- for standard output. [config] is written instead of the configuration that the\n" +
			"guest was made with. The options of one letter mean what they mean for xl save,\n" +
			"but for -s and -z, which xl does not have.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "c", Usage: "leave the guest running"},
			&cli.BoolFlag{Name: "p", Usage: "leave the guest paused"},
			&cli.BoolFlag{Name: "s", Usage: "leave the guest suspended"},
			&cli.BoolFlag{Name: "D", Usage: "store the domain id in the configuration"},
			&cli.BoolFlag{Name: "live", Usage: "copy memory while the guest runs, and suspend it for the rest only; the file gets larger, the pause shorter"},
			&cli.BoolFlag{Name: "z", Usage: "compress; the file is then for xenferry restore, or xenferry convert; -zzstd is --codec zstd"},
			&cli.StringFlag{Name: "codec", Value: savefmt.BlockS2.String(), Usage: codecUsage + "; implies -z"},
			&cli.DurationFlag{Name: "suspend-timeout", Value: xen.DefaultLimits.Suspend, Usage: "how long the guest may take to answer the suspend request; one that has then gets 25s more"},
			jsonFlag,
		},
		OnUsageError: usageError,
		Action:       save,
	}
}

func save(c *cli.Context) error {
	if c.NArg() < 2 || c.NArg() > 3 {
		return usagef("save takes <domain> <file> [config], not %d arguments (see xenferry save --help)", c.NArg())
	}
	opts, err := saveOptions(c)
	if err != nil {
		return err
	}
	report, err := saveGuest(c, opts)
	if report == nil {
		report = &xen.SaveReport{After: opts.After, Error: err.Error(), Code: xen.CodeOf(err)}
	}
	if c.String("connect") == xenURI && resumedBySave(report, err) && monitorEndsWithSuspend() {
		startMonitor(report.Guest.Domid)
	}
	return tellSaved(c, report, err)
}

// saveGuest finds the guest and saves it. The report is nil if it was not
// begun.
func saveGuest(c *cli.Context, opts xen.SaveOptions) (*xen.SaveReport, error) {
	var err error
	if c.NArg() == 3 {
		if opts.Config, err = readConfig(c.Context, c.Args().Get(2)); err != nil {
			return nil, err
		}
	}
	host, err := openHost(c.Context, c.String("connect"))
	if err != nil {
		return nil, err
	}
	defer host.Close()
	info, err := host.Find(c.Context, c.Args().First())
	if err != nil {
		return nil, err
	}
	dom, err := host.Open(c.Context, info.Domid)
	if err != nil {
		return nil, err
	}
	defer dom.Close()
	return saveTo(c, host, dom, c.Args().Get(1), opts)
}

func saveOptions(c *cli.Context) (xen.SaveOptions, error) {
	opts := xen.SaveOptions{
		Live: c.Bool("live"), KeepDomid: c.Bool("D"), After: xen.AfterDestroy,
		Limits: xen.Limits{Suspend: c.Duration("suspend-timeout")},
	}
	switch keep, pause, suspend := c.Bool("c"), c.Bool("p"), c.Bool("s"); {
	case suspend && (keep || pause):
		return opts, usagef("save: -s excludes -c and -p")
	case suspend:
		opts.After = xen.AfterNothing
	case pause: // also beside -c, as with xl
		opts.After = xen.AfterPause
	case keep:
		opts.After = xen.AfterResume
	}
	if opts.Limits.Suspend < time.Second {
		return opts, usagef("--suspend-timeout %s: it must be one second or more", opts.Limits.Suspend)
	}
	if c.Bool("z") || c.IsSet("codec") {
		codec, err := savefmt.ParseBlockCodec(c.String("codec"))
		if err != nil {
			return opts, usagef("--codec: %v", err)
		}
		opts.Codec = &codec
	}
	return opts, nil
}

// saveTo saves the guest to the file of that name.
func saveTo(c *cli.Context, host xen.Host, dom xen.Domain, name string, opts xen.SaveOptions) (*xen.SaveReport, error) {
	to, discard, err := openTarget(c.Context, name)
	if err != nil {
		return nil, err
	}
	defer discard()
	if opts.After == xen.AfterDestroy {
		if err := checkKept(name); err != nil {
			return nil, err
		}
	}
	opts.Protect, opts.Target, opts.Panel = protect(c, opts.Limits), name, true
	show := newDisplay(tellAside(c, name), os.Stderr, c.Bool(jsonFlag.Name))
	defer show.close()
	show.saves = true
	opts.Observe = show.event
	return xen.Save(c.Context, host, dom, to, opts)
}

// tellSaved tells how it went. err stays what it is: that it could not be told
// does not undo it.
func tellSaved(c *cli.Context, report *xen.SaveReport, err error) error {
	name := c.Args().Get(1)
	out := tellAside(c, name)
	switch {
	case c.Bool(jsonFlag.Name):
		warnUntold(encodeEnd(out, "save", report))
	case err == nil:
		_, outputErr := fmt.Fprintf(out, "%s saved to %s in %s: %s written, paused for %s, %s\n", nameText(report.Guest.Name), name,
			report.Total.Round(time.Millisecond), bytesText(uint64(report.Bytes)), report.Pause.Round(100*time.Microsecond), afterTexts[report.After])
		warnUntold(outputErr)
	}
	return err
}

var afterTexts = map[xen.AfterSave]string{
	xen.AfterDestroy: "and destroyed here", xen.AfterResume: "and runs on",
	xen.AfterPause: "and is paused here", xen.AfterNothing: "and stays suspended here",
}

// encodeEnd writes the last JSON line of a command: its report.
func encodeEnd(out io.Writer, what string, report any) error {
	return json.NewEncoder(out).Encode(map[string]any{"event": xen.EventEnd, what: report})
}

// joinOutput prefers the error of the work to that of telling about it.
func joinOutput(err, outputErr error) error {
	if err != nil {
		return err
	}
	return outputErr
}

// resumedBySave tells whether the guest was suspended and runs here again.
func resumedBySave(report *xen.SaveReport, err error) bool {
	if err == nil {
		return report.After == xen.AfterResume || report.After == xen.AfterPause
	}
	return report.Outcome == xen.OutcomeAtSource && report.Suspended
}
