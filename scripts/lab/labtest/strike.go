//go:build lab

package labtest

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
)

// Patterns of the programs on the hosts, for pkill -f.
const (
	senders   = "'^xenferry migrate '"
	receivers = "'^xenferry( .*)? migrate-receive'"
	qemus     = "'qemu-system.*--incoming'" // that wait for a guest
)

// strike is something done to a host at a known moment: when a file on a host
// says a text. It is done before the program that wrote the text goes on if
// both are on one host, and some milliseconds later if not.
type strike struct {
	watched *Host
	file    string // a pattern; files that have not changed since do not count
	text    string
	delay   time.Duration
	on      *Host // where it is done
	blow    blow
}

// blow is what is done: a signal to all processes whose command line matches a
// pattern, or a command.
type blow struct {
	signal, pattern string
	command         string
}

// kill is the command that sends a signal.
func kill(signal, pattern string) string {
	return fmt.Sprintf("pkill -%s -f %s", signal, pattern)
}

// strikePort is where a host is told that the moment has come on the other.
const strikePort = 7011

// strikeLimit is how long the moment is waited for, in seconds.
const strikeLimit = 240

// Where a strike says what it did, and where it waits.
const (
	strikeLog  = "/run/strike.log"
	journalDir = "/var/lib/xenferry"
)

// arm lets the strike wait for its moment.
func (s *strike) arm(t testing.TB) {
	t.Helper()
	wait := fmt.Sprintf("await %d %q %q && sleep %g", strikeLimit, s.file, s.text, s.delay.Seconds())
	command := s.blow.command
	if s.blow.signal != "" {
		command = kill(s.blow.signal, s.blow.pattern)
	}
	note := "date +struck:%s.%N && if " + command + "; then echo hit; else echo missed; fi"
	switch {
	case s.on != s.watched:
		s.on.inBackground(t, fmt.Sprintf("nc -l %d > /dev/null && %s", strikePort, note))
		s.watched.inBackground(t, fmt.Sprintf("%s && nc -N %s %d < /dev/null", wait, s.on.Name, strikePort))
	case s.blow.signal != "" && s.blow.pattern != qemus && strings.HasPrefix(s.file, journalDir):
		// To find the process takes tenths of a second: that is done before,
		// when it has begun its journal.
		note = fmt.Sprintf("date +struck:%%s.%%N && kill -%s $pids && echo hit || echo missed", s.blow.signal)
		s.on.inBackground(t, fmt.Sprintf(`await %d %q '"side":' && pids=$(pgrep -f %s); %s && %s`, strikeLimit, s.file, s.blow.pattern, wait, note))
	default:
		s.on.inBackground(t, wait+" && "+note)
	}
}

// inBackground leaves a command running on the host, before all others there. It
// ends what waits still of an earlier strike.
func (h *Host) inBackground(t testing.TB, command string) {
	t.Helper()
	h.Must(t, fmt.Sprintf(`mkdir -p -m 700 %s
pkill -f '^(await|nc -l|sh /run/strike.sh)'
cat > /run/strike.sh <<'END'
%s
END
(setsid chrt -f 50 sh /run/strike.sh > %s 2>&1 < /dev/null &)`, journalDir, command, strikeLog))
}

var struckLine = regexp.MustCompile(`struck:(\d+)\.(\d+)`)

// when returns when the strike came, by the clock of its host. Both hosts'
// clocks agree within a few milliseconds.
func (s *strike) when(t testing.TB) time.Time {
	t.Helper()
	log := s.on.Must(t, "cat "+strikeLog)
	all := struckLine.FindAllStringSubmatch(log, -1)
	if all == nil || strings.Contains(log, "missed") {
		t.Fatalf("the strike on %s has not come, or found nothing: %s", s.on.Name, log)
	}
	m := all[len(all)-1] // a blow that has to wait for its prey says itself when it came
	sec, _ := strconv.ParseInt(m[1], 10, 64)
	nsec, _ := strconv.ParseInt(m[2], 10, 64)
	return time.Unix(sec, nsec)
}

// Away is what a listener has heard of a guest around a moment.
type Away struct {
	Gap   time.Duration // the longest silence in which it fell, or that began right after it
	Until time.Duration // from the moment until that ended; 0 if it was not away
}

// stopped is the silence that no busy emulated host makes by itself.
const stopped = 500 * time.Millisecond

// String says when the guest ran again.
func (a Away) String() string {
	if a.Gap < stopped {
		return fmt.Sprintf("under %.1f s", stopped.Seconds())
	}
	return fmt.Sprintf("%.2f s", a.Until.Seconds())
}

// Around returns how long the guest was away around a moment, as the listener on
// a host has heard it since the last Mark. A silence that begins later is not
// the blow's: a busy host makes them at any time.
func (g *Guest) Around(t testing.TB, h *Host, at time.Time) Away {
	t.Helper()
	f := g.Flow(t, h)
	if f == nil {
		t.Fatalf("nothing was heard of %s on %s", g.Name, h.Name)
	}
	if len(f.Gaps) == xfg.MaxGaps && time.UnixMilli(f.Gaps[0].FromMs).After(at) {
		t.Fatalf("%s was silent so often since that the listener of %s no longer knows when it ran again", g.Name, h.Name)
	}
	var a Away
	for _, gap := range append(f.Gaps, f.MaxGap) {
		length := time.Duration(gap.Ms * float64(time.Millisecond))
		from := time.UnixMilli(gap.FromMs).Sub(at)
		until := from + length
		if from < stopped && until > 0 && length > a.Gap {
			a = Away{length, until}
		}
	}
	if a.Gap < stopped {
		a.Until = 0 // it was not away
	}
	return a
}
