package sim

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/conformance"
)

func TestConformance(t *testing.T) {
	shortDir(t)
	a, b := startHost(t, "a"), startHost(t, "b")
	dial := func(name string) func(*testing.T) xen.Host {
		return func(t *testing.T) xen.Host {
			// Not t.Context: the suite calls this while it cleans up, too.
			h, err := Dial(context.Background(), name)
			if err != nil {
				t.Fatal(err)
			}
			return h
		}
	}
	target := conformance.Target{
		Host: dial("a"),
		Peer: dial("b"),
		NewGuest: func(t *testing.T) uint32 {
			return a.create(t, GuestConfig{Name: "guest", MemMiB: 16, VCPUs: 2, Workload: "uniform:40MB/s"})
		},
		StubbornGuest: func(t *testing.T) uint32 {
			return a.create(t, GuestConfig{Name: "stubborn", MemMiB: 4, NoSuspend: true})
		},
		RunCheck: func(t *testing.T, host xen.Host, domid uint32) {
			t.Helper()
			checkGuest(t, host.(*Host), domid)
		},
		TooLarge: func(t *testing.T, spec xen.Spec) xen.Spec {
			var cfg GuestConfig
			if err := json.Unmarshal(spec.Config, &cfg); err != nil {
				t.Fatal(err)
			}
			cfg.MemMiB = 1024
			spec.Config, _ = json.Marshal(cfg)
			spec.Pages, spec.MemKiB = cfg.pages(), cfg.memKiB()
			return spec
		},
		LeaveLogDirty: leaveLogDirty,
		LeaveThrottle: func(t *testing.T, h xen.Host, domid uint32) {
			rep, err := h.(*Host).call(testContext(t), &request{Op: opOpen, Domid: domid})
			if err != nil {
				t.Fatal(err)
			}
			defer closeFiles(rep.files)
			dom, err := h.(*Host).newDomain(rep)
			if err != nil {
				t.Fatal(err)
			}
			dom.ctl.throttle.Store(60)
			dom.ctl.unmap()
			dom.unmap()
		},
		Throttle: func(t *testing.T, h xen.Host, domid uint32) int {
			status, err := h.(*Host).Status(testContext(t), domid)
			if err != nil {
				t.Fatal(err)
			}
			return int(status.Throttle)
		},
		MappedFiles: []string{"/memfd:"},
	}
	t.Run("TwoHosts", func(t *testing.T) { conformance.Run(t, target) })
	target.Peer = nil
	t.Run("OneHost", func(t *testing.T) { conformance.Run(t, target) })
	for _, h := range []*testHost{a, b} {
		if err := h.Shutdown(testContext(t)); err != nil {
			t.Errorf("shut down %s: %v", h.name, err)
		}
	}
}

// leaveLogDirty starts it over a connection of its own, which it then drops.
func leaveLogDirty(t *testing.T, h xen.Host, domid uint32) {
	t.Helper()
	dom, err := h.Open(testContext(t), domid)
	if err != nil {
		t.Fatal(err)
	}
	if err := dom.StartLogDirty(testContext(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dom.Close() })
}
