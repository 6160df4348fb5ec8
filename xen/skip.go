package xen

import (
	"fmt"
	"strconv"
	"strings"
)

// SkipRule says how much is sent as it is after pages that did not compress:
// their neighbours do not either (the locality of the Tencent talk).
type SkipRule struct {
	Ratio float64 // batches that get smaller by less, 1 to maxSkipRatio
	Most  int     // bytes of pages that are skipped at a time at most; 0: nothing is
}

// DefaultSkip was found by measurement: a longer skip runs on into pages that
// would compress.
var DefaultSkip = SkipRule{Ratio: 1.05, Most: 4 << 20}

// Bounds of what a user may choose.
const (
	maxSkipRatio = 100
	maxSkipMiB   = 1024
)

// ParseSkip reads the value of --compress-skip: MiB:RATIO, or off.
func ParseSkip(s string) (SkipRule, error) {
	if s == "off" {
		return SkipRule{Ratio: 1}, nil
	}
	size, ratio, _ := strings.Cut(s, ":")
	mib, sizeErr := strconv.Atoi(size)
	r, ratioErr := strconv.ParseFloat(ratio, 64)
	if sizeErr != nil || ratioErr != nil || mib < 1 || mib > maxSkipMiB || !(r >= 1 && r <= maxSkipRatio) {
		return SkipRule{}, fmt.Errorf("--compress-skip %q: want MiB:RATIO, as in %s, with 1 to %d MiB and a ratio of 1 to %d, or off",
			s, DefaultSkip, maxSkipMiB, maxSkipRatio)
	}
	return SkipRule{Ratio: r, Most: mib << 20}, nil
}

// String returns the rule as ParseSkip reads it.
func (r SkipRule) String() string {
	if r.Most == 0 {
		return "off"
	}
	return fmt.Sprintf("%d:%g", r.Most>>20, r.Ratio)
}

// locality is the memory of a lane, which adapts how much it skips.
type locality struct {
	rule SkipRule
	left int // bytes of pages that are still sent as they are
	next int // how many the next time
	poor int // batches in a row that compressed badly
}

// Of two batches in a row that compress badly the second lets the next skipFirst
// bytes of pages be sent as they are; each one that follows doubles that.
const (
	poorFirst = 2
	skipFirst = 1 << 20
)

// skip tells whether the next n bytes are sent as they are.
func (l *locality) skip(n int) bool {
	if l.left <= 0 {
		return false
	}
	l.left -= n
	return true
}

// saw notes what became of a batch.
func (l *locality) saw(raw, encoded int) {
	if float64(raw) >= float64(encoded)*l.rule.Ratio {
		l.next, l.poor = 0, 0
		return
	}
	if l.poor++; l.poor < poorFirst {
		return
	}
	l.next = min(max(2*l.next, skipFirst), l.rule.Most)
	l.left = l.next
}
