package main

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/xen/xl"
)

// monitorLog is where the monitors write, as xl's do.
const monitorLog = "/var/log/xen/xenferry-monitor.log"

func monitorCommand() *cli.Command {
	return &cli.Command{
		Name:      "monitor",
		Usage:     "act on a guest's reboot, shutdown or crash until it is gone; started for each guest that arrives",
		ArgsUsage: "<domid>",
		Description: "Does what on_poweroff, on_reboot, on_crash and the like of the guest's\n" +
			"configuration say, as the process does that xl create leaves behind. Runs in\n" +
			"the foreground; migrate-receive starts it in the background, unless -e is given.",
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usagef("monitor takes one domain id, not %d arguments", c.NArg())
			}
			domid, err := strconv.ParseUint(c.Args().First(), 10, 16)
			if err != nil || domid == 0 {
				return usagef("monitor: %q is not the id of a guest", c.Args().First())
			}
			logrus.SetLevel(max(logrus.GetLevel(), logrus.InfoLevel))
			return xl.Monitor(c.Context, xl.Options{}, uint32(domid), func(text string) { logrus.Info(text) })
		},
	}
}

// monitored tells whether a guest that arrives by this command gets a monitor.
func monitored(c *cli.Context) bool { return c.String("connect") == xenURI && !c.Bool("e") }

// startMonitor leaves a monitor for the guest behind. The guest does not
// depend on it: a failure is told and no more.
func startMonitor(domid uint32) {
	if err := spawnMonitor(domid); err != nil {
		logrus.Warnf("nobody will act on the reboot or shutdown of domain %d: %v (start xenferry monitor %[1]d)", domid, err)
	}
}

// spawnMonitor starts it in a session of its own, with nothing of this
// process's connections.
func spawnMonitor(domid uint32) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(monitorLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("its log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(self, "monitor", strconv.FormatUint(uint64(domid), 10))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// monitorEndsWithSuspend tells whether xl's own monitor of a guest ends when
// the guest is suspended, so that one which was resumed has none: so it was
// before Xen 4.20.
func monitorEndsWithSuspend() bool {
	switch xl.BuiltFor() {
	case "4.17", "4.18", "4.19":
		return true
	}
	return false
}
