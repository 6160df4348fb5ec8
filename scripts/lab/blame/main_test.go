package main

import (
	"slices"
	"strings"
	"testing"
)

func TestBlameless(t *testing.T) {
	const excused = "    evidence.go:72: emulator fault: hostA: guest-x.log: guard page\n"
	for _, c := range []struct {
		name, log string
		want      []string
	}{
		{"all passed", "=== RUN   TestA\n--- PASS: TestA (1.00s)\n", nil},
		{"a test", "=== RUN   TestA\n" + excused + "--- FAIL: TestA (1.00s)\n", []string{"TestA"}},
		{"not the emulator's", "=== RUN   TestA\n    a_test.go:1: no\n--- FAIL: TestA (1.00s)\n", nil},
		{"another test's", "=== RUN   TestA\n" + excused + "--- FAIL: TestA (1.00s)\n=== RUN   TestB\n    b_test.go:1: no\n--- FAIL: TestB (1.00s)\n",
			[]string{"TestA"}},
		{"a subtest", "=== RUN   TestA\n=== RUN   TestA/pvh\n" + excused + "--- FAIL: TestA (2.00s)\n    --- FAIL: TestA/pvh (1.00s)\n",
			[]string{"TestA/pvh"}},
		{"a row of a subtest, and what follows from it in the subtest",
			"=== RUN   TestA\n=== RUN   TestA/pvh\n=== RUN   TestA/pvh/row\n" + excused + "=== NAME  TestA/pvh\n    a_test.go:1: no heartbeat\n" +
				"--- FAIL: TestA (2.00s)\n    --- FAIL: TestA/pvh (1.00s)\n        --- FAIL: TestA/pvh/row (1.00s)\n",
			[]string{"TestA/pvh"}},
		{"a subtest beside it is guilty",
			"=== RUN   TestA\n=== RUN   TestA/pvh\n" + excused + "=== RUN   TestA/hvm\n    a_test.go:1: lost\n" +
				"--- FAIL: TestA (2.00s)\n    --- FAIL: TestA/pvh (1.00s)\n    --- FAIL: TestA/hvm (1.00s)\n", nil},
		{"the subtest's lines come after another's",
			"=== RUN   TestA/pvh\n=== RUN   TestA/hvm\n=== NAME  TestA/pvh\n" + excused +
				"    --- FAIL: TestA/pvh (1.00s)\n    --- FAIL: TestA/hvm (1.00s)\n--- FAIL: TestA (2.00s)\n", nil},
		{"the words in what a guest printed", "=== RUN   TestA\n        emulator fault: said a guest\n--- FAIL: TestA (1.00s)\n", nil},
		{"the time is over", "=== RUN   TestA\n" + excused + "--- FAIL: TestA (1.00s)\npanic: test timed out after 75m0s\n", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := blameless(strings.NewReader(c.log))
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("got %q and %v, want %q", got, err, c.want)
			}
		})
	}
}
