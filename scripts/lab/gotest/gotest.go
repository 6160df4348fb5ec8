// Package gotest reads what "go test -v" prints.
package gotest

import (
	"regexp"
	"strings"
)

// What its lines are.
var (
	// NowOf says whose lines follow: the first group is the test's name.
	NowOf = regexp.MustCompile(`^=== (?:RUN|NAME|CONT|PAUSE) +(\S+)`)
	// Failed is the verdict on a test that has failed, with its name.
	Failed = regexp.MustCompile(`^ *--- FAIL: (\S+) \(`)
	// Broken is the end of a program that did not come to its end.
	Broken = regexp.MustCompile(`^(panic|fatal error|SIG[A-Z]+): `)

	said = regexp.MustCompile(`^ +\w+\.go:\d+: `)
)

// Failures returns, in one line, what an output says of the tests that failed.
func Failures(out string) string {
	var found []string
	about, name := map[string][]string{}, ""
	for line := range strings.Lines(out) {
		text := strings.TrimSpace(line)
		if m := NowOf.FindStringSubmatch(line); m != nil {
			name = m[1]
		} else if said.MatchString(line) {
			about[name] = append(about[name], text)
		} else if m := Failed.FindStringSubmatch(line); m != nil {
			found = append(append(found, text), about[m[1]]...)
		} else if Broken.MatchString(line) {
			found = append(found, text)
		}
	}
	return strings.Join(found, "; ")
}
