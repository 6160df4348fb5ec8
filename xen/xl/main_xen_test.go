//go:build xen

package xl

import (
	"os"
	"testing"
)

// TestMain makes the test binary libxl's save helper when libxl starts it, and
// a receiver that is to be killed when a test starts it as one.
func TestMain(m *testing.M) {
	RunIfHelper()
	if name := os.Getenv(victimEnv); name != "" {
		victim(name)
	}
	os.Exit(m.Run())
}

// liveGuest returns the name of the guest that the tests on real Xen may use,
// or skips the test. In the lab its absence is a failure.
func liveGuest(t *testing.T) string {
	t.Helper()
	name := os.Getenv("XENFERRY_XL_GUEST")
	if name == "" && os.Getenv("XENFERRY_LAB") == "1" {
		t.Fatal("XENFERRY_XL_GUEST does not name a guest, and this is a lab")
	}
	if name == "" {
		t.Skip("XENFERRY_XL_GUEST does not name a guest on a Xen host")
	}
	return name
}
