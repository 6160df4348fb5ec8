package fallback

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const testID = "00112233445566778899aabbccddeeff"

func testStore(t *testing.T) (*Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	disk, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return NewStore(disk), dir
}

func testMigration(side Side) Migration {
	return Migration{ID: testID, Side: side, Guest: "db1", UUID: "u", Domid: 7, Peer: "beta", Transport: "ssh beta xenferry migrate-receive"}
}

func mustBegin(t *testing.T, s *Store, m Migration, states ...State) *Journal {
	t.Helper()
	j, err := s.Begin(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range states {
		if err := j.Append(Record{State: state}, true); err != nil {
			t.Fatal(err)
		}
	}
	return j
}

func TestJournal(t *testing.T) {
	s, dir := testStore(t)
	j := mustBegin(t, s, testMigration(SideSource), SourceSuspending, SourceSuspended)
	if _, err := s.Open(testID, SideSource); !errors.Is(err, ErrBusy) {
		t.Errorf("a journal that is held: %v", err)
	}
	if !s.Held(testID, SideSource) || s.Held(testID, SideDestination) {
		t.Error("which are held is wrong")
	}
	if _, err := s.Begin(testMigration(SideSource)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("begun twice: %v", err)
	}
	if err := j.Append(Record{State: SourceReady, Note: strings.Repeat("ü", maxNote)}, false); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := s.Open(testID, SideSource)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.State() != SourceReady || len(again.Steps) != 3 || again.Domid() != 7 || again.Migration.Transport == "" {
		t.Errorf("read back: %+v", again)
	}
	if n := len(again.Steps[2].Note); n > maxNote || n < maxNote-1 {
		t.Errorf("a note of %d bytes", n)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("in the folder: %v, %v", entries, err)
	}
	if info, err := entries[0].Info(); err != nil || info.Mode().Perm() != 0o600 || info.Size() != journalSize {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := s.Open(strings.Repeat("f", 32), SideSource); !errors.Is(err, ErrUnknown) {
		t.Errorf("an unknown migration: %v", err)
	}
	for _, id := range []string{"", "../../etc/passwd", strings.Repeat("F", 32), testID + "0"} {
		if _, err := s.Open(id, SideSource); err == nil || errors.Is(err, ErrUnknown) {
			t.Errorf("id %q: %v", id, err)
		}
	}
}

// contents returns the bytes of a journal with three steps, and the offsets of
// its records.
func contents(t *testing.T) (b []byte, at []int) {
	t.Helper()
	s, dir := testStore(t)
	j := mustBegin(t, s, testMigration(SideSource))
	at = []int{0}
	for _, state := range []State{SourceSuspending, SourceSuspended, SourceReady} {
		at = append(at, j.end)
		if err := j.Append(Record{State: state}, false); err != nil {
			t.Fatal(err)
		}
	}
	_ = j.Close()
	b, err := os.ReadFile(filepath.Join(dir, testID+".source.journal"))
	if err != nil {
		t.Fatal(err)
	}
	return b, at
}

func TestDamagedJournal(t *testing.T) {
	whole, at := contents(t)
	tests := []struct {
		name   string
		damage func(b []byte) []byte
		want   int // steps, -1: refused
	}{
		{"whole", func(b []byte) []byte { return b }, 3},
		{"last record torn", func(b []byte) []byte { clear(b[at[3]+20:]); return b }, 2},
		{"last record flipped", func(b []byte) []byte { b[at[3]+15] ^= 4; return b }, 2},
		{"record in the middle flipped", func(b []byte) []byte { b[at[2]+15] ^= 4; return b }, -1},
		{"record in the middle gone", func(b []byte) []byte { clear(b[at[2]:at[3]]); return b }, -1},
		{"first record flipped", func(b []byte) []byte { b[15] ^= 4; return b }, -1},
		{"too short", func(b []byte) []byte { return b[:journalSize-1] }, -1},
		{"too long", func(b []byte) []byte { return append(b, 0) }, -1},
		{"empty", func([]byte) []byte { return nil }, -1},
		{"all zero", func([]byte) []byte { return make([]byte, journalSize) }, -1},
		{"huge length", func(b []byte) []byte { copy(b[at[3]+4:], "\xff\xff\xff\x7f"); return b }, 2},
		{"unknown state", func(b []byte) []byte {
			r, err := encodeRecord(Record{State: "dancing"})
			if err != nil {
				t.Fatal(err)
			}
			copy(b[at[3]:], r)
			return b
		}, -1},
		{"unknown field", func(b []byte) []byte {
			r, err := encodeRecord(map[string]string{"state": "ready", "more": "x"})
			if err != nil {
				t.Fatal(err)
			}
			copy(b[at[3]:], r)
			return b
		}, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, steps, _, err := parseJournal(tt.damage(bytes.Clone(whole)))
			if tt.want < 0 {
				if !errors.Is(err, ErrDamaged) {
					t.Errorf("%d steps, %v", len(steps), err)
				}
			} else if err != nil || len(steps) != tt.want {
				t.Errorf("%d steps, want %d: %v", len(steps), tt.want, err)
			}
		})
	}
}

// TestTornRecordIsReplaced: what comes after a record that never was whole
// stands in its place.
func TestTornRecordIsReplaced(t *testing.T) {
	s, dir := testStore(t)
	j := mustBegin(t, s, testMigration(SideSource), SourceSuspending)
	end := j.end
	long := Record{State: SourceSuspended, Note: strings.Repeat("x", maxNote)}
	if err := j.Append(long, false); err != nil {
		t.Fatal(err)
	}
	_ = j.Close()
	path := filepath.Join(dir, testID+".source.journal")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[end+20] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if j, err = s.Open(testID, SideSource); err != nil {
		t.Fatal(err)
	}
	if j.State() != SourceSuspending {
		t.Fatalf("state %q", j.State())
	}
	if err := j.Append(Record{State: SourceResuming}, true); err != nil {
		t.Fatal(err)
	}
	_ = j.Close()
	if sum, err := s.Read(testID, SideSource); err != nil || sum.State != SourceResuming || len(sum.Steps) != 2 {
		t.Errorf("%+v, %v", sum, err)
	}
}

// forgetfulFile forgets, as Linux does, what it could not write: a failed Sync
// leaves on disk what was there before.
type forgetfulFile struct {
	File
	fail   bool
	onDisk []byte
}

func (f *forgetfulFile) Sync() error {
	now, err := f.File.Read(journalSize)
	if err != nil {
		return err
	}
	if f.fail {
		f.fail = false
		_, err := f.File.WriteAt(f.onDisk, 0)
		return errors.Join(errors.New("no disk"), err)
	}
	f.onDisk = now
	return f.File.Sync()
}

// TestForgetfulDisk: what was lost with a failed fsync leaves no hole before the
// next record, durable or not.
func TestForgetfulDisk(t *testing.T) {
	s, _ := testStore(t)
	j := mustBegin(t, s, testMigration(SideSource))
	f := &forgetfulFile{File: j.file}
	j.file = f
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	for _, state := range []State{SourceSuspending, SourceSuspended, SourceReady} {
		if err := j.Append(Record{State: state}, false); err != nil {
			t.Fatal(err)
		}
	}
	f.fail = true
	if err := j.Append(Record{State: SourceInDoubt}, true); err == nil {
		t.Fatal("the step is durable on a disk that has failed")
	}
	if err := j.Append(Record{State: SourceResuming}, false); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if sum, err := s.Read(testID, SideSource); err != nil || sum.State != SourceResuming {
		t.Errorf("it says %q, %v", sum.State, err)
	}
}

func TestJournalHasRoomForEveryPath(t *testing.T) {
	s, _ := testStore(t)
	m := testMigration(SideSource)
	m.Transport = strings.Repeat("x", maxFirst-recordHead-400)
	j := mustBegin(t, s, m)
	defer j.Close()
	for range len(Source) { // no path visits a row twice: those that stay are not written
		if err := j.Append(Record{State: SourceResuming, Note: strings.Repeat("n", maxNote)}, false); err != nil {
			t.Fatal(err)
		}
	}
	m.ID, m.Transport = strings.Repeat("1", 32), strings.Repeat("x", maxFirst)
	if _, err := s.Begin(m); err == nil {
		t.Error("a first record that is too long was taken")
	}
}

func TestPrune(t *testing.T) {
	s, _ := testStore(t)
	now := time.Now()
	old := now.Add(-2 * keepFor)
	begin := func(digit string, side Side, state State) {
		m := testMigration(side)
		m.ID, m.Began = strings.Repeat(digit, 32), old
		j, err := s.Begin(m, Record{State: state, Time: old})
		if err != nil {
			t.Fatal(err)
		}
		_ = j.Close()
	}
	begin("1", SideSource, SourceGone)
	begin("2", SideSource, SourceInDoubt)
	begin("3", SideDestination, DestinationRunning) // its source may still ask
	begin("4", SideDestination, DestinationSettled)
	begin("5", SideDestination, DestinationDiscarded)
	if _, err := s.Prune(now); err != nil {
		t.Fatal(err)
	}
	all, err := s.List()
	if err != nil || len(all) != 2 || all[0].ID[0] != '2' || all[1].ID[0] != '3' {
		t.Errorf("left: %+v, %v", all, err)
	}
}

// TestPruneLeftovers: what a kill inside Create has left goes when it is old and
// nobody holds it; all else that is no journal is not looked at.
func TestPruneLeftovers(t *testing.T) {
	s, dir := testStore(t)
	put := func(name string, age time.Duration) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
		return path
	}
	put("."+testID+".source.journal.123", 2*creating)
	put("."+testID+".destination.report.9", 2*creating)
	held := put("."+testID+".source.journal.4", 2*creating)
	want := []string{filepath.Base(held)}
	for _, name := range []string{"." + testID + ".source.journal.5", ".other.5", "guardian.log"} {
		age := 2 * creating
		if strings.HasSuffix(name, "journal.5") {
			age = 0
		}
		want = append(want, filepath.Base(put(name, age)))
	}
	f, err := s.disk.Open(filepath.Base(held))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := s.Prune(time.Now()); err != nil {
		t.Fatal(err)
	}
	left, err := s.disk.Names()
	slices.Sort(left)
	slices.Sort(want)
	if err != nil || !slices.Equal(left, want) {
		t.Errorf("left: %q, want %q: %v", left, want, err)
	}
}

// manyNames is a disk with more names than journals that may be listed.
type manyNames struct{ Disk }

func (d manyNames) Names() ([]string, error) {
	names, err := d.Disk.Names()
	for i := range maxListed {
		names = append(names, fmt.Sprintf("%032x.source.report", i))
	}
	return names, err
}

// TestOnlyJournalsCount: reports and other files are no reason to refuse.
func TestOnlyJournalsCount(t *testing.T) {
	s, _ := testStore(t)
	_ = mustBegin(t, s, testMigration(SideSource), SourceGone).Close()
	if all, err := NewStore(manyNames{s.disk}).List(); err != nil || len(all) != 1 {
		t.Errorf("%d, %v", len(all), err)
	}
}

func TestForeignFolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDir(dir); err == nil || !strings.Contains(err.Error(), "0700") {
		t.Errorf("a folder that others can read: %v", err)
	}
	if os.Geteuid() != 0 {
		return // only root can make another user's folder
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDir(dir); err == nil || !strings.Contains(err.Error(), "belongs to user 65534") {
		t.Errorf("another user's folder: %v", err)
	}
}

func FuzzParseJournal(f *testing.F) {
	first, err := encodeRecord(testMigration(SideSource))
	if err != nil {
		f.Fatal(err)
	}
	step, err := encodeRecord(Record{State: SourceInDoubt})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(first, step...))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = append(b, make([]byte, journalSize)...)[:journalSize]
		m, steps, end, err := parseJournal(b)
		if err != nil {
			return
		}
		if _, err := m.Side.table(); err != nil || end <= 0 || end > journalSize || len(steps) > journalSize/slotSize {
			t.Errorf("%+v, %d steps, end %d", m, len(steps), end)
		}
	})
}

// TestLockDir: who locks second waits, and hears of it when that is given up.
func TestLockDir(t *testing.T) {
	_, dir := testStore(t)
	unlock, err := LockDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := LockDir(ctx, dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("locked twice: %v", err)
	}
	unlock()
	again, err := LockDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	again()
}
