package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/xenferry/xenferry/fallback"
)

// TestBeginAlone: of programs that begin to move the same guest at the same
// time one does.
func TestBeginAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	disk, err := fallback.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	store := fallback.NewStore(disk)
	var begun atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			m := fallback.Migration{ID: fmt.Sprintf("%032x", i), Side: fallback.SideSource, Guest: "db1", UUID: "u", Domid: 3}
			journal, other, err := beginAlone(t.Context(), store, dir, m)
			switch {
			case err != nil:
				t.Error(err)
			case journal != nil:
				begun.Add(1)
			case other.UUID != "u":
				t.Errorf("refused for %+v", other)
			}
		})
	}
	wg.Wait()
	if n := begun.Load(); n != 1 {
		t.Errorf("%d have begun, want 1", n)
	}
	_, err = begin(t.Context(), store, dir, fallback.Migration{ID: strings.Repeat("f", 32), Side: fallback.SideSource, UUID: "u", Domid: 3})
	if err == nil || !strings.Contains(err.Error(), "has not come to its end") {
		t.Errorf("a guest that is on its way was taken again: %v", err)
	}
	in := fallback.Migration{ID: strings.Repeat("e", 32), Side: fallback.SideDestination, UUID: "u"}
	if _, err = begin(t.Context(), store, dir, in); err != nil {
		t.Errorf("a guest that comes was refused: %v", err)
	}
}
