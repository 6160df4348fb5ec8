//go:build lab

package labtest

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// How fast an emulated host is depends on the machine under it. A gate that has
// to be through in time (.ci/run) sets limits, and what they cut off is named;
// by default there are none, and everything runs.

// late tells whether XENFERRY_LAB_END is over, which is set by test.sh, in
// seconds since 1970. test.sh counts the words NOT RUN.
func late() bool {
	end, err := strconv.ParseInt(os.Getenv("XENFERRY_LAB_END"), 10, 64)
	return err == nil && time.Now().Unix() > end
}

// inTime skips a test that would begin after that.
func inTime(t testing.TB) {
	t.Helper()
	if late() {
		t.Skip("NOT RUN: the time for all was over (XENFERRY_LAB_MINUTES)")
	}
}

// killTime is how long the rows of TestKills may go on, for one type of guest.
func killTime() time.Duration {
	minutes, err := strconv.ParseFloat(os.Getenv("XENFERRY_LAB_KILL_MINUTES"), 64)
	if err != nil || minutes <= 0 {
		return 24 * time.Hour
	}
	return time.Duration(minutes / 2 * float64(time.Minute))
}
