// Command xenferry moves running Xen guests. See README.md and docs/.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/xen/sim"
	"github.com/xenferry/xenferry/xen/xl"
)

func main() {
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), xl.LeastThreads))
	sim.RunIfGuest() // this process may be a simulated guest,
	xl.RunIfHelper() // or libxl's save helper
	os.Exit(run(os.Args))
}

// run runs the command line and returns the exit code.
func run(args []string) int {
	// A closed pipe is an error of the write, not the death of the process: a
	// guest may be suspended.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	app := newApp()
	args, err := flagsFirst(app, args)
	if err == nil {
		err = app.RunContext(ctx, args)
	}
	if err != nil && err.Error() != "" {
		fmt.Fprintf(os.Stderr, "%s: %s\n", app.Name, errorText(err))
	}
	return exitCode(err)
}

func newApp() *cli.App {
	return &cli.App{
		Name:                   "xenferry",
		Usage:                  "move running Xen guests",
		Version:                version(),
		Description:            exitCodesHelp,
		UseShortOptionHandling: true,
		HideVersion:            true,
		Flags: []cli.Flag{
			&cli.StringFlag{
				Name: "connect", Aliases: []string{"c"}, EnvVars: []string{"XENFERRY_CONNECT"}, Value: xenURI,
				Usage: "the host to work on: `xen` (this machine), or sim:NAME for a simulated one",
			},
			stateDirFlag,
			&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "log what is done, to stderr"},
		},
		Before: func(c *cli.Context) error {
			logrus.SetOutput(os.Stderr)
			logrus.SetLevel(logrus.WarnLevel)
			if c.Bool("verbose") {
				logVerbose()
			}
			return nil
		},
		Commands: []*cli.Command{
			migrateCommand(), receiveCommand(), stockReceiveCommand(), saveCommand(), restoreCommand(), verifyCommand(), convertCommand(),
			statusCommand(), tuneCommand(), recoverCommand(), resolveCommand(), guardianCommand(),
			listCommand(), demoCommand(), simCommand(), monitorCommand(), versionCommand(),
		},
		ExitErrHandler: func(*cli.Context, error) {}, // run decides
		OnUsageError:   usageError,
		CommandNotFound: func(c *cli.Context, name string) {
			fmt.Fprintf(os.Stderr, "xenferry: no such command: %s (see xenferry help)\n", name)
			os.Exit(exitUsage)
		},
	}
}

func logVerbose() { logrus.SetLevel(logrus.DebugLevel) }
