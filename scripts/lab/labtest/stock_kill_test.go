//go:build lab

package labtest

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// stockLog is where stock xl says how far it is.
const stockLog = "/run/xl.log"

// stockMoments are two moments of a migration with stock xl, by what it writes
// at the source with -vvv.
var stockMoments = []struct{ name, text string }{
	{suspended, "guest has suspended"},
	{"handing over", "Giving target permission to start"},
}

// stockFaults are those of killFaults that do not need our programs.
var stockFaults = []fault{
	{name: killSender, blow: blow{signal: "KILL", pattern: "'^xl .*migrate '"}},
	{name: "kill -9 receiver", blow: blow{signal: "KILL", pattern: "'^xl( .*)? migrate-receive'"}, there: true},
	{name: "link cut for 8 s", blow: blow{command: cutLink}},
}

// stockPatience is how long after the blow the hosts are looked at.
const stockPatience = 20 * time.Second

// TestKillsStock strikes at migrations with stock xl, as TestKills does at ours,
// and prints what is left of the guest on each host. It shows what the lab's
// faults do to a program without a commit; it expects nothing of xl.
func TestKillsStock(t *testing.T) {
	longOnly(t)
	Find(t).onceOnly(t)
	l := Open(t)
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "stock xl, pvh\tfault\thostA\thostB\txl's last word")
	defer w.Flush()
	var g *Guest
	for _, m := range stockMoments {
		for _, f := range stockFaults {
			if g == nil || l.states(t, l.A) != "runs" || l.states(t, l.B) != "nothing" {
				l.DestroyGuests(t)
				g = l.CreateGuest(t, l.A, "cut", GuestOptions{MemoryMB: 128, NoDisk: true, Args: []string{"xfg.mem=16"}})
			}
			word := g.strikeStock(t, m.text, &f)
			row := fmt.Sprintf("%s\t%s\t%s\t%s\t%s", m.name, f.name, l.states(t, l.A), l.states(t, l.B), word)
			t.Log(row)
			fmt.Fprintln(w, row)
		}
	}
}

// strikeStock lets xl migrate the guest from A to B, strikes, and waits. It
// returns the last that xl has said, if it has ended by then.
func (g *Guest) strikeStock(t *testing.T, text string, f *fault) string {
	t.Helper()
	l := g.Lab
	l.A.Must(t, "rm -f "+stockLog+"; touch "+stockLog)
	s := &strike{watched: l.A, on: l.A, file: stockLog, text: text, blow: f.blow}
	if f.there {
		s.on = l.B
	}
	s.arm(t)
	l.A.Must(t, fmt.Sprintf("(setsid sh -c 'xl -vvv migrate %s %s 2> %s; echo ended >> %[3]s' > /dev/null < /dev/null &)", g.Name, l.B.Name, stockLog))
	l.A.Must(t, fmt.Sprintf("for i in $(seq 240); do grep -q struck %s && break; grep -q ended %s && break; sleep 1; done", strikeLog, stockLog))
	time.Sleep(stockPatience)
	s.when(t)
	out := l.A.Must(t, fmt.Sprintf("grep -a '^[mM]igration ' %s | tail -n 1; grep -q ended %[1]s || echo '(xl has not ended)'", stockLog))
	l.A.Must(t, kill("KILL", "'^xl .*migrate '")+"; true")
	return strings.Join(strings.Fields(out), " ")
}

// states says what there is of guests on a host, in the words of the table.
func (l *Lab) states(t testing.TB, h *Host) string {
	t.Helper()
	var said []string
	for i, line := range strings.Split(h.Must(t, "xl list"), "\n") {
		f := strings.Fields(line)
		if i == 0 || len(f) < 6 || f[1] == "0" {
			continue
		}
		what := "runs"
		switch state := f[4]; {
		case strings.Contains(state, "d"):
			what = "being destroyed"
		case strings.Contains(state, "s"):
			what = "suspended"
		case strings.Contains(state, "p"):
			what = "paused"
		}
		if _, suffix, found := strings.Cut(f[0], "--"); found {
			what += " as --" + suffix
		}
		said = append(said, what)
	}
	if len(said) == 0 {
		return "nothing"
	}
	return strings.Join(said, ", ")
}
