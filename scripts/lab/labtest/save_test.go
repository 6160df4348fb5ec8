//go:build lab

package labtest

import (
	"fmt"
	"testing"
)

// saveSteps move a guest through every pair of programs that can write and read
// a saved guest, in turn. %[1]s is the guest, %[2]s a file, %[3]s the other
// host. After each the guest runs on the host that the step names.
var saveSteps = []struct {
	name, command string
	moves         bool // to the other host
}{
	{"xenferry save, xl restore",
		"xenferry save %[1]s %[2]s && xenferry verify %[2]s && xl restore %[2]s", false},
	{"xenferry save --live, xl restore",
		"xenferry save --live %[1]s %[2]s && xenferry verify %[2]s && xl restore %[2]s", false},
	{"xl save, xenferry restore",
		"xl save %[1]s %[2]s && xenferry verify %[2]s && xenferry restore %[2]s", false},
	{"xenferry save -z, xenferry restore on the other host",
		"xenferry save --live -z %[1]s %[2]s && xenferry verify %[2]s && ssh %[3]s xenferry restore - < %[2]s", true},
	{"xenferry save -z, convert, xl restore",
		"xenferry save --codec zstd %[1]s %[2]s && xenferry convert %[2]s %[2]s.stock && xl restore %[2]s.stock && rm %[2]s.stock", false},
	{"xenferry save -c, and the copy is only looked at",
		"xenferry save -c %[1]s %[2]s && xenferry verify %[2]s", false},
	{"xenferry to stock xl",
		"xenferry migrate --stock %[1]s %[3]s", true},
	{"stock xl to xenferry",
		"xl migrate -s '' %[1]s 'ssh %[3]s xenferry xl-receive'", true},
}

// TestSaved takes a guest of each type through saveSteps. Its checker must not
// see any of them but as a pause.
func TestSaved(t *testing.T) {
	longOnly(t)
	if !Find(t).SameRelease() {
		t.Skip("tried on pairs of one release")
	}
	for _, kind := range []string{"pvh", "hvm"} {
		t.Run(kind, func(t *testing.T) {
			l := Open(t)
			g := l.CreateGuest(t, l.A, "saved-"+kind, GuestOptions{Type: kind, Args: busy})
			at, file := l.A, "/var/lib/"+g.Name+".save"
			before := g.AssertClean(t, at)
			for _, step := range saveSteps {
				l.Mark(t)
				at.Must(t, fmt.Sprintf(step.command, g.Name, file, l.Other(at).Name))
				at.Must(t, "rm -f "+file)
				if step.moves {
					AssertGone(t, at, g.Name)
					at = l.Other(at)
				}
				after := g.AssertClean(t, at)
				t.Logf("%s %s: ok", g.Name, step.name)
				if after.N <= before.N || after.BootMs <= before.BootMs {
					t.Fatalf("%s: the guest went back in time:\n%v\n%v", step.name, &before, &after)
				}
				before = after
			}
			g.Shutdown(t, at)
		})
	}
}
