// Command blame reads, on its stdin, what "go test -v" of labtest has printed,
// and prints what may be repeated because QEMU's emulation is to blame for the
// failure: a test or, where it has subtests, one of those, a line each.
//
// It is strict, so that no repetition hides a fault of ours. A failure is the
// emulator's only if the witness of package labtest has said so in that very
// test; where a test has subtests, in each of those that failed. One failure
// beside them that is not the emulator's, and nothing of that test is repeated.
// After a panic or the end of the time nothing is.
package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/xenferry/xenferry/scripts/lab/gotest"
)

func main() {
	units, err := blameless(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, "blame:", err)
		os.Exit(1)
	}
	for _, u := range units {
		fmt.Println(u)
	}
}

// excuse is the witness's word, as the first line of a message: what a guest or
// a program has printed is further in.
var excuse = regexp.MustCompile(`^    [a-z_]+\.go:\d+: emulator fault: `)

// maxLine bounds a line of a test's output, in bytes: a table or a report.
const maxLine = 16 << 20

// blameless returns the units that may be repeated, sorted.
func blameless(r io.Reader) ([]string, error) {
	current, excused, failures := "", map[string]bool{}, map[string]bool{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		line := lines.Text()
		if m := gotest.NowOf.FindStringSubmatch(line); m != nil {
			current = m[1]
		} else if m := gotest.Failed.FindStringSubmatch(line); m != nil {
			failures[m[1]] = true
		} else if excuse.MatchString(line) {
			excused[current] = true
		} else if gotest.Broken.MatchString(line) {
			return nil, nil
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	guilty, units := map[string]bool{}, map[string]bool{}
	for test := range failures {
		if hasFailedSubtest(test, failures) {
			continue // it fails with them
		}
		part := strings.SplitN(test, "/", 3)
		if !excused[test] {
			guilty[part[0]] = true
		}
		units[strings.Join(part[:min(2, len(part))], "/")] = true
	}
	maps.DeleteFunc(units, func(unit string, _ bool) bool {
		top, _, _ := strings.Cut(unit, "/")
		return guilty[top]
	})
	return slices.Sorted(maps.Keys(units)), nil
}

func hasFailedSubtest(test string, failures map[string]bool) bool {
	for other := range failures {
		if strings.HasPrefix(other, test+"/") {
			return true
		}
	}
	return false
}
