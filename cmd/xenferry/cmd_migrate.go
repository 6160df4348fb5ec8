package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/xen"
)

func migrateCommand() *cli.Command {
	return &cli.Command{
		Name:      "migrate",
		Usage:     "move a running guest to another host",
		ArgsUsage: "<domain> <host>",
		Description: "Moves the guest while it runs, as xl migrate does: memory is copied in rounds,\n" +
			"then the guest is suspended for the rest, and runs on at <host>. If anything\n" +
			"fails it runs on here. <host> is what ssh takes, or sim:NAME for a simulated\n" +
			"host. The options of one letter mean what they mean for xl migrate.",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "s", Value: "ssh", Usage: "use `sshcommand` instead of ssh; it is passed to sh. Empty: <host> itself is the whole command that starts the receiver"},
			&cli.BoolFlag{Name: "e", Usage: "do not wait in the background at <host> for the death of the domain"},
			&cli.StringFlag{Name: "C", Usage: "send the configuration in the file `config` instead of the one that the guest was made with"},
			&cli.BoolFlag{Name: "p", Usage: "leave the guest paused at <host>"},
			&cli.BoolFlag{Name: "D", Usage: "preserve the domain id"},
			&cli.BoolFlag{Name: "debug", Usage: "send all memory once more while the guest is suspended, compare, and tell what differs; the pause gets much longer"},
			&cli.BoolFlag{Name: "memory-hash", Usage: "refuse unless a hash of all memory is equal before the guest runs; the pause gets longer"},
			&cli.StringFlag{Name: "data", Value: string(xen.DataTLS), Usage: "how the pages travel: `tls` (TCP connections of their own, encrypted), plain (the same, not encrypted), ssh (over the control connection)"},
			&cli.StringFlag{Name: "compress", Value: "auto", Usage: "how pages are encoded: `auto` (what moves the guest soonest, by what is measured), off, s2, zstd[:1-22], zlib[:1-9], zstd-long[:1-22] (a window of many MiB; with libzstd)"},
			&cli.StringFlag{Name: "compress-skip", Value: xen.DefaultSkip.String(), Usage: "after pages that got smaller by less than RATIO:1 send the next ones as they are, up to so many MiB before the next try: `MiB:RATIO`, or off"},
			&cli.StringFlag{Name: "connections", Value: "auto", Usage: fmt.Sprintf("data connections, 1 to %d, or `auto`: half as many as this host has cores, 2 to 8. Each keeps about one core busy while pages are compressed", xen.MaxConnections)},
			&cli.StringFlag{Name: "bandwidth-limit", Value: "0", Usage: "cap the data connections at so many `bits` a second on the link (800M, 2.5G); 0: no cap"},
			&cli.StringFlag{Name: "bind", Usage: "let the data connections leave from this `address` of this host"},
			&cli.StringFlag{Name: "data-address", Usage: "let the data connections go to this `address` of <host>, instead of those that it names"},
			&cli.StringFlag{Name: "receiver", Value: "xenferry", Usage: "the `command` that is xenferry at <host>"},
			&cli.BoolFlag{Name: "v", Usage: "print where the downtime went, part by part, at both ends"},
			&cli.BoolFlag{Name: "stock", Usage: "speak to stock xl at <host>; this is done by itself where xenferry is not found there"},
			jsonFlag,
		}, cliLimitFlags()...),
		OnUsageError: usageError,
		Action:       migrate,
	}
}

func migrate(c *cli.Context) error {
	args, err := migrateArgs(c)
	if err != nil {
		return err
	}
	if c.NArg() != 2 {
		return usagef("migrate takes <domain> <host>, not %d arguments (see xenferry migrate --help)", c.NArg())
	}
	ctx := c.Context
	if d := c.Duration("deadline"); d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, d, fmt.Errorf("%w: %s", xen.ErrDeadline, d))
		defer cancel()
	}
	err = migrateWithin(ctx, c, args)
	var failure *xen.MigrateError
	var stock *xen.SaveError
	if err == nil || errors.As(err, &failure) || errors.As(err, &stock) {
		return err
	}
	return beforeEngine(ctx, c, err)
}

// beforeEngine makes an error from before the engine has begun one such as the
// engine's where the deadline is its reason, and ends the events for a program.
// The guest was not touched.
func beforeEngine(ctx context.Context, c *cli.Context, err error) error {
	if usage := (usageErr{}); errors.As(err, &usage) {
		return err
	}
	if cause := context.Cause(ctx); errors.Is(cause, xen.ErrDeadline) {
		err = &xen.MigrateError{Phase: "open", Outcome: xen.OutcomeAtSource, Cause: cause}
	}
	if c.Bool(jsonFlag.Name) {
		report := &xen.Report{Error: err.Error(), Code: xen.CodeOf(err)}
		warnUntold(json.NewEncoder(c.App.Writer).Encode(xen.Event{Kind: xen.EventEnd, Report: report, Text: report.Error}))
	}
	return err
}

// migrateWithin moves the guest in the way that fits it and the other host.
func migrateWithin(ctx context.Context, c *cli.Context, args xen.SourceOptions) error {
	host, err := openHost(ctx, c.String("connect"))
	if err != nil {
		return err
	}
	defer host.Close()
	info, err := host.Find(ctx, c.Args().Get(0))
	if err != nil {
		return err
	}
	if c.IsSet("C") {
		if args.Config, err = readConfig(ctx, c.String("C")); err != nil {
			return err
		}
	}
	if c.Bool("stock") {
		return migrateStock(ctx, c, host, info, args)
	}
	if info.Type == xen.TypePV {
		return migratePV(ctx, c, host, info, args)
	}
	err = migrateLive(ctx, c, host, info, args)
	if errors.Is(err, errNoReceiver) && stockPossible(c) {
		fmt.Fprintf(os.Stderr, "note: there is no xenferry at %s: migrating to its stock xl, over ssh alone\n", c.Args().Get(1))
		return migrateStock(ctx, c, host, info, args)
	}
	return err
}

// migrateLive moves the guest to xenferry at the other host.
func migrateLive(ctx context.Context, c *cli.Context, host xen.Host, info xen.DomainInfo, args xen.SourceOptions) error {
	command, err := receiverCommand(c, c.Args().Get(1))
	if err != nil {
		return err
	}
	show := newDisplay(c.App.Writer, os.Stderr, c.Bool(jsonFlag.Name))
	show.budget = c.Bool("v")
	args.Observe = show.event
	args.Protect = protect(c, args.Limits)
	args.Panel = true
	args.Ask = peer{args.Limits}.Ask
	args.Transport = command
	report, err := migrateTo(ctx, host, info, c.Args().Get(1), command, args)
	show.close()
	if report != nil {
		keepReport(c, report)
	}
	if c.String("connect") == xenURI && report != nil && report.ResumedAfter > 0 && monitorEndsWithSuspend() {
		startMonitor(info.Domid)
	}
	return err
}

// migrateArgs turns the flags into options of the engine.
func migrateArgs(c *cli.Context) (xen.SourceOptions, error) {
	mode, err := xen.ParseDataMode(c.String("data"))
	if err != nil {
		return xen.SourceOptions{}, usageErr{err.Error()}
	}
	pipe, err := pipeArgs(c)
	if err != nil {
		return xen.SourceOptions{}, usageErr{err.Error()}
	}
	limits, err := limitsOf(c)
	if err != nil {
		return xen.SourceOptions{}, err
	}
	elsewhere := pipe.Bind != nil || pipe.Address != nil
	if mode == xen.DataControl && elsewhere {
		return xen.SourceOptions{}, usagef("--data ssh has no data connections, which --bind and --data-address are for")
	}
	return xen.SourceOptions{
		Program: version(), Data: mode, MustData: elsewhere || c.IsSet("data"), Pipe: pipe,
		Verify: c.Bool("debug"), MemoryHash: c.Bool("memory-hash"),
		LeavePaused: c.Bool("p"), KeepDomid: c.Bool("D"),
		MaxDowntime: c.Duration("max-downtime"), Limits: limits,
	}, nil
}

// pipeArgs turns the flags of the data connections into options.
func pipeArgs(c *cli.Context) (xen.PipeOptions, error) {
	var p xen.PipeOptions
	var err error
	if p.Compress, err = xen.ParseCompression(c.String("compress")); err != nil {
		return p, err
	}
	skip, err := xen.ParseSkip(c.String("compress-skip"))
	if err != nil {
		return p, err
	}
	p.Skip = &skip
	if text := c.String("connections"); text != "auto" {
		p.Connections, err = strconv.Atoi(text)
		if err != nil || p.Connections < 1 || p.Connections > xen.MaxConnections {
			return p, fmt.Errorf("--connections %s: 1 to %d are possible, or auto", text, xen.MaxConnections)
		}
	}
	bits, err := xen.ParseRate(c.String("bandwidth-limit"))
	if err != nil {
		return p, fmt.Errorf("--bandwidth-limit: %w", err)
	}
	p.RateLimit = new(xen.RateLimit)
	p.RateLimit.Set(bits)
	if p.Bind, err = ipFlag(c, "bind"); err != nil {
		return p, err
	}
	p.Address, err = ipFlag(c, "data-address")
	return p, err
}

// ipFlag reads an IP address, nil if the flag is not set.
func ipFlag(c *cli.Context, name string) (net.IP, error) {
	text := c.String(name)
	if text == "" {
		return nil, nil
	}
	ip := net.ParseIP(text)
	if ip == nil {
		return nil, fmt.Errorf("--%s %q is not an IP address", name, text)
	}
	return ip, nil
}

// receiverCommand returns the shell command that starts the receiver.
func receiverCommand(c *cli.Context, host string) (string, error) {
	flags := ""
	if c.IsSet("silence-timeout") {
		flags = fmt.Sprintf(" --silence-timeout %s", c.Duration("silence-timeout"))
	}
	if name, ok := strings.CutPrefix(host, simPrefix); ok {
		command, err := simReceiver(name)
		return command + flags, err
	}
	if c.String("s") == "" {
		return host, nil
	}
	if c.Bool("e") {
		flags += " -e"
	}
	return fmt.Sprintf("exec %s %s %s migrate-receive%s", c.String("s"), shellQuote(host), c.String("receiver"), flags), nil
}

// simReceiver returns the command that starts a receiver on a simulated host.
func simReceiver(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("exec %s --connect %s migrate-receive", shellQuote(self), shellQuote(simPrefix+name)), nil
}

// shellQuote quotes a word for sh.
func shellQuote(word string) string {
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// migrateTo moves the guest to the receiver that command starts.
func migrateTo(ctx context.Context, host xen.Host, guest xen.DomainInfo, peer, command string, opts xen.SourceOptions) (*xen.Report, error) {
	// The program is started before libxl is at work on the guest: what libxl
	// forks must not inherit its pipes.
	t, err := startTransport(command)
	if err != nil {
		return nil, err
	}
	link := xen.NewLink(t, peer, opts.Limits)
	defer link.Close()
	dom, err := host.Open(ctx, guest.Domid)
	if err != nil {
		return nil, err
	}
	defer dom.Close()
	report, err := xen.Migrate(ctx, host, dom, link, opts)
	var failure *xen.MigrateError
	if errors.As(err, &failure) && failure.Phase == xen.PhaseHello {
		_ = link.Close()
		if why := t.failure(); why != nil && errors.Is(err, xen.ErrPeerLost) {
			failure.Cause = fmt.Errorf("%w: %w", failure.Cause, why)
		}
	}
	return report, err
}
