package fallback

import (
	"errors"
	"io/fs"
	"strings"
)

// A journal says what became of a migration; its report, a file beside it, how
// that went: figures for people and their tools, which nothing depends on.

const (
	reportSuffix = ".report"
	// maxReport bounds a report that is read.
	maxReport = 1 << 20
)

func reportName(journal string) string {
	return strings.TrimSuffix(journal, journalSuffix) + reportSuffix
}

// PutReport keeps the report of a migration as long as its journal. There can
// be only one.
func (s *Store) PutReport(id string, side Side, report []byte) error {
	name, err := fileName(id, side)
	if err != nil {
		return err
	}
	f, err := s.disk.Create(reportName(name), report)
	if err != nil {
		return err
	}
	return f.Close()
}

// Report returns what PutReport has kept, nil if there is none.
func (s *Store) Report(id string, side Side) ([]byte, error) {
	name, err := fileName(id, side)
	if err != nil {
		return nil, err
	}
	report, err := s.disk.Read(reportName(name), maxReport)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return report, err
}
