package fallback

import (
	"path/filepath"
	"testing"
	"time"
)

// TestReportGoesWithItsJournal: it is kept once, found, and pruned with it.
func TestReportGoesWithItsJournal(t *testing.T) {
	disk, err := OpenDir(filepath.Join(t.TempDir(), "journals"))
	if err != nil {
		t.Fatal(err)
	}
	s := NewStore(disk)
	m := Migration{ID: "0123456789abcdef0123456789abcdef", Side: SideSource, Guest: "db1", Began: time.Now().Add(-2 * keepFor)}
	if r, err := s.Report(m.ID, m.Side); r != nil || err != nil {
		t.Fatalf("before: %q, %v", r, err)
	}
	j, err := s.Begin(m, Record{State: SourceGone, Time: m.Began})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PutReport(m.ID, m.Side, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if err := s.PutReport(m.ID, m.Side, []byte("[]")); err == nil {
		t.Error("a second report took the place of the first")
	}
	if r, err := s.Report(m.ID, m.Side); string(r) != "{}" || err != nil {
		t.Errorf("report %q, %v", r, err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if all, err := s.List(); len(all) != 1 || err != nil {
		t.Errorf("%d migrations, %v", len(all), err)
	}
	if _, err := s.Prune(time.Now()); err != nil {
		t.Fatal(err)
	}
	if names, err := disk.Names(); len(names) > 0 || err != nil {
		t.Errorf("left: %v, %v", names, err)
	}
}
