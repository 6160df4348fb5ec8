package sim

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// hostEnv makes the test program a host of that name, in the run directory.
const hostEnv = "XENFERRY_SIM_TEST_HOST"

func TestMain(m *testing.M) {
	RunIfGuest()
	if name := os.Getenv(hostEnv); name != "" {
		os.Unsetenv(hostEnv)
		serveTestHost(name)
	}

	runIfClient()
	os.Exit(m.Run())
}

func serveTestHost(name string) {
	err := Serve(context.Background(), Options{
		Name:      name,
		MemoryKiB: 512 << 10,
		Ready:     func() { fmt.Println("ready") },
	})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// testHost is a host in a process of its own.
type testHost struct {
	*Host
	name string
	cmd  *exec.Cmd
}

// shortDir makes a run directory whose sockets have short paths.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "sim-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv(DirEnv, dir)
	return dir
}

// startHost starts a host in the run directory, which must be set.
func startHost(t *testing.T, name string) *testHost {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), hostEnv+"="+name)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("host %s: %q, %v", name, line, err)
	}
	h, err := Dial(testContext(t), name)
	if err != nil {
		t.Fatal(err)
	}
	return &testHost{Host: h, name: name, cmd: cmd}
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func (h *testHost) create(t *testing.T, cfg GuestConfig) uint32 {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = strings.ToLower(strings.NewReplacer("/", "-").Replace(t.Name()))
	}
	if cfg.MemMiB == 0 {
		cfg.MemMiB = 8
	}
	domid, err := h.Create(testContext(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return domid
}

// checkGuest fails the test unless the guest lives and is clean.
func checkGuest(t *testing.T, h *Host, domid uint32) GuestStatus {
	t.Helper()
	before, err := h.Status(testContext(t), domid)
	if err != nil {
		t.Fatal(err)
	}
	// Two sweeps: the second sees the sum of all writes from its start.
	var st GuestStatus
	for range 2 {
		if st, err = h.Verify(testContext(t), domid); err != nil {
			t.Fatal(err)
		}
	}
	if st.BadPages != 0 || len(st.Errors) != 0 || st.Failure != "" {
		t.Errorf("%d bad pages: %q %q", st.BadPages, st.Errors, st.Failure)
	}
	if st.State != "running" || st.Sweeps <= before.Sweeps {
		t.Errorf("the guest does not get on: %+v, then %+v", before, st)
	}
	mustWaitFor(t, "heartbeat", func() bool { // on a busy machine one may take a while
		now, err := h.Status(testContext(t), domid)
		return err == nil && now.Beats > before.Beats
	})
	return st
}
