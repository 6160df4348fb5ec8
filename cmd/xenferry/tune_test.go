package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/xen/sim"
)

var (
	flagRounds = flag.Int("rounds", 5, "how often programs that share memory are killed or stopped")
	flagSeed   = flag.Uint64("seed", 0, "of these kills; 0: any")
)

// slow keeps a migration going until it is tuned.
var slow = []string{"--bandwidth-limit", "2M", "--compress", "off"}

func (l *lab) startSlow(args ...string) *running {
	l.t.Helper()
	r := l.startMigration(append(append(slices.Clone(slow), args...), "db1", "sim:beta")...)
	r.await(l.t, "copy")
	return r
}

// tuneJSON runs tune on alpha.
func (l *lab) tuneJSON(args ...string) (code int, result tuned) {
	l.t.Helper()
	code, out, errs := l.xenferry(append([]string{"-c", "sim:alpha", "tune", "db1", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		l.t.Fatalf("tune: exit %d, %v: %s%s", code, err, out, errs)
	}
	return code, result
}

// statusJSON runs status of the guest on alpha.
func (l *lab) statusJSON() (s migrationStatus) {
	l.t.Helper()
	code, out, errs := l.xenferry("-c", "sim:alpha", "status", "db1", "--json")
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != exitOK {
		l.t.Fatalf("status: exit %d, %v: %s%s", code, err, out, errs)
	}
	return s
}

// TestTune changes a migration that would take minutes, and sees it done.
func TestTune(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	r := l.startSlow()
	before := l.statusJSON()
	if live := before.Live; live == nil || live.PID != r.cmd.Process.Pid || live.Phase != "copy" || live.Method != "off" && live.Method != "" ||
		live.RateBits != 2e6 || live.Connections == 0 || live.MemoryPages != 48*256 || !before.WorkedOn {
		t.Errorf("%+v: %+v", before, live)
	}
	code, result := l.tuneJSON("--bandwidth-limit", "8M", "--compress", "zstd:3", "--max-downtime", "20s")
	if f := result.Figures; code != exitOK || result.Outcome != "applied" || f.RateBits != 8e6 || f.Compress != "zstd:3" || f.MaxDowntime != 20*time.Second {
		t.Errorf("exit %d, %+v", code, result)
	}
	l.awaitStatus(func(s *migrationStatus) bool {
		return s.Live != nil && s.Live.Method == "zstd:3" && s.Live.Stages.Compress > 0
	})
	if _, out, _ := l.xenferry("-c", "sim:alpha", "status", "db1"); !strings.Contains(out, "zstd:3, now zstd:3") || !strings.Contains(out, "8 Mbit/s, downtime 20s") {
		t.Errorf("status for people: %s", out)
	}
	if _, out, _ := l.xenferry("-c", "sim:alpha", "status"); !strings.Contains(out, "copy, round 0") {
		t.Errorf("the list: %s", out)
	}
	for _, bad := range [][]string{
		{"tune"}, {"tune", "db1"}, {"tune", "db1", "--bandwidth-limit", "1k"}, {"tune", "db1", "--compress", "rar"},
		{"tune", "db1", "--max-downtime", "-1s"}, {"tune", "db1", "--timeout", "0s", "--compress", "off"}, {"status", "--watch"}, {"status", "a", "b"},
	} {
		if code, _, errs := l.xenferry(append([]string{"-c", "sim:alpha"}, bad...)...); code != exitUsage {
			t.Errorf("%v: exit %d: %s", bad, code, errs)
		}
	}
	if code, _, errs := l.xenferry("-c", "sim:beta", "tune", "db1", "--compress", "off"); code != exitNoDomain || !strings.Contains(errs, "tune its migration there") {
		t.Errorf("at the destination: exit %d: %s", code, errs)
	}
	if code, _, errs := l.xenferry("-c", "sim:alpha", "tune", "db2", "--compress", "off"); code != exitNoDomain || !strings.Contains(errs, "db2") {
		t.Errorf("another guest: exit %d: %s", code, errs)
	}
	if code, out, errs := l.xenferry("-c", "sim:alpha", "tune", "--bandwidth-limit", "0", "db1"); code != exitOK || !strings.Contains(out, "bandwidth limit none") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	code, report := r.end(t)
	if code != exitOK || report.Compress != "off, then zstd:3" || report.Total > time.Minute {
		t.Errorf("exit %d, %+v", code, report)
	}
	l.expectAt(l.beta, l.alpha)
	if code, _, _ := l.xenferry("-c", "sim:alpha", "status", "db1"); code != exitNoDomain {
		t.Errorf("status of a migration that is over: exit %d", code)
	}
	if code, out, _ := l.xenferry("-c", "sim:alpha", "status", "--history", report.ID); code != exitOK || !strings.Contains(out, "gone") ||
		!strings.Contains(out, "last dirty pages") || !strings.Contains(out, report.Downtime.Round(time.Microsecond).String()) {
		t.Errorf("its history: exit %d: %s", code, out)
	}
	l.nothingShared(report.ID)
}

// awaitStatus waits until status says what is wanted.
func (l *lab) awaitStatus(want func(*migrationStatus) bool) {
	l.t.Helper()
	var s migrationStatus
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if s = l.statusJSON(); want(&s) {
			return
		}
	}
	l.t.Fatalf("status stays %+v, %+v", s, s.Live)
}

// TestTuneStopped: a sender that is stopped can be looked at, does not answer,
// and does not act on what was withdrawn when it goes on. One that is dead has
// no page.
func TestTuneStopped(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	r := l.startSlow()
	kill(t, r.cmd.Process.Pid, syscall.SIGSTOP)
	l.awaitStatus(func(s *migrationStatus) bool { return s.Live != nil && s.Live.Stopped })
	code, out, errs := l.xenferry("-c", "sim:alpha", "tune", "db1", "--timeout", "300ms", "--bandwidth-limit", "0")
	if code != exitFailed || !strings.Contains(errs, "is stopped by a signal") || !strings.Contains(errs, "nothing was changed") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	if code, result := l.tuneJSON("--timeout", "300ms", "--compress", "s2"); code != exitFailed || result.Outcome != "no answer" {
		t.Errorf("exit %d: %+v", code, result)
	}
	watch := l.command("-c", "sim:alpha", "status", "--watch", "--json", "db1")
	var watched bytes.Buffer
	watch.Stdout = &watched
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	kill(t, r.cmd.Process.Pid, syscall.SIGCONT)
	l.awaitStatus(func(s *migrationStatus) bool { return s.Live != nil && !s.Live.Stopped })
	if s := l.statusJSON(); s.Live == nil || s.Live.Changes != 0 || s.Live.RateBits != 2e6 {
		t.Errorf("it acted on what was withdrawn: %+v", s.Live)
	}
	id := l.statusJSON().ID
	kill(t, r.cmd.Process.Pid, syscall.SIGKILL)
	_ = r.cmd.Wait()
	l.awaitState("alpha", fallback.SourceResumed)
	endsWithin(t, watch)
	if lines := strings.Split(strings.TrimSpace(watched.String()), "\n"); !strings.Contains(lines[len(lines)-1], "has ended") {
		t.Errorf("watch's last line: %q", lines)
	}
	l.nothingShared(id)
	l.eventuallyEmpty(l.beta)
	l.expectAt(l.alpha, l.beta)
}

// endsWithin waits for the end of a program that has nothing left to wait for.
func endsWithin(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	timer := time.AfterFunc(30*time.Second, func() {
		t.Errorf("%v hangs", cmd.Args)
		_ = cmd.Process.Kill()
	})
	_ = cmd.Wait()
	timer.Stop()
}

// throttle returns what the guest on a host has lost of its processor time.
func (l *lab) throttle(h *sim.Host) uint32 {
	l.t.Helper()
	info, err := h.Find(l.context(), l.guest.Name)
	if err != nil {
		l.t.Fatal(err)
	}
	status, err := h.Status(l.context(), info.Domid)
	if err != nil {
		l.t.Fatal(err)
	}
	return status.Throttle
}

func (l *lab) notThrottled(h *sim.Host) {
	l.t.Helper()
	if percent := l.throttle(h); percent != 0 {
		l.t.Errorf("the guest is still throttled by %d %%", percent)
	}
}

// TestTuneThreadsAndThrottle: fewer connections at work, all of them again, and
// a guest that is slower until it is asked to suspend.
func TestTuneThreadsAndThrottle(t *testing.T) {
	l := newLab(t, sim.GuestConfig{Workload: "uniform:1MB/s"})
	r := l.startSlow("--connections", "3")
	code, result := l.tuneJSON("--threads", "1", "--throttle", "60")
	if f := result.Figures; code != exitOK || f.Threads != 1 || f.Connections != 3 || f.Throttle != 60 {
		t.Errorf("exit %d, %+v", code, result)
	}
	if got := l.throttle(l.alpha); got != 60 {
		t.Errorf("the guest is throttled by %d %%, not 60", got)
	}
	l.awaitStatus(func(s *migrationStatus) bool { return s.Live != nil && s.Live.RoundTime > 0 })
	if _, out, _ := l.xenferry("-c", "sim:alpha", "status", "db1"); !strings.Contains(out, "1 of 3 connections at work") || !strings.Contains(out, "60% less processor time") {
		t.Errorf("status for people: %s", out)
	}
	for _, bad := range [][]string{{"--threads", "0"}, {"--threads", "65"}, {"--throttle", "100"}, {"--throttle", "-1"}} {
		if code, _, errs := l.xenferry(append([]string{"-c", "sim:alpha", "tune", "db1"}, bad...)...); code != exitUsage {
			t.Errorf("%v: exit %d: %s", bad, code, errs)
		}
	}
	if code, result := l.tuneJSON("--threads", "4", "--throttle", "10"); code == exitOK || result.Outcome != "refused" || !strings.Contains(result.Error, "1 to 3") {
		t.Errorf("more than there are: exit %d, %+v", code, result)
	}
	if got := l.throttle(l.alpha); got != 60 {
		t.Errorf("half of a change was made: throttled by %d %%", got)
	}
	if code, result := l.tuneJSON("--threads", "3", "--bandwidth-limit", "0"); code != exitOK || result.Figures.Threads != 3 {
		t.Errorf("exit %d, %+v", code, result)
	}
	if code, report := r.end(t); code != exitOK {
		t.Errorf("exit %d, %+v", code, report)
	}
	l.expectAt(l.beta, l.alpha)
}

// TestThrottleEndsWithSender: one that fails, and one that is killed.
func TestThrottleEndsWithSender(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		r := l.startSlow()
		if code, result := l.tuneJSON("--throttle", "90"); code != exitOK {
			t.Fatalf("exit %d, %+v", code, result)
		}
		kill(t, r.cmd.Process.Pid, signal)
		_ = r.cmd.Wait()
		l.awaitState("alpha", fallback.SourceResumed)
		l.eventuallyEmpty(l.beta)
		l.expectAt(l.alpha, l.beta)
	}
}

// nothingShared looks for a page of a migration, and for files beside the
// journals.
func (l *lab) nothingShared(id string) {
	l.t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		l.t.Fatal(err)
	}
	for _, f := range files {
		if target, _ := os.Readlink(f); strings.HasPrefix(target, "/memfd:xenferry-"+id) {
			l.t.Errorf("%s is still %s", f, target)
		}
	}
	left, err := filepath.Glob("/dev/shm/*" + id + "*")
	if err != nil || len(left) > 0 {
		l.t.Errorf("left: %v (%v)", left, err)
	}
	for _, host := range []string{"alpha", "beta"} {
		dir := filepath.Join(os.Getenv(sim.DirEnv), host+".state")
		entries, _ := os.ReadDir(dir) // a host that has begun nothing has none
		for _, e := range entries {
			if name := e.Name(); name != guardianLog && name != ".lock" && !strings.HasSuffix(name, ".journal") && !strings.HasSuffix(name, ".report") {
				l.t.Errorf("left in %s: %s", dir, name)
			}
		}
	}
}

// sharing is the programs of one round of TestSharersKilled.
type sharing struct {
	l       *lab
	sender  *running
	id      string
	clients []*exec.Cmd // two that tune, one that watches
}

func (l *lab) share() *sharing {
	s := &sharing{l: l, sender: l.startSlow("--silence-timeout", "20s")}
	s.id = l.statusJSON().ID
	return s
}

func (s *sharing) startClients() {
	s.clients = nil
	for _, args := range [][]string{
		{"tune", "db1", "--timeout", "1s", "--bandwidth-limit", "2M"}, {"tune", "db1", "--timeout", "1s", "--compress", "s2", "--throttle", "30"},
		{"status", "db1", "--watch"},
	} {
		cmd := s.l.command(append([]string{"-c", "sim:alpha"}, args...)...)
		if err := cmd.Start(); err != nil {
			s.l.t.Fatal(err)
		}
		s.clients = append(s.clients, cmd)
	}
}

// TestSharersKilled kills or stops, one a round and at any moment, the programs
// that share memory on a simulated host: sender, tune and status, and the
// guardian. Nobody waits for longer than its limit, the guest runs, and nothing
// is left.
func TestSharersKilled(t *testing.T) {
	seed := *flagSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	l := newLab(t, sim.GuestConfig{MemMiB: 16})
	struck := map[string]int{}
	var s *sharing
	for round := range *flagRounds {
		if s == nil {
			s = l.share()
		}
		var what string
		what, s = s.round(random)
		if struck[what]++; t.Failed() {
			t.Fatalf("in round %d: %s", round, what)
		}
	}
	if s != nil {
		s.end()
	}
	t.Logf("%d rounds: %v", *flagRounds, struck)
}

// round strikes one program. It returns nil if the sender was the one: the
// next round has another.
func (s *sharing) round(random *rand.Rand) (what string, next *sharing) {
	t := s.l.t
	s.startClients()
	time.Sleep(time.Duration(random.IntN(30)) * time.Millisecond)
	names := []string{"tune", "tune", "status", "guardian", "sender"}
	victim, stop := random.IntN(len(names)), random.IntN(2) == 0
	pid := 0
	switch {
	case victim < len(s.clients):
		pid = s.clients[victim].Process.Pid
	case names[victim] == "sender":
		pid = s.sender.cmd.Process.Pid
	default:
		pids := guardians(t, "alpha")
		if len(pids) == 0 { // it was struck before
			victim, pid = len(names)-1, s.sender.cmd.Process.Pid
		} else {
			pid = pids[0]
		}
	}
	what, goesOn := "kill of "+names[victim], false
	if stop {
		what, goesOn = "stop of "+names[victim], random.IntN(2) == 0
		kill(t, pid, syscall.SIGSTOP)
		s.mustReturn()
	}
	if goesOn {
		what += " for a while"
		kill(t, pid, syscall.SIGCONT)
	} else {
		kill(t, pid, syscall.SIGKILL)
	}
	if names[victim] == "sender" && !goesOn {
		s.endClients(len(s.clients))
		s.end()
		return what, nil
	}
	s.mustAnswer()
	kill(t, s.clients[2].Process.Pid, syscall.SIGKILL) // it would watch on
	s.endClients(len(s.clients))
	return what, s
}

// mustReturn tunes: whatever comes of it, it comes in time.
func (s *sharing) mustReturn() {
	cmd := s.l.command("-c", "sim:alpha", "tune", "db1", "--timeout", "200ms", "--compress", "off")
	if err := cmd.Start(); err != nil {
		s.l.t.Fatal(err)
	}
	endsWithin(s.l.t, cmd)
}

// mustAnswer tunes, and is answered.
func (s *sharing) mustAnswer() {
	code, out, errs := s.l.xenferry("-c", "sim:alpha", "tune", "db1", "--timeout", "20s", "--bandwidth-limit", "2M")
	if code != exitOK {
		s.l.t.Errorf("tune: exit %d: %s%s", code, out, errs)
	}
}

func (s *sharing) endClients(n int) {
	for _, c := range s.clients[:n] {
		endsWithin(s.l.t, c)
	}
}

// end kills the sender, if it lives still, and sees to it that the guest runs
// and nothing is left.
func (s *sharing) end() {
	l := s.l
	_ = s.sender.cmd.Process.Kill()
	_ = s.sender.cmd.Wait()
	if len(guardians(l.t, "alpha")) == 0 { // struck as well, or done
		if code, out, errs := l.xenferry("-c", "sim:alpha", "recover", "--all"); code != exitOK {
			l.t.Errorf("recover: exit %d: %s%s", code, out, errs)
		}
	}
	l.awaitState("alpha", fallback.SourceResumed)
	l.awaitRunning(l.alpha)
	l.eventuallyEmpty(l.beta)
	l.nothingShared(s.id)
	l.notThrottled(l.alpha)
	if l.t.Failed() {
		fmt.Println(l.guardianLog("alpha"))
	}
}
