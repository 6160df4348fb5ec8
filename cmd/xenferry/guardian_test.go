package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/sim"
)

// store returns the journals of a host of the lab.
func (l *lab) store(host string) *fallback.Store {
	l.t.Helper()
	disk, err := fallback.OpenDir(filepath.Join(os.Getenv(sim.DirEnv), host+".state"))
	if err != nil {
		l.t.Fatal(err)
	}
	return fallback.NewStore(disk)
}

// only returns the one migration that a host knows.
func (l *lab) only(host string) (fallback.Summary, bool) {
	all, err := l.store(host).List()
	if err != nil {
		l.t.Fatal(err)
	}
	if len(all) == 0 {
		return fallback.Summary{}, false
	}
	return all[len(all)-1], true
}

// awaitState waits until the journal of a host's last migration says so.
func (l *lab) awaitState(host string, want ...fallback.State) {
	l.t.Helper()
	var last fallback.Summary
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		last, _ = l.only(host)
		for _, w := range want {
			if last.State == w {
				return
			}
		}
	}
	l.t.Fatalf("%s: the migration is %q and never got %q\n%s", host, last.State, want, l.guardianLog(host))
}

func (l *lab) guardianLog(host string) string {
	text, _ := os.ReadFile(filepath.Join(os.Getenv(sim.DirEnv), host+".state", guardianLog))
	return string(text)
}

// awaitRunning waits until the guest runs on a host.
func (l *lab) awaitRunning(h *sim.Host) {
	l.t.Helper()
	begun := time.Now()
	for time.Since(begun) < 20*time.Second {
		if info, err := h.Find(l.context(), l.guest.Name); err == nil && info.State == xen.StateRunning {
			return
		}
		time.Sleep(time.Millisecond)
	}
	l.t.Fatalf("guest %s does not run\n%s", l.guest.Name, l.guardianLog("alpha"))
}

// guardians returns the guardians of a host's migrations.
func guardians(t *testing.T, host string) (pids []int) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(os.Getenv(sim.DirEnv), host+".state")
	for _, path := range lines {
		text, _ := os.ReadFile(path)
		words := strings.Split(string(text), "\x00")
		if len(words) > 5 && words[4] == dir && words[5] == "guardian" {
			pid, err := strconv.Atoi(strings.Split(path, "/")[2])
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// patience is the silence timeout of a test: short only where it is waited for,
// as on a busy machine a living program may be silent for seconds.
func patience(sig syscall.Signal) string {
	if sig == syscall.SIGSTOP {
		return "4s"
	}
	return "20s"
}

func kill(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
}

// TestGuardianOfSource kills or stops the sender while memory is copied, and
// while the guest is suspended.
func TestGuardianOfSource(t *testing.T) {
	for _, state := range []fallback.State{fallback.SourceRunning, fallback.SourceSuspended} {
		for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
			t.Run(fmt.Sprintf("%s/%v", state, sig), func(t *testing.T) {
				l := newLab(t, sim.GuestConfig{MemMiB: 256})
				r := l.startMigration("--debug", "--memory-hash", "--silence-timeout", patience(sig), "db1", "sim:beta")
				r.await(t, "copy")
				l.awaitState("alpha", state)
				struck := time.Now()
				kill(t, r.cmd.Process.Pid, sig)
				l.awaitRunning(l.alpha)
				t.Logf("runs %s after the kill", time.Since(struck).Round(time.Millisecond))
				l.awaitState("alpha", fallback.SourceResumed)
				l.eventuallyEmpty(l.beta)
				l.awaitState("beta", fallback.DestinationDiscarded)
				l.expectAt(l.alpha, l.beta)
			})
		}
	}
}

// TestKilledWhileGuestSuspends: the guest follows the request of a sender that
// is dead by then.
func TestKilledWhileGuestSuspends(t *testing.T) {
	l := newLab(t, sim.GuestConfig{SuspendDelay: 500 * time.Millisecond})
	r := l.startMigration("--suspend-timeout", "2s", "db1", "sim:beta")
	l.awaitState("alpha", fallback.SourceSuspending)
	kill(t, r.cmd.Process.Pid, syscall.SIGKILL)
	l.awaitState("alpha", fallback.SourceResumed)
	l.eventuallyEmpty(l.beta)
	l.expectAt(l.alpha, l.beta)
}

// TestGuardianOfDestination kills or stops the receiver.
func TestGuardianOfDestination(t *testing.T) {
	for _, state := range []fallback.State{fallback.SourceRunning, fallback.SourceSuspended} {
		for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
			if sig == syscall.SIGSTOP && state == fallback.SourceRunning {
				continue // see TestHungReceiver
			}
			t.Run(fmt.Sprintf("%s/%v", state, sig), func(t *testing.T) {
				l := newLab(t, sim.GuestConfig{MemMiB: 256})
				r := l.startMigration("--debug", "--memory-hash", "--silence-timeout", patience(sig), "db1", "sim:beta")
				r.await(t, "copy")
				receiver := r.receiver(t)
				l.awaitState("alpha", state)
				kill(t, receiver, sig)
				if code, report := r.end(t); code != exitAtSource || report.Outcome != xen.OutcomeAtSource {
					t.Errorf("exit %d, report %+v", code, report)
				}
				// The guardian of a receiver that hangs has killed it by the sender's --silence-timeout.
				l.eventuallyEmpty(l.beta)
				l.awaitState("beta", fallback.DestinationDiscarded)
				l.expectAt(l.alpha, l.beta)
			})
		}
	}
}

// TestRecover: the guardian is killed as well, as by a reboot of dom0's
// programs; recover does its work.
func TestRecover(t *testing.T) {
	l := newLab(t, sim.GuestConfig{MemMiB: 256})
	r := l.startMigration("--debug", "--memory-hash", "db1", "sim:beta")
	r.await(t, "copy")
	l.awaitState("alpha", fallback.SourceSuspended)
	for _, pid := range guardians(t, "alpha") {
		kill(t, pid, syscall.SIGKILL)
	}
	kill(t, r.cmd.Process.Pid, syscall.SIGKILL)
	_ = r.cmd.Wait()
	l.eventuallyEmpty(l.beta)
	code, out, errs := l.xenferry("-c", "sim:alpha", "status", "--json")
	var list []migrationStatus
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != exitOK || len(list) != 1 || list[0].Guest != "db1" || list[0].WorkedOn {
		t.Fatalf("status: exit %d, %v: %s%s", code, err, out, errs)
	}
	if code, _, errs := l.xenferry("-c", "sim:alpha", "migrate", "db1", "sim:beta"); code == exitOK || !strings.Contains(errs, "recover") {
		t.Errorf("another migration before recover: exit %d: %s", code, errs)
	}
	if code, out, errs := l.xenferry("-c", "sim:alpha", "recover", "--all"); code != exitOK || !strings.Contains(out, "runs on here") {
		t.Errorf("recover: exit %d: %s%s", code, out, errs)
	}
	l.expectAt(l.alpha, l.beta)
	if code, out, _ := l.xenferry("-c", "sim:alpha", "recover", "--all", "--json"); code != exitOK || out != "[]\n" {
		t.Errorf("recover again: exit %d: %s", code, out)
	}
}

// inDoubt makes a migration whose sender died after GO, and whose destination
// is reached by transport.
func (l *lab) inDoubt(transport string) fallback.Migration {
	l.t.Helper()
	return l.suspendedAs(fallback.SourceInDoubt, transport)
}

// suspendedAs makes a migration whose sender died in that state, after it had
// suspended and renamed the guest.
func (l *lab) suspendedAs(state fallback.State, transport string) fallback.Migration {
	l.t.Helper()
	info, err := l.alpha.Find(l.context(), "db1")
	if err != nil {
		l.t.Fatal(err)
	}
	dom, err := l.alpha.Open(l.context(), info.Domid)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := dom.Suspend(l.context()); err != nil {
		l.t.Fatal(err)
	}
	if err := dom.Rename(l.context(), "db1--migratedaway"); err != nil {
		l.t.Fatal(err)
	}
	_ = dom.Close()
	m := fallback.Migration{
		ID: strings.Repeat("0a", 16), Side: fallback.SideSource, Guest: "db1", UUID: info.UUID, Domid: info.Domid,
		Peer: "beta", Transport: transport,
	}
	j, err := l.store("alpha").Begin(m, fallback.Record{State: state})
	if err != nil {
		l.t.Fatal(err)
	}
	_ = j.Close()
	return m
}

// damageJournal leaves a journal of another guest that nobody can read.
func (l *lab) damageJournal(host string) (path string) {
	l.t.Helper()
	l.store(host) // makes the folder
	path = filepath.Join(os.Getenv(sim.DirEnv), host+".state", strings.Repeat("dd", 16)+".source.journal")
	if err := os.WriteFile(path, make([]byte, 100), 0o600); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// recoverAll runs recover --all on alpha and returns its JSON.
func (l *lab) recoverAll() (code int, list []recovered, stderr string) {
	l.t.Helper()
	code, out, stderr := l.xenferry("-c", "sim:alpha", "recover", "--all", "--json")
	if err := json.Unmarshal([]byte(out), &list); err != nil || list == nil {
		l.t.Fatalf("recover --all: exit %d, %v: %q %s", code, err, out, stderr)
	}
	return code, list, stderr
}

// TestRecoverBesideDamage: a journal that is damaged is named, and keeps no
// other guest from being recovered.
func TestRecoverBesideDamage(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	l.suspendedAs(fallback.SourceSuspended, "")
	path := l.damageJournal("alpha")
	code, list, errs := l.recoverAll()
	if code != exitFailed || len(list) != 1 || !list[0].Done || list[0].State != fallback.SourceResumed || !strings.Contains(errs, path) {
		t.Errorf("exit %d: %+v %s", code, list, errs)
	}
	l.expectAt(l.alpha, l.beta)
	if code, list, errs := l.recoverAll(); code != exitFailed || len(list) != 0 || !strings.Contains(errs, path) {
		t.Errorf("again: exit %d: %+v %s", code, list, errs)
	}
}

// TestRecoverCodes: what a program works on is left alone, and a doubt counts
// for more than whatever else is left.
func TestRecoverCodes(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	l.damageJournal("alpha")
	m := l.inDoubt("exit 1")
	if code, list, errs := l.recoverAll(); code != exitInDoubt || len(list) != 1 || list[0].WorkedOn || list[0].Error == "" {
		t.Errorf("in doubt, beside damage: exit %d: %+v %s", code, list, errs)
	}
	if err := os.Remove(l.damageJournal("alpha")); err != nil {
		t.Fatal(err)
	}
	j, err := l.store("alpha").Open(m.ID, m.Side)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if code, list, errs := l.recoverAll(); code != exitOK || len(list) != 1 || !list[0].WorkedOn {
		t.Errorf("worked on: exit %d: %+v %s", code, list, errs)
	}
	if code, _, errs := l.xenferry("-c", "sim:alpha", "recover", m.ID); code == exitOK || !strings.Contains(errs, "another process is at work") {
		t.Errorf("worked on, and named: exit %d: %s", code, errs)
	}
}

// TestArrivedForGood: nobody will ask about a guest that came from a file, or
// from a sender of xl's protocol, so its journal need not stay.
func TestArrivedForGood(t *testing.T) {
	for name, arrive := range map[string]func(*lab){
		"restore": func(l *lab) {
			file := filepath.Join(t.TempDir(), "db1.save")
			l.must("-c", "sim:alpha", "save", "db1", file)
			l.must("-c", "sim:beta", "restore", file)
		},
		"xl-receive": func(l *lab) {
			l.must("-c", "sim:alpha", "migrate", "--stock", "-s", "", "db1", os.Args[0]+" -c sim:beta xl-receive")
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, sim.GuestConfig{})
			arrive(l)
			l.expectAt(l.beta, l.alpha)
			if sum, _ := l.only("beta"); sum.State != fallback.DestinationSettled {
				t.Errorf("the journal says %q", sum.State)
			}
		})
	}
}

// TestInDoubt: a destination that does not know the migration promises never to
// run it, and the guest runs on at the source.
func TestInDoubt(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	transport, err := simReceiver("beta")
	if err != nil {
		t.Fatal(err)
	}
	m := l.inDoubt(transport)
	if code, out, errs := l.xenferry("-c", "sim:alpha", "recover", m.ID); code != exitOK {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	l.expectAt(l.alpha, l.beta)
	if sum, _ := l.only("beta"); sum.ID != m.ID || sum.State != fallback.DestinationDiscarded {
		t.Errorf("the destination has recorded %+v", sum)
	}
}

func TestResolve(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	m := l.inDoubt("exit 1")
	if code, out, errs := l.xenferry("-c", "sim:alpha", "recover", "--all"); code != exitInDoubt || !strings.Contains(errs, "in doubt") {
		t.Errorf("recover without a destination: exit %d: %s%s", code, out, errs)
	}
	for _, args := range [][]string{{"--resume"}, {"--resume", "--yes-i-know", "gamma"}, {"--resume", "--destroy"}, {}} {
		if code, _, errs := l.xenferry(append(append([]string{"-c", "sim:alpha", "resolve"}, args...), m.ID)...); code != exitUsage {
			t.Errorf("resolve %v: exit %d: %s", args, code, errs)
		}
	}
	if code, out, errs := l.xenferry("-c", "sim:alpha", "resolve", "--resume", "--yes-i-know", "beta", m.ID); code != exitOK {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	l.expectAt(l.alpha, l.beta)
}

// TestResolveBesideQuestion: a destination that hangs when it is asked keeps no
// person from deciding, by any name that it has been shown with.
func TestResolveBesideQuestion(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	m := l.inDoubt("cat > /dev/null; true")
	asking := l.command("-c", "sim:alpha", "recover", m.ID)
	if err := asking.Start(); err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{})
	go func() { _ = asking.Wait(); close(asked) }()
	defer func() { _ = asking.Process.Kill(); <-asked }()
	eventually(t, "the destination is asked", func() bool {
		var children []byte
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", asking.Process.Pid))
		for _, list := range lists {
			more, _ := os.ReadFile(list)
			children = append(children, more...)
		}
		return len(bytes.TrimSpace(children)) > 0
	})
	if err := l.store("alpha").PutReport(m.ID, m.Side, []byte(`{"to":"dom0-of-beta"}`)); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := l.xenferry("-c", "sim:alpha", "resolve", "--resume", m.ID); code != exitUsage || !strings.Contains(errs, "name, beta or dom0-of-beta, to go on") {
		t.Errorf("the question: exit %d: %s", code, errs)
	}
	code, out, errs := l.xenferry("-c", "sim:alpha", "resolve", "--resume", "--yes-i-know", "dom0-of-beta", m.ID)
	if code != exitOK {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	select {
	case <-asked:
		t.Error("the question was over before the person decided")
	default:
	}
	l.expectAt(l.alpha, l.beta)
}

// TestResolveWaits: a program that is about to be done with the journal is
// waited for.
func TestResolveWaits(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	m := l.inDoubt("exit 1")
	j, err := l.store("alpha").Open(m.ID, m.Side)
	if err != nil {
		t.Fatal(err)
	}
	wait := l.waiting("-c", "sim:alpha", "resolve", "--resume", "--yes-i-know", "beta", m.ID)
	_ = j.Close()
	if err := wait(); err != nil {
		t.Error(err)
	}
	l.expectAt(l.alpha, l.beta)
}

// TestResolvedOtherwise: while a person waits for the journal the doubt is ended
// in the other way, which is not what was asked for.
func TestResolvedOtherwise(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	m := l.inDoubt("exit 1")
	j, err := l.store("alpha").Open(m.ID, m.Side)
	if err != nil {
		t.Fatal(err)
	}
	wait := l.waiting("-c", "sim:alpha", "resolve", "--destroy", "--yes-i-know", "beta", m.ID)
	l.resumeByHand(m)
	dom, err := l.alpha.Reopen(l.context(), xen.DomainRef{Domid: m.Domid, UUID: m.UUID})
	if err == nil {
		err = errors.Join(dom.Rename(l.context(), "db1"), dom.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range []fallback.State{fallback.SourceResuming, fallback.SourceResumed} {
		if err := j.Append(fallback.Record{State: state}, true); err != nil {
			t.Fatal(err)
		}
	}
	_ = j.Close()
	if err := wait(); err == nil {
		t.Error("--destroy has succeeded, and the guest runs here")
	}
	l.expectAt(l.alpha, l.beta)
}

// waiting starts a command and returns when it waits for a journal. wait lets
// it come to its end.
func (l *lab) waiting(args ...string) (wait func() error) {
	l.t.Helper()
	cmd := l.command(args...)
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		l.t.Fatal(err)
	}
	lines := bufio.NewReader(stderr)
	if line, err := lines.ReadString('\n'); !strings.Contains(line, "waiting for it") {
		l.t.Errorf("%q, %v", line, err)
	}
	return func() error {
		_, _ = io.Copy(io.Discard, lines)
		return cmd.Wait()
	}
}

// resumeByHand lets the guest of a migration run on behind its journal's back.
func (l *lab) resumeByHand(m fallback.Migration) {
	l.t.Helper()
	dom, err := l.alpha.Reopen(l.context(), xen.DomainRef{Domid: m.Domid, UUID: m.UUID})
	if err != nil {
		l.t.Fatal(err)
	}
	defer dom.Close()
	if err := dom.Resume(l.context()); err != nil {
		l.t.Fatal(err)
	}
}

// TestResolveRunning: a guest that runs here is not destroyed, and no word to do
// so is recorded; one that counts as handed on can be kept.
func TestResolveRunning(t *testing.T) {
	for _, state := range []fallback.State{fallback.SourceInDoubt, fallback.SourceHandedOn} {
		t.Run(string(state), func(t *testing.T) {
			l := newLab(t, sim.GuestConfig{})
			m := l.suspendedAs(state, "exit 1")
			resolve := func(how string) (int, string) {
				code, _, errs := l.xenferry("-c", "sim:alpha", "resolve", how, "--yes-i-know", "beta", m.ID)
				return code, errs
			}
			if state == fallback.SourceHandedOn {
				if code, errs := resolve("--resume"); code == exitOK || !strings.Contains(errs, "nothing to resolve") {
					t.Errorf("--resume while it is suspended: exit %d: %s", code, errs)
				}
			}
			l.resumeByHand(m)
			if code, errs := resolve("--destroy"); code == exitOK || !strings.Contains(errs, "resolve --resume") {
				t.Errorf("--destroy: exit %d: %s", code, errs)
			}
			if sum, _ := l.only("alpha"); sum.State != state {
				t.Errorf("the journal says %q", sum.State)
			}
			if code, errs := resolve("--resume"); code != exitOK {
				t.Errorf("--resume: exit %d: %s", code, errs)
			}
			l.expectAt(l.alpha, l.beta)
			if code, list, errs := l.recoverAll(); code != exitOK || len(list) != 0 {
				t.Errorf("recover: exit %d: %+v %s", code, list, errs)
			}
		})
	}
}

func TestResolveDestroy(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	m := l.inDoubt("exit 1")
	if code, out, errs := l.xenferry("-c", "sim:alpha", "resolve", "--destroy", "--yes-i-know", "beta", m.ID); code != exitOK {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	l.eventuallyEmpty(l.alpha)
}
