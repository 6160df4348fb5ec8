package xl

import (
	"strings"
	"testing"
)

func TestLockDomain(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		first, err := lockDomain(dir, 7)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lockDomain(dir, 7); err == nil || !strings.Contains(err.Error(), "domain 7 is being moved") {
			t.Errorf("second lock: %v", err)
		}
		other, err := lockDomain(dir, 8)
		if err != nil {
			t.Error(err)
		}
		other.Close()
		first.Close()
	}
	if _, err := lockDomain(dir+"/absent", 7); err == nil {
		t.Error("a lock in a directory that does not exist")
	}
}
