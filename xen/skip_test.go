package xen

import (
	"testing"

	"github.com/xenferry/xenferry/savefmt"
)

func TestParseSkip(t *testing.T) {
	for in, want := range map[string]SkipRule{
		"4:1.05": DefaultSkip, "off": {Ratio: 1}, "1024:100": {Ratio: 100, Most: 1 << 30}, "1:1": {Ratio: 1, Most: 1 << 20},
	} {
		got, err := ParseSkip(in)
		if err != nil || got != want || got.String() != in {
			t.Errorf("%s: %+v (%s), %v", in, got, got, err)
		}
	}
	for _, in := range []string{"", "4", "4:", ":2", "0:2", "4:0.9", "4:NaN", "4:101", "1025:2", "-1:2", "4:2:1"} {
		if r, err := ParseSkip(in); err == nil {
			t.Errorf("%q passed: %+v", in, r)
		}
	}
}

func TestSkipRules(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		rule    string
		encoded int
		want    int // MiB skipped after three such batches
	}{
		{"off", mib + 5, 0}, {"8:1.05", mib, 2}, {"1:1.05", mib, 1}, {"8:3", mib / 2, 2}, {"8:1.5", mib / 2, 0},
	} {
		rule, err := ParseSkip(tt.rule)
		if err != nil {
			t.Fatal(err)
		}
		l := locality{rule: rule}
		for range 3 {
			l.saw(mib, tt.encoded)
		}
		skipped := 0
		for l.skip(mib) {
			skipped++
		}
		if skipped != tt.want {
			t.Errorf("%s, 1 MiB became %d: skipped %d MiB, not %d", tt.rule, tt.encoded, skipped, tt.want)
		}
	}
}

// TestSkipsOnlyWhatHelps: pages whose neighbours compressed badly are still tried
// while the link has enough to do, which costs no time.
func TestSkipsOnlyWhatHelps(t *testing.T) {
	out := &heldWriter{}
	s, err := newSender(benchDomain(1000), []frameWriter{out}, &PipeOptions{Compress: Compression{Fixed: true, Method: savefmt.FastMethod}})
	if err != nil {
		t.Fatal(err)
	}
	l := s.lanes[0]
	for range poorFirst {
		l.local.saw(1<<20, 1<<20)
	}
	out.held = starving
	if got := s.tuner.choose(l, 1<<20); got == 0 {
		t.Error("skipped while the link was busy")
	}
	out.held = 0
	if got := s.tuner.choose(l, 1<<20); got != 0 {
		t.Error("not skipped while the link had nothing to do")
	}
}
