//go:build lab

package labtest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
	"github.com/xenferry/xenferry/xen"
)

// cutFor is how long the link between the hosts is cut: longer than the silence
// after which either end gives the other up.
const (
	silence = 5 * time.Second
	cutFor  = 8 * time.Second
)

// cutLink takes the cable out and puts it in again.
var cutLink = fmt.Sprintf("ip link set eth1 down && sleep %g && ip link set eth1 up", cutFor.Seconds())

// Phases of a migration.
const (
	copying   = "copying"
	suspended = "suspended"
	ready     = "ready"   // the copy is whole; GO is next
	handover  = "started" // GO is on disk: at its sender, or at its receiver
)

// phases in their order, with the state of the journal by which either end
// enters them. Where only one end has such a state, its journal is watched.
var phases = []struct {
	name                string
	source, destination string
}{
	{copying, "", "building"},
	{suspended, "suspended", ""},
	{ready, "ready", "ready"},
	{handover, "in doubt", "starting"},
}

// fault is something that goes wrong.
type fault struct {
	name  string
	blow  blow
	there bool   // at the destination
	later string // there, after all
	spoil string // damage instead, see scripts/lab/spoil
	says  string // what the destination says of it, and the user at the source reads
}

var killFaults = []fault{
	{name: killReceiver, blow: blow{signal: "KILL", pattern: receivers}, there: true},
	{name: killSender, blow: blow{signal: "KILL", pattern: senders}},
	{name: "link cut for 8 s", blow: blow{command: cutLink}},
	{name: "SIGSTOP receiver", blow: blow{signal: "STOP", pattern: receivers}, there: true, later: kill("CONT", receivers)},
	{name: killQEMU, blow: blow{signal: "KILL", pattern: qemus}, there: true},
	{name: "CPU state damaged", spoil: "cpu", says: "set the HVM context"},
	{name: "CPU state damaged under way", spoil: "wire", says: "stream is corrupt"},
	{name: "QEMU state damaged", spoil: "qemu", says: "give QEMU the state of its devices"},
}

// Faults of which something more is known.
const (
	killReceiver = "kill -9 receiver"
	killSender   = "kill -9 sender"
	killQEMU     = "QEMU killed"
)

// doesNotApply says why there is no such fault, "" if there is.
func (f *fault) doesNotApply(phase, kind string) string {
	switch {
	case strings.Contains(f.name, "QEMU") && kind == "pvh":
		return "a PVH guest has no QEMU here"
	case f.spoil != "" && phase != suspended:
		return "the state travels once, while the guest is suspended"
	}
	return ""
}

// row is a line of the table.
type row struct {
	kind, phase, fault string
	runs, told         string
	away               Away
	bad, saved         string
	why                string // it does not apply
}

// again says when the guest ran again after the blow.
func (r *row) again() string {
	switch {
	case r.phase == copying:
		return fmt.Sprintf("was not stopped (silent for %.1f s)", r.away.Gap.Seconds())
	case r.away.Until == 0 && r.away.Gap >= stopped:
		return fmt.Sprintf("(away for %.2f s)", r.away.Gap.Seconds())
	}
	return r.away.String()
}

// killTest is the table in the making.
type killTest struct {
	g      *Guest
	kind   string
	at     *Host // where the guest is
	rows   []*row
	until  time.Time     // no row begins after that
	resume time.Duration // until a suspended guest was heard again that a living sender resumed
}

// TestKills strikes at each step of a migration, at each end and between them,
// and checks that the guest runs on exactly one side, whole and with its
// devices, that nothing of it is left on the other, and that who asked is told.
func TestKills(t *testing.T) {
	Find(t).onceOnly(t)
	var rows []*row
	for _, kind := range []string{"pvh", "hvm"} {
		t.Run(kind, func(t *testing.T) {
			l := Open(t)
			k := &killTest{kind: kind, at: l.A, until: time.Now().Add(killTime())}
			defer func() {
				rows = append(rows, k.rows...)
				t.Logf("with a sender that lives it took %v until a suspended guest was heard again", k.resume)
			}()
			k.g = l.CreateGuest(t, l.A, "kill-"+kind, GuestOptions{Type: kind, MemoryMB: 128,
				Args: []string{"xfg.mem=16", "xfg.verify=4MB", "xfg.workload=hot:4MB/s,set=2MiB"}})
			k.checkModel(t)
			l.shareSSH(t)
			for _, phase := range phases {
				k.phase(t, phase.name)
			}
		})
	}
	printKills(rows)
}

// sharedSSH makes ssh use the connection of shareSSH.
const sharedSSH = "-o ControlPath=/run/xenferry-ssh"

// shareSSH has either host keep an ssh connection to the other: a handshake
// takes an emulated host seconds.
func (l *Lab) shareSSH(t testing.TB) {
	t.Helper()
	for _, h := range l.Hosts() {
		to := l.Other(h).Name
		h.Must(t, fmt.Sprintf("ssh %s -O check %s 2> /dev/null || ssh %[1]s -o ControlMaster=yes -fN %[2]s > /dev/null 2>&1 < /dev/null", sharedSSH, to))
	}
}

// checkModel checks what doesNotApply says of QEMU.
func (k *killTest) checkModel(t *testing.T) {
	t.Helper()
	out := k.at.Must(t, fmt.Sprintf("xenstore-read /local/domain/$(xl domid %s)/image/device-model-pid || true", k.g.Name))
	if has := !strings.Contains(out, "couldn't read"); has != (k.kind == "hvm") {
		t.Errorf("a guest of type %s has QEMU: %t (%s)", k.kind, has, out)
	}
}

// phase tries all faults in a phase, and then that stock xl can save the guest.
func (k *killTest) phase(t *testing.T, phase string) {
	var tried []*row
	for i := range killFaults {
		f := &killFaults[i]
		r := &row{kind: k.kind, phase: phase, fault: f.name, why: f.doesNotApply(phase, k.kind)}
		k.rows = append(k.rows, r)
		if r.why == "" && time.Now().After(k.until) {
			r.why = "NOT RUN: the time for this table was over (XENFERRY_LAB_KILL_MINUTES)"
		}
		if r.why == "" {
			tried = append(tried, r)
			t.Run(strings.ReplaceAll(phase+"/"+f.name, " ", "-"), func(t *testing.T) { k.try(t, phase, f, r) })
		}
	}
	if len(tried) == 0 {
		return
	}
	k.g.AssertClean(t, k.at) // all memory is verified
	k.at.Must(t, fmt.Sprintf("xl save -c %s /var/lib/kill.save && rm /var/lib/kill.save", k.g.Name))
	for _, r := range tried {
		r.saved = "once, after the phase"
	}
}

// resumeSlack is how much longer than the resume itself it may take until a
// suspended guest whose sender was killed is heard again. What the resume takes
// is seen, by the same measure, where the sender lives: its receiver was killed.
const resumeSlack = time.Second

// try lets a fault strike. Where the time counts, a second try is allowed: the
// host has one processor, and others are at work on it.
func (k *killTest) try(t *testing.T, phase string, f *fault, r *row) {
	k.g.Lab.witness(t)
	k.survive(t, phase, f, r)
	if f.name != killSender || phase != suspended {
		return
	}
	first, limit := r.away.Until, k.resume+resumeSlack
	if first > limit {
		k.survive(t, phase, f, r)
	}
	if r.away.Until > limit {
		t.Errorf("it ran again %v and %v after the sender was killed; with a sender that lives it took %v, and %v more are allowed",
			first, r.away.Until, k.resume, resumeSlack)
	}
}

// strike returns the blow of a fault at the beginning of a phase, for a
// migration from k.at.
func (k *killTest) strike(phase string, f *fault) *strike {
	from, to := k.at, k.g.Lab.Other(k.at)
	p := phases[slices.IndexFunc(phases, func(p struct{ name, source, destination string }) bool { return p.name == phase })]
	s := &strike{watched: from, on: from, blow: f.blow}
	side, state := "source", p.source
	if f.there {
		s.on = to
	}
	if f.there && p.destination != "" || p.source == "" {
		s.watched, side, state = to, "destination", p.destination
	}
	if f.name == killQEMU && phase == copying {
		// As soon as it is there: when the pages were sent once. What looks for it comes before all others on that
		// host, so it must be cheap, and end.
		s.blow = blow{command: fmt.Sprintf("for i in $(seq %d); do sleep 1; for q in /run/xen/qmp-libxl-*; do [ -e $q ] && %s && break 2; done; done; date +struck:%%s.%%N; [ $i -lt %[1]d ]",
			strikeLimit, kill("KILL", qemus))}
	}
	if phase == copying {
		s.delay = time.Second // from the new domain into the first round
	}
	s.file = fmt.Sprintf("%s/*.%s.journal", journalDir, side)
	s.text = fmt.Sprintf(`"state":"%s"`, state)
	return s
}

// survive starts a migration, lets the fault strike, and checks where the guest
// is and how it is.
func (k *killTest) survive(t *testing.T, phase string, f *fault, r *row) {
	g, from := k.g, k.at
	before := g.WaitBeat(t, from, CheckLimit, "before", func(xfg.Beat) bool { return true })
	options := fmt.Sprintf("--data plain --compress off --connections 1 --silence-timeout %s", silence)
	program := "ssh"
	var s *strike
	if f.spoil != "" {
		program = "spoil " + f.spoil
	} else {
		s = k.strike(phase, f)
		s.arm(t)
	}
	options += fmt.Sprintf(" -s '%s %s'", program, sharedSSH)
	g.Lab.Mark(t)
	began := time.Now()
	code, report, stderr := g.Start(t, from, options).End(t)
	ended := time.Now()
	g.awaitBeat() // what asks from here on would hold up the guest
	k.at = g.settled(t)
	if k.at == nil {
		k.at = from
		t.Fatalf("no host runs the guest; exit code %d, %+v\n%s", code, report, stderr)
	}
	settled := time.Now()
	if f.later != "" {
		_, _ = s.on.Run(t.Context(), f.later) // most often its guardian has killed it
	}
	r.runs, r.told = "destination", told(code)
	if k.at == from {
		r.runs = "source"
	}
	if s != nil {
		r.away = g.Around(t, k.at, s.when(t))
	} else {
		r.away.Gap = g.Pause(t, k.at, before.N).Network
	}
	if phase == suspended && f.name == killReceiver {
		k.resume = r.away.Until
	}
	g.assertAlive(t, k.at, before)
	k.checkOutcome(t, phase, f, from, code, report, stderr)
	if r.bad = "none"; t.Failed() {
		r.bad = "YES"
	}
	t.Logf("at the %s, again after %v, %s; %.1f s until the end of the sender, %.1f s until settled, %.1f s for the check; %s",
		r.runs, r.away, r.told, ended.Sub(began).Seconds(), settled.Sub(ended).Seconds(), time.Since(settled).Seconds(), lastLine(stderr))
	if report != nil {
		t.Log(summary(report))
	}
}

// assertAlive fails the test unless the guest goes on with its work on h, and
// nothing bad was seen. It does not wait until all memory is verified.
func (g *Guest) assertAlive(t *testing.T, h *Host, before xfg.Beat) {
	t.Helper()
	_, _ = h.Run(t.Context(), "listen sweep "+g.ID)
	first := g.WaitBeat(t, h, CheckLimit, "after it", func(b xfg.Beat) bool { return b.N > before.N })
	g.WaitBeat(t, h, CheckLimit, "with memory, disk and network at work", func(b xfg.Beat) bool {
		return b.TotalBad() > 0 || b.N >= first.N+2 && b.Verified > first.Verified && b.Writes > first.Writes &&
			b.DiskWrites > first.DiskWrites && b.NetTx > first.NetTx && b.NetRx > first.NetRx
	})
	g.AssertNothingBad(t)
}

// checkOutcome checks that the guest is where the protocol says, and that the
// sender has said so.
func (k *killTest) checkOutcome(t *testing.T, phase string, f *fault, from *Host, code int, report *xen.Report, stderr string) {
	t.Helper()
	stayed := k.at == from
	if !stayed && phase != handover && phase != ready {
		t.Errorf("it runs on %s: GO cannot have been sent", k.at.Name)
	}
	if report == nil {
		return // the sender is dead
	}
	switch report.Outcome {
	case xen.OutcomeAtSource:
		if !stayed || code == 0 || report.Error == "" {
			t.Errorf("it runs on %s, but exit code %d says that it is at the source: %q", k.at.Name, code, report.Error)
		}
	case xen.OutcomeMoved:
		if stayed || code != 0 {
			t.Errorf("it runs on %s, but exit code %d says that it has moved", k.at.Name, code)
		}
	default:
		t.Errorf("outcome %q: %s", report.Outcome, stderr)
	}
	if to := k.g.Lab.Other(from).Name; f.says != "" && !(strings.Contains(stderr, to) && strings.Contains(stderr, f.says)) {
		t.Errorf("that %s says %q has not come: %s", to, f.says, stderr)
	}
}

// told is what an exit code says.
func told(code int) string {
	if code == 255 { // of ssh, when the program was killed
		return "-"
	}
	return fmt.Sprintf("exit code %d", code)
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// printKills prints the table.
func printKills(rows []*row) {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "guest\tphase\tfault\truns at the\tagain after\tsender's word\tbad seen\tall memory verified, and xl save")
	for _, r := range rows {
		switch {
		case r.why != "":
			fmt.Fprintf(w, "%s\t%s\t%s\t-: %s\n", r.kind, r.phase, r.fault, r.why)
		case r.runs == "":
			fmt.Fprintf(w, "%s\t%s\t%s\tnot tried, or nowhere\n", r.kind, r.phase, r.fault)
		default:
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.kind, r.phase, r.fault, r.runs, r.again(), r.told, r.bad, r.saved)
		}
	}
	w.Flush()
}

// settled waits until no migration is unfinished on either host, and returns
// the one host that has the guest, under its own name and alone; nil if there
// is none.
func (g *Guest) settled(t testing.TB) *Host {
	t.Helper()
	var seen [2]string
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); {
		began := time.Now()
		var asking sync.WaitGroup
		for i, h := range g.Lab.Hosts() {
			asking.Go(func() {
				out, err := h.Run(context.Background(), "xenferry status --json && xl list | awk 'NR > 2 { print $1 }'")
				seen[i] = fmt.Sprint(strings.Join(strings.Fields(out), " "), err)
			})
		}
		asking.Wait()
		alone, nothing := fmt.Sprintf("[] %s<nil>", g.Name), "[]<nil>"
		switch seen {
		case [2]string{alone, nothing}:
			return g.Lab.A
		case [2]string{nothing, alone}:
			return g.Lab.B
		}
		rest(began)
	}
	for i, h := range g.Lab.Hosts() {
		t.Logf("%s: %s\n%s", h.Name, seen[i], h.Must(t, "xl list; xenferry status; tail -20 /var/lib/xenferry/guardian.log"))
	}
	return nil
}
