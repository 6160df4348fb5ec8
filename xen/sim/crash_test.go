package sim

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/xen"
)

func mustWaitFor(t *testing.T, what string, true func() bool) {
	t.Helper()
	if err := waitFor(true); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func openDomain(t *testing.T, h *Host, domid uint32) *Domain {
	t.Helper()
	d, err := h.Open(testContext(t), domid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d.(*Domain)
}

// A sender that is killed leaves the guest as it was, and another one can go on.
func TestSenderKilled(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	domid := a.create(t, GuestConfig{VCPUs: 2, Workload: "uniform:20MB/s"})
	state := func() xen.RunState {
		st, err := a.Status(testContext(t), domid)
		if err != nil {
			t.Fatal(err)
		}
		return st.State
	}

	killClient(t, "log-dirty")
	if st := checkGuest(t, a.Host, domid); !st.LogDirty {
		t.Error("log-dirty did not stay on")
	}
	killClient(t, "suspended")
	if s := state(); s != xen.StateSuspended {
		t.Fatalf("after a sender that was killed the guest is %s", s)
	}
	d := openDomain(t, a.Host, domid)
	if err := d.Resume(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := d.StartLogDirty(testContext(t)); err != nil {
		t.Fatal(err)
	}
	checkGuest(t, a.Host, domid)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if st := checkGuest(t, a.Host, domid); st.LogDirty {
		t.Error("Close has left log-dirty on")
	}
}

// The request of a sender that is killed stands, as it does on Xen.
func TestSenderKilledWhileGuestSuspends(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	domid := a.create(t, GuestConfig{Workload: "uniform:20MB/s", SuspendDelay: 300 * time.Millisecond})
	killClient(t, "asking")
	d := openDomain(t, a.Host, domid)
	mustWaitFor(t, "the guest suspends", func() bool {
		info, err := d.Info(testContext(t))
		return err == nil && info.State == xen.StateSuspended
	})
	if err := d.Resume(testContext(t)); err != nil {
		t.Fatal(err)
	}
	// And a resume that comes before it suspends takes the request back.
	killClient(t, "asking")
	if err := d.Resume(testContext(t)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(400 * time.Millisecond) // longer than the guest would take
	checkGuest(t, a.Host, domid)
}

func TestReceiverKilled(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	domid := a.create(t, GuestConfig{MemMiB: 16, Workload: "uniform:20MB/s"})
	for _, what := range []string{"receiving", "finished"} {
		killClient(t, what)
		left, err := a.Find(testContext(t), "incoming")
		if err != nil || left.State != xen.StatePaused {
			t.Fatalf("%s: what was left is %+v, %v", what, left, err)
		}
		if what == "receiving" { // nobody can make it run
			_, err := a.call(testContext(t), &request{Op: opUnpause, Domid: left.Domid})
			if err == nil || !strings.Contains(err.Error(), "not complete") {
				t.Errorf("unpause of a guest that is not complete: %v", err)
			}
		}
		d := openDomain(t, a.Host, left.Domid)
		if err := d.Suspend(testContext(t)); err == nil {
			t.Errorf("%s: a paused guest was suspended", what)
		}
		if err := d.Resume(testContext(t)); err == nil {
			t.Errorf("%s: a paused guest was resumed", what)
		}
		if err := d.Destroy(testContext(t)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := a.Find(testContext(t), "incoming"); !errors.Is(err, xen.ErrNoDomain) {
			t.Errorf("%s: still there: %v", what, err)
		}
	}
	d := openDomain(t, a.Host, domid)
	if err := d.Resume(testContext(t)); err != nil {
		t.Fatal(err)
	}
	checkGuest(t, a.Host, domid)
}

// guestProcesses returns the processes of a host's guests.
func guestProcesses(t *testing.T, h *testHost) (pids []int) {
	t.Helper()
	out, err := exec.Command("pgrep", "-P", fmt.Sprint(h.cmd.Process.Pid)).Output()
	if err != nil {
		t.Skipf("pgrep: %v", err)
	}
	for f := range strings.FieldsSeq(string(out)) {
		var pid int
		if _, err := fmt.Sscan(f, &pid); err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

func TestHostKilled(t *testing.T) {
	dir := shortDir(t)
	a := startHost(t, "a")
	domid := a.create(t, GuestConfig{MemMiB: 4, Workload: "uniform:1MB/s"})
	d := openDomain(t, a.Host, domid)
	if err := d.Suspend(testContext(t)); err != nil {
		t.Fatal(err)
	}
	a.create(t, GuestConfig{Name: "second", MemMiB: 4})
	if _, err := receiveCopy(testContext(t), a.Host, d, "third"); err != nil {
		t.Fatal(err)
	}
	pids := guestProcesses(t, a)
	if len(pids) != 3 {
		t.Fatalf("the guests' processes are %v", pids)
	}
	a.cmd.Process.Kill()
	a.cmd.Wait()
	mustWaitFor(t, "the guests end", func() bool {
		for _, pid := range pids {
			if alive(pid) {
				return false
			}
		}
		return true
	})
	if _, err := d.Info(testContext(t)); err == nil {
		t.Error("a dead host has answered")
	}
	if _, err := Dial(testContext(t), "a"); err == nil || !strings.Contains(err.Error(), "xenferry sim start") {
		t.Errorf("dial a dead host: %v", err)
	}
	// What it left is not in the way of the next one.
	a = startHost(t, "a")
	if err := a.Shutdown(testContext(t)); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left in the run directory: %v, %v", left, err)
	}
}

func TestGuestKilled(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	domid := a.create(t, GuestConfig{MemMiB: 4})
	d := openDomain(t, a.Host, domid)
	pids := guestProcesses(t, a)
	if len(pids) != 1 {
		t.Fatalf("the guest's processes are %v", pids)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	mustWaitFor(t, "the host notices", func() bool {
		info, err := d.Info(testContext(t))
		return err == nil && info.State == xen.StateCrashed
	})
	for what, err := range map[string]error{
		"suspend": d.Suspend(testContext(t)),
		"resume":  d.Resume(testContext(t)),
	} {
		if err == nil || !strings.Contains(err.Error(), "crashed") {
			t.Errorf("%s of a crashed guest: %v", what, err)
		}
	}
	if err := d.Destroy(testContext(t)); err != nil {
		t.Error(err)
	}
}

// Destroying a guest frees its memory, though a sender still maps it.
func TestMemoryIsFreed(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	domid := a.create(t, GuestConfig{MemMiB: 16})
	rep, err := a.call(testContext(t), &request{Op: opOpen, Domid: domid})
	if err != nil {
		t.Fatal(err)
	}
	defer closeFiles(rep.files)
	mem, err := mapMemory(rep.files[0], 16<<20, unix.PROT_READ)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	blocks := func() int64 {
		var st unix.Stat_t
		if err := unix.Fstat(int(rep.files[0].Fd()), &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks
	}
	if n := blocks() * 512; n < 14<<20 {
		t.Fatalf("a guest of 16 MiB has %d bytes", n)
	}
	if err := a.Destroy(testContext(t), domid); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); blocks() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d blocks are left", blocks())
		}
	}
	if mem[areaStart*xen.PageSize] != 0 { // and no SIGBUS
		t.Error("memory of an ended guest is not zero")
	}
}

// A guest that is destroyed under a waiting sender ends the wait.
func TestDestroyDuringSuspend(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	domid := a.create(t, GuestConfig{MemMiB: 4, NoSuspend: true})
	d := openDomain(t, a.Host, domid)
	done := make(chan error)
	go func() { done <- d.Suspend(testContext(t)) }()
	mustWaitFor(t, "the request", func() bool { return d.ctl.wanted().command() == cmdSuspend })
	if err := a.Destroy(testContext(t), domid); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, xen.ErrNoDomain) {
		t.Errorf("suspend of a guest that was destroyed meanwhile: %v", err)
	}
}

func TestShutdownDuringSuspend(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	d := openDomain(t, a.Host, a.create(t, GuestConfig{MemMiB: 4, NoSuspend: true}))
	done := make(chan error)
	go func() { done <- d.Suspend(testContext(t)) }()
	mustWaitFor(t, "the request", func() bool { return d.ctl.wanted().command() == cmdSuspend })
	if err := a.Shutdown(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("suspended on a host that has ended")
	}
}
