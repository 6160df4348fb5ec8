package xen

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// SaveFile is a SaveTarget on disk. It is written under a temporary name in
// the same folder, and gets its own only when it is whole and on the disk: a
// crash or a full disk leaves nothing that looks like a saved guest. Its mode
// is 0600, as it holds all of the guest's memory. What is there already and is
// no regular file (/dev/null, a tape) is written in place.
type SaveFile struct {
	f    *os.File
	name string // the final one; "" for what is written in place
	done bool
}

// CreateSaveFile opens a SaveFile. A file of that name is replaced on Commit.
// Pipes and block devices have their own: OpenNamedPipe, OpenSaveDevice.
func CreateSaveFile(name string) (*SaveFile, error) {
	info, err := os.Stat(name)
	switch {
	case err != nil || info.Mode().IsRegular():
		return createPart(name)
	case info.IsDir():
		return nil, fmt.Errorf("save file %s: it is a folder", name)
	case info.Mode()&os.ModeSocket != 0:
		return nil, fmt.Errorf("save file %s: a socket cannot be opened by its name; let a program connect to it, and save to its standard input", name)
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("save file: %w", err)
	}
	return &SaveFile{f: f}, nil
}

// maxPartName is how much of a file's name its temporary one begins with: a
// name has at most 255 bytes, and it gets longer.
const maxPartName = 200

func createPart(name string) (*SaveFile, error) {
	dir, base, err := resolve(name)
	if err == nil {
		err = checkName(filepath.Join(dir, base))
	}
	if err != nil {
		return nil, fmt.Errorf("save file %q: %w", name, err)
	}
	f, err := os.CreateTemp(dir, "."+base[:min(len(base), maxPartName)]+".*.part")
	if err != nil {
		return nil, fmt.Errorf("save file: %w", err)
	}
	return &SaveFile{f: f, name: filepath.Join(dir, base)}, nil
}

// checkName refuses a name that no file can have, such as one that is too long:
// its temporary one would be taken, and the rename come too late.
func checkName(path string) error {
	_, err := os.Lstat(path)
	var failure *os.PathError
	if errors.Is(err, os.ErrNotExist) || !errors.As(err, &failure) {
		return nil
	}
	return failure.Err
}

// maxLinks is how many links may lead from one to the next.
const maxLinks = 40

// resolve finds where a file of that name is, or is to be: a link stays a
// link, also one to what is not there yet. The folder that it returns is
// without links, so that one name cannot mean two places.
func resolve(name string) (dir, base string, err error) {
	for range maxLinks {
		if dir, base = filepath.Split(name); dir == "" {
			dir = "."
		}
		if base == "" {
			return "", "", fmt.Errorf("%q names no file", name)
		}
		if dir, err = filepath.EvalSymlinks(dir); err != nil {
			return "", "", err
		}
		link, err := os.Readlink(filepath.Join(dir, base))
		if err != nil {
			return dir, base, nil // no link, or nothing is there
		}
		if name = link; !filepath.IsAbs(link) {
			name = dir + "/" + link // Join would take "link/.." for nothing
		}
	}
	return "", "", fmt.Errorf("%s: too many links", name)
}

func (s *SaveFile) Write(b []byte) (int, error) { return s.f.Write(b) }

// Commit puts the file onto the disk and gives it its name.
func (s *SaveFile) Commit() error {
	if s.name == "" {
		s.done = true
		return errors.Join(syncFile(s.f), s.f.Close())
	}
	if err := s.f.Sync(); err != nil {
		return fmt.Errorf("save file: %w", err)
	}
	if err := s.f.Close(); err != nil {
		return fmt.Errorf("save file: %w", err)
	}
	if err := os.Rename(s.f.Name(), s.name); err != nil {
		return fmt.Errorf("save file: %w", err)
	}
	s.done = true
	if err := syncDir(filepath.Dir(s.name)); err != nil {
		_ = os.Remove(s.name) // the guest runs on: no file may look like it
		return fmt.Errorf("save file: %w", err)
	}
	return nil
}

// Discard removes what is not committed. After Commit it does nothing.
func (s *SaveFile) Discard() {
	if s.done {
		return
	}
	s.done = true
	_ = s.f.Close()
	if s.name != "" {
		_ = os.Remove(s.f.Name())
	}
}

// syncDir makes a rename in a folder last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("folder %s: %w", dir, err)
	}
	return nil
}
