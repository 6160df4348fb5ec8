package gotest

import "testing"

func TestFailures(t *testing.T) {
	out := `=== RUN   TestLive
=== RUN   TestLive/Move
    move.go:12: 3 KiB are free
=== RUN   TestLive/Destroy
    live.go:7: on the way
--- FAIL: TestLive (2.00s)
    --- FAIL: TestLive/Move (1.00s)
    --- PASS: TestLive/Destroy (1.00s)
panic: no more
FAIL
`
	const want = "--- FAIL: TestLive (2.00s); --- FAIL: TestLive/Move (1.00s); move.go:12: 3 KiB are free; panic: no more"
	if got := Failures(out); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
