//go:build xen

package xl

import "testing"

func run(from, n uint64) []uint64 {
	pfns := make([]uint64, n)
	for i := range pfns {
		pfns[i] = from + uint64(i)
	}
	return pfns
}

func TestSuperpageIsWorthwhile(t *testing.T) {
	const limit = 8 * superPages
	gap := append(run(superPages, 9), run(superPages+10, superPages/2-9)...)
	for _, c := range []struct {
		name string
		pfns []uint64
		want bool
	}{
		{"lower half", run(superPages, superPages/2), true},
		{"upper half", run(superPages+superPages/2, superPages/2), true},
		{"all of it", run(superPages, superPages), true},
		{"less than half", run(superPages, superPages/2-1), false},
		{"not at a half", run(superPages+1, superPages/2), false},
		{"with a gap", gap, false},
		{"tried before", run(3*superPages, superPages/2), false},
		{"the guest's last half", run(limit-superPages/2, superPages/2), true},
		{"cut by the guest's end", run(limit, superPages/2), false},
		{"nothing", nil, false},
	} {
		s := newSuperpages(limit)
		s.tried.add(3)
		if got := s.worthwhile(c.pfns, limit+superPages-1); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
		s.off.Store(true)
		if s.worthwhile(c.pfns, limit) {
			t.Errorf("%s: worthwhile though memory is short", c.name)
		}
	}
}
