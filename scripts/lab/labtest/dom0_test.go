//go:build lab

package labtest

import (
	"context"
	"fmt"
	"regexp"
	"testing"

	"github.com/xenferry/xenferry/scripts/lab/gotest"
)

// TestInDom0 runs, in hostA's dom0, the test programs that need a hypervisor
// under them (test.sh puts them there): the bindings, the real host with a
// PVH and an HVM guest, and the conformance suite that simulated hosts pass
// too.
func TestInDom0(t *testing.T) {
	if !Find(t).SameRelease() {
		t.Skip("tried on pairs of one release")
	}
	l := Open(t)
	runInDom0(t, l, "xenctrl", "", "TestXen")
	runInDom0(t, l, "evtchn", "", "TestXen")
	kinds := []string{"pvh", "hvm"}
	if l.A.Release != oldest {
		kinds = kinds[:1] // the bindings are what differs
	}
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			l := Open(t)
			g := l.CreateGuest(t, l.A, "dom0-"+kind, GuestOptions{Type: kind, NoDisk: true, MemoryMB: 160, Args: []string{"xfg.mem=16"}})
			tests := "TestReal|TestLive(Receive|FinishFails)$"
			if kind == "pvh" && l.A.Release == oldest {
				tests = "TestReal|TestLive(Receive|Abandon|FinishFails|ReceiveRefusals|MapRefusals|Killed)$"
			}
			runInDom0(t, l, "xen-xl", g.Name, tests)
		})
	}
	t.Run("conformance", func(t *testing.T) {
		Find(t).onceOnly(t)
		l := Open(t)
		runInDom0(t, l, "xen-xl", "", "TestLiveConformance$")
	})
}

var ran = regexp.MustCompile(`(?m)^--- PASS`)

// runInDom0 runs the tests of a package that match a pattern. Which of them have
// failed is told in one line, which test.sh repeats at the end of its log.
func runInDom0(t *testing.T, l *Lab, program, guest, pattern string) {
	t.Helper()
	out, err := l.A.Run(context.Background(), fmt.Sprintf(
		"cd /root/tests && XENFERRY_LAB=1 XENFERRY_XL_GUEST=%s XENFERRY_XL_CONFIG=/root/guest/pvh.cfg ./%s.test -test.v -test.timeout 20m -test.run '^(%s)'",
		guest, program, pattern))
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("%s failed in dom0: %v: %s", program, err.(*RunError).Err, gotest.Failures(out))
	}
	if !ran.MatchString(out) {
		t.Fatalf("%s: no test ran", program)
	}
}
