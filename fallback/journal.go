package fallback

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Journal is the journal of one end of one migration, held: no other process
// acts for this end until Close, or until this process ends. It belongs to one
// goroutine.
type Journal struct {
	Migration Migration
	Steps     []Record

	file  File
	image []byte // the whole file, as it should be
	end   int    // where the next record goes
	// doubtful: the disk may not have what was written. Once it has refused
	// an fsync, the next one says nothing about what was written before.
	doubtful bool
}

// State returns where this end stands.
func (j *Journal) State() State { return stateOf(j.Migration, j.Steps) }

func stateOf(m Migration, steps []Record) State {
	if n := len(steps); n > 0 {
		return steps[n-1].State
	}
	table, _ := m.Side.table() // parseJournal has checked it
	return table[0].From
}

// Domid returns the id of the guest on this host, 0 if none was recorded.
func (j *Journal) Domid() uint32 { return domidOf(j.Migration, j.Steps) }

func domidOf(m Migration, steps []Record) uint32 {
	for i := len(steps) - 1; i >= 0; i-- {
		if steps[i].Domid != 0 {
			return steps[i].Domid
		}
	}
	return m.Domid
}

// Finished tells whether nothing is left to be done at this end.
func (j *Journal) Finished() bool { return Finished(j.Migration.Side, j.State()) }

// Finished tells whether in that state nothing is left to be done at that end.
func Finished(side Side, s State) bool {
	switch s {
	case SourceGone, SourceResumed, SourceLost:
		return side == SideSource
	case DestinationRunning, DestinationSettled, DestinationDiscarded, DestinationUnsure:
		return side == SideDestination
	}
	return false
}

// Append writes a step, and if durable waits until it is on disk, with all
// before it. A durable step that fails may be on the disk all the same.
func (j *Journal) Append(r Record, durable bool) error {
	if r.Time.IsZero() {
		r.Time = time.Now().UTC()
	}
	r.Note = shorten(r.Note, maxNote)
	b, err := encodeRecord(r)
	if err != nil {
		return err
	}
	if j.end+len(b) > journalSize {
		return errors.New("the journal is full")
	}
	copy(j.image[j.end:], b)
	data, at := b, j.end
	if j.doubtful { // what the disk has forgotten must not leave a hole before this
		data, at = j.image, 0
	}
	if _, err := j.file.WriteAt(data, int64(at)); err != nil {
		clear(j.image[j.end : j.end+len(b)]) // the next record takes its place
		j.doubtful = true
		return fmt.Errorf("journal: %w", err)
	}
	j.end += len(b)
	j.Steps = append(j.Steps, r)
	if !durable {
		return nil
	}
	return j.confirm()
}

// Record writes a step of the table; it is the OnStep of a Machine.
func (j *Journal) Record(t Transition, note string) error {
	if t.From == t.To {
		return nil
	}
	return j.Append(Record{State: t.To, Note: note}, t.Durable)
}

// confirm waits until everything is on disk. Where that is in doubt it is all
// written again: Linux forgets what it could not write, and then reports
// success.
func (j *Journal) confirm() error {
	if j.doubtful {
		if _, err := j.file.WriteAt(j.image, 0); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
	err := j.file.Sync()
	if j.doubtful = err != nil; err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

func (j *Journal) summary() Summary { return summaryOf(j.Migration, j.Steps) }

// Close gives the journal up to the next process.
func (j *Journal) Close() error { return j.file.Close() }

// shorten cuts a text to at most n bytes of whole characters.
func shorten(s string, n int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
