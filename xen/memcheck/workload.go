package memcheck

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Pattern is how a workload chooses the pages that it writes.
type Pattern string

// The patterns.
const (
	PatternIdle    Pattern = "idle"    // writes nothing
	PatternUniform Pattern = "uniform" // every page alike
	PatternHot     Pattern = "hot"     // a set of pages, by Zipf's law
	PatternCyclic  Pattern = "cyclic"  // uniform for half a period, then rest
	PatternSmall   Pattern = "small"   // a few bytes in pages chosen uniformly
)

// Bounds of a workload.
const (
	DefaultHotSet = 64 << 20
	DefaultPeriod = 2 * time.Second
	MaxRate       = 100_000_000_000 // bytes a second
	MaxSet        = 1 << 44         // 16 TiB
	MinPeriod     = 10 * time.Millisecond
	MaxPeriod     = time.Hour
)

// Workload says what the workers of a guest write together.
type Workload struct {
	Pattern     Pattern
	BytesPerSec uint64        // pages dirtied a second, times PageSize
	Set         uint64        // bytes that are written at all; 0 is all memory
	Period      time.Duration // of PatternCyclic
}

// ParseWorkload reads a workload as a user writes it:
//
//	idle
//	uniform:RATE[,set=SIZE]
//	hot:RATE[,set=SIZE]          set: 64MiB if not given
//	cyclic:RATE[,period=TIME]    period: 2s if not given
//	small:RATE[,set=SIZE]
//
// RATE is a number with B/s, kB/s, MB/s, GB/s, KiB/s, MiB/s or GiB/s; SIZE is
// the same without /s; TIME is as 500ms or 2s. The rate counts whole pages,
// for small too.
func ParseWorkload(s string) (Workload, error) {
	name, rest, hasRate := strings.Cut(s, ":")
	w := Workload{Pattern: Pattern(name)}
	fail := func(format string, args ...any) (Workload, error) {
		return Workload{}, fmt.Errorf("workload %.100q: %s", s, fmt.Sprintf(format, args...))
	}
	switch w.Pattern {
	case PatternIdle:
		if hasRate {
			return fail("idle takes no rate")
		}
		return w, nil
	case PatternHot:
		w.Set = DefaultHotSet
	case PatternCyclic:
		w.Period = DefaultPeriod
	case PatternUniform, PatternSmall:
	default:
		return fail("unknown pattern; known are idle, uniform, hot, cyclic, small")
	}
	if !hasRate {
		return fail("no rate; write for example %s:100MB/s", name)
	}
	fields := strings.Split(rest, ",")
	var err error
	if w.BytesPerSec, err = ParseRate(fields[0]); err != nil {
		return fail("%v", err)
	}
	for _, f := range fields[1:] {
		if err := w.setOption(f); err != nil {
			return fail("%v", err)
		}
	}
	return w, nil
}

func (w *Workload) setOption(field string) (err error) {
	key, value, _ := strings.Cut(field, "=")
	switch {
	case key == "set" && w.Pattern != PatternCyclic:
		w.Set, err = ParseSize(value)
		if err == nil && (w.Set < PageSize || w.Set > MaxSet) {
			err = fmt.Errorf("set %s is not from %d bytes to 16 TiB", value, PageSize)
		}
	case key == "period" && w.Pattern == PatternCyclic:
		w.Period, err = time.ParseDuration(value)
		if err != nil {
			err = fmt.Errorf("period %q is not a time such as 500ms or 2s", value)
		} else if w.Period < MinPeriod || w.Period > MaxPeriod {
			err = fmt.Errorf("period %s is not from %s to %s", value, MinPeriod, MaxPeriod)
		}
	default:
		err = fmt.Errorf("%s has no option %q", w.Pattern, field)
	}
	return err
}

// String returns the workload in the form that ParseWorkload reads.
func (w Workload) String() string {
	if w.Pattern == PatternIdle || w.Pattern == "" {
		return string(PatternIdle)
	}
	s := fmt.Sprintf("%s:%s/s", w.Pattern, formatDecimal(w.BytesPerSec))
	if w.Set != 0 {
		s += ",set=" + formatBinary(w.Set)
	}
	if w.Period != 0 {
		s += ",period=" + w.Period.String()
	}
	return s
}

// ParseRate reads a size as ParseSize does, followed by /s: PageSize to MaxRate
// bytes a second.
func ParseRate(s string) (uint64, error) {
	size, ok := strings.CutSuffix(s, "/s")
	if !ok {
		return 0, fmt.Errorf("rate %q does not end in /s; write for example 100MB/s", s)
	}
	n, err := ParseSize(size)
	if err != nil {
		return 0, err
	}
	if n < PageSize || n > MaxRate {
		return 0, fmt.Errorf("rate %s is not from %d B/s to %d GB/s", s, PageSize, int(MaxRate/1e9))
	}
	return n, nil
}

// units, longest name first, so that a suffix is never mistaken for another.
var units = []struct {
	name  string
	bytes float64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"B", 1},
}

// ParseSize reads a number of bytes with its unit: B, kB, MB, GB, TB, KiB,
// MiB, GiB or TiB.
func ParseSize(s string) (uint64, error) {
	for _, u := range units {
		number, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		// The bound keeps the conversion exact enough and without overflow.
		if err != nil || math.IsNaN(v) || v < 0 || v*u.bytes > 1<<60 {
			return 0, fmt.Errorf("%q is not a size such as 64MiB", s)
		}
		return uint64(math.Round(v * u.bytes)), nil
	}
	return 0, fmt.Errorf("%q has no unit; write for example 64MiB or 100MB", s)
}

func formatDecimal(n uint64) string {
	switch {
	case n%1e9 == 0:
		return strconv.FormatUint(n/1e9, 10) + "GB"
	case n%1e6 == 0:
		return strconv.FormatUint(n/1e6, 10) + "MB"
	case n%1e3 == 0:
		return strconv.FormatUint(n/1e3, 10) + "kB"
	}
	return strconv.FormatUint(n, 10) + "B"
}

func formatBinary(n uint64) string {
	switch {
	case n%(1<<30) == 0:
		return strconv.FormatUint(n>>30, 10) + "GiB"
	case n%(1<<20) == 0:
		return strconv.FormatUint(n>>20, 10) + "MiB"
	case n%(1<<10) == 0:
		return strconv.FormatUint(n>>10, 10) + "KiB"
	}
	return strconv.FormatUint(n, 10) + "B"
}
