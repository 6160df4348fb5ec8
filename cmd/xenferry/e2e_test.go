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
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/sim"
)

// mainEnv makes the test program behave as xenferry itself.
const mainEnv = "XENFERRY_TEST_MAIN"

func TestMain(m *testing.M) {
	sim.RunIfGuest()
	if os.Getenv(mainEnv) != "" {
		os.Exit(run(os.Args))
	}
	os.Exit(m.Run())
}

// lab is two simulated hosts with a guest on the first.
type lab struct {
	t     *testing.T
	alpha *sim.Host
	beta  *sim.Host
	guest sim.GuestConfig
}

func newLab(t *testing.T, guest sim.GuestConfig) *lab {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "xf-") // short: unix sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv(sim.DirEnv, dir)
	t.Setenv(mainEnv, "1")
	l := &lab{t: t, guest: guest}
	l.alpha, l.beta = l.host("alpha"), l.host("beta")
	if l.guest.Name == "" {
		l.guest.Name = "db1"
	}
	if l.guest.MemMiB == 0 {
		l.guest.MemMiB = 48
	}
	if _, err := l.alpha.Create(l.context(), l.guest); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lab) host(name string) *sim.Host {
	l.t.Helper()
	if out, err := l.command("sim", "start", "--memory", fmt.Sprintf("%dM", 512+l.guest.MemMiB), name).CombinedOutput(); err != nil {
		l.t.Fatalf("%v: %s", err, out)
	}
	h, err := sim.Dial(l.context(), name)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := h.Shutdown(ctx); err != nil {
			l.t.Errorf("stopping host %s: %v", name, err)
		}
	})
	return h
}

func (l *lab) context() context.Context {
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	l.t.Cleanup(cancel)
	return ctx
}

func (l *lab) command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// xenferry runs a command to its end.
func (l *lab) xenferry(args ...string) (code int, stdout, stderr string) {
	l.t.Helper()
	cmd := l.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		l.t.Fatal(err)
	}
	if strings.Contains(errs.String(), "WARNING: DATA RACE") { // the exit code does not tell
		l.t.Errorf("%v: %s", args, errs.String())
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// expectAt checks that the guest runs on one host, with its memory whole, and
// that the other has nothing of it.
func (l *lab) expectAt(here, other *sim.Host) sim.GuestStatus {
	l.t.Helper()
	info, err := here.Find(l.context(), l.guest.Name)
	if err != nil {
		l.t.Fatal(err)
	}
	if info.State != xen.StateRunning {
		l.t.Errorf("the guest is %s", info.State)
	}
	status, err := here.Verify(l.context(), info.Domid)
	if err != nil {
		l.t.Fatal(err)
	}
	if status.BadPages != 0 || status.LogDirty || status.Throttle != 0 {
		l.t.Errorf("%d bad pages (%v), log-dirty %v, throttle %d", status.BadPages, status.Errors, status.LogDirty, status.Throttle)
	}
	rest, err := other.List(l.context())
	if err != nil {
		l.t.Fatal(err)
	}
	for _, d := range rest {
		if d.Domid != 0 {
			l.t.Errorf("left on the other host: %+v", d)
		}
	}
	return status
}

func TestMigrateThereAndBack(t *testing.T) {
	for _, mode := range []string{"tls", "plain", "ssh"} {
		t.Run(mode, func(t *testing.T) {
			l := newLab(t, sim.GuestConfig{Workload: "uniform:20MB/s"})
			code, out, errs := l.xenferry("-c", "sim:alpha", "migrate", "--data", mode, "--connections", "2", "--debug", "db1", "sim:beta")
			if code != exitOK || !strings.Contains(out, "db1 moved from alpha to beta") {
				t.Fatalf("exit %d\n%s%s", code, out, errs)
			}
			l.expectAt(l.beta, l.alpha)
			if code, out, errs = l.xenferry("-c", "sim:beta", "migrate", "--data", mode, "--memory-hash", "db1", "sim:alpha"); code != exitOK {
				t.Fatalf("exit %d\n%s%s", code, out, errs)
			}
			if status := l.expectAt(l.alpha, l.beta); status.Arrivals != 2 || status.Writes == 0 {
				t.Errorf("%+v", status)
			}
		})
	}
}

func TestMigrateJSON(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	code, out, errs := l.xenferry("-c", "sim:alpha", "migrate", "--json", "db1", "sim:beta")
	if code != exitOK {
		t.Fatalf("exit %d: %s", code, errs)
	}
	var last xen.Event
	kinds := map[xen.EventKind]bool{}
	for line := range strings.Lines(out) {
		last = xen.Event{}
		if err := json.Unmarshal([]byte(line), &last); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		kinds[last.Kind] = true
	}
	r := last.Report
	if last.Kind != xen.EventEnd || r == nil || r.Outcome != xen.OutcomeMoved || r.Downtime <= 0 || r.WireBytes == 0 || len(r.Rounds) < 2 {
		t.Errorf("the last event is %+v, report %+v", last, r)
	}
	if !kinds[xen.EventPhase] || !kinds[xen.EventRound] {
		t.Errorf("kinds of events: %v", kinds)
	}
}

func TestMigrateLeavePaused(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	if code, _, errs := l.xenferry("-c", "sim:alpha", "migrate", "-p", "db1", "sim:beta"); code != exitOK {
		t.Fatalf("exit %d: %s", code, errs)
	}
	info, err := l.beta.Find(l.context(), "db1")
	if err != nil || info.State != xen.StatePaused {
		t.Errorf("%+v, %v", info, err)
	}
}

// TestBadInput is what a user, or the other host, can get wrong: one clear
// error, its exit code, and the guest runs on.
func TestBadInput(t *testing.T) {
	migrate := func(args ...string) []string { return append([]string{"-c", "sim:alpha", "migrate"}, args...) }
	tests := []struct {
		name  string
		guest sim.GuestConfig
		setup func(l *lab)
		args  []string
		code  int
		want  string
	}{
		{name: "no arguments", args: migrate(), code: exitUsage, want: "migrate takes <domain> <host>"},
		{name: "unknown flag", args: migrate("--bogus", "db1", "sim:beta"), code: exitUsage, want: "bogus"},
		{name: "bad data mode", args: migrate("--data", "udp", "db1", "sim:beta"), code: exitUsage, want: "tls, plain, ssh"},
		{name: "too many connections", args: migrate("--connections", "65", "db1", "sim:beta"), code: exitUsage, want: "1 to 64"},
		{name: "bad connect", args: []string{"-c", "kvm", "list"}, code: exitUsage, want: "sim:NAME"},
		{name: "unknown domain", args: migrate("db2", "sim:beta"), code: exitNoDomain, want: `"db2"`},
		{name: "unknown config", args: migrate("-C", "/nonexistent", "db1", "sim:beta"), code: exitFailed, want: "/nonexistent"},
		{name: "no such host", args: migrate("db1", "sim:gamma"), code: exitNoPeer, want: "gamma"},
		{name: "receiver missing", args: migrate("-s", "", "db1", "exec no-such-program"), code: exitNoPeer, want: "install xenferry"},
		{name: "connection refused", args: migrate("-s", "", "db1", "echo ssh: connect to host b: refused >&2; exit 255"), code: exitNoPeer, want: "connect to host b: refused"},
		{name: "not a receiver", args: migrate("-s", "", "db1", "echo Welcome to host b, please behave yourself here"), code: exitNoPeer, want: "Welcome to host b"},
		{name: "deadline before the start", args: migrate("--deadline", "1ns", "db1", "sim:beta"), code: exitAtSource, want: "not done before the deadline: 1ns"},
		{name: "deadline, stock xl", args: migrate("--stock", "--deadline", "1s", "-s", "", "db1", "cat >/dev/null; true"), code: exitAtSource, want: "not done before the deadline: 1s"},
		{name: "max-downtime, stock xl", args: migrate("--stock", "--max-downtime", "1s", "-s", "", "db1", "cat >/dev/null; true"), code: exitUsage, want: "--max-downtime needs xenferry"},
		{
			name: "name taken", args: migrate("db1", "sim:beta"), code: exitRefused, want: "already in use",
			setup: func(l *lab) {
				if _, err := l.beta.Create(l.context(), sim.GuestConfig{Name: "db1", MemMiB: 4}); err != nil {
					l.t.Fatal(err)
				}
			},
		},
		{
			name: "no memory", args: migrate("db1", "sim:beta"), code: exitRefused, want: "not enough free memory",
			setup: func(l *lab) {
				if _, err := l.beta.Create(l.context(), sim.GuestConfig{Name: "big", MemMiB: 490, ZeroShare: 1, VerifyRate: -1}); err != nil {
					l.t.Fatal(err)
				}
			},
		},
		{
			name: "does not suspend", guest: sim.GuestConfig{NoSuspend: true},
			args: migrate("--suspend-timeout", "1s", "db1", "sim:beta"), code: exitAtSource, want: "guest did not suspend",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, tt.guest)
			if tt.setup != nil {
				tt.setup(l)
			}
			code, out, errs := l.xenferry(tt.args...)
			if code != tt.code || !strings.Contains(errs, tt.want) {
				t.Errorf("exit %d, want %d and %q\n%s%s", code, tt.code, tt.want, out, errs)
			}
			if strings.Contains(errs, "goroutine ") {
				t.Error("it panicked")
			}
			if tt.setup != nil { // the other guest there is in the way on purpose
				clearHost(l)
			}
			l.expectAt(l.alpha, l.beta)
		})
	}
}

func clearHost(l *lab) {
	l.t.Helper()
	all, err := l.beta.List(l.context())
	if err != nil {
		l.t.Fatal(err)
	}
	if len(all) > 2 {
		l.t.Errorf("left on beta: %+v", all)
	}
	for _, d := range all {
		if d.Domid != 0 {
			if err := l.beta.Destroy(l.context(), d.Domid); err != nil {
				l.t.Fatal(err)
			}
		}
	}
}

// running is a migration under way.
type running struct {
	cmd    *exec.Cmd
	events *bufio.Scanner
	stderr bytes.Buffer
}

func (l *lab) startMigration(args ...string) *running {
	l.t.Helper()
	r := &running{cmd: l.command(append([]string{"-c", "sim:alpha", "migrate", "--json"}, args...)...)}
	r.cmd.Stderr = &r.stderr
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	r.events = bufio.NewScanner(out)
	if err := r.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = r.cmd.Process.Kill() })
	return r
}

// await reads events until the phase begins.
func (r *running) await(t *testing.T, phase string) {
	t.Helper()
	for r.events.Scan() {
		var e xen.Event
		if err := json.Unmarshal(r.events.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		if e.Kind == xen.EventPhase && e.Phase == phase {
			return
		}
	}
	t.Fatalf("phase %q never came: %s", phase, r.stderr.String())
}

// end waits for the end and returns the exit code and the report.
func (r *running) end(t *testing.T) (int, *xen.Report) {
	t.Helper()
	var report *xen.Report
	for r.events.Scan() {
		var e xen.Event
		if err := json.Unmarshal(r.events.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		if e.Report != nil {
			report = e.Report
		}
	}
	_ = r.cmd.Wait()
	return r.cmd.ProcessState.ExitCode(), report
}

// receiver returns the process id of the receiver, a child of the sender.
func (r *running) receiver(t *testing.T) int {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", r.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for _, word := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); bytes.Contains(line, []byte("\x00guardian\x00")) {
				continue // of the sender
			}
			return pid
		}
	}
	t.Fatal("the sender has no receiver")
	return 0
}

// TestKilled kills either end, while memory is copied and while the guest is
// suspended. The receiver is stopped first, so that the moment is certain.
func TestKilled(t *testing.T) {
	for _, phase := range []string{"copy", "last pages"} {
		t.Run("receiver/"+phase, func(t *testing.T) {
			l := newLab(t, sim.GuestConfig{MemMiB: 128})
			r := l.startMigration("--memory-hash", "db1", "sim:beta")
			r.await(t, phase)
			pid := r.receiver(t)
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			time.Sleep(200 * time.Millisecond)
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			code, report := r.end(t)
			if code != exitAtSource || report.Outcome != xen.OutcomeAtSource {
				t.Errorf("exit %d, report %+v", code, report)
			}
			l.eventuallyEmpty(l.beta)
			l.expectAt(l.alpha, l.beta)
		})
	}
	t.Run("sender/copy", func(t *testing.T) {
		l := newLab(t, sim.GuestConfig{MemMiB: 128})
		r := l.startMigration("db1", "sim:beta")
		r.await(t, "copy")
		if err := r.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = r.cmd.Wait()
		l.eventuallyEmpty(l.beta)
		// The next migration takes over what the killed one left: log-dirty mode.
		if code, out, errs := l.xenferry("-c", "sim:alpha", "migrate", "db1", "sim:beta"); code != exitOK {
			t.Fatalf("exit %d\n%s%s", code, out, errs)
		}
		l.expectAt(l.beta, l.alpha)
	})
}

// eventuallyEmpty waits until a host has no guest.
func (l *lab) eventuallyEmpty(h *sim.Host) {
	l.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		all, err := h.List(l.context())
		if err != nil {
			l.t.Fatal(err)
		}
		if len(all) == 1 {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("still there: %+v", all)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestInterrupted: Ctrl-C goes to every process of the foreground, and the
// guest runs on at the source.
func TestInterrupted(t *testing.T) {
	for _, phase := range []string{"copy", "last pages"} {
		t.Run(phase, func(t *testing.T) {
			l := newLab(t, sim.GuestConfig{MemMiB: 128})
			r := l.startMigration("--memory-hash", "db1", "sim:beta")
			r.await(t, phase)
			if err := syscall.Kill(r.receiver(t), syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			if code, report := r.end(t); code != exitCancelled || report.Outcome != xen.OutcomeAtSource {
				t.Errorf("exit %d, report %+v", code, report)
			}
			l.eventuallyEmpty(l.beta)
			l.expectAt(l.alpha, l.beta)
		})
	}
}

func TestHungReceiver(t *testing.T) {
	l := newLab(t, sim.GuestConfig{MemMiB: 128})
	r := l.startMigration("--silence-timeout", "2s", "db1", "sim:beta")
	r.await(t, "copy")
	pid := r.receiver(t)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	code, report := r.end(t)
	if code != exitAtSource || report.Outcome != xen.OutcomeAtSource || report.Total > 15*time.Second {
		t.Errorf("exit %d, report %+v", code, report)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	clearHost(l)
	l.expectAt(l.alpha, l.beta)
}

func TestListAndVersion(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	code, out, _ := l.xenferry("-c", "sim:alpha", "list", "--json")
	var domains []xen.DomainInfo
	if err := json.Unmarshal([]byte(out), &domains); err != nil || code != exitOK {
		t.Fatalf("exit %d, %v: %s", code, err, out)
	}
	if len(domains) != 2 || domains[1].Name != "db1" || domains[1].State != xen.StateRunning {
		t.Errorf("%+v", domains)
	}
	if code, out, _ := l.xenferry("-c", "sim:alpha", "list", "db1"); code != exitOK || !strings.Contains(out, "db1") {
		t.Errorf("exit %d: %s", code, out)
	}
	if code, _, errs := l.xenferry("-c", "sim:alpha", "list", "db7"); code != exitNoDomain || !strings.Contains(errs, "db7") {
		t.Errorf("exit %d: %s", code, errs)
	}
	code, out, _ = l.xenferry("version", "--json")
	var v versionInfo
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != exitOK || v.ProtocolMax != xen.ProtocolMax || v.Zstd == "" {
		t.Errorf("exit %d, %v: %s", code, err, out)
	}
}
