package faults

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	flagAll   = flag.Bool("all", false, "every single fault, not a part of them")
	flagSeeds = flag.Int("seeds", 300, "pairs of faults")
	flagSeed  = flag.Uint64("seed", 0, "only this pair, with its trace")
	flagOnly  = flag.String("only", "", "only single faults whose name has this in it, with their traces")
)

// workers is how many worlds there are at a time.
const workers = 2

// inBubble plays one run in time of its own.
func inBubble(t *testing.T, p *plan, seed uint64, b bug) (w *world) {
	t.Helper()
	synctest.Test(t, func(*testing.T) { w = play(p, seed, b) })
	return w
}

// baseline is a run without faults.
func baseline(t *testing.T) *world {
	t.Helper()
	w := inBubble(t, nil, 1, noBug)
	if len(w.wrong) > 0 || !w.ranThere {
		t.Fatalf("without a fault: %q, moved %v\n%s", w.wrong, w.ranThere, strings.Join(w.trace, "\n"))
	}
	return w
}

// single is one point and one fault.
type single struct {
	label string
	fault fault
}

func (s single) String() string { return s.label + ": " + string(s.fault) }

// singles returns all that are possible.
func singles(points []string) (all []single) {
	for _, label := range points {
		for _, f := range allFaults {
			isMessage := strings.Contains(label, "/send ") && !strings.Contains(label, ".done")
			if f == damage && !isMessage {
				continue
			}
			all = append(all, single{label, f})
		}
	}
	return all
}

// inParallel calls do for 0 to n-1.
func inParallel(t *testing.T, n int, do func(t *testing.T, i int)) {
	var next atomic.Int64
	t.Run("workers", func(t *testing.T) {
		for range workers {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
					do(t, i)
				}
			})
		}
	})
}

// maxShown bounds how many failures are told in full.
const maxShown = 3

func TestSingles(t *testing.T) {
	all := singles(baseline(t).points)
	step := 1
	if !*flagAll && *flagOnly == "" {
		step = 5
	}
	var played, bad atomic.Int64
	var mu sync.Mutex
	longest := map[fault]time.Duration{}
	inParallel(t, len(all), func(t *testing.T, i int) {
		s := all[i]
		if i%step != 0 || !strings.Contains(s.String(), *flagOnly) {
			return
		}
		w := inBubble(t, &plan{label: s.label, first: s.fault}, 1, noBug)
		played.Add(1)
		mu.Lock()
		longest[s.fault] = max(longest[s.fault], w.longest)
		mu.Unlock()
		show(t, w, s.String(), &bad, *flagOnly != "")
	})
	t.Logf("%d single faults of %d, %d violations", played.Load(), len(all), bad.Load())
	for _, f := range allFaults {
		t.Logf("%-36s longest pause of the guest, in the simulation's time: %s", f, longest[f].Round(time.Millisecond))
	}
}

// show reports what is wrong with a run.
func show(t *testing.T, w *world, name string, bad *atomic.Int64, trace bool) {
	if len(w.wrong) > 0 {
		if n := bad.Add(1); n > maxShown {
			t.Errorf("%s: %q", name, w.wrong)
			return
		}
		trace = true
		t.Errorf("%s: %q", name, w.wrong)
	}
	if trace {
		t.Logf("%s\n%s", name, strings.Join(w.trace, "\n"))
	}
}

// pair returns the plan of a seed.
func pair(all []single, seed uint64) *plan {
	rnd := rand.New(rand.NewPCG(seed, 2))
	s := all[rnd.IntN(len(all))]
	second := allFaults[rnd.IntN(len(allFaults))]
	return &plan{label: s.label, first: s.fault, second: second, after: 1 + rnd.IntN(80)}
}

func TestPairs(t *testing.T) {
	all := singles(baseline(t).points)
	first, n := uint64(1), *flagSeeds
	if *flagSeed != 0 {
		first, n = *flagSeed, 1
	}
	var bad atomic.Int64
	inParallel(t, n, func(t *testing.T, i int) {
		seed := first + uint64(i)
		p := pair(all, seed)
		name := fmt.Sprintf("seed %d: %s at %s, then %s after %d points", seed, p.first, p.label, p.second, p.after)
		show(t, inBubble(t, p, seed, noBug), name, &bad, *flagSeed != 0)
	})
	t.Logf("%d pairs, %d violations", n, bad.Load())
}

// TestFindsBugs makes mistakes on purpose.
func TestFindsBugs(t *testing.T) {
	all := singles(baseline(t).points)
	for _, b := range []bug{bugNoFsync, bugTooEarly} {
		t.Run(string(b), func(t *testing.T) {
			var once sync.Once
			var found atomic.Bool
			inParallel(t, len(all), func(t *testing.T, i int) {
				if found.Load() {
					return
				}
				s := all[i]
				if w := inBubble(t, &plan{label: s.label, first: s.fault}, 1, b); len(w.wrong) > 0 {
					found.Store(true)
					once.Do(func() { t.Logf("found by %s: %q", s, w.wrong) })
				}
			})
			if !found.Load() {
				t.Error("not found")
			}
		})
	}
}
