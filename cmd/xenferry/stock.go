package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/xen"
)

// Migration from and to hosts that have stock xl only.

// stockPossible tells whether the host that migrate names can have a stock xl:
// it is reached by ssh, and the user has named no program to run there.
func stockPossible(c *cli.Context) bool {
	return c.String("s") != "" && !c.IsSet("receiver") && c.String("connect") == xenURI && !strings.HasPrefix(c.Args().Get(1), simPrefix)
}

// stockReceiver is the program that takes a guest in by xl's own protocol.
const stockReceiver = "xl migrate-receive"

// stockCommand returns the shell command that starts a receiver of xl's own
// protocol.
func stockCommand(c *cli.Context, host, receiver string) string {
	if c.String("s") == "" {
		return host
	}
	flags := ""
	for _, name := range []string{"e", "p"} {
		if c.Bool(name) {
			flags += " -" + name
		}
	}
	return fmt.Sprintf("exec %s %s %s%s", c.String("s"), shellQuote(host), receiver, flags)
}

// migratePV moves a PV guest: its memory is one stream of Xen's own library,
// which goes as stock xl sends it, to xenferry at the other end or to xl.
func migratePV(ctx context.Context, c *cli.Context, host xen.Host, guest xen.DomainInfo, args xen.SourceOptions) error {
	fmt.Fprintf(os.Stderr, "note: %s is a PV guest: it goes over ssh alone, with the hand-over of stock xl\n", guest.Name)
	err := migrateBy(ctx, c, host, guest, args, c.String("receiver")+" xl-receive")
	if errors.Is(err, errNoReceiver) && stockPossible(c) {
		fmt.Fprintf(os.Stderr, "note: there is no xenferry at %s: migrating to its stock xl\n", c.Args().Get(1))
		return migrateStock(ctx, c, host, guest, args)
	}
	return err
}

// migrateStock moves the guest as xl migrate does.
func migrateStock(ctx context.Context, c *cli.Context, host xen.Host, guest xen.DomainInfo, args xen.SourceOptions) error {
	return migrateBy(ctx, c, host, guest, args, stockReceiver)
}

// migrateBy moves the guest by xl's own protocol, to the program receiver at
// the other host.
func migrateBy(ctx context.Context, c *cli.Context, host xen.Host, guest xen.DomainInfo, args xen.SourceOptions, receiver string) error {
	if args.Verify || args.MemoryHash {
		return usagef("--debug and --memory-hash need xenferry at the other host too, and no PV guest")
	}
	if args.MaxDowntime > 0 {
		return usagef("--max-downtime needs xenferry at the other host too, and no PV guest: the hand-over of stock xl cannot be held to it; leave it out, or bound the whole with --deadline")
	}
	peer := c.Args().Get(1)
	t, err := startTransport(stockCommand(c, peer, receiver))
	if err != nil {
		return err
	}
	defer t.Close()
	dom, err := host.Open(ctx, guest.Domid)
	if err != nil {
		return err
	}
	defer dom.Close()
	show := newDisplay(c.App.Writer, os.Stderr, c.Bool(jsonFlag.Name))
	report, err := xen.MigrateStock(ctx, host, dom, t, xen.SaveOptions{
		Config: args.Config, KeepDomid: args.KeepDomid, Policy: args.Policy, Limits: args.Limits, Observe: show.event,
		Protect: protect(c, args.Limits), Target: peer, Panel: true,
	})
	show.close()
	var failure *xen.SaveError
	if errors.As(err, &failure) && failure.Phase == xen.PhaseHello && errors.Is(err, xen.ErrPeerLost) {
		_ = t.Close()
		if why := t.failure(); why != nil {
			failure.Cause = fmt.Errorf("%w: %w", failure.Cause, why)
		}
		if errors.Is(err, errNoReceiver) && receiver != stockReceiver {
			return err // stock xl comes next
		}
	}
	if c.String("connect") == xenURI && resumedBySave(report, err) && monitorEndsWithSuspend() {
		startMonitor(guest.Domid)
	}
	if c.Bool(jsonFlag.Name) {
		warnUntold(encodeEnd(c.App.Writer, "stock", report))
		return err
	}
	switch {
	case err == nil:
		fmt.Fprintf(c.App.Writer, "%s moved to %s at %s in %s: downtime %s, %d rounds, %s on the wire\n", guest.Name, receivedBy(receiver), peer,
			report.Total.Round(time.Millisecond), report.Pause.Round(100*time.Microsecond), len(report.Rounds), bytesText(uint64(report.Bytes)))
	case report.Outcome == xen.OutcomeInDoubt:
		fmt.Fprintf(os.Stderr, stockDoubtText, guest.Name, peer, guest.Domid)
	}
	return err
}

// receivedBy says in the last line to whom the guest has moved.
func receivedBy(receiver string) string {
	if receiver == stockReceiver {
		return "stock xl"
	}
	return "xenferry"
}

// stockDoubtText: stock xl cannot be asked, so a person must look.
const stockDoubtText = `in doubt: guest %[1]s was handed to %[2]s and no answer came. It may run there, so it is kept suspended here (domain %[3]d).
Look at %[2]s with "xl list", and then decide: xenferry status names the migration, xenferry resolve ends it.
`

func stockReceiveCommand() *cli.Command {
	return &cli.Command{
		Name:  "xl-receive",
		Usage: "take in one guest from stock xl migrate",
		Description: "Stdin and stdout are the connection to the sender, which is stock xl:\n" +
			"   xl migrate -s '' db1 'ssh host2 xenferry xl-receive'",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "e", Usage: "do not wait in the background for the death of the domain"},
			&cli.BoolFlag{Name: "p", Usage: "leave the guest paused"},
		},
		OnUsageError: usageError,
		Action:       stockReceive,
	}
}

func stockReceive(c *cli.Context) error {
	if c.NArg() > 0 {
		return usagef("xl-receive takes no arguments")
	}
	host, err := openHost(c.Context, c.String("connect"))
	if err != nil {
		return err
	}
	defer host.Close()
	conn, err := openStdio()
	if err != nil {
		return err
	}
	defer conn.Close()
	log := newCourier(logEvents)
	defer log.close()
	report, err := xen.ReceiveStock(c.Context, host, conn, xen.RestoreOptions{
		LeavePaused: c.Bool("p"), Observe: log.event,
		Protect: protect(c, xen.Limits{}), From: "stock xl", Monitored: monitored(c),
	})
	if err != nil {
		return err
	}
	logrus.Infof("guest %s is domain %d here", report.Name, report.Domid)
	if monitored(c) {
		startMonitor(report.Domid)
	}
	return nil
}

// stdPipes is standard input and output as one connection, whose Close ends a
// Read or Write that blocks.
type stdPipes struct{ in, out *xen.Pipe }

func openStdio() (*stdPipes, error) {
	in, err := xen.OpenPipe(int(os.Stdin.Fd()), "standard input", pipeLimit)
	if err != nil {
		return nil, err
	}
	out, err := xen.OpenPipe(int(os.Stdout.Fd()), "standard output", pipeLimit)
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return &stdPipes{in, out}, nil
}

func (p *stdPipes) Read(b []byte) (int, error)  { return p.in.Read(b) }
func (p *stdPipes) Write(b []byte) (int, error) { return p.out.Write(b) }
func (p *stdPipes) Close() error                { return errors.Join(p.in.Close(), p.out.Close()) }
