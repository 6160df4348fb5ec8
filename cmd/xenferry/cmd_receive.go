package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/xen"
)

func receiveCommand() *cli.Command {
	return &cli.Command{
		Name:  "migrate-receive",
		Usage: "take in one guest; started by migrate at the other end, over ssh",
		Description: "Stdin and stdout are the control connection. The pages come over TCP\n" +
			"connections to a port that this command opens, or, with --data ssh at the\n" +
			"source, over stdin as well. Stderr is for people.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "e", Usage: "do not wait in the background for the death of the domain"},
			&cli.StringFlag{Name: "data-address", Usage: "take the data connections on this `address` of this host only"},
			&cli.BoolFlag{Name: "p", Usage: "leave the guest paused, whatever the source asks for"},
			&cli.DurationFlag{Name: "silence-timeout", Value: xen.DefaultLimits.Silence, Usage: "give up when nothing at all comes from the source for so long; migrate passes its own on"},
		},
		OnUsageError: usageError,
		Action:       receive,
	}
}

func receive(c *cli.Context) error {
	if c.NArg() > 0 {
		return usagef("migrate-receive takes no arguments")
	}
	uri := c.String("connect")
	var listen []net.IP
	if address := c.String("data-address"); address != "" {
		ip := net.ParseIP(address)
		if ip == nil {
			return usagef("--data-address %q: it is an IP address", address)
		}
		listen = append(listen, ip)
	} else if strings.HasPrefix(uri, simPrefix) {
		listen = append(listen, net.IPv4(127, 0, 0, 1)) // both simulated hosts are on this machine
	}
	limits := xen.Limits{Silence: c.Duration("silence-timeout")}
	if limits.Silence < time.Second {
		return usagef("--silence-timeout %s: it must be one second or more", limits.Silence)
	}
	link := xen.NewLink(stdio{}, "source", limits)
	defer link.Close()
	host, err := openHost(c.Context, uri)
	if err != nil {
		link.Refuse(err)
		return told{err}
	}
	defer host.Close()
	log := newCourier(logEvents)
	defer log.close()
	opts := xen.DestinationOptions{Program: version(), LeavePaused: c.Bool("p"), Observe: log.event, Listen: listen, Limits: limits}
	opts.Monitored = monitored(c)
	opts.Protect = protect(c, limits)
	opts.Answer = answer(c, host)
	opts.Prefer = sshAddress(os.Getenv("SSH_CONNECTION"))
	report, err := xen.Receive(c.Context, host, link, opts)
	switch {
	case errors.Is(err, xen.ErrPeerLost), errors.Is(err, xen.ErrPeerSilent):
		return err
	case err != nil:
		return told{err}
	}
	if report.Asked {
		return nil
	}
	logrus.Infof("guest %s from %s is domain %d here", report.Guest.Name, report.From, report.Domid)
	if opts.Monitored {
		startMonitor(report.Domid)
	}
	return nil
}

// answer returns what answers a source that asks after a migration.
func answer(c *cli.Context, host xen.Host) func(ctx context.Context, id, uuid string) (fallback.Answer, error) {
	return func(ctx context.Context, id, uuid string) (fallback.Answer, error) {
		store, _, err := openStore(c)
		if err != nil {
			return fallback.AnswerPending, err
		}
		before, _ := store.Read(id, fallback.SideDestination)
		known, err := xen.NewRecovery(host, store, nil, xen.Limits{}).Answer(ctx, id, uuid)
		if known == fallback.AnswerStarted && !before.Finished { // started by this very question
			keepMonitored(c, store, id, fallback.SideDestination)
		}
		return known, err
	}
}

// sshAddress returns the address of this host that the source's ssh reached,
// nil if there is none: SSH_CONNECTION is "client port server port", see ssh(1).
func sshAddress(connection string) net.IP {
	if fields := strings.Fields(connection); len(fields) == 4 {
		return net.ParseIP(fields[2])
	}
	return nil
}

// stdio is the control connection of the receiver.
type stdio struct{}

func (stdio) Read(p []byte) (int, error)  { return os.Stdin.Read(p) }
func (stdio) Write(p []byte) (int, error) { return os.Stdout.Write(p) }
func (stdio) Close() error                { return errors.Join(os.Stdin.Close(), os.Stdout.Close()) }

var _ io.ReadWriteCloser = stdio{}

// logEvents writes the events that a person at the receiver should know.
func logEvents(e xen.Event) {
	switch e.Kind {
	case xen.EventPhase:
		logrus.Debugf("phase %s", e.Phase)
	case xen.EventNote:
		logrus.Warn(e.Text)
	}
}
