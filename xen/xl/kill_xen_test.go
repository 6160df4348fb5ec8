//go:build xen

package xl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xenferry/xenferry/xen"
)

// victimEnv names the guest for which a process of this test binary is a
// receiver that gets killed.
const victimEnv = "XENFERRY_XL_VICTIM"

// victim receives a copy of the guest, with some memory, prints the new
// domain's id, and waits for its end. Only the source is looked at.
func victim(name string) {
	fail := func(err error) {
		fmt.Println("victim:", err)
		os.Exit(1)
	}
	ctx := context.Background()
	h, err := Open(Options{})
	if err != nil {
		fail(err)
	}
	src, err := h.Find(ctx, name)
	if err != nil {
		fail(err)
	}
	// Through libxl itself: the test holds the guest's lock.
	cfg, err := h.(*host).ctx.configJSON(src.Domid)
	if err != nil {
		fail(err)
	}
	in, err := h.Receive(ctx, xen.Spec{
		Config: cfg, Name: name + "--victim", Type: src.Type, Pages: 1 << 20, MemKiB: src.MemKiB,
	})
	if err != nil {
		fail(err)
	}
	if err := in.LoadStatic(ctx, nil); err != nil {
		fail(err)
	}
	b := xen.NewBatch()
	for pfn := range uint64(xen.BatchPages) {
		b.PFNs = append(b.PFNs, pfn)
		b.Types = append(b.Types, xen.PageNormal)
	}
	if err := in.Map(b); err != nil { // and left mapped
		fail(err)
	}
	fmt.Println("building", in.Domid())
	if err := in.(*incoming).create.wait(ctx, time.Minute); err != nil {
		fmt.Println("victim: creation ended:", err)
	}
	if err := in.Close(); err != nil {
		fail(err)
	}
	os.Exit(0)
}

// helperOf returns the pid of the save helper that the process has started.
func helperOf(t *testing.T, pid int) int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		b, _ := os.ReadFile(path) // may have ended
		_, rest, ok := strings.Cut(string(b), "(xenferry-helper) ")
		if f := strings.Fields(rest); ok && len(f) > 1 && f[1] == strconv.Itoa(pid) {
			helper, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return helper
		}
	}
	t.Fatalf("process %d has no save helper", pid)
	return 0
}

// TestLiveKilled kills a receiver, its helper, or both in the order in which a
// service manager does, while it builds a guest. Nothing may stay behind.
func TestLiveKilled(t *testing.T) {
	l := openLive(t)
	for _, c := range []struct {
		name string
		kill func(receiver, helper int) error
		says string // by the receiver, where it is left alive
	}{
		{"receiver", func(r, _ int) error { return syscall.Kill(r, syscall.SIGKILL) }, ""},
		{"helper", func(_, h int) error { return syscall.Kill(h, syscall.SIGKILL) }, "fatal signal"},
		{"helper terminated", func(_, h int) error { return syscall.Kill(h, syscall.SIGTERM) }, "closed the stream"},
		{"receiver killed, helper terminated", func(r, h int) error {
			return errors.Join(syscall.Kill(r, syscall.SIGKILL), syscall.Kill(h, syscall.SIGTERM))
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := asRole(victimEnv, l.info.Name)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			lines := bufio.NewScanner(out)
			lines.Scan()
			if !strings.HasPrefix(lines.Text(), "building ") {
				t.Fatalf("the receiver says %q", lines.Text())
			}
			if err := c.kill(cmd.Process.Pid, helperOf(t, cmd.Process.Pid)); err != nil {
				t.Fatal(err)
			}
			var said []string
			for lines.Scan() {
				said = append(said, lines.Text())
			}
			cmd.Wait()
			if got := strings.Join(said, "\n"); !strings.Contains(got, c.says) {
				t.Errorf("the receiver says %q, want %q in it", got, c.says)
			}
			l.goneWithin(t, l.info.Name+"--victim", 20*time.Second)
		})
	}
}

// goneWithin waits until the host has no domain of that name.
func (l *live) goneWithin(t *testing.T, name string, limit time.Duration) {
	t.Helper()
	started := time.Now()
	for time.Since(started) < limit {
		if _, err := l.h.Find(t.Context(), name); errors.Is(err, xen.ErrNoDomain) {
			t.Logf("gone after %v", time.Since(started))
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	l.gone(t, name)
}
