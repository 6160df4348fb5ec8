package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/sim"
)

// TestCourier: whoever does not take events holds nobody up, and finds the last
// one when he does.
func TestCourier(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	var shown []xen.EventKind
	c := newCourier(func(e xen.Event) {
		if len(shown) == 0 {
			close(begun)
			<-goOn
		}
		shown = append(shown, e.Kind)
	})
	c.event(xen.Event{Kind: xen.EventPhase})
	<-begun
	for range 2 * mostEvents {
		c.event(xen.Event{Kind: xen.EventProgress})
	}
	for range 2 * mostEvents {
		c.event(xen.Event{Kind: xen.EventNote})
	}
	c.event(xen.Event{Kind: xen.EventEnd})
	close(goOn)
	c.close()
	c.close()
	if n := len(shown); n != 1+mostEvents+1 || shown[1+mostProgress] != xen.EventNote || shown[n-1] != xen.EventEnd {
		t.Errorf("%d were shown, the last is %q", n, shown[n-1])
	}
}

// TestReaderStops: a program that no longer reads what migrate prints does not
// keep the guest suspended.
func TestReaderStops(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	size, err := unix.FcntlInt(w.Fd(), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, size)); err != nil { // it is full
		t.Fatal(err)
	}
	cmd := l.command("-c", "sim:alpha", "migrate", "--json", "db1", "sim:beta")
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	defer func(cmd *exec.Cmd) { _ = cmd.Process.Kill(); _ = cmd.Wait() }(cmd)
	eventually(t, "the guest runs at the destination", func() bool {
		info, err := l.beta.Find(l.context(), "db1")
		return err == nil && info.State == xen.StateRunning
	})
	eventually(t, "the source has destroyed its copy", func() bool { // behind COMMIT, so the guest may run before it
		domains, err := l.alpha.List(l.context())
		return err == nil && len(domains) == 1
	})
	l.expectAt(l.beta, l.alpha)
}

// TestMustData: an address that was asked for is not left out.
func TestMustData(t *testing.T) {
	l := newLab(t, sim.GuestConfig{})
	for _, flag := range []string{"--bind", "--data-address"} {
		code, _, errs := l.xenferry("-c", "sim:alpha", "migrate", flag, "192.0.2.77", "--connect-timeout", "2s", "db1", "sim:beta")
		if code != exitAtSource || !strings.Contains(errs, "no data connection, and one was asked for") {
			t.Errorf("%s: exit %d: %s", flag, code, errs)
		}
		l.expectAt(l.alpha, l.beta)
	}
	if code, _, errs := l.xenferry("-c", "sim:alpha", "migrate", "--data", "ssh", "--bind", "127.0.0.1", "db1", "sim:beta"); code != exitUsage {
		t.Errorf("exit %d: %s", code, errs)
	}
}
