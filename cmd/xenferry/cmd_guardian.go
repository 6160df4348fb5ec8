package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/xen"
)

// The descriptors that a guardian is started with.
const (
	guardianSocket = 3 // to its ward
	guardianPidfd  = 4 // its ward
)

// guardianMemory is what a guardian's garbage collector aims at, in bytes.
const guardianMemory = 16 << 20

func guardianCommand() *cli.Command {
	return &cli.Command{
		Name:      "guardian",
		Usage:     "finish a migration whose sender or receiver dies; started by these, not by people",
		ArgsUsage: "<source|destination> <id>",
		Hidden:    true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "limits", Value: "{}", Usage: "the limits of the migration, as JSON"},
		},
		OnUsageError: usageError,
		Action:       guard,
	}
}

func guard(c *cli.Context) error {
	if c.NArg() != 2 {
		return usagef("guardian takes <source|destination> <id>, not %d arguments", c.NArg())
	}
	var limits xen.Limits
	if err := json.Unmarshal([]byte(c.String("limits")), &limits); err != nil {
		return usagef("--limits: %v", err)
	}
	limits = limits.WithDefaults()
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT)
	debug.SetMemoryLimit(guardianMemory)
	// Whoever is short of memory should end the ward, not its guardian. Only
	// root may ask for that.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-900"), 0)
	_ = os.WriteFile("/proc/self/comm", []byte("xenferry-guard"), 0)
	logrus.SetLevel(logrus.InfoLevel)
	logrus.SetFormatter(&logrus.TextFormatter{TimestampFormat: "2006-01-02T15:04:05.000Z07:00"})
	w := &ward{socket: guardianSocket, pidfd: guardianPidfd, hangs: limits.Silence}
	if err := w.check(); err != nil {
		return err
	}
	store, _, err := openStore(c)
	if err != nil {
		return err
	}
	host, err := openHost(c.Context, c.String("connect"))
	if err != nil {
		return err
	}
	defer host.Close()
	// Only now does the ward begin with what might have to be undone.
	_ = w.say(sayReady) // if nobody hears it the ward is gone, or done: Guard finds out
	recovery := xen.NewRecovery(host, store, peer{limits}, limits)
	id, side := c.Args().Get(1), fallback.Side(c.Args().Get(0))
	err = fallback.Guard(c.Context, w, recovery, id, side, limits.Retry, func(text string) {
		logrus.WithField("migration", id).Info(text)
	})
	if err == nil && !w.clean {
		keepMonitored(c, store, id, side)
	}
	return err
}

// keepMonitored leaves a monitor behind where the dead ward would have: for a
// guest that has arrived, or one that was resumed and whose own from xl has
// ended. Where one is at work already, the new one ends at once.
func keepMonitored(c *cli.Context, store *fallback.Store, id string, side fallback.Side) {
	sum, err := store.Read(id, side)
	if err != nil || c.String("connect") != xenURI {
		return
	}
	switch sum.State {
	case fallback.SourceResumed:
		if monitorEndsWithSuspend() {
			startMonitor(sum.GuestDomid())
		}
	case fallback.DestinationRunning, fallback.DestinationSettled:
		if side == fallback.SideDestination && sum.Monitored {
			startMonitor(sum.GuestDomid())
		}
	}
}

// ward is the process that started this one. It implements fallback.Ward.
type ward struct {
	socket, pidfd int
	hangs         time.Duration // silence after which it counts as hung
	clean         bool
}

func (w *ward) check() error {
	for _, fd := range []int{w.socket, w.pidfd} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return errors.New("guardian is started by xenferry itself, with descriptors of its own")
		}
		unix.CloseOnExec(fd)
	}
	return unix.SetNonblock(w.socket, true)
}

func (w *ward) say(what byte) error {
	_, err := unix.Write(w.socket, []byte{what})
	return err
}

// wardPoll is how often Wait looks at ctx and the clock.
const wardPoll = 500 // ms

// Wait implements fallback.Ward. That the ward is dead is only believed of its
// pidfd: its end of the socket may be open still in a child of it.
func (w *ward) Wait(ctx context.Context) (clean bool, err error) {
	heard, open, killed := time.Now(), true, false
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(w.pidfd), Events: unix.POLLIN}}
		if open {
			fds = append(fds, unix.PollFd{Fd: int32(w.socket), Events: unix.POLLIN})
		}
		if _, err := unix.Poll(fds, wardPoll); err != nil && !errors.Is(err, unix.EINTR) {
			return false, err
		}
		if open && fds[1].Revents != 0 {
			var said []byte
			if said, open = w.hear(); len(said) > 0 {
				heard = time.Now()
			}
			if bytes.IndexByte(said, sayDone) >= 0 {
				w.clean = true
				return true, nil
			}
			continue // what else it said comes before its death
		}
		if fds[0].Revents != 0 {
			return false, nil
		}
		if silent := time.Since(heard); silent > w.hangs && !killed {
			logrus.Warnf("the program that moves the guest has not been heard for %s: it is killed", silent.Round(time.Second))
			killed = unix.PidfdSendSignal(w.pidfd, unix.SIGKILL, nil, 0) == nil
		}
	}
	return false, context.Cause(ctx)
}

// hear returns what the ward has said, and whether it can say more.
func (w *ward) hear() (said []byte, open bool) {
	var b [64]byte
	n, err := unix.Read(w.socket, b[:])
	switch {
	case n > 0:
		return b[:n], true
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return nil, true
	}
	return nil, false
}
