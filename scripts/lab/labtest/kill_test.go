//go:build lab

package labtest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
)

// Patterns of the programs on the hosts, for pkill -f.
const (
	senders   = "'^xenferry migrate '"
	guardians = "'xenferry .* guardian '"
	qemus     = "'qemu-system.*--incoming'"
)

// strike is a blow at the moment when the journal of one side enters a state.
type strike struct {
	side    string // whose journal is watched: "source" on A, "destination" on B
	state   string
	name    string
	command string // run on the host of that side
	where   string // "A" or "B" must run the guest afterwards, "" for either
	late    bool   // a person has to call recover
}

func kill(signal, pattern string) string {
	return fmt.Sprintf("pkill -%s -f %s", signal, pattern)
}

// strikes are all of a PVH guest; those whose name has QEMU in it need an HVM one.
func strikes() []strike {
	var all []strike
	for _, state := range []string{"running", "suspending", "suspended", "ready", "in doubt"} {
		where := "A"
		if state == "ready" || state == "in doubt" {
			where = "" // GO follows at once: it may have left, or not
		}
		all = append(all,
			strike{"source", state, "sender killed", kill("KILL", senders), where, false},
			strike{"source", state, "link cut", kill("KILL", "'^ssh .* migrate-receive'"), where, false})
	}
	all = append(all,
		strike{"source", "suspended", "sender hangs", kill("STOP", senders), "A", false},
		strike{"source", "suspended", "sender and guardian killed", kill("KILL", guardians) + "; " + kill("KILL", senders), "A", true})
	for _, state := range []string{"building", "ready", "starting"} {
		where := "A"
		if state == "starting" {
			where = "B"
		}
		all = append(all,
			strike{"destination", state, "receiver killed", kill("KILL", receiver), where, false},
			strike{"destination", state, "receiver hangs", kill("STOP", receiver), where, false})
	}
	return append(all, strike{"destination", "ready", "QEMU killed", kill("KILL", qemus), "", false})
}

// watch starts, on a host, what waits for a state in the journal of a migration
// that is yet to begin, and then strikes. The state that the journal begins in
// is entered when there is a journal.
func (s strike) watch(t testing.TB, h *Host) {
	t.Helper()
	begins := s.state == "running" || s.state == "building"
	seen := fmt.Sprintf(`grep -aqs "\"state\":\"%s\"" $f`, s.state)
	if begins {
		seen = "sleep 2" // into the copying
	}
	h.Must(t, "touch /run/strike.mark && sleep 1.1 && cat > /run/strike.sh <<'END'\n"+
		"f=; while [ -z \"$f\" ]; do f=$(find /var/lib/xenferry -name '*."+s.side+".journal' -newer /run/strike.mark); done\n"+
		"until "+seen+"; do :; done\n"+s.command+"; date +struck:%s.%N\nEND\n"+
		"setsid sh /run/strike.sh > /run/strike.log 2>&1 < /dev/null &")
}

// TestKills kills and stops each program at each step of the commit: the guest
// runs on exactly one side, whole, and nothing is left.
func TestKills(t *testing.T) {
	longOnly(t)
	Open(t).onceOnly(t)
	for _, kind := range []string{"pvh", "hvm"} {
		t.Run(kind, func(t *testing.T) {
			l := Open(t)
			g := l.CreateGuest(t, l.A, "kill-"+kind, GuestOptions{Type: kind, MemoryMB: 128,
				Args: []string{"xfg.mem=16", "xfg.verify=16MB", "xfg.workload=hot:20MB/s,set=4MiB"}})
			for _, s := range strikes() {
				if strings.Contains(s.name, "QEMU") == (kind == "hvm") || s.state == "suspended" {
					g.survive(t, s)
				}
			}
			l.A.Must(t, fmt.Sprintf("xl save -c %s /var/lib/kill.save && rm /var/lib/kill.save", g.Name))
		})
	}
}

// survive starts a migration from A to B, lets the strike come, and checks that
// the guest is where it must be. It ends with the guest on A.
func (g *Guest) survive(t *testing.T, s strike) {
	t.Run(strings.ReplaceAll(s.side+" "+s.state+"/"+s.name, " ", "-"), func(t *testing.T) {
		l := g.Lab
		before := g.WaitBeat(t, l.A, CheckLimit, "before", func(xfg.Beat) bool { return true })
		at := l.A
		if s.side == "destination" {
			at = l.B
		}
		s.watch(t, at)
		l.Mark(t)
		code, report, stderr := g.Start(t, l.A, "--data plain --silence-timeout 10s").End(t)
		if s.late {
			out, err := l.A.Run(context.Background(), "sleep 3; xenferry recover --all")
			t.Logf("recover: %s (%v)", out, err)
		}
		here := g.settled(t)
		if here == nil {
			t.Fatalf("no host runs the guest; exit code %d, %+v\n%s", code, report, stderr)
		}
		t.Logf("exit code %d; runs on %s; %s; seen from outside: %v",
			code, here.Name, strings.TrimSpace(at.Must(t, "cat /run/strike.log")), g.Pause(t, here, before.N))
		if s.where != "" && here.Key != s.where {
			t.Errorf("it runs on %s, want %s", here.Key, s.where)
		}
		if after := g.AssertClean(t, here); after.N <= before.N {
			t.Errorf("its heart does not beat on: %v", &after)
		}
		if here == l.B {
			g.Ferry(t, l.B, "--data plain")
			g.AssertClean(t, l.A)
		}
	})
}

// settled waits until no migration is unfinished on either host, and returns
// the one host that has the guest, under its own name; nil if there is none.
func (g *Guest) settled(t testing.TB) *Host {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(2 * time.Second) {
		if g.unfinished(t) {
			continue
		}
		a, b := g.On(t, g.Lab.A), g.On(t, g.Lab.B)
		switch {
		case a && b:
			t.Fatal("the guest is on both hosts")
		case a:
			AssertGone(t, g.Lab.B, g.Name)
			return g.Lab.A
		case b:
			AssertGone(t, g.Lab.A, g.Name)
			return g.Lab.B
		}
	}
	for _, h := range g.Lab.Hosts() {
		t.Logf("%s:\n%s", h.Name, h.Must(t, "xl list; xenferry status; tail -20 /var/lib/xenferry/guardian.log"))
	}
	return nil
}

func (g *Guest) unfinished(t testing.TB) bool {
	t.Helper()
	for _, h := range g.Lab.Hosts() {
		if strings.TrimSpace(h.Must(t, "xenferry status --json")) != "[]" {
			return true
		}
	}
	return false
}
