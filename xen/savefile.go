package xen

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// SaveFile is a SaveTarget on disk. It is written under a temporary name in
// the same folder, and gets its own only when it is whole and on the disk: a
// crash or a full disk leaves nothing that looks like a saved guest. Its mode
// is 0600, as it holds all of the guest's memory. What is there already and is
// no regular file (a device, a fifo) is written in place.
type SaveFile struct {
	f    *os.File
	name string // the final one; "" for what is written in place
	done bool
}

// CreateSaveFile opens a SaveFile. A file of that name is replaced on Commit.
func CreateSaveFile(name string) (*SaveFile, error) {
	if real, err := filepath.EvalSymlinks(name); err == nil {
		name = real // a link stays a link
	}
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		if info.IsDir() {
			return nil, fmt.Errorf("save file %s: it is a folder", name)
		}
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("save file: %w", err)
		}
		return &SaveFile{f: f}, nil
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*.part")
	if err != nil {
		return nil, fmt.Errorf("save file: %w", err)
	}
	return &SaveFile{f: f, name: name}, nil
}

func (s *SaveFile) Write(b []byte) (int, error) { return s.f.Write(b) }

// Commit puts the file onto the disk and gives it its name.
func (s *SaveFile) Commit() error {
	if s.name == "" {
		err := s.f.Sync()
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
			err = nil // a fifo or the like
		}
		s.done = true
		return errors.Join(err, s.f.Close())
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

// Pipe is standard input or output. A write or read of it ends when nothing
// moves for a limit: the guest must not stay suspended because the program at
// the other end hangs. Close ends one at once.
type Pipe struct {
	f       *os.File
	limit   time.Duration
	blocked bool // set back to blocking at the end: others may share it
	fd      int
}

// OpenPipe makes a Pipe of a descriptor, which stays open.
func OpenPipe(fd int, name string, limit time.Duration) (*Pipe, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p := &Pipe{limit: limit, fd: fd}
	var st unix.Stat_t
	if err := unix.Fstat(dup, &st); err == nil && (st.Mode&unix.S_IFMT == unix.S_IFIFO || st.Mode&unix.S_IFMT == unix.S_IFSOCK) {
		flags, err := unix.FcntlInt(uintptr(dup), unix.F_GETFL, 0)
		p.blocked = err == nil && flags&unix.O_NONBLOCK == 0
		if err := unix.SetNonblock(dup, true); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", name, err), unix.Close(dup))
		}
	}
	p.f = os.NewFile(uintptr(dup), name)
	return p, nil
}

// Write implements io.Writer.
func (p *Pipe) Write(b []byte) (int, error) {
	_ = p.f.SetWriteDeadline(time.Now().Add(p.limit)) // a regular file has no deadline, and never blocks
	n, err := p.f.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%s took nothing for %s: %w", p.f.Name(), p.limit, err)
	}
	return n, err
}

// Read implements io.Reader.
func (p *Pipe) Read(b []byte) (int, error) {
	_ = p.f.SetReadDeadline(time.Now().Add(p.limit))
	n, err := p.f.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%s brought nothing for %s: %w", p.f.Name(), p.limit, err)
	}
	return n, err
}

// Commit implements SaveTarget: whoever reads the pipe sees its end, or not,
// by the end of the stream in it.
func (p *Pipe) Commit() error { return nil }

// Close ends all use of the pipe here, also a Read or Write that blocks. The
// descriptor that it was made of stays.
func (p *Pipe) Close() error {
	err := p.f.Close()
	if p.blocked {
		err = errors.Join(err, unix.SetNonblock(p.fd, false))
		p.blocked = false
	}
	return err
}
