package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// The two ends of the link. Each is a network namespace that lives as long as
// the process that holds it, and ours does not outlive us: so nothing is left
// however the benchmark ends.
const (
	addressA = "10.77.0.1"
	addressB = "10.77.0.2"
	device   = "xf0" // at both ends
)

// link is a speed of the network between the ends.
type link struct {
	Name string // as LINKS names it
	Text string // as the table does
	rate string // as tc takes it; "" is unshaped
}

var links = []link{
	{"1g", "1 Gbit/s", "1gbit"},
	{"10g", "10 Gbit/s", "10gbit"},
	{"unshaped", "unshaped", ""},
}

// network is two namespaces joined by a veth pair.
type network struct{ a, b *exec.Cmd }

func newNetwork(ctx context.Context) (*network, error) {
	n := &network{}
	var err error
	if n.a, err = startHolder(); err != nil {
		return nil, err
	}
	if n.b, err = startHolder(); err != nil {
		n.close()
		return nil, err
	}
	a, b := strconv.Itoa(n.a.Process.Pid), strconv.Itoa(n.b.Process.Pid)
	steps := [][]string{
		{"ip", "link", "add", device, "netns", a, "type", "veth", "peer", "name", device, "netns", b},
	}
	for pid, address := range map[string]string{a: addressA, b: addressB} {
		steps = append(steps,
			[]string{"nsenter", "-t", pid, "-n", "ip", "address", "add", address + "/24", "dev", device},
			[]string{"nsenter", "-t", pid, "-n", "ip", "link", "set", device, "up"},
			[]string{"nsenter", "-t", pid, "-n", "ip", "link", "set", "lo", "up"})
	}
	for _, step := range steps {
		if err := runTool(ctx, step); err != nil {
			n.close()
			return nil, err
		}
	}
	return n, nil
}

// startHolder starts a process in a network namespace of its own.
func startHolder() (*exec.Cmd, error) {
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("making a network namespace: %w (root is needed)", err)
	}
	return cmd, nil
}

func (n *network) close() {
	for _, holder := range []*exec.Cmd{n.a, n.b} {
		if holder != nil {
			_ = holder.Process.Kill()
			_ = holder.Wait()
		}
	}
}

// shape sets the speed of both ends.
func (n *network) shape(ctx context.Context, l link) error {
	for _, holder := range []*exec.Cmd{n.a, n.b} {
		tc := []string{"nsenter", "-t", strconv.Itoa(holder.Process.Pid), "-n", "tc", "qdisc"}
		_ = runTool(ctx, append(tc, "del", "dev", device, "root")) // there may be none
		if l.rate == "" {
			continue
		}
		if err := runTool(ctx, append(tc, "add", "dev", device, "root", "tbf", "rate", l.rate, "burst", "1mb", "latency", "50ms")); err != nil {
			return err
		}
	}
	return nil
}

// inside returns the command line that runs argv at the end of a holder.
func inside(holder *exec.Cmd, argv ...string) []string {
	return append([]string{"nsenter", "--net=/proc/" + strconv.Itoa(holder.Process.Pid) + "/ns/net", "--"}, argv...)
}

// bytes returns what has passed end A's interface, both ways.
func (n *network) bytes() (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", n.a.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		name, counters, ok := strings.Cut(line, ":")
		fields := strings.Fields(counters)
		if !ok || strings.TrimSpace(name) != device || len(fields) < 9 {
			continue
		}
		received, err1 := strconv.ParseUint(fields[0], 10, 64)
		sent, err2 := strconv.ParseUint(fields[8], 10, 64)
		if err1 == nil && err2 == nil {
			return received + sent, nil
		}
	}
	return 0, fmt.Errorf("no counters of %s in /proc/%d/net/dev", device, n.a.Process.Pid)
}

// runTool runs a command that says nothing unless it fails.
func runTool(ctx context.Context, argv []string) error {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
