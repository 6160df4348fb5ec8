package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/sim"
)

// simLab is an empty run directory, in which commands are run.
func simLab(t *testing.T) *lab {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "xf-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv(sim.DirEnv, dir)
	t.Setenv(mainEnv, "1")
	return &lab{t: t}
}

// ok runs a command that must succeed, and returns what it prints.
func (l *lab) ok(args ...string) string {
	l.t.Helper()
	code, out, errs := l.xenferry(args...)
	if code != exitOK {
		l.t.Fatalf("xenferry %s: exit code %d: %s", strings.Join(args, " "), code, errs)
	}
	return out
}

func TestSimCommands(t *testing.T) {
	l := simLab(t)
	if out := l.ok("sim", "start", "a", "--memory", "64M"); !strings.Contains(out, "host a runs") {
		t.Errorf("start: %q", out)
	}
	t.Cleanup(func() { l.xenferry("sim", "stop", "a") })
	var hosts []xen.HostInfo
	if err := json.Unmarshal([]byte(l.ok("sim", "list", "--json")), &hosts); err != nil {
		t.Fatal(err)
	}
	if len(hosts) != 1 || hosts[0].Name != "a" || hosts[0].TotalKiB != 64<<10 {
		t.Errorf("hosts: %+v", hosts)
	}

	l.ok("sim", "create", "a", "--name=db 1", "--memory", "8", "--vcpus=2", "--workload", "uniform:5MB/s",
		"--zero-share", "0", "--verify-rate", "0")
	var guests []sim.GuestStatus
	if err := json.Unmarshal([]byte(l.ok("sim", "list", "--json", "a")), &guests); err != nil {
		t.Fatal(err)
	}
	if len(guests) != 1 || guests[0].Name != "db 1" || guests[0].VCPUs != 2 || guests[0].Workload != "uniform:5MB/s" {
		t.Errorf("guests: %+v", guests)
	}
	if out := l.ok("sim", "list", "a"); !strings.Contains(out, "db 1") {
		t.Errorf("list: %s", out)
	}
	var st sim.GuestStatus
	if err := json.Unmarshal([]byte(l.ok("sim", "status", "--verify", "a", "db 1", "--json")), &st); err != nil {
		t.Fatal(err)
	}
	if st.BadPages != 0 || st.Sweeps != 1 || st.State != xen.StateRunning {
		t.Errorf("status: %+v", st)
	}
	if out := l.ok("sim", "status", "a", "1"); !strings.Contains(out, "bad pages       0") {
		t.Errorf("status: %s", out)
	}

	l.ok("sim", "destroy", "a", "db 1")
	if out := l.ok("sim", "list", "a", "--json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("guests after destroy: %s", out)
	}
	l.ok("sim", "stop", "a")
	if out := l.ok("sim", "list", "--json"); strings.TrimSpace(out) != "[]" {
		t.Errorf("hosts after stop: %s", out)
	}
}

func TestSimErrors(t *testing.T) {
	l := simLab(t)
	l.ok("sim", "start", "a", "--memory", "16M")
	t.Cleanup(func() { l.ok("sim", "stop", "a") })
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"sim start", exitUsage, "takes HOST"},
		{"sim start a b", exitUsage, "takes HOST"},
		{"sim start x/y", exitUsage, "host name"},
		{"sim start b --memory 4", exitUsage, "512M or 4G"},
		{"sim start b --memory 4K", exitUsage, "512M or 4G"},
		{"sim start b --memory", exitUsage, "needs a value"},
		{"sim start b --fast", exitUsage, "not defined: -fast (see xenferry sim start --help)"},
		{"sim start a", exitFailed, "already"},
		{"sim start --foreground a", exitFailed, "already runs"},
		{"sim stop nobody", exitFailed, "xenferry sim start"},
		{"sim create a", exitUsage, "--name"},
		{"sim create a --name x --workload busy", exitUsage, "unknown pattern"},
		{"sim create a --name x --vcpus 0", exitUsage, "1 to 64"},
		{"sim create a --name x --vcpus two", exitUsage, "vcpus"},
		{"sim create a --name x --zero-share 2", exitUsage, "0 to 1"},
		{"sim create a --name x --verify-rate 5", exitUsage, "verify-rate"},
		{"sim create a --name x --memory 1", exitFailed, "guest memory"},
		{"sim create a --name x --memory 32", exitRefused, "not enough free memory"},
		{"sim create a --memory 4 --name Domain-0", exitRefused, "already in use"},
		{"sim status a x", exitNoDomain, "no such domain"},
		{"sim status a", exitUsage, "takes HOST GUEST"},
		{"sim destroy a x", exitNoDomain, "no such domain"},
		{"sim destroy a -- --json", exitNoDomain, "no such domain"},
		{"sim list nobody", exitFailed, "xenferry sim start"},
	} {
		code, _, errs := l.xenferry(strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("%s: exit code %d, want %d; says %q, want %q", c.args, code, c.code, errs, c.want)
		}
	}
}
