package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/sim"
)

// ferryMode is a setting of xenferry: flags of its migrate command.
type ferryMode struct {
	name  string
	flags []string
	only  string // the one link on which it is measured; "" is all
	inC   bool   // only with libzstd
}

var ferryModes = []ferryMode{
	{name: "auto", flags: []string{"--data=plain"}},
	{name: "auto-tls", flags: []string{"--data=tls"}, only: "unshaped"}, // soon after what it is compared with
	{name: "off", flags: []string{"--data=plain", "--compress=off"}},
	{name: "s2", flags: []string{"--data=plain", "--compress=s2"}},
	{name: "zstd", flags: []string{"--data=plain", "--compress=zstd"}},
	{name: "zstd-long", flags: []string{"--data=plain", "--compress=zstd-long"}, inC: true},
	{name: "zlib", flags: []string{"--data=plain", "--compress=zlib"}},
}

// ferryPeer runs xenferry's migrations between two simulated hosts.
type ferryPeer struct {
	program string
	net     *network
	img     *memoryImage
	a, b    *simHost
}

// simHost is a simulated host at one end of the link.
type simHost struct {
	*sim.Host
	name string
	cmd  *exec.Cmd
}

// startFerry starts the two hosts, whose sockets are in dir.
func startFerry(ctx context.Context, dir, program string, n *network, img *memoryImage) (*ferryPeer, error) {
	if err := os.Setenv(sim.DirEnv, dir); err != nil {
		return nil, err
	}
	p := &ferryPeer{program: program, net: n, img: img}
	var err error
	if p.a, err = startSimHost(ctx, program, n.a, "a", max(img.mib, largeMiB)); err == nil {
		p.b, err = startSimHost(ctx, program, n.b, "b", max(img.mib, largeMiB))
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func startSimHost(ctx context.Context, program string, holder *exec.Cmd, name string, mib int) (*simHost, error) {
	argv := inside(holder, program, "sim", "start", "--foreground", "--memory", fmt.Sprintf("%dM", mib+64), name)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	h := &simHost{name: name, cmd: cmd}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		var err error
		if h.Host, err = sim.Dial(ctx, name); err == nil {
			return h, nil
		}
		select {
		case <-ctx.Done():
			h.end()
			return nil, fmt.Errorf("simulated host %s did not come up: %w", name, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// end ends a host; its guests end with it.
func (h *simHost) end() {
	_ = h.cmd.Process.Kill()
	_ = h.cmd.Wait()
}

func (p *ferryPeer) close() {
	for _, h := range []*simHost{p.a, p.b} {
		if h != nil {
			h.end()
		}
	}
}

const ferryGuest = "guest"

// run moves a new guest with the image once. The hosts and the guest are up
// before; the sender and the receiver start and end within what counts.
func (p *ferryPeer) run(ctx context.Context, mode ferryMode, workload string) (r Result, err error) {
	domid, err := p.a.Create(ctx, sim.GuestConfig{
		Name: ferryGuest, MemMiB: uint64(p.img.mib), Image: p.img.path, Workload: workload, VerifyRate: -1,
	})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, p.destroyAll(domid)) }()
	m, err := startMeter(p.net, p.img, p.a.cmd.Process.Pid, p.b.cmd.Process.Pid)
	if err != nil {
		return r, err
	}
	report, cpu, err := p.migrate(ctx, mode)
	if err != nil {
		return r, err
	}
	if err := m.stop(&r); err != nil {
		return r, err
	}
	r.CPU, r.HostCPU = cpu, r.CPU
	r.Total, r.Downtime, r.Phases = untilMoved(report), report.Downtime, report.Phases
	return r, p.verify(ctx)
}

// untilMoved is how long it took until the source knew that the guest runs at
// the destination. What then goes on to free its memory at the source does not
// count: QEMU leaves that to its end, which does not count either.
func untilMoved(report *xen.Report) time.Duration {
	total := report.Total
	for _, p := range report.Phases {
		if p.Name == "destroy" {
			total -= p.Time
		}
	}
	return total
}

// destroyAll ends the guest, wherever it is now.
func (p *ferryPeer) destroyAll(domid uint32) error {
	err := destroyGuest(p.a, domid)
	if arrived, findErr := p.b.Find(context.Background(), ferryGuest); findErr == nil {
		err = errors.Join(err, destroyGuest(p.b, arrived.Domid))
	}
	return err
}

func destroyGuest(h *simHost, domid uint32) error {
	err := h.Destroy(context.Background(), domid)
	if errors.Is(err, xen.ErrNoDomain) {
		return nil
	}
	return err
}

// migrate runs the command, and returns its report and the CPU seconds of the
// sender and the receiver, its child.
func (p *ferryPeer) migrate(ctx context.Context, mode ferryMode) (*xen.Report, time.Duration, error) {
	cmd, out, errs := p.command(ctx, mode)
	if err := cmd.Run(); err != nil {
		return nil, 0, fmt.Errorf("xenferry migrate: %w: %s", err, strings.TrimSpace(errs.String()))
	}
	report, err := lastReport(out)
	return report, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), err
}

// command is the program that moves the guest, with what it will print.
func (p *ferryPeer) command(ctx context.Context, mode ferryMode) (cmd *exec.Cmd, out, errs *bytes.Buffer) {
	receiver := strings.Join(inside(p.net.b, p.program, "-c", "sim:b", "migrate-receive", "--data-address", addressB), " ")
	argv := inside(p.net.a, p.program, "-c", "sim:a", "migrate", "-s", "", "--json")
	argv = append(append(argv, mode.flags...), ferryGuest, "exec "+receiver)
	cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	out, errs = &bytes.Buffer{}, &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, errs
	return cmd, out, errs
}

// lastReport finds the report among the events that migrate --json prints.
func lastReport(out *bytes.Buffer) (*xen.Report, error) {
	var report *xen.Report
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e xen.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("xenferry migrate --json: %w", err)
		}
		if e.Report != nil {
			report = e.Report
		}
	}
	if report == nil {
		return nil, errors.New("xenferry migrate --json has printed no report")
	}
	return report, lines.Err()
}

// verify has the guest compare its memory with the image's sum, at the
// destination.
func (p *ferryPeer) verify(ctx context.Context) error {
	guest, err := p.b.Find(ctx, ferryGuest)
	if err != nil {
		return err
	}
	st, err := p.b.Verify(ctx, guest.Domid)
	if err == nil && st.BadPages > 0 {
		err = fmt.Errorf("memory arrived wrong: %s", strings.Join(st.Errors, "; "))
	}
	return err
}

// hasLibzstd tells whether this xenferry was built with it.
func hasLibzstd(program string) bool {
	version, _ := exec.Command(program, "version").Output()
	return bytes.Contains(version, []byte("libzstd"))
}

// offered returns the modes whose flags this xenferry has.
func offered(program string) ([]ferryMode, error) {
	help, err := exec.Command(program, "migrate", "--help").Output()
	if err != nil {
		return nil, fmt.Errorf("%s migrate --help: %w", filepath.Base(program), err)
	}
	var modes []ferryMode
	for _, m := range ferryModes {
		known := !m.inC || hasLibzstd(program)
		for _, flag := range m.flags {
			name, _, _ := strings.Cut(flag, "=")
			known = known && bytes.Contains(help, []byte(name+" "))
		}
		if known {
			modes = append(modes, m)
		}
	}
	return modes, nil
}
