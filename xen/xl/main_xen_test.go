//go:build xen

package xl

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"
)

// roles are what the test binary does instead of tests when a test starts it
// with that variable set, to the role's argument.
var roles = map[string]func(arg string){victimEnv: victim}

// TestMain makes the test binary libxl's save helper when libxl starts it, and
// whatever else a test starts it as.
func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), LeastThreads)) // as the program does
	RunIfHelper()
	for env, role := range roles {
		if arg := os.Getenv(env); arg != "" {
			role(arg)
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// fatal ends a process that runs in a role.
func fatal(role string, err error) {
	fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
	os.Exit(1)
}

// asRole makes a command that runs this binary in a role.
func asRole(env, arg string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		fatal(env, err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), env+"="+arg)
	cmd.Stderr = os.Stderr
	return cmd
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
