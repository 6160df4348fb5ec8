package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/sim"
)

// must runs a command that is to succeed.
func (l *lab) must(args ...string) (stdout, stderr string) {
	l.t.Helper()
	code, out, errs := l.xenferry(args...)
	if code != exitOK {
		l.t.Fatalf("%v: exit %d\n%s%s", args, code, out, errs)
	}
	return out, errs
}

func (l *lab) expectState(h *sim.Host, want xen.RunState) {
	l.t.Helper()
	info, err := h.Find(l.context(), l.guest.Name)
	if err != nil || info.State != want {
		l.t.Fatalf("%+v, %v; want %s", info, err, want)
	}
}

// expectOnly checks that a folder has nothing but these files.
func expectOnly(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("the folder has %v, want %v", got, want)
	}
}

func TestSaveRestore(t *testing.T) {
	for name, flags := range map[string][]string{
		"plain": nil, "live": {"--live"}, "compressed": {"-z"}, "live, zstd": {"--live", "--codec", "zstd"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, sim.GuestConfig{Workload: "uniform:20MB/s"})
			dir := t.TempDir()
			file := filepath.Join(dir, "db1.save")
			l.must(append(append([]string{"-c", "sim:alpha", "save"}, flags...), "db1", file)...)
			expectOnly(t, dir, "db1.save")
			if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
				t.Errorf("%v, %v", info.Mode(), err)
			}
			l.must("verify", file)
			l.must("-c", "sim:beta", "restore", file)
			if status := l.expectAt(l.beta, l.alpha); status.Arrivals != 1 {
				t.Errorf("%+v", status)
			}
		})
	}
}

// TestSaveAndStay: with -c, -p and -s the guest stays, each in its own way.
func TestSaveAndStay(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	file := filepath.Join(t.TempDir(), "db1.save")
	l.must("-c", "sim:alpha", "save", "-c", "db1", file)
	l.expectAt(l.alpha, l.beta)
	l.must("-c", "sim:alpha", "save", "-s", "db1", file)
	l.expectState(l.alpha, xen.StateSuspended)
	l.must("-c", "sim:beta", "restore", "-p", file)
	l.expectState(l.beta, xen.StatePaused)

	l = newLab(t, sim.GuestConfig{})
	l.must("-c", "sim:alpha", "save", "-cp", "-zzlib", "db1", file)
	l.expectState(l.alpha, xen.StatePaused)
	if out, _ := l.must("verify", file); !strings.Contains(out, " zlib") {
		t.Error(out)
	}
}

// TestSavePipes: from one program into the other, through convert both ways.
func TestSavePipes(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	var stock bytes.Buffer
	pipe := func(in *bytes.Buffer, args ...string) *bytes.Buffer {
		cmd := l.command(args...)
		var out, errs bytes.Buffer
		if in != nil {
			cmd.Stdin = in
		}
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, errs.String())
		}
		return &out
	}
	stock.Write(pipe(nil, "-c", "sim:alpha", "save", "db1", "-").Bytes())
	packed := pipe(bytes.NewBuffer(stock.Bytes()), "convert", "--codec", "zlib", "-", "-")
	if packed.Len() >= stock.Len() {
		t.Errorf("packed from %d to %d bytes", stock.Len(), packed.Len())
	}
	back := pipe(bytes.NewBuffer(packed.Bytes()), "convert", "-", "-")
	if !bytes.Equal(back.Bytes(), stock.Bytes()) {
		t.Errorf("%d bytes, there and back, are %d other ones", stock.Len(), back.Len())
	}
	again := pipe(packed, "convert", "--to", "container", "-", "-")
	pipe(again, "-c", "sim:beta", "restore", "-")
	l.expectAt(l.beta, l.alpha)
}

func TestVerifyTellsWhatIsThere(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	file := filepath.Join(t.TempDir(), "db1.save")
	l.must("-c", "sim:alpha", "save", "-z", "db1", file)
	out, _ := l.must("verify", "--json", file)
	var got struct {
		savefmt.Summary
		Whole bool
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if !got.Whole || got.Guest != "sim" || got.Name != "db1" || got.Pages["NOTAB"] != 48*256-32 || got.MemKiB != (48*256-32)*4 || got.Container == nil {
		t.Errorf("%+v", got)
	}
	if out, _ := l.must("verify", file); !strings.Contains(out, "whole, xl file") || !strings.Contains(out, "db1, sim, 1 vCPUs") {
		t.Error(out)
	}
}

// TestDamagedFiles: each is refused with a place and its exit code, and leaves
// nothing on the host.
func TestDamagedFiles(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	dir := t.TempDir()
	stock, packed := filepath.Join(dir, "stock"), filepath.Join(dir, "packed")
	l.must("-c", "sim:alpha", "save", "-c", "db1", stock)
	l.must("-c", "sim:alpha", "save", "-z", "db1", packed)
	change := func(name string, f func(b []byte) []byte) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "broken")
		if err := os.WriteFile(out, f(b), 0o600); err != nil {
			t.Fatal(err)
		}
		return out
	}
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:len(b)-n] } }
	tests := []struct {
		name, file string
		want       string
	}{
		{"stock, cut in a page", change("stock", cut(10<<20+1)), "PAGE_DATA at offset"},
		{"stock, without its last byte", change("stock", cut(1)), "libxl stream: record header at offset"},
		{"stock, something behind it", change("stock", func(b []byte) []byte { return append(b, 0) }), "something follows the end"},
		{"container, cut", change("packed", cut(1<<20)), "container: "},
		{"container, a bit flipped", change("packed", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }), "checksum is wrong"},
		{"text", change("stock", func([]byte) []byte { return []byte("hello") }), "not a saved guest"},
		{"empty", change("stock", func([]byte) []byte { return nil }), "not a saved guest"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, args := range [][]string{{"verify", tt.file}, {"-c", "sim:beta", "restore", tt.file}, {"convert", tt.file, filepath.Join(dir, "out")}} {
				code, out, errs := l.xenferry(args...)
				if code != exitDamaged || !strings.Contains(errs, tt.want) {
					t.Errorf("%v: exit %d, want %d and %q\n%s%s", args, code, exitDamaged, tt.want, out, errs)
				}
			}
			domains, err := l.beta.List(l.context())
			if err != nil || len(domains) != 1 {
				t.Errorf("left on beta: %+v, %v", domains, err)
			}
		})
	}
	expectOnly(t, dir, "packed", "stock")
}

// limited runs a command that cannot write files beyond a size, or whose standard
// output goes somewhere, or is closed.
func (l *lab) limited(blocks int, stdout string, args ...string) (code int, out, errs string) {
	script := `exec "$0" "$@"`
	switch {
	case blocks > 0:
		script = fmt.Sprintf("ulimit -f %d; %s", blocks, script)
	case stdout == "closed":
		script += " >&-"
	case stdout != "":
		script += " >" + stdout
	default:
		return l.xenferry(args...)
	}
	return l.shell(script, args...)
}

// shell has sh run the program as its script says.
func (l *lab) shell(script string, args ...string) (code int, stdout, stderr string) {
	cmd := exec.Command("sh", append([]string{"-c", script, os.Args[0]}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run()
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// TestSaveFails: whatever goes wrong, the guest runs on and no file is left.
func TestSaveFails(t *testing.T) {
	tests := []struct {
		name   string
		guest  sim.GuestConfig
		flags  []string
		file   string
		stdout string // where it goes, if anywhere in particular
		blocks int    // the most that a file may have, of 512 bytes; 0: any
		code   int
		want   string
	}{
		{name: "disk full", blocks: 16384, code: exitAtSource, want: "file too large"},
		{name: "disk full, compressed", flags: []string{"-z"}, blocks: 2048, code: exitAtSource, want: "file too large"},
		{name: "no space at all", file: "/dev/full", flags: []string{"-p"}, code: exitAtSource, want: "no space left"},
		{name: "guest does not suspend", guest: sim.GuestConfig{NoSuspend: true}, flags: []string{"--suspend-timeout", "1s"}, code: exitAtSource, want: "did not suspend"},
		{name: "no place", file: "/dev/null", code: exitUsage, want: "character device"},
		{name: "no place, standard output", file: "-", stdout: "/dev/null", code: exitUsage, want: "character device"},
		{name: "standard output closed", file: "-", stdout: "closed", code: exitUsage, want: "closed"},
		{name: "a terminal", flags: []string{"-c"}, file: "/dev/ptmx", code: exitUsage, want: "terminal"},
		{name: "a terminal, standard output", file: "-", stdout: "/dev/ptmx", code: exitUsage, want: "terminal"},
		{name: "no such folder", file: "/nonexistent/x", code: exitFailed, want: "no such file"},
		{name: "a folder", file: "/tmp", code: exitFailed, want: "it is a folder"},
		{name: "two ways to stay", flags: []string{"-c", "-s"}, code: exitUsage, want: "excludes"},
		{name: "unknown codec behind -z", flags: []string{"-zlzma"}, code: exitUsage, want: "unknown codec"},
		{name: "unknown codec", flags: []string{"--codec", "lzma"}, code: exitUsage, want: "unknown codec"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, tt.guest)
			dir := t.TempDir()
			file := tt.file
			if file == "" {
				file = filepath.Join(dir, "db1.save")
			}
			args := append(append([]string{"-c", "sim:alpha", "save"}, tt.flags...), "db1", file)
			code, out, errs := l.limited(tt.blocks, tt.stdout, args...)
			if code != tt.code || !strings.Contains(errs, tt.want) {
				t.Errorf("exit %d, want %d and %q\n%s%s", code, tt.code, tt.want, out, errs)
			}
			l.expectAt(l.alpha, l.beta)
			expectOnly(t, dir)
		})
	}
}

// TestSaveConfigRefused: the guest lives on in the file only, so what cannot be
// restored is not written.
func TestSaveConfigRefused(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	dir, configs := t.TempDir(), t.TempDir()
	dom, err := l.alpha.Open(l.context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	own, err := dom.Config(l.context())
	if err := errors.Join(err, dom.Close()); err != nil {
		t.Fatal(err)
	}
	save := func(name, text string) (int, string) {
		t.Helper()
		config := filepath.Join(configs, name)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		code, _, errs := l.xenferry("-c", "sim:alpha", "save", "db1", filepath.Join(dir, "db1.save"), config)
		return code, errs
	}
	for old, other := range map[string]string{
		string(own): "{}", `"mem_mib":48`: `"mem_mib":47`, `"mem_mib":4`: `"mem_mib":40`, `"db1"`: `""`,
		`{"name"`: `{"c_info":{},"name"`, `"seed":`: `"seed":1`, `"vcpus":1`: `"vcpus":2`, `"uuid":"`: `"uuid":"x`,
	} {
		text := strings.Replace(string(own), old, other, 1)
		if text == string(own) {
			t.Fatalf("%s is not in %s", old, own)
		}
		if code, errs := save("other", text); code != exitAtSource || !strings.Contains(errs, "that was given") {
			t.Errorf("%s: exit %d: %s", other, code, errs)
		}
		expectOnly(t, dir)
	}
	l.expectAt(l.alpha, l.beta)
	if code, errs := save("same", string(own)); code != exitOK {
		t.Fatalf("exit %d: %s", code, errs)
	}
	l.must("-c", "sim:beta", "restore", filepath.Join(dir, "db1.save"))
	l.expectAt(l.beta, l.alpha)
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// TestSaveKilled: kill -9 while the file is written leaves no file of that
// name, and one that is interrupted leaves none at all.
func TestSaveKilled(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			l := newLab(t, sim.GuestConfig{SuspendDelay: time.Minute})
			dir := t.TempDir()
			cmd := l.command("-c", "sim:alpha", "save", "--live", "--suspend-timeout", "1m", "db1", filepath.Join(dir, "db1.save"))
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the file grows", func() bool {
				parts, _ := filepath.Glob(filepath.Join(dir, ".db1.save.*.part"))
				if len(parts) != 1 {
					return false
				}
				info, err := os.Stat(parts[0])
				return err == nil && info.Size() > 1<<20
			})
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if _, err := os.Stat(filepath.Join(dir, "db1.save")); !os.IsNotExist(err) {
				t.Errorf("there is a file: %v", err)
			}
			if sig == syscall.SIGTERM {
				if code := cmd.ProcessState.ExitCode(); code != exitCancelled {
					t.Errorf("exit %d, want %d", code, exitCancelled)
				}
				expectOnly(t, dir)
				l.expectAt(l.alpha, l.beta)
			}
		})
	}
}

// TestSaveKilledWhileSuspended: kill -9 while the guest is suspended, because
// whoever reads the pipe does not: its guardian lets it run on.
func TestSaveKilledWhileSuspended(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := l.command("-c", "sim:alpha", "save", "db1", "-")
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	state := func() xen.RunState {
		info, err := l.alpha.Find(l.context(), "db1")
		if err != nil {
			t.Fatal(err)
		}
		return info.State
	}
	eventually(t, "the guest is suspended", func() bool { return state() == xen.StateSuspended })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "the guest runs on", func() bool { return state() == xen.StateRunning })
	l.expectAt(l.alpha, l.beta)
	l.must("-c", "sim:alpha", "save", "-c", "db1", filepath.Join(t.TempDir(), "again"))
}

// saved saves db1, which runs on at alpha, and returns the file and what is in it.
func (l *lab) saved() (file string, contents []byte) {
	l.t.Helper()
	file = filepath.Join(l.t.TempDir(), "db1.save")
	l.must("-c", "sim:alpha", "save", "-c", "db1", file)
	contents, err := os.ReadFile(file)
	if err != nil {
		l.t.Fatal(err)
	}
	return file, contents
}

// TestRestoreKilled: kill -9 in the middle of a restore leaves nothing.
func TestRestoreKilled(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	_, saved := l.saved()
	cmd := l.command("-c", "sim:beta", "restore", "-")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(saved[:len(saved)/2]); err != nil {
		t.Fatal(err)
	}
	domains := func() int {
		all, err := l.beta.List(l.context())
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	eventually(t, "the guest is being built", func() bool { return domains() == 2 })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "nothing is left of it", func() bool { return domains() == 1 })
	l.expectAt(l.alpha, l.beta)
}

func TestRestoreRefuses(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	file := filepath.Join(t.TempDir(), "db1.save")
	l.must("-c", "sim:alpha", "save", "-c", "db1", file)
	for name, tt := range map[string]struct {
		args []string
		code int
		want string
	}{
		"name taken":    {[]string{"-c", "sim:alpha", "restore", file}, exitRefused, "already in use"},
		"no file":       {[]string{"-c", "sim:beta", "restore", "/nonexistent"}, exitFailed, "no such file"},
		"no arguments":  {[]string{"-c", "sim:beta", "restore"}, exitUsage, "restore takes"},
		"broken config": {[]string{"-c", "sim:beta", "restore", "/dev/null", file}, exitFailed, "configuration"},
	} {
		t.Run(name, func(t *testing.T) {
			if code, out, errs := l.xenferry(tt.args...); code != tt.code || !strings.Contains(errs, tt.want) {
				t.Errorf("exit %d, want %d and %q\n%s%s", code, tt.code, tt.want, out, errs)
			}
			l.expectAt(l.alpha, l.beta)
		})
	}
}

// TestRestoreDamagedConfig: the file's own configuration is a part of it, and
// restore names the place as verify does, without words of Go.
func TestRestoreDamagedConfig(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	file, saved := l.saved()
	for damaged, want := range map[string]string{
		`"mem_mib":[]`: "mem_mib, at byte", `"mem_mib":4"`: "invalid character", `"mem_mic":48`: "0 MiB", `"mem_mib":{}`: "object in place of a whole number",
	} {
		if err := os.WriteFile(file, bytes.Replace(saved, []byte(`"mem_mib":48`), []byte(damaged), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"verify", file}, {"-c", "sim:beta", "restore", file}} {
			code, _, errs := l.xenferry(args...)
			if code != exitDamaged || !strings.Contains(errs, "xl file: configuration at offset 0x30") || !strings.Contains(errs, want) || strings.Contains(errs, "Go ") {
				t.Errorf("%v of %s: exit %d: %s", args, damaged, code, errs)
			}
		}
	}
	l.expectAt(l.alpha, l.beta)
}

// TestRestoreCrashes: a guest that has run is not destroyed by itself, so it is
// told that it is there and how to get rid of it.
func TestRestoreCrashes(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	file, saved := l.saved()
	config := filepath.Join(t.TempDir(), "big.json")
	_, text, _ := bytes.Cut(saved, []byte(`{"name"`))
	text, _, _ = bytes.Cut(text, []byte("}"))
	big := `{"name"` + strings.Replace(string(text), `"mem_mib":48`, `"mem_mib":64`, 1) + "}"
	if err := os.WriteFile(config, []byte(big), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, errs := l.xenferry("-c", "sim:beta", "restore", config, file)
	if code != exitFailed || !strings.Contains(errs, "left here, as domain 1") || !strings.Contains(errs, "destroy") || strings.Count(errs, "\n") != 1 {
		t.Errorf("exit %d: %s", code, errs)
	}
	l.expectState(l.beta, xen.StateCrashed)
	l.must("sim", "destroy", "beta", "db1")
	l.must("-c", "sim:beta", "restore", file)
}

// TestStock moves a guest in the words of stock xl, to a receiver that speaks
// them.
func TestStock(t *testing.T) {
	l := newLab(t, sim.GuestConfig{Workload: "uniform:20MB/s"})
	receiver := os.Args[0] + " -c sim:beta xl-receive"
	out, _ := l.must("-c", "sim:alpha", "migrate", "--stock", "-s", "", "db1", receiver)
	if !strings.Contains(out, "db1 moved to stock xl") {
		t.Error(out)
	}
	l.expectAt(l.beta, l.alpha)
	for command, want := range map[string]int{
		"true":                       exitNoPeer,
		"echo what is this; sleep 1": exitNoPeer,
		receiver + " --no-such-flag": exitNoPeer,
		receiver + " | head -c 54":   exitAtSource,
	} {
		code, out, errs := l.xenferry("-c", "sim:beta", "migrate", "--stock", "-s", "", "db1", command)
		if code != want {
			t.Errorf("%s: exit %d, want %d\n%s%s", command, code, want, out, errs)
		}
		l.expectAt(l.beta, l.alpha)
	}
}
