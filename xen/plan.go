package xen

import (
	"slices"
	"strings"
	"sync/atomic"

	"github.com/xenferry/xenferry/savefmt"
)

// maxMethods is how many methods a migration may use: those of auto, and some
// that are chosen while it runs.
const maxMethods = 12

// methodList is the methods that a migration has used or may use, the first of
// which is raw. It only grows, so that an index stays what it is: lanes and
// their counters go by it, and read it while another is added.
type methodList struct {
	list [maxMethods]savefmt.Method
	n    atomic.Int32
}

// at returns the method with an index that was handed out.
func (l *methodList) at(i int) savefmt.Method { return l.list[i] }

// all returns the methods that there are by now.
func (l *methodList) all() []savefmt.Method { return l.list[:l.n.Load()] }

// index returns the index of a method, which is added if need be: -1 if there
// is no room. One goroutine at a time calls it.
func (l *methodList) index(m savefmt.Method) int {
	n := int(l.n.Load())
	for i := range n {
		if l.list[i] == m {
			return i
		}
	}
	if n == maxMethods {
		return -1
	}
	l.list[n] = m
	l.n.Store(int32(n + 1))
	return n
}

func (l *methodList) names() string {
	var names []string
	for _, m := range l.all() {
		names = append(names, m.String())
	}
	return strings.Join(names, ", ")
}

// plan is between which methods is chosen. It does not change: there is
// another in its place.
type plan struct {
	fixed   bool  // always the last one
	methods []int // indices, the first is raw; from the fastest to the strongest
	frugal  int   // so many of them are for a host without a core to spare
}

// newPlan returns the plan for what was asked for, nil if the list is full.
func newPlan(l *methodList, c Compression) *plan {
	want := savefmt.AutoMethods
	if c.Fixed {
		want = []savefmt.Method{{Codec: savefmt.CodecRaw}}
		if c.Method.Codec != savefmt.CodecRaw {
			want = append(want, c.Method)
		}
	}
	p := &plan{fixed: c.Fixed}
	for _, m := range want {
		i := l.index(m)
		if i < 0 {
			return nil
		}
		p.methods = append(p.methods, i)
		if m.Codec != savefmt.CodecZstdLong {
			p.frugal = len(p.methods)
		}
	}
	return p
}

// choice returns those between which is chosen, where this host has a core to
// spare or not. A long window gains a few percent of the bytes for half as much
// work again, and takes the processor's cache from all that run beside it: what
// it saves a full link is lost where cores are what all wait for.
func (p *plan) choice(spare bool) []int {
	if spare || p.fixed {
		return p.methods
	}
	return p.methods[:p.frugal]
}

func (p *plan) last() int { return p.methods[len(p.methods)-1] }

func (p *plan) has(method int) bool { return slices.Contains(p.methods, method) }

// position returns where a method stands in a choice: for one of the plan that is
// not in it the strongest that is, for any other raw.
func (p *plan) position(method int, choice []int) int {
	return min(max(slices.Index(p.methods, method), 0), len(choice)-1)
}
