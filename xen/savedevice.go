package xen

import (
	"fmt"
	"io"
	"os"
)

// SaveDevice is a SaveTarget on a block device. There are no names there to
// give to a guest that is whole, so its first bytes come last: zeros stand in
// their place until all the others are on the disk. A crash leaves nothing that
// looks like a saved guest, also where an older one was.
type SaveDevice struct {
	f     *os.File
	first []byte // what has been written of the first sector
	done  bool
}

// sector is what every disk writes whole, or not at all.
const sector = 512

// OpenSaveDevice opens the block device of that name, unless it is mounted or
// a part of another. What is on it stays until the first Write.
func OpenSaveDevice(name string) (*SaveDevice, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_EXCL, 0)
	if err != nil {
		return nil, fmt.Errorf("save device: %w", err)
	}
	return &SaveDevice{f: f}, nil
}

func (s *SaveDevice) Write(b []byte) (int, error) {
	if s.first == nil {
		if err := s.begin(); err != nil {
			return 0, err
		}
	}
	held := min(len(b), sector-len(s.first))
	s.first = append(s.first, b[:held]...)
	if held == len(b) {
		return held, nil
	}
	n, err := s.f.Write(b[held:])
	return held + n, err
}

// begin makes sure that what was there before is no saved guest any more.
func (s *SaveDevice) begin() error {
	s.first = make([]byte, 0, sector)
	if _, err := s.f.WriteAt(make([]byte, sector), 0); err != nil {
		return fmt.Errorf("save device: %w", err)
	}
	if _, err := s.f.Seek(sector, io.SeekStart); err != nil {
		return fmt.Errorf("save device: %w", err)
	}
	return s.sync()
}

func (s *SaveDevice) sync() error {
	if err := s.f.Sync(); err != nil {
		return fmt.Errorf("save device: %w", err)
	}
	return nil
}

// Commit puts the guest onto the disk, and its beginning last.
func (s *SaveDevice) Commit() error {
	if err := s.sync(); err != nil {
		return err
	}
	_, err := s.f.WriteAt(s.first, 0)
	if err == nil {
		err = s.f.Sync()
	}
	if err != nil {
		_, _ = s.f.WriteAt(make([]byte, sector), 0) // the guest runs on: nothing may look like it
		_ = s.f.Sync()
		return fmt.Errorf("save device: %w", err)
	}
	s.done = true
	return s.f.Close()
}

// Discard leaves the device without a saved guest, if anything was written.
// After Commit it does nothing.
func (s *SaveDevice) Discard() {
	if !s.done {
		s.done = true
		_ = s.f.Close()
	}
}
