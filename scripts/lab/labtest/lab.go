//go:build lab

// Package labtest drives a running lab (scripts/lab/up.sh) from outside, over
// ssh. Its own tests prove that the lab's checkers see what they must see; the
// tests of xenferry on real Xen stand on it.
//
// The environment says which lab: XENFERRY_LAB_RUN and the others of
// scripts/lab/common.sh, as test.sh sets them. Without a lab all tests fail.
package labtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Limits of what the emulated hosts may take. They are generous: a test that
// waits for something ends as soon as it is there.
const (
	CommandLimit = 20 * time.Minute // of one command on a host
	BootLimit    = 6 * time.Minute  // from xl create to the first heartbeat
	CheckLimit   = 5 * time.Minute  // for the guest to check all it has
)

// oldest is the oldest release of Xen that the lab has.
const oldest = "4.17"

// Lab is a running lab: two Xen hosts on one network, with one disk in common.
type Lab struct {
	A, B *Host
	// Shadow: PV guests can be copied while they run, which Debian's
	// hypervisor cannot do.
	Shadow bool
}

// Host is one of the two.
type Host struct {
	Key     string // "A" or "B", as on.sh wants it
	Name    string // "hostA" or "hostB", as the other host reaches it
	Release string // of Xen: "4.17" or "4.20"
}

// scriptDir is where the lab's scripts are, from the folder of a test.
func scriptDir() string {
	if dir := os.Getenv("XENFERRY_LAB_SCRIPTS"); dir != "" {
		return dir
	}
	return ".."
}

// Open returns the running lab, with no guests on it, nor what any has printed.
// When the test ends its guests are destroyed; if it failed, both hosts'
// evidence is printed, and their logs are collected.
func Open(t testing.TB) *Lab {
	t.Helper()
	inTime(t)
	l := Find(t)
	l.DestroyGuests(t)
	// xenconsoled has no log open: all guests are gone.
	mustAll(t, "rm -f "+consoleDir+"/guest-*.log", l.Hosts()...)
	t.Cleanup(func() {
		if t.Failed() {
			l.collect(t, os.Getenv("XENFERRY_LAB_RUN"))
		}
		l.DestroyGuests(t)
	})
	l.witness(t)
	return l
}

// Find returns the running lab as it is, for a look at what hosts it has.
func Find(t testing.TB) *Lab {
	t.Helper()
	run := os.Getenv("XENFERRY_LAB_RUN")
	if run == "" {
		t.Fatal("XENFERRY_LAB_RUN does not name a running lab: run these tests with scripts/lab/test.sh")
	}
	text, err := os.ReadFile(filepath.Join(run, "lab.json"))
	if err != nil {
		t.Fatalf("the lab is not running: %v", err)
	}
	var state struct {
		Hosts      map[string]struct{ Release string }
		Hypervisor string
	}
	if err := json.Unmarshal(text, &state); err != nil {
		t.Fatalf("lab.json: %v", err)
	}
	host := func(key string) *Host {
		return &Host{Key: key, Name: "host" + key, Release: state.Hosts[key].Release}
	}
	return &Lab{A: host("A"), B: host("B"), Shadow: state.Hypervisor == "shadow"}
}

// Hosts returns both hosts.
func (l *Lab) Hosts() []*Host { return []*Host{l.A, l.B} }

// Other returns the other host.
func (l *Lab) Other(h *Host) *Host {
	if h.Key == l.A.Key {
		return l.B
	}
	return l.A
}

// SameRelease tells whether both hosts have the same Xen. A test that needs
// it, or needs the contrary, skips itself on the other pairs.
func (l *Lab) SameRelease() bool { return l.A.Release == l.B.Release }

// RunError is a command that failed on a host.
type RunError struct {
	Host, Command string
	Code          int // its exit status, 255 if ssh failed, -1 if it was cut off
	Out           string
	Err           error
}

// Error says which command failed, where, how, and what it printed.
func (e *RunError) Error() string {
	return fmt.Sprintf("%s: %q: exit status %d (%v)\n%s", e.Host, e.Command, e.Code, e.Err, e.Out)
}

// Unwrap returns what ended the command, for errors.Is.
func (e *RunError) Unwrap() error { return e.Err }

// Run runs a shell command on the host and returns what it printed, on stdout
// and stderr together. The error is a *RunError. When ctx ends, only our end
// of the connection is closed: what the command started may go on.
func (h *Host) Run(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, CommandLimit)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(scriptDir(), "on.sh"), h.Key, command)
	cmd.Stdout, cmd.Stderr = &out, &out
	// An ssh that stays as the shared connection may keep the pipe open.
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return out.String(), nil
	}
	code := -1
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	return out.String(), &RunError{h.Name, command, code, out.String(), errors.Join(err, ctx.Err())}
}

// Must runs a command that has to succeed, and returns what it printed.
func (h *Host) Must(t testing.TB, command string) string {
	t.Helper()
	out, err := h.Run(context.Background(), command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// mustAll runs a command on some hosts at once, as Must does on one, and returns
// what it printed on each.
func mustAll(t testing.TB, command string, hosts ...*Host) []string {
	t.Helper()
	return mustEach(t, slices.Repeat([]string{command}, len(hosts)), hosts...)
}

// mustEach is mustAll with a command for each of the hosts.
func mustEach(t testing.TB, commands []string, hosts ...*Host) []string {
	t.Helper()
	outs, errs := make([]string, len(hosts)), make([]error, len(hosts))
	var running sync.WaitGroup
	for i, h := range hosts {
		running.Go(func() { outs[i], errs[i] = h.Run(context.Background(), commands[i]) })
	}
	running.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return outs
}

// Put copies a file to a path on the host, with its mode.
func (h *Host) Put(t testing.TB, file, path string) {
	t.Helper()
	out, err := exec.Command(filepath.Join(scriptDir(), "put.sh"), h.Key, file, path).CombinedOutput()
	if err != nil {
		t.Fatalf("put %s on %s: %v\n%s", file, h.Name, err, out)
	}
}

// Domains returns the names of the host's guests by domid. One that is being
// destroyed, and has lost its name, is called "(null)" by Xen.
func (h *Host) Domains(t testing.TB) map[string]string {
	t.Helper()
	return parseDomains(h.Must(t, listDomains))
}

// listDomains is a command whose output parseDomains reads.
const listDomains = "xl list"

func parseDomains(list string) map[string]string {
	names := map[string]string{}
	for i, line := range strings.Split(list, "\n") {
		if f := strings.Fields(line); i > 0 && len(f) >= 2 && f[1] != "0" {
			names[f[1]] = f[0]
		}
	}
	return names
}

// DestroyGuests destroys all guests on both hosts.
func (l *Lab) DestroyGuests(t testing.TB) {
	t.Helper()
	for i, list := range mustAll(t, listDomains, l.Hosts()...) {
		h := l.Hosts()[i]
		for domid := range parseDomains(list) {
			// It may be ending by itself; what counts is that it is gone.
			out, err := h.Run(context.Background(), "xl destroy "+domid)
			if _, still := h.Domains(t)[domid]; still {
				t.Errorf("%s: domain %s cannot be destroyed: %v\n%s", h.Name, domid, err, out)
			}
		}
	}
}
