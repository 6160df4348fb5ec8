//go:build lab

package labtest

import (
	"fmt"
	"testing"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
)

// TestConsole reads two logs in pieces, as a host sends them: a line that is cut
// off comes again as a whole, and nothing twice. It needs no host.
func TestConsole(t *testing.T) {
	c := &console{offsets: map[string]int{}}
	beat := func(n uint64) string { return (&xfg.Beat{ID: "1", N: n}).String() + "\r\n" }
	log := func(name, text string) string { return fmt.Sprintf("%s %s %d\n%s", logMark, name, len(text), text) }
	second := beat(2)
	for _, out := range []string{
		log("a", "\n"+beat(1)+second[:20]) + log("b", "[    1.0] "+panicWord+": Fatal"),
		"",
		log("a", second+xfg.BadWord+" memory: page 1\n") + log("b", "[    1.0] "+panicWord+": Fatal exception\n"+beat(3)),
	} {
		if err := c.take(out); err != nil {
			t.Fatal(err)
		}
	}
	var numbers []uint64
	for _, b := range c.beats {
		numbers = append(numbers, b.N)
	}
	got := fmt.Sprintf("%d %q %q", numbers, c.bad, c.panics)
	if want := fmt.Sprintf("[1 2 3] [%q] [%q]", xfg.BadWord+" memory: page 1", panicWord+": Fatal exception"); got != want {
		t.Errorf("read %s, want %s", got, want)
	}
	for _, out := range []string{"ssh: connection closed\n", logMark + " a 7\nless", logMark + " a x\n"} {
		if err := c.take(out); err == nil {
			t.Errorf("%q was taken", out)
		}
	}
}
