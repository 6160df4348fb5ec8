package conformance

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// holdings counts what this process has open: descriptors by what they are,
// and mappings of the host's.
type holdings map[string]int

var inode = regexp.MustCompile(`\[?\d+\]?`)

func (s *suite) holdings(t *testing.T) holdings {
	t.Helper()
	// A connection first: what a library opens once for all is no leak.
	must(t, "close the host", s.Host(t).Close())
	return s.count(t)
}

func (s *suite) count(t *testing.T) holdings {
	t.Helper()
	h := holdings{}
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, "descriptors", err)
	for _, e := range entries {
		// The descriptor of this very reading has gone already.
		if what, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			h["descriptor of "+inode.ReplaceAllString(what, "N")]++
		}
	}
	lines, err := os.ReadFile("/proc/self/maps")
	must(t, "mappings", err)
	for line := range strings.Lines(string(lines)) {
		for _, part := range s.MappedFiles {
			if strings.Contains(line, part) {
				h["mapping of "+part]++
			}
		}
	}
	return h
}

// checkLeaks fails the test if more is open than before, and stays so: some
// things end a little later than the call that ends them.
func (s *suite) checkLeaks(t *testing.T, before holdings) {
	var leaks []string
	for end := time.Now().Add(s.Limit); time.Now().Before(end); {
		leaks = leaks[:0]
		after := s.count(t)
		for _, what := range slices.Sorted(maps.Keys(after)) {
			if after[what] > before[what] {
				leaks = append(leaks, what)
			}
		}
		if len(leaks) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, what := range leaks {
		t.Errorf("leaked: %s", what)
	}
}
