//go:build lab

package labtest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
	"github.com/xenferry/xenferry/xen/memcheck"
)

// cell is a way for a guest to go through a save and a restore, or from host to
// host. In its command %[1]s is the guest, %[2]s a file, %[3]s the other host.
type cell struct {
	name, command string
	moves         bool // the guest is on the other host afterwards
}

// ours makes libxl use xenferry as its save helper; check has every stock file
// read by Xen's own program and by ours, compare is a migration by xl in which
// the receiver compares all memory with a second copy.
const (
	ours    = "LIBXL_SAVE_HELPER=/usr/local/bin/xenferry "
	check   = " && PYTHONPATH=$(echo /usr/lib/xen-*/lib/python) verify-stream-v2 -f xl -i %[2]s && xenferry verify %[2]s && "
	compare = "xl migrate --debug %[1]s %[3]s"
	receive = "xl migrate --debug -s '' %[1]s 'ssh %[3]s env " + ours + "xl migrate-receive'"
)

// cells are all of them. A guest goes through one after the other.
var cells = []cell{
	{"xenferry save → xl restore", "xenferry save %[1]s %[2]s" + check + "xl restore %[2]s", false},
	{"xl save → xenferry restore", "xl save %[1]s %[2]s" + check + "xenferry restore %[2]s", false},
	{"xenferry save --live -z → xenferry restore", "xenferry save --live -z %[1]s %[2]s && xenferry verify %[2]s && xenferry restore %[2]s", false},
	{"xl save, our helper → xl restore", ours + "xl save %[1]s %[2]s" + check + "xl restore %[2]s", false},
	{"xl save → xl restore, our helper", "xl save %[1]s %[2]s && " + ours + "xl restore %[2]s", false},
	{"xenferry migrate → xl", "xenferry migrate --stock %[1]s %[3]s", true},
	{"xl migrate → xenferry", "xl migrate -s '' %[1]s 'ssh %[3]s xenferry xl-receive'", true},
	{"xenferry migrate", "xenferry migrate %[1]s %[3]s", true},
	{"xenferry save --live → xl restore", "xenferry save --live %[1]s %[2]s" + check + "xl restore %[2]s", false},
}

// compared are those in which the receiver compares all memory with a second
// copy. The guest has no disk and no NIC: their backends write what is under way
// into its pages even while it is suspended, with stock xl as with us.
var compared = []cell{
	{"xl migrate --debug, stock", compare, true},
	{"xl migrate --debug, our helper sends", ours + compare, true},
	{"xl migrate --debug, our helper receives", receive, true},
	{"xl migrate --debug, our helper at both", ours + receive, true},
}

// differs is what a receiver logs of a page that is not like its second copy.
const differs = "verify pfn"

// TestTypes takes a guest of each type through all cells. All its memory is
// verified after each. PV guests can be copied live here.
func TestTypes(t *testing.T) {
	if !Find(t).Shadow {
		t.Skip("tried on the pair whose hypervisor has shadow paging, so that PV guests can be moved live")
	}
	took := map[string]time.Duration{}
	types := []string{"pv", "pvh", "hvm"}
	if only := os.Getenv("XENFERRY_LAB_TYPES"); only != "" {
		types = strings.Fields(only)
	}
	for _, kind := range types {
		t.Run(kind, func(t *testing.T) {
			l := Open(t)
			args := []string{"xfg.mem=24", "xfg.verify=16MB", "xfg.workload=hot:5MB/s,set=8MiB"}
			g := l.CreateGuest(t, l.A, "type-"+kind, GuestOptions{Type: kind, MemoryMB: 128, Args: args})
			g.throughAll(t, cells, took)
			still := l.CreateGuest(t, l.A, "still-"+kind, GuestOptions{Type: kind, MemoryMB: 128, NoDisk: true,
				Config: []string{`vif=[]`}, Args: append(args, "xfg.net=none")})
			still.throughAll(t, compared, took)
		})
	}
	logCells(t, types, took)
}

// throughAll takes the guest, which is on hostA, through cells, and ends it.
func (g *Guest) throughAll(t *testing.T, cells []cell, took map[string]time.Duration) {
	t.Helper()
	at := g.Lab.A
	for i, c := range cells {
		if late() {
			t.Logf("NOT RUN: %s: %d ways, the first is %q: the time for all was over (XENFERRY_LAB_MINUTES)", g.Name, len(cells)-i, c.name)
			break
		}
		out := g.through(t, at, c, took)
		if c.moves {
			at = g.Lab.Other(at)
		}
		if n := strings.Count(out, differs); n > 0 {
			t.Errorf("%s: %d pages differ from their second copy:\n%s", c.name, n, out)
		}
	}
	g.AssertClean(t, at)
	g.Shutdown(t, at)
}

// through takes the guest through one cell and verifies it.
func (g *Guest) through(t *testing.T, at *Host, c cell, took map[string]time.Duration) (out string) {
	t.Helper()
	before, file, begun := g.verified(t, at), "/var/lib/"+g.Name+".save", time.Now()
	out = at.Must(t, fmt.Sprintf(c.command+" && rm -f %[2]s", g.Name, file, g.Lab.Other(at).Name))
	_, kind, _ := strings.Cut(g.Name, "-")
	took[kind+c.name] = time.Since(begun)
	to := at
	if c.moves {
		to = g.Lab.Other(at)
	}
	after := g.verified(t, to)
	if after.N <= before.N || after.BootMs <= before.BootMs {
		t.Fatalf("%s: the guest went back in time:\n%v\n%v", c.name, &before, &after)
	}
	g.AssertNothingBad(t)
	AssertGone(t, g.Lab.Other(to), g.Name)
	t.Logf("%s: %s: ok", g.Name, c.name)
	return out
}

// verified waits until the guest has verified all its memory from now on. It
// is the part of AssertClean that a cell cannot do without.
func (g *Guest) verified(t testing.TB, h *Host) xfg.Beat {
	t.Helper()
	first := g.WaitBeat(t, h, CheckLimit, "to begin with", func(xfg.Beat) bool { return true })
	_, _ = h.Run(context.Background(), "listen sweep "+g.ID)
	return g.WaitBeat(t, h, CheckLimit, "with all memory verified", func(b xfg.Beat) bool {
		return b.TotalBad() > 0 || b.N > first.N && b.Verified-first.Verified >= b.MemMB<<20/memcheck.PageSize
	})
}

// logCells prints the table: how long each cell took for each type of guest.
func logCells(t *testing.T, types []string, took map[string]time.Duration) {
	var b strings.Builder
	fmt.Fprintf(&b, "%-44s", "seconds")
	for _, kind := range types {
		fmt.Fprintf(&b, "%8s", kind)
	}
	for _, c := range slices.Concat(cells, compared) {
		fmt.Fprintf(&b, "\n%-44s", c.name)
		for _, kind := range types {
			text := "-"
			if d, ok := took[kind+c.name]; ok {
				text = fmt.Sprintf("%.1f", d.Seconds())
			}
			fmt.Fprintf(&b, "%8s", text)
		}
	}
	t.Logf("how long each way took, after which all memory was whole (-: failed, or not run):\n%s", &b)
}

// TestPVStopped moves a PV guest on a hypervisor that cannot log its pages: it
// is suspended for the whole copy, and the user is told.
func TestPVStopped(t *testing.T) {
	longOnly(t)
	l := Open(t)
	if l.Shadow || !l.SameRelease() {
		t.Skip("tried on pairs of one release without shadow paging")
	}
	const word = "suspended for as long as"
	g := l.CreateGuest(t, l.A, "pvstopped", GuestOptions{Type: "pv", MemoryMB: 128, Args: []string{"xfg.mem=24", "xfg.verify=16MB"}})
	at := l.A
	for _, c := range []cell{
		{"xenferry migrate", "xenferry migrate %[1]s %[3]s 2>&1", true},
		{"xl migrate, our helper", ours + "xl migrate %[1]s %[3]s", true},
	} {
		if out := g.through(t, at, c, map[string]time.Duration{}); !strings.Contains(out, word) {
			t.Errorf("%s does not say %q:\n%s", c.name, word, out)
		}
		at = l.Other(at)
	}
	g.AssertClean(t, at)
	g.Shutdown(t, at)
}

// stuckSave is a shell function that starts a save by xl with our helper to
// where nobody reads, and waits until it is stuck: the guest is suspended. The
// pids are in $xl and $helper.
const stuckSave = `stuck() {
	rm -f /tmp/stuck; mkfifo /tmp/stuck; exec 3<>/tmp/stuck
	` + ours + `xl save %[1]s /tmp/stuck 3<&- > /tmp/stuck.out 2>&1 & xl=$!
	for i in $(seq 300); do
		helper=$(pgrep -P $xl -f -- --save-domain)
		xl list | grep -q "^%[1]s .* ---ss-" && sleep 2 && return
		sleep 0.2
	done
	cat /tmp/stuck.out; exit 1
}
`

// TestHelperEnds: a save that ends in the middle leaves a guest that runs,
// is not logged, and can be saved again.
func TestHelperEnds(t *testing.T) {
	longOnly(t)
	l := Open(t)
	if !l.SameRelease() || l.Shadow {
		t.Skip("tried on pairs of one release")
	}
	for _, kind := range []string{"pvh", "hvm"} {
		g := l.CreateGuest(t, l.A, "ends-"+kind, GuestOptions{Type: kind, MemoryMB: 128, Args: []string{"xfg.mem=24", "xfg.verify=16MB"}})
		for _, c := range []cell{
			{"libxl terminates its helper", stuckSave + "stuck; kill -TERM $helper; ! wait $xl", false},
			{"xl is killed", stuckSave + "stuck; kill -9 $xl; tail --pid=$helper -f /dev/null", false},
			{"xl save → xl restore after that", "xl save %[1]s %[2]s && xl restore %[2]s", false},
		} {
			out := g.through(t, l.A, c, map[string]time.Duration{})
			t.Logf("%s: %s: %s", g.Name, c.name, out)
		}
		g.AssertClean(t, l.A)
		g.Shutdown(t, l.A)
	}
}
