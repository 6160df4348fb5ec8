package fallback

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Errors of a Store, for errors.Is.
var (
	// ErrBusy: another process holds the journal, and acts for this end.
	ErrBusy = errors.New("another process is at work on this migration")
	// ErrUnknown: this host has no journal of that migration.
	ErrUnknown = errors.New("no such migration is recorded on this host")
)

// What a Store keeps of finished migrations.
const (
	keepFinished = 200
	keepFor      = 90 * 24 * time.Hour
	maxListed    = 10000     // journals that are read at all
	creating     = time.Hour // no Create takes longer
)

// How long whoever holds a file is waited for.
const (
	heldRetry = 10 * time.Millisecond
	heldLimit = time.Minute // so long, that it is worth a word
)

// whileBusy calls try until its error is not ErrBusy, for no longer than
// heldLimit.
func whileBusy(ctx context.Context, try func() error) error {
	limit := time.Now().Add(heldLimit)
	for {
		err := try()
		if !errors.Is(err, ErrBusy) || time.Now().After(limit) {
			return err
		}
		select {
		case <-time.After(heldRetry):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

const journalSuffix = ".journal"

var migrationID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// Disk is where journals are: a directory, or a simulation of one.
type Disk interface {
	// Create makes a file with these contents, which are on disk when it
	// returns, and holds it. The error wraps fs.ErrExist if there is one.
	Create(name string, contents []byte) (File, error)
	// Open holds an existing file. The error wraps ErrBusy if another process
	// does, and fs.ErrNotExist if there is none.
	Open(name string) (File, error)
	// Read returns what is in a file, at most limit bytes, held or not.
	Read(name string, limit int) ([]byte, error)
	Names() ([]string, error)
	Remove(name string) error
	// Sweep removes what is left of each Create that was killed before that time.
	Sweep(before time.Time) error
	// Path is where a file is, for people.
	Path(name string) string
	// Boot names this run of the host whose disk it is; "" if unknown.
	Boot() string
}

// File is a journal's file, held until Close or until the process ends.
type File interface {
	Read(limit int) ([]byte, error)
	WriteAt(b []byte, off int64) (int, error)
	Sync() error
	Close() error
}

// Store is the journals of one host.
type Store struct{ disk Disk }

// NewStore returns the store on a disk.
func NewStore(d Disk) *Store { return &Store{d} }

func fileName(id string, side Side) (string, error) {
	if !migrationID.MatchString(id) {
		return "", fmt.Errorf("%.80q is not the id of a migration: 32 hexadecimal digits", id)
	}
	if _, err := side.table(); err != nil {
		return "", err
	}
	return id + "." + string(side) + journalSuffix, nil
}

// Begin makes the journal of a migration that begins. It is on disk when Begin
// returns, with all the room that the migration's steps need. first, if set, is
// the state that it is in.
func (s *Store) Begin(m Migration, first ...Record) (*Journal, error) {
	name, err := fileName(m.ID, m.Side)
	if err != nil {
		return nil, err
	}
	if m.Began.IsZero() {
		m.Began = time.Now().UTC()
	}
	m.Boot = s.disk.Boot()
	contents, err := encodeRecord(m)
	if err != nil {
		return nil, err
	}
	for _, r := range first {
		b, err := encodeRecord(r)
		if err != nil {
			return nil, err
		}
		contents = append(contents, b...)
	}
	end := len(contents)
	contents = append(contents, make([]byte, journalSize-end)...)
	f, err := s.disk.Create(name, contents)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("migration %s has been begun here before: %w", m.ID, err)
	}
	if err != nil {
		return nil, fmt.Errorf("the journal of this migration cannot be made: %w", err)
	}
	return &Journal{Migration: m, Steps: first, file: f, image: contents, end: end}, nil
}

// Open holds the journal of a migration. The error wraps ErrUnknown, ErrBusy or
// ErrDamaged where that is the reason.
func (s *Store) Open(id string, side Side) (*Journal, error) {
	name, err := fileName(id, side)
	if err != nil {
		return nil, err
	}
	f, err := s.disk.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("migration %s: %w", id, ErrUnknown)
	}
	if err != nil {
		return nil, fmt.Errorf("migration %s: %w", id, err)
	}
	j := &Journal{file: f, doubtful: true} // whoever wrote it may not have lived to see it on disk
	j.image, err = f.Read(journalSize + 1)
	if err == nil {
		j.Migration, j.Steps, j.end, err = parseJournal(j.image)
	}
	if err == nil && (j.Migration.ID != id || j.Migration.Side != side) {
		err = fmt.Errorf("%w: it is the %s's of migration %.40q", ErrDamaged, j.Migration.Side, j.Migration.ID)
	}
	if err == nil {
		err = j.clearRest()
	}
	if err != nil {
		_ = f.Close()
		return nil, s.unreadable(name, err)
	}
	return j, nil
}

// Await is Open that waits for whoever holds the journal: a child of a program
// that has died, or one that is about to bring the migration to its end. It
// waits for no longer than heldLimit.
func (s *Store) Await(ctx context.Context, id string, side Side) (j *Journal, err error) {
	err = whileBusy(ctx, func() error {
		j, err = s.Open(id, side)
		return err
	})
	return j, err
}

// unreadable says what a person can do about a journal that no program acts on.
func (s *Store) unreadable(name string, err error) error {
	if errors.Is(err, ErrDamaged) {
		err = fmt.Errorf("%w; nothing is done by it: look at both hosts where its guest is, help it yourself if need be, and move the file away", err)
	}
	return fmt.Errorf("%s: %w", s.disk.Path(name), err)
}

// clearRest makes the rest of the file zero again after a record that is not
// whole: a shorter one in its place would leave its end behind.
func (j *Journal) clearRest() error {
	rest := j.image[j.end:]
	for i, v := range rest {
		if v != 0 {
			clear(rest[i:])
			_, err := j.file.WriteAt(rest, int64(j.end))
			return err
		}
	}
	return nil
}

// Summary is what a journal says, read without holding it.
type Summary struct {
	Migration
	State    State    `json:"state"`
	Finished bool     `json:"finished"`
	Steps    []Record `json:"steps"`
}

// Read returns what the journal of a migration says at this moment.
func (s *Store) Read(id string, side Side) (Summary, error) {
	name, err := fileName(id, side)
	if err != nil {
		return Summary{}, err
	}
	b, err := s.disk.Read(name, journalSize+1)
	if errors.Is(err, fs.ErrNotExist) {
		return Summary{}, fmt.Errorf("migration %s: %w", id, ErrUnknown)
	}
	if err != nil {
		return Summary{}, err
	}
	m, steps, _, err := parseJournal(b)
	if err != nil {
		return Summary{}, s.unreadable(name, err)
	}
	return summaryOf(m, steps), nil
}

func summaryOf(m Migration, steps []Record) Summary {
	state := stateOf(m, steps)
	return Summary{Migration: m, State: state, Finished: Finished(m.Side, state), Steps: steps}
}

// Held tells whether some process works on that end of the migration now.
func (s *Store) Held(id string, side Side) bool {
	name, err := fileName(id, side)
	if err != nil {
		return false
	}
	f, err := s.disk.Open(name)
	if err == nil {
		_ = f.Close()
	}
	return errors.Is(err, ErrBusy)
}

// GuestDomid returns the id of the guest on this host, 0 if none was recorded.
func (s Summary) GuestDomid() uint32 { return domidOf(s.Migration, s.Steps) }

// Updated is the time of the last step.
func (s Summary) Updated() time.Time {
	if n := len(s.Steps); n > 0 {
		return s.Steps[n-1].Time
	}
	return s.Began
}

// List returns all migrations on this host, the oldest first. The error names
// the journals that could not be read; the others are in the list.
func (s *Store) List() ([]Summary, error) {
	names, err := s.disk.Names()
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool { _, _, ok := splitName(name); return !ok })
	if len(names) > maxListed {
		return nil, fmt.Errorf("%s: %d journals, more than %d: move away those of migrations that are long over at both hosts", s.disk.Path(""), len(names), maxListed)
	}
	var all []Summary
	var errs error
	for _, name := range names {
		id, side, _ := splitName(name)
		sum, err := s.Read(id, side)
		switch {
		case errors.Is(err, ErrUnknown): // pruned this moment
		case err != nil:
			errs = errors.Join(errs, err)
		default:
			all = append(all, sum)
		}
	}
	slices.SortStableFunc(all, func(a, b Summary) int { return cmp.Compare(a.Began.UnixNano(), b.Began.UnixNano()) })
	return all, errs
}

func splitName(name string) (id string, side Side, ok bool) {
	base, isJournal := strings.CutSuffix(name, journalSuffix)
	id, kind, _ := strings.Cut(base, ".")
	side = Side(kind)
	_, err := fileName(id, side)
	return id, side, isJournal && err == nil
}

// Prune removes the journals of old finished migrations, and their reports, and
// what killed programs have left of files that they were making.
//
// One that ran at this destination without the source's last word stays, however
// old: a source in doubt keeps its guest, suspended, until it is answered, and
// may come to ask after any time. Without the journal the answer could only be
// drawn from whether the guest is here; it may have moved on, or have been shut
// down, and the source would then be told that it never ran, and resume a guest
// of long ago on a disk that has changed.
//
// It returns what List did before; a leftover that cannot be removed does no harm.
func (s *Store) Prune(now time.Time) ([]Summary, error) {
	all, err := s.List()
	kept := 0
	for _, sum := range slices.Backward(all) {
		if !sum.Finished || sum.State == DestinationRunning || sum.State == DestinationUnsure {
			continue
		}
		if kept++; kept <= keepFinished && now.Sub(sum.Updated()) < keepFor {
			continue
		}
		if name, err := fileName(sum.ID, sum.Side); err == nil {
			_ = s.disk.Remove(reportName(name))
			_ = s.disk.Remove(name)
		}
	}
	_ = s.disk.Sweep(now.Add(-creating))
	return all, err
}
