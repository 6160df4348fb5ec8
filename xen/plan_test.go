package xen

import (
	"slices"
	"testing"

	"github.com/xenferry/xenferry/savefmt"
)

// TestChoice: a long window is for hosts with a core to spare, unless it was
// asked for; and what was in use is found again in what is left.
func TestChoice(t *testing.T) {
	var l methodList
	long := savefmt.Method{Codec: savefmt.CodecZstdLong, Level: 1}
	p := newPlan(&l, Compression{})
	all, frugal := p.choice(true), p.choice(false)
	for _, m := range frugal {
		if l.at(m) == long {
			t.Error("a host without a core to spare may choose a long window")
		}
	}
	if !slices.Equal(all, p.methods) || len(frugal) < 3 {
		t.Fatalf("%d methods of %d, or %d", len(all), len(p.methods), len(frugal))
	}
	for i, m := range all {
		if got, want := p.position(m, frugal), min(i, len(frugal)-1); got != want {
			t.Errorf("method %d stands at %d of those left, want %d", m, got, want)
		}
	}
	if got := p.position(99, frugal); got != 0 {
		t.Errorf("a method of another plan stands at %d", got)
	}

	fixed := newPlan(&l, Compression{Fixed: true, Method: long})
	if got := fixed.choice(false); l.at(got[len(got)-1]) != long {
		t.Error("what was asked for is not done")
	}
}
