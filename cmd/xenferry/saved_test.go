package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/sim"
)

// loopDevice is a block device of so many bytes.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("this machine gives no loop device: %v: %s", err, out)
	}
	name := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", name).Run() })
	return name
}

// TestSaveDevice: what save puts on a block device the others take from there,
// by its name and redirected, behind a shorter guest the rest of a longer one.
func TestSaveDevice(t *testing.T) {
	device := loopDevice(t, 64<<20)
	l := newLab(t, sim.GuestConfig{})
	dir := t.TempDir()
	file := filepath.Join(dir, "db1.save")
	l.must("-c", "sim:alpha", "save", "-c", "db1", device)
	l.must("verify", device)
	l.must("-c", "sim:alpha", "save", "-c", "-z", "db1", device)
	l.must("verify", device)
	l.must("convert", device, file)
	l.must("verify", file)
	l.must("convert", file, device)
	l.must("verify", device)
	l.must("convert", "--to", "stock", device, filepath.Join(dir, "stock"))
	l.must("verify", filepath.Join(dir, "stock"))
	l.must("-c", "sim:alpha", "save", "db1", device)
	cmd := l.command("-c", "sim:beta", "restore", "-")
	in, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd.Stdin = in
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l.expectAt(l.beta, l.alpha)
}

// TestSaveDeviceTooSmall: an older guest is no guest any more when a new one is
// not whole.
func TestSaveDeviceTooSmall(t *testing.T) {
	device := loopDevice(t, 32<<20)
	l := newLab(t, sim.GuestConfig{})
	l.must("-c", "sim:alpha", "save", "-c", "-z", "db1", device)
	l.must("verify", device)
	if code, _, errs := l.xenferry("-c", "sim:alpha", "save", "db1", device); code != exitAtSource || !strings.Contains(errs, "no space left") {
		t.Errorf("exit %d: %s", code, errs)
	}
	l.expectAt(l.alpha, l.beta)
	if code, _, errs := l.xenferry("verify", device); code != exitDamaged || !strings.Contains(errs, "not a saved guest") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

// TestNamedPipes: from one program to the other, which may come late.
func TestNamedPipes(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	save := l.command("-c", "sim:alpha", "save", "db1", pipe)
	var errs bytes.Buffer
	save.Stderr = &errs
	if err := save.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	l.must("-c", "sim:beta", "restore", pipe)
	if err := save.Wait(); err != nil {
		t.Errorf("%v: %s", err, errs.String())
	}
	l.expectAt(l.beta, l.alpha)
}

// TestPipesInterrupted: a signal ends a wait for the other end of a pipe, and
// the guest runs on.
func TestPipesInterrupted(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"save":                 {"-c", "sim:alpha", "save", "db1", pipe},
		"restore":              {"-c", "sim:beta", "restore", pipe},
		"verify":               {"verify", pipe},
		"verify, standard":     {"verify", "/dev/stdin"},
		"convert":              {"convert", "-", filepath.Join(dir, "out")},
		"configuration":        {"-c", "sim:beta", "restore", pipe, "/dev/null"},
		"reader that does not": {"-c", "sim:alpha", "save", "db1", "/dev/stdout"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := l.command(args...)
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer stdin.Close()
			if name == "convert" || name == "verify, standard" {
				go stdin.Write(bytes.Repeat([]byte("XFsaved\n"), 1)) // and no more
			}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer stdout.Close()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second) // it waits for the pipe by then
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			kill := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
			defer kill.Stop()
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != exitCancelled || strings.Contains(stderr.String(), "DATA RACE") {
				t.Errorf("exit %d, want %d: %s", code, exitCancelled, stderr.String())
			}
			l.expectAt(l.alpha, l.beta)
			expectOnly(t, dir, "pipe")
		})
	}
}

// TestInputCancelled: also a file that is there is read no further.
func TestInputCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	in, err := openInput(ctx, "/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	if _, err := in.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	told := errors.New("told to")
	cancel(told)
	if _, err := in.Read(make([]byte, 10)); !errors.Is(err, told) {
		t.Errorf("%v", err)
	}
}

// TestStandardNames: /dev/stdout and the like are "-": nothing but the guest
// gets into it.
func TestStandardNames(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	file := filepath.Join(t.TempDir(), "db1.save")
	into := func(args ...string) {
		t.Helper()
		out, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		cmd := l.command(args...)
		var errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = out, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, errs.String())
		}
		if err := out.Sync(); err != nil {
			t.Fatal(err)
		}
		l.must("verify", file)
	}
	into("-c", "sim:alpha", "save", "-c", "db1", "/dev/stdout")
	into("-c", "sim:alpha", "save", "-c", "--json", "db1", "/dev/fd/1")
	copied := filepath.Join(t.TempDir(), "copy")
	l.must("convert", file, copied)
	into("convert", copied, "/proc/self/fd/1")
	cmd := l.command("-c", "sim:beta", "restore", "-p", "/dev/stdin")
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd.Stdin = in
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestJSONFailures: whoever asks for JSON gets some, whatever went wrong.
func TestJSONFailures(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	dir := t.TempDir()
	packed, cut := filepath.Join(dir, "packed"), filepath.Join(dir, "cut")
	l.must("-c", "sim:alpha", "save", "-c", "-z", "db1", packed)
	b, err := os.ReadFile(packed)
	if err == nil {
		err = os.WriteFile(cut, b[:len(b)-100], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		exit int
		code xen.Code
	}{
		{[]string{"-c", "sim:beta", "restore", "--json", cut}, exitDamaged, xen.CodeCorrupt},
		{[]string{"-c", "sim:beta", "restore", "--json", "/dev/null"}, exitDamaged, xen.CodeCorrupt},
		{[]string{"-c", "sim:beta", "restore", "--json", dir}, exitFailed, xen.CodeFailed},
		{[]string{"-c", "sim:alpha", "restore", "--json", packed}, exitRefused, xen.CodeNameTaken},
		{[]string{"convert", "--json", cut, filepath.Join(dir, "out")}, exitDamaged, xen.CodeCorrupt},
		{[]string{"convert", "--json", dir, filepath.Join(dir, "out")}, exitFailed, xen.CodeFailed},
		{[]string{"-c", "sim:alpha", "save", "--json", "nobody", filepath.Join(dir, "out")}, exitNoDomain, xen.CodeNoDomain},
		{[]string{"-c", "sim:alpha", "save", "--json", "db1", dir}, exitFailed, xen.CodeFailed},
		{[]string{"-c", "sim:alpha", "migrate", "--json", "nobody", "sim:beta"}, exitNoDomain, xen.CodeNoDomain},
		{[]string{"-c", "sim:alpha", "migrate", "--json", "--deadline", "1ns", "db1", "sim:beta"}, exitAtSource, xen.CodeFailed},
	} {
		code, out, errs := l.xenferry(tt.args...)
		var end map[string]json.RawMessage
		lines := strings.Split(strings.TrimSpace(out), "\n")
		what := strings.Fields(strings.Join(tt.args, " "))
		var got struct {
			Error string
			Code  xen.Code
		}
		for _, name := range []string{"save", "restore", "convert", "report"} {
			if err := json.Unmarshal([]byte(lines[len(lines)-1]), &end); err == nil && end[name] != nil {
				_ = json.Unmarshal(end[name], &got)
			}
		}
		if code != tt.exit || got.Error == "" || got.Code != tt.code {
			t.Errorf("%v: exit %d, want %d; %+v, want %s\n%s%s", what, code, tt.exit, got, tt.code, out, errs)
		}
	}
	for file, want := range map[string]int{cut: exitDamaged, dir: exitFailed, filepath.Join(dir, "none"): exitFailed} {
		code, out, _ := l.xenferry("verify", "--json", file)
		var got struct {
			Whole *bool
			Error string
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != want || got.Whole == nil || *got.Whole || got.Error == "" {
			t.Errorf("verify %s: exit %d, want %d; %v: %s", file, code, want, err, out)
		}
	}
	l.expectAt(l.alpha, l.beta)
}

// TestUnwritableOutput: what is done is done, also if nobody can be told.
func TestUnwritableOutput(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	file := filepath.Join(t.TempDir(), "db1.save")
	for _, args := range [][]string{
		{"-c", "sim:alpha", "save", "-c", "--json", "db1", file},
		{"convert", "--json", file, filepath.Join(t.TempDir(), "x")},
		{"-c", "sim:beta", "restore", "--json", "-p", file},
	} {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer full.Close()
		cmd := l.command(args...)
		var errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = full, &errs
		if err := cmd.Run(); err != nil || !strings.Contains(errs.String(), "could not be told") {
			t.Errorf("%v: %v: %s", args, err, errs.String())
		}
	}
	l.expectState(l.beta, xen.StatePaused)
}

// TestContainerInContainer: neither verified nor written as what it is not.
func TestContainerInContainer(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(mainEnv, "1")
	l := &lab{t: t}
	var twice bytes.Buffer
	once := savefmt.NewPacker(&twice, savefmt.BlockRaw)
	inner := savefmt.NewPacker(once, savefmt.BlockRaw)
	_, err := inner.Write([]byte("a guest"))
	if err := errors.Join(err, inner.Close(), once.Close(), os.WriteFile(filepath.Join(dir, "twice"), twice.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"verify", filepath.Join(dir, "twice")}, {"convert", filepath.Join(dir, "twice"), filepath.Join(dir, "out")}} {
		if code, _, errs := l.xenferry(args...); code != exitDamaged || !strings.Contains(errs, "container inside a container") {
			t.Errorf("%v: exit %d: %s", args, code, errs)
		}
	}
	expectOnly(t, dir, "twice")
}

// TestEndlessConfig: a configuration that does not end is not read to its end.
func TestEndlessConfig(t *testing.T) {
	if _, err := readConfig(t.Context(), "/dev/zero"); err == nil || !strings.Contains(err.Error(), "the limit") {
		t.Errorf("%v", err)
	}
}

// TestTerminal: nobody types a saved guest.
func TestTerminal(t *testing.T) {
	if in, err := openInput(t.Context(), "/dev/ptmx"); exitCode(err) != exitUsage || !strings.Contains(err.Error(), "is a terminal") {
		t.Errorf("%+v, %v", in, err)
	}
}
