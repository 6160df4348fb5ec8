//go:build xen

package xl

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/conformance"
)

// TestLiveConformance runs the suite of all hosts on this one: a guest of the
// lab moves within it. XENFERRY_XL_CONFIG is the configuration of such a guest
// (scripts/lab/guest).
func TestLiveConformance(t *testing.T) {
	config := os.Getenv("XENFERRY_XL_CONFIG")
	if config == "" && os.Getenv("XENFERRY_LAB") == "1" {
		t.Fatal("XENFERRY_XL_CONFIG does not name a guest's configuration, and this is a lab")
	}
	if config == "" {
		t.Skip("XENFERRY_XL_CONFIG does not name the configuration of a guest of the lab")
	}
	guests := 0
	conformance.Run(t, conformance.Target{
		Host: func(t *testing.T) xen.Host {
			h, err := Open(Options{})
			if err != nil {
				t.Fatal(err)
			}
			return h
		},
		NewGuest: func(t *testing.T) uint32 {
			guests++
			return createGuest(t, config, fmt.Sprintf("conform%d", guests))
		},
		RunCheck: func(t *testing.T, host xen.Host, domid uint32) {
			t.Helper()
			info, err := host.Find(t.Context(), fmt.Sprint(domid))
			if err != nil {
				t.Fatal(err)
			}
			if info.State != xen.StateRunning {
				t.Fatalf("the guest is %s", info.State)
			}
			checkBeats(t)
		},
		TooLarge: func(t *testing.T, spec xen.Spec) xen.Spec {
			spec.MemKiB = 1 << 30 // 1 TiB
			return spec
		},
		LeaveLogDirty: func(t *testing.T, h xen.Host, domid uint32) {
			if err := h.(*host).xc.EnableLogDirty(domid); err != nil {
				t.Fatal(err)
			}
		},
		LeaveThrottle: func(t *testing.T, h xen.Host, domid uint32) {
			c := h.(*host).ctx
			info, err := c.info(domid)
			if err == nil {
				err = errors.Join(c.xs.write(capPath(info.UUID), "0 40"), c.setSchedCap(domid, 40))
			}
			if err != nil {
				t.Fatal(err)
			}
		},
		Throttle: func(t *testing.T, h xen.Host, domid uint32) int {
			cap, err := h.(*host).ctx.schedCap(domid)
			if err != nil {
				t.Fatal(err)
			}
			if cap == 0 {
				return 0
			}
			return 100 - cap // of one vCPU
		},
		SharedPages: 4, // console, xenstore, and the rings of a NIC
		QuietPages:  64,
		MappedFiles: []string{"/xen/privcmd", "/xen/hypercall"},
		Limit:       3 * time.Minute,
	})
}

// createGuest starts a guest with stock xl, without a disk, and waits for its
// first heartbeat.
func createGuest(t *testing.T, config, name string) uint32 {
	t.Helper()
	stale, _ := filepath.Glob(beatLogs)
	for _, log := range stale {
		os.Remove(log)
	}
	out, err := exec.Command("xl", "create", "-q", config, fmt.Sprintf("name=%q", name), "disk=[]", "memory=128",
		`extra="console=hvc0 quiet mitigations=off xfg.mem=16 xfg.disk=none xfg.workload=uniform:2MB/s"`).CombinedOutput()
	if err != nil {
		t.Fatalf("xl create: %v: %s", err, out)
	}
	out, err = exec.Command("xl", "domid", name).Output()
	if err != nil {
		t.Fatalf("xl domid: %v", err)
	}
	var domid uint32
	if _, err := fmt.Sscan(string(out), &domid); err != nil {
		t.Fatalf("xl domid: %q", out)
	}
	awaitBeat(t, "its first", func(xfg.Beat) bool { return true })
	return domid
}

// beatLogs is where the guest's heartbeats are, whatever its name has been.
const beatLogs = "/var/log/xen/console/guest-*.log"

// checkBeats waits until the guest has beaten on and verified its memory.
func checkBeats(t *testing.T) {
	t.Helper()
	first := awaitBeat(t, "any", func(xfg.Beat) bool { return true })
	awaitBeat(t, "with more of its memory verified", func(b xfg.Beat) bool {
		if b.TotalBad() > 0 {
			t.Fatalf("the guest has found damage: %v", &b)
		}
		return b.N >= first.N+3 && b.Sweeps > first.Sweeps
	})
}

func awaitBeat(t *testing.T, what string, cond func(xfg.Beat) bool) xfg.Beat {
	t.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	for time.Now().Before(deadline) {
		if b, ok := lastBeat(); ok && cond(b) {
			return b
		}
		time.Sleep(300 * time.Millisecond)
	}
	t.Fatalf("no heartbeat (%s) in 3 minutes", what)
	return xfg.Beat{}
}

// lastBeat returns the newest heartbeat of all logs: one guest runs at a time.
func lastBeat() (last xfg.Beat, ok bool) {
	logs, _ := filepath.Glob(beatLogs)
	for _, log := range logs {
		text, err := os.ReadFile(log)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if b, isBeat := xfg.ParseBeat(strings.TrimSpace(line)); isBeat && (!ok || b.N > last.N) {
				last, ok = b, true
			}
		}
	}
	return last, ok
}
