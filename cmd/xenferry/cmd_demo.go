package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/sim"
)

func demoCommand() *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "move a working guest between two simulated hosts, there and back; needs no Xen and no root",
		Description: "Two hosts come up in a directory of their own, a guest fills its memory and\n" +
			"writes it all the time. It is moved to the second host, with a hash of all its\n" +
			"memory taken while it is suspended and compared before it runs there (that takes\n" +
			"its time, so the pause is long), and then back, as fast as it goes.",
		Flags: []cli.Flag{
			&cli.Uint64Flag{Name: "memory", Value: 1024, Usage: "memory of the guest in `MiB`"},
			&cli.StringFlag{Name: "workload", Value: "hot:50MB/s,set=64MiB", Usage: "what the guest does; see xenferry sim create --help"},
		},
		OnUsageError: usageError,
		Action:       demo,
	}
}

func demo(c *cli.Context) (err error) {
	// A cancel ends what is under way, not the cleaning up.
	stage, err := newStage(c.Context, c.App.Writer)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stage.clear()) }()
	if err := stage.createGuest(c); err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "\n== alpha to beta, proving that memory is the same on both sides before the guest runs on ==\n")
	if err := stage.move(c.Context, 0, 1, true); err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "\n== beta to alpha, without the proof in the pause ==\n")
	if err := stage.move(c.Context, 1, 0, false); err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "\nThe guest has moved twice, its memory is whole, and no copy of it is left.\n")
	return nil
}

// stage is the two simulated hosts of the demo and their guest.
type stage struct {
	out   io.Writer
	dir   string
	procs [2]*exec.Cmd
	hosts [2]*sim.Host
	names [2]string
}

const demoGuest = "demo-guest"

// newStage starts the hosts.
func newStage(ctx context.Context, out io.Writer) (*stage, error) {
	dir, err := os.MkdirTemp("", "xenferry-demo-")
	if err != nil {
		return nil, err
	}
	s := &stage{out: out, dir: dir, names: [2]string{"alpha", "beta"}}
	if err := os.Setenv(sim.DirEnv, dir); err != nil { // for the receivers too
		return nil, err
	}
	for i, name := range s.names {
		if err := s.startHost(ctx, i, name); err != nil {
			return nil, errors.Join(err, s.clear())
		}
		fmt.Fprintf(out, "simulated host %s is up (process %d)\n", name, s.procs[i].Process.Pid)
	}
	return s, nil
}

func (s *stage) startHost(ctx context.Context, i int, name string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s.procs[i] = exec.Command(self, "sim", "start", "--foreground", name)
	s.procs[i].Stderr = os.Stderr
	if err := s.procs[i].Start(); err != nil {
		s.procs[i] = nil
		return err
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		if s.hosts[i], err = sim.Dial(ctx, name); err == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("simulated host %s did not come up: %w", name, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *stage) createGuest(c *cli.Context) error {
	start := time.Now()
	_, err := s.hosts[0].Create(c.Context, sim.GuestConfig{
		Name: demoGuest, MemMiB: c.Uint64("memory"), Workload: c.String("workload"),
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "guest %s runs on %s: %d MiB, workload %s (filled in %s)\n", demoGuest, s.names[0],
		c.Uint64("memory"), c.String("workload"), time.Since(start).Round(time.Millisecond))
	return nil
}

// move moves the guest and proves that it has moved whole.
func (s *stage) move(ctx context.Context, from, to int, hash bool) error {
	guest, err := s.hosts[from].Find(ctx, demoGuest)
	if err != nil {
		return err
	}
	command, err := simReceiver(s.names[to])
	if err != nil {
		return err
	}
	show := newDisplay(s.out, os.Stderr, false)
	defer show.close()
	report, err := migrateTo(ctx, s.hosts[from], guest, s.names[to], command, xen.SourceOptions{
		Program: version(), MemoryHash: hash, Observe: show.event,
	})
	if err != nil {
		return err
	}
	return s.prove(ctx, report, from, to)
}

func (s *stage) prove(ctx context.Context, report *xen.Report, from, to int) error {
	if _, err := s.hosts[from].Find(ctx, demoGuest); !errors.Is(err, xen.ErrNoDomain) {
		return fmt.Errorf("a copy of the guest is left on %s (%v)", s.names[from], err)
	}
	guest, err := s.hosts[to].Find(ctx, demoGuest)
	if err != nil {
		return err
	}
	before, err := s.hosts[to].Status(ctx, guest.Domid)
	if err != nil {
		return err
	}
	status, err := s.hosts[to].Verify(ctx, guest.Domid)
	if err != nil {
		return err
	}
	switch {
	case status.BadPages > 0:
		return fmt.Errorf("the guest found %d damaged pages: %v", status.BadPages, status.Errors)
	case status.Beats <= before.Beats:
		return fmt.Errorf("the guest's heart does not beat on %s", s.names[to])
	}
	if report.MemoryHash != "" {
		fmt.Fprintf(s.out, "memory hash, equal on both sides before the guest ran: %s\n", report.MemoryHash)
	}
	fmt.Fprintf(s.out, "guest: %d pages verified, %d bad; %d pages written, heart beats on\n", status.Verified, status.BadPages, status.Writes)
	fmt.Fprintf(s.out, "total %s; downtime: engine %s, guest %s; %s on the wire in %d rounds\n",
		report.Total.Round(time.Millisecond), report.Downtime.Round(100*time.Microsecond),
		status.ArrivalGap.Round(100*time.Microsecond), bytesText(report.WireBytes), len(report.Rounds))
	return nil
}

// clear ends the hosts with their guests and removes all files.
func (s *stage) clear() error {
	var errs []error
	for i, p := range s.procs {
		if p == nil {
			continue
		}
		_ = p.Process.Signal(os.Interrupt)
		kill := time.AfterFunc(10*time.Second, func() { _ = p.Process.Kill() })
		if err := p.Wait(); err != nil {
			errs = append(errs, fmt.Errorf("simulated host %s: %w", s.names[i], err))
		}
		kill.Stop()
	}
	left, err := filepath.Glob(filepath.Join(s.dir, "*"+".sock"))
	if err == nil && len(left) > 0 {
		errs = append(errs, fmt.Errorf("left behind: %v", left))
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}
