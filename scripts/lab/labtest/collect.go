//go:build lab

package labtest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// hostState is what a person wants to see of a host on which a test failed.
const hostState = `
for c in 'date' 'xl list -v' 'xl info' 'xl dmesg' 'dmesg' 'ps axf' 'xenstore-ls -f' 'listen state'; do
	echo "===== $c"; timeout 30 sh -c "$c" 2>&1
done`

// collect copies the logs of both hosts to a folder of the test's name in
// XENFERRY_LAB_LOGS, if that is set.
func (l *Lab) collect(t testing.TB, run string) {
	t.Helper()
	root := os.Getenv("XENFERRY_LAB_LOGS")
	if root == "" {
		t.Log("set XENFERRY_LAB_LOGS to a folder to have the hosts' logs collected")
		return
	}
	dir := filepath.Join(root, l.A.Release+"-"+l.B.Release, strings.ReplaceAll(t.Name(), "/", "_"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Errorf("logs: %v", err)
		return
	}
	for _, h := range l.Hosts() {
		name := filepath.Join(dir, h.Name)
		// As much as can be had: a host may be dead.
		out, err := h.Run(context.Background(), hostState)
		if err != nil {
			out += "\n" + err.Error()
		}
		save(t, name+".state.txt", []byte(out))
		logs, err := exec.Command(filepath.Join(scriptDir(), "on.sh"), h.Key, "tar -C /var/log -czf - .").Output()
		if err != nil {
			t.Logf("logs of %s: %v", h.Name, err)
		}
		save(t, name+".var-log.tar.gz", logs)
		console, err := os.ReadFile(filepath.Join(run, h.Name+".console.log"))
		if err != nil {
			t.Logf("console of %s: %v", h.Name, err)
		}
		save(t, name+".console.log", console)
	}
	t.Logf("logs of both hosts are in %s", dir)
}

func save(t testing.TB, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Logf("logs: %v", err)
	}
}
