//go:build lab

package labtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/xenferry/xenferry/xen"
)

// Migration is one `xenferry migrate` under way, with its events as they come.
type Migration struct {
	From   *Host
	cmd    *exec.Cmd
	events *bufio.Scanner
	stderr bytes.Buffer
	kill   *time.Timer
}

// MigrationLimit bounds one migration in the emulated lab.
const MigrationLimit = 8 * time.Minute

// Start begins to move the guest away from a host with xenferry.
func (g *Guest) Start(t testing.TB, from *Host, options string) *Migration {
	t.Helper()
	command := fmt.Sprintf("xenferry migrate --json %s %s %s", options, g.Name, g.Lab.Other(from).Name)
	m := &Migration{From: from, cmd: exec.Command(filepath.Join(scriptDir(), "on.sh"), from.Key, command)}
	m.cmd.Stderr = &m.stderr
	m.cmd.WaitDelay = 5 * time.Second
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.events = bufio.NewScanner(out)
	m.events.Buffer(nil, 1<<20)
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.kill = time.AfterFunc(MigrationLimit, func() { _ = m.cmd.Process.Kill() })
	return m
}

// Await reads events until one of which cond holds.
func (m *Migration) Await(t testing.TB, what string, cond func(xen.Event) bool) {
	t.Helper()
	for {
		e, ok := m.next(t)
		if !ok {
			t.Fatalf("the migration ended before %s: %s", what, m.stderr.String())
		}
		if cond(e) {
			return
		}
	}
}

// AwaitPhase waits until a phase of the source begins.
func (m *Migration) AwaitPhase(t testing.TB, phase string) {
	t.Helper()
	m.Await(t, "phase "+phase, func(e xen.Event) bool { return e.Kind == xen.EventPhase && e.Phase == phase })
}

func (m *Migration) next(t testing.TB) (xen.Event, bool) {
	t.Helper()
	var e xen.Event
	if !m.events.Scan() {
		return e, false
	}
	if err := json.Unmarshal(m.events.Bytes(), &e); err != nil {
		t.Fatalf("not an event: %q: %v", m.events.Text(), err)
	}
	return e, true
}

// End waits for the end, and returns the exit code, the report (nil if none
// came) and what was printed to stderr.
func (m *Migration) End(t testing.TB) (int, *xen.Report, string) {
	t.Helper()
	defer m.kill.Stop()
	var report *xen.Report
	for {
		e, ok := m.next(t)
		if !ok {
			break
		}
		if e.Report != nil {
			report = e.Report
		}
	}
	_ = m.cmd.Wait()
	return m.cmd.ProcessState.ExitCode(), report, m.stderr.String()
}

// Ferry moves the guest with xenferry and fails the test unless it arrives.
func (g *Guest) Ferry(t testing.TB, from *Host, options string) *xen.Report {
	t.Helper()
	code, report, stderr := g.Start(t, from, options).End(t)
	if code != 0 || report == nil || report.Outcome != xen.OutcomeMoved {
		t.Fatalf("xenferry migrate: exit code %d, report %+v\n%s", code, report, stderr)
	}
	return report
}
