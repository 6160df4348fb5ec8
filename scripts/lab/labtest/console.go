//go:build lab

package labtest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
)

// consoleDir is where xenconsoled keeps what guests print. The log's name is
// the domain's when its console came: NAME, or NAME--incoming after a
// migration.
const consoleDir = "/var/log/xen/console"

// panicWord is what Linux says last of all.
const panicWord = "Kernel panic - not syncing"

// console is all that a guest has printed on one host. The logs only grow, and
// an emulated host takes seconds to send a long one: each byte is read once.
type console struct {
	offsets map[string]int // by the log's name: where its first unread line begins
	beats   []xfg.Beat     // in the order in which they came
	bad     []string       // lines with BadWord, from there on
	panics  []string       // lines with panicWord
}

// console returns what was read so far of the guest's console on a host.
func (g *Guest) console(h *Host) *console {
	c := g.consoles[h.Key]
	if c == nil {
		c = &console{offsets: map[string]int{}}
		if g.consoles == nil {
			g.consoles = map[string]*console{}
		}
		g.consoles[h.Key] = c
	}
	return c
}

// read reads what is new on the guest's consoles on some hosts.
func (g *Guest) read(t testing.TB, hosts ...*Host) {
	t.Helper()
	commands := make([]string, len(hosts))
	for i, h := range hosts {
		commands[i] = g.console(h).command(g.Name)
	}
	for i, out := range mustEach(t, commands, hosts...) {
		if err := g.console(hosts[i]).take(out); err != nil {
			t.Fatalf("%s: consoles of %s: %v", hosts[i].Name, g.Name, err)
		}
	}
}

// logMark stands before what is new in a log: the log's name and the number of
// its bytes that follow.
const logMark = "@log"

// command returns the shell command that prints what is new in the logs of a
// guest. No log is no output.
func (c *console) command(name string) string {
	known := ""
	for _, log := range slices.Sorted(maps.Keys(c.offsets)) {
		known += fmt.Sprintf("%s) from=%d;; ", log, c.offsets[log])
	}
	return fmt.Sprintf(`cd %s && for f in guest-%s.log guest-%[2]s--*.log; do
	[ -f $f ] || continue
	case $f in %s*) from=0;; esac
	new=$(($(stat -c %%s $f) - from))
	[ $new -gt 0 ] || continue
	echo "%s $f $new"; tail -c +$((from + 1)) $f | head -c $new
done`, consoleDir, name, known, logMark)
}

// take takes what command has printed.
func (c *console) take(out string) error {
	for out != "" {
		header, rest, _ := strings.Cut(out, "\n")
		f := strings.Fields(header)
		if len(f) != 3 || f[0] != logMark {
			return fmt.Errorf("not the beginning of a log: %.200q", header)
		}
		size, err := strconv.Atoi(f[2])
		if err != nil || size > len(rest) {
			return fmt.Errorf("%s: %d bytes came of what %q says", f[1], len(rest), header)
		}
		// The last line may not be whole yet.
		whole := rest[:strings.LastIndexByte(rest[:size], '\n')+1]
		c.offsets[f[1]] += len(whole)
		for line := range strings.Lines(whole) {
			c.line(strings.TrimRight(line, "\r\n"))
		}
		out = rest[size:]
	}
	return nil
}

func (c *console) line(line string) {
	if b, ok := xfg.ParseBeat(line); ok {
		c.beats = append(c.beats, b)
	} else if at := strings.Index(line, xfg.BadWord); at >= 0 {
		c.bad = append(c.bad, line[at:])
	} else if at := strings.Index(line, panicWord); at >= 0 {
		c.panics = append(c.panics, line[at:])
	}
}
