package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/memcheck"
	"github.com/xenferry/xenferry/xen/sim"
)

func simCommand() *cli.Command {
	return &cli.Command{
		Name:  "sim",
		Usage: "simulated hosts and guests, made of processes, to try everything without Xen",
		Description: "A simulated host is a process, each of its guests another. The other commands\n" +
			"work on them: xenferry -c sim:HOST migrate GUEST sim:HOST2. Hosts are found in\n" +
			"$XENFERRY_SIM_DIR, else $XDG_RUNTIME_DIR/xenferry-sim, else /tmp/xenferry-sim-UID.",
		Subcommands: []*cli.Command{
			simStartCommand(), simStopCommand(), simCreateCommand(),
			simListCommand(), simStatusCommand(), simDestroyCommand(),
		},
		// The library knows its categories of commands only once a command
		// runs: `help sim` would list none.
		CustomHelpTemplate: strings.Replace(cli.SubcommandHelpTemplate, "visibleCommandCategoryTemplate", "visibleCommandTemplate", 1),
		OnUsageError:       usageError,
	}
}

// simLeaf is a subcommand that takes least to most arguments.
func simLeaf(cmd cli.Command, least, most int, run func(c *cli.Context, args []string) error) *cli.Command {
	cmd.OnUsageError = usageError
	cmd.Action = func(c *cli.Context) error {
		args := c.Args().Slice()
		if len(args) < least || len(args) > most {
			return usagef("sim %s takes %s, not %d arguments (see xenferry sim %s --help)",
				cmd.Name, cmd.ArgsUsage, len(args), cmd.Name)
		}
		return run(c, args)
	}
	return &cmd
}

func simStartCommand() *cli.Command {
	return simLeaf(cli.Command{
		Name:      "start",
		Usage:     "start a simulated host",
		ArgsUsage: "HOST",
		Description: "Returns when the host can be reached; it then runs in the background, and\n" +
			"writes what it has to say to HOST.log beside its socket.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "memory", Value: "4G", Usage: "memory for guests, as 512M, 4G or 4GiB"},
			&cli.BoolFlag{Name: "foreground", Usage: "do not return until the host is stopped, by sim stop or Ctrl-C"},
			&cli.IntFlag{Name: "ready-fd", Value: -1, Hidden: true, Usage: "descriptor to close when ready"},
		},
	}, 1, 1, simStart)
}

func simStart(c *cli.Context, args []string) error {
	size, err := parseMemory(c.String("memory"))
	if err != nil {
		return err
	}
	opts := sim.Options{Name: args[0], MemoryKiB: size / 1024}
	if !c.Bool("foreground") {
		return startInBackground(c, opts)
	}
	if fd := c.Int("ready-fd"); fd >= 0 {
		ready := os.NewFile(uintptr(fd), "ready")
		syscall.CloseOnExec(fd)
		opts.Ready = func() {
			_, _ = ready.WriteString(readyWord)
			_ = ready.Close()
		}
	}
	return sim.Serve(c.Context, opts)
}

// parseMemory reads a size in which G alone means GiB, as for xl.
func parseMemory(s string) (uint64, error) {
	if n := len(s); n > 0 && strings.ContainsRune("KMGT", rune(s[n-1])) {
		s += "iB"
	}
	size, err := memcheck.ParseSize(s)
	if err != nil || size < 1<<20 {
		return 0, usagef("memory %q: want 1M or more, as 512M or 4G", s)
	}
	return size, nil
}

// readyWord is what a host in the background says when it can be reached.
const readyWord = "ready"

// startInBackground runs this command again, in the foreground of a session of
// its own, and waits until it is ready or has ended.
func startInBackground(c *cli.Context, opts sim.Options) error {
	dir, err := sim.Dir()
	if err != nil {
		return err
	}
	if err := sim.CheckHostName(opts.Name); err != nil {
		return usagef("%v", err)
	}
	if _, err := sim.Dial(c.Context, opts.Name); err == nil { // or its log would be lost
		return fmt.Errorf("simulated host %q runs already; stop it with: xenferry sim stop %s", opts.Name, opts.Name)
	}
	logPath := filepath.Join(dir, opts.Name+".log")
	log, err := os.OpenFile(logPath, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	ready, readyEnd, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	cmd := exec.Command("/proc/self/exe", "sim", "start", "--foreground", "--ready-fd", "3",
		"--memory", strconv.FormatUint(opts.MemoryKiB, 10)+"KiB", opts.Name)
	cmd.Args[0] = os.Args[0]
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), sim.DirEnv+"="+dir)
	cmd.Stderr = log
	cmd.ExtraFiles = []*os.File{readyEnd}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = readyEnd.Close()
	if err != nil {
		return err
	}
	// It either says that it is ready or ends: both end the reading.
	if said, _ := io.ReadAll(ready); string(said) != readyWord {
		_ = cmd.Wait()
		text, _ := os.ReadFile(logPath)
		return fmt.Errorf("simulated host %q did not start (%s): %s", opts.Name, logPath, strings.TrimSpace(string(text)))
	}
	fmt.Fprintf(c.App.Writer, "simulated host %s runs (process %d)\n", opts.Name, cmd.Process.Pid)
	return cmd.Process.Release()
}

func simStopCommand() *cli.Command {
	return simLeaf(cli.Command{
		Name:      "stop",
		Usage:     "stop a simulated host; its guests end with it",
		ArgsUsage: "HOST",
	}, 1, 1, func(c *cli.Context, args []string) error {
		host, err := sim.Dial(c.Context, args[0])
		if err != nil {
			return err
		}
		return host.Shutdown(c.Context)
	})
}

const workloadHelp = `Workloads:
   idle                      writes nothing
   uniform:100MB/s           writes whole pages, all alike; set=1GiB keeps to a part of memory
   hot:200MB/s,set=64MiB     writes a set of pages, few of them very often (Zipf)
   cyclic:100MB/s,period=2s  writes for half the period, then rests
   small:50MB/s              changes a few bytes in each page; the rate counts whole pages`

func simCreateCommand() *cli.Command {
	return simLeaf(cli.Command{
		Name:        "create",
		Usage:       "start a guest on a simulated host; returns when it has filled its memory",
		ArgsUsage:   "HOST",
		Description: workloadHelp,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "name of the guest"},
			&cli.Uint64Flag{Name: "memory", Value: 1024, Usage: "memory of the guest in `MiB`"},
			&cli.IntFlag{Name: "vcpus", Value: 1, Usage: fmt.Sprintf("vCPUs that do the work, 1 to %d", sim.MaxVCPUs)},
			&cli.StringFlag{Name: "workload", Value: "idle", Usage: "what the guest does, see above"},
			&cli.Float64Flag{Name: "zero-share", Value: memcheck.DefaultZeroShare, Usage: "share of memory that is zero at first, 0 to 1"},
			&cli.StringFlag{Name: "image", Usage: "take the contents of memory from this `file`; the workload keeps to its set, the rest is verified by a sum"},
			&cli.StringFlag{Name: "verify-rate", Value: "64MB/s", Usage: "how fast the guest verifies its memory all the time; 0: not at all"},
			&cli.Uint64Flag{Name: "seed", Usage: "number that makes the contents of memory; 0: any"},
			&cli.BoolFlag{Name: "no-suspend", Usage: "the guest never suspends"},
			&cli.DurationFlag{Name: "suspend-delay", Usage: "`time` that the guest takes until it suspends"},
		},
	}, 1, 1, simCreate)
}

func simCreate(c *cli.Context, args []string) error {
	cfg, err := guestConfig(c)
	if err != nil {
		return err
	}
	host, err := sim.Dial(c.Context, args[0])
	if err != nil {
		return err
	}
	defer host.Close()
	domid, err := host.Create(c.Context, cfg)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "guest %s runs on %s as domain %d\n", cfg.Name, args[0], domid)
	return nil
}

// guestConfig turns the flags into a configuration, in which 0 means the
// default and a negative number none.
func guestConfig(c *cli.Context) (sim.GuestConfig, error) {
	cfg := sim.GuestConfig{
		Name:         c.String("name"),
		MemMiB:       c.Uint64("memory"),
		VCPUs:        c.Int("vcpus"),
		Workload:     c.String("workload"),
		ZeroShare:    c.Float64("zero-share"),
		Seed:         c.Uint64("seed"),
		NoSuspend:    c.Bool("no-suspend"),
		SuspendDelay: c.Duration("suspend-delay"),
	}
	if image := c.String("image"); image != "" {
		path, err := filepath.Abs(image) // the host runs elsewhere
		if err != nil {
			return cfg, err
		}
		cfg.Image = path
	}
	if cfg.Name == "" {
		return cfg, usagef("sim create: give the guest a name: --name db1")
	}
	if _, err := memcheck.ParseWorkload(cfg.Workload); err != nil {
		return cfg, usagef("%v", err)
	}
	switch {
	case cfg.VCPUs < 1 || cfg.VCPUs > sim.MaxVCPUs:
		return cfg, usagef("--vcpus %d: want 1 to %d", cfg.VCPUs, sim.MaxVCPUs)
	case !(cfg.ZeroShare >= 0 && cfg.ZeroShare <= 1): // a NaN too
		return cfg, usagef("--zero-share %g: want 0 to 1", cfg.ZeroShare)
	case cfg.ZeroShare == 0:
		cfg.ZeroShare = -1
	}
	rate := c.String("verify-rate")
	if rate == "0" {
		cfg.VerifyRate = -1
		return cfg, nil
	}
	perSec, err := memcheck.ParseRate(rate)
	if err != nil {
		return cfg, usagef("--verify-rate: %v", err)
	}
	cfg.VerifyRate = int64(perSec)
	return cfg, nil
}

func simListCommand() *cli.Command {
	return simLeaf(cli.Command{
		Name:      "list",
		Usage:     "list the simulated hosts, or the guests of one",
		ArgsUsage: "[HOST]",
		Flags:     []cli.Flag{jsonFlag},
	}, 0, 1, func(c *cli.Context, args []string) error {
		if len(args) == 0 {
			return listSimHosts(c)
		}
		return listSimGuests(c, args[0])
	})
}

func listSimHosts(c *cli.Context) error {
	names, err := sim.Names()
	if err != nil {
		return err
	}
	hosts := []xen.HostInfo{}
	for _, name := range names {
		// A host that was killed has left its socket: it is not one any more.
		host, err := sim.Dial(c.Context, name)
		if err != nil {
			continue
		}
		info, err := host.Info(c.Context)
		if err != nil {
			return err
		}
		hosts = append(hosts, info)
	}
	if c.Bool(jsonFlag.Name) {
		return json.NewEncoder(c.App.Writer).Encode(hosts)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "HOST\tMEM(MiB)\tFREE(MiB)")
	for _, h := range hosts {
		fmt.Fprintf(w, "%s\t%d\t%d\n", h.Name, h.TotalKiB/1024, h.FreeKiB/1024)
	}
	return w.Flush()
}

func listSimGuests(c *cli.Context, name string) error {
	host, err := sim.Dial(c.Context, name)
	if err != nil {
		return err
	}
	defer host.Close()
	all, err := host.List(c.Context)
	if err != nil {
		return err
	}
	guests := []sim.GuestStatus{}
	for _, d := range all {
		if d.Domid == 0 {
			continue
		}
		st, err := host.Status(c.Context, d.Domid)
		if errors.Is(err, xen.ErrNoDomain) {
			continue // has ended just now
		}
		if err != nil {
			return err
		}
		guests = append(guests, st)
	}
	if c.Bool(jsonFlag.Name) {
		return json.NewEncoder(c.App.Writer).Encode(guests)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tMEM(MiB)\tVCPUS\tSTATE\tWORKLOAD\tMOVED\tBAD PAGES")
	for _, g := range guests {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%s\t%d\t%d\n",
			g.Name, g.Domid, g.MemKiB/1024, g.VCPUs, g.State, g.Workload, g.Arrivals, g.BadPages)
	}
	return w.Flush()
}

func simStatusCommand() *cli.Command {
	return simLeaf(cli.Command{
		Name:      "status",
		Usage:     "tell how a simulated guest is, as its own checker sees it",
		ArgsUsage: "HOST GUEST",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "verify", Usage: "have the guest verify all its memory first; fail if a page is bad"},
			jsonFlag,
		},
	}, 2, 2, simStatus)
}

func simStatus(c *cli.Context, args []string) error {
	host, err := sim.Dial(c.Context, args[0])
	if err != nil {
		return err
	}
	defer host.Close()
	guest, err := host.Find(c.Context, args[1])
	if err != nil {
		return err
	}
	look := host.Status
	if c.Bool("verify") {
		look = host.Verify
	}
	st, err := look(c.Context, guest.Domid)
	if err != nil {
		return err
	}
	if c.Bool(jsonFlag.Name) {
		err = json.NewEncoder(c.App.Writer).Encode(st)
	} else {
		err = printStatus(c.App.Writer, &st)
	}
	if err == nil && c.Bool("verify") && st.BadPages > 0 {
		err = fmt.Errorf("guest %s has found %d damaged pages", st.Name, st.BadPages)
	}
	return err
}

func printStatus(out io.Writer, st *sim.GuestStatus) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "guest\t%s, domain %d, %s\n", st.Name, st.Domid, st.State)
	fmt.Fprintf(w, "uuid, instance\t%s, %s\n", st.UUID, st.Instance)
	fmt.Fprintf(w, "memory, vCPUs\t%d MiB, %d\n", st.MemKiB/1024, st.VCPUs)
	fmt.Fprintf(w, "workload\t%s\n", st.Workload)
	fmt.Fprintf(w, "written\t%d pages\n", st.Writes)
	fmt.Fprintf(w, "verified\t%d pages, all of them %d times\n", st.Verified, st.Sweeps)
	fmt.Fprintf(w, "bad pages\t%d\n", st.BadPages)
	for _, text := range st.Errors {
		fmt.Fprintf(w, "\t%s\n", text)
	}
	if st.Failure != "" {
		fmt.Fprintf(w, "crashed\t%s\n", st.Failure)
	}
	short := func(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
	fmt.Fprintf(w, "moved\t%d times, downtime of the last %v\n", st.Arrivals, short(st.ArrivalGap))
	fmt.Fprintf(w, "heartbeats\t%d, largest gap %v, on this host %v\n", st.Beats, short(st.MaxGap), short(st.MaxGapHere))
	return w.Flush()
}

func simDestroyCommand() *cli.Command {
	return simLeaf(cli.Command{
		Name:      "destroy",
		Usage:     "end a simulated guest at once",
		ArgsUsage: "HOST GUEST",
	}, 2, 2, func(c *cli.Context, args []string) error {
		host, err := sim.Dial(c.Context, args[0])
		if err != nil {
			return err
		}
		defer host.Close()
		guest, err := host.Find(c.Context, args[1])
		if err != nil {
			return err
		}
		return host.Destroy(c.Context, guest.Domid)
	})
}
