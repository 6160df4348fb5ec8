package fallback

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// OpenDir returns the disk whose journals are the files of a directory, which
// it makes if need be. Nobody but its owner may look into it: a journal names
// the command by which the other host is reached.
func OpenDir(dir string) (Disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of the journals: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, fmt.Errorf("folder of the journals: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && int(st.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("folder of the journals %s: it belongs to user %d, and this program runs as user %d: run it as that user", dir, st.Uid, os.Geteuid())
	}
	if !info.IsDir() || !ok || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("folder of the journals %s: must be your own, with mode 0700; correct it", dir)
	}
	return osDisk(dir), nil
}

// lockName is the file that LockDir locks.
const lockName = ".lock"

// LockDir makes others wait that lock the same directory, until unlock or until
// the process ends. It waits itself, for no longer than heldLimit: the holder
// looks at the journals and makes one, which takes milliseconds.
func LockDir(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("folder of the journals: %w", err)
	}
	if err := whileBusy(ctx, func() error { return hold(f) }); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s, which is held while a journal is made: %w", f.Name(), err)
	}
	return func() {
		_ = unix.Flock(int(f.Fd()), unix.LOCK_UN) // a child may have the file open still
		_ = f.Close()
	}, nil
}

// osDisk is a directory.
type osDisk string

// unfinishedName is of a file that has not got its name yet.
var unfinishedName = regexp.MustCompile(`^\.[0-9a-f]{32}\.(source|destination)\.(journal|report)\.[0-9]+$`)

// Create gives the file its name only when it is whole and on disk: there is
// never half a first record under that name.
func (d osDisk) Create(name string, contents []byte) (File, error) {
	f, err := os.CreateTemp(string(d), "."+name+".*")
	if err != nil {
		return nil, err
	}
	err = d.fill(f, name, contents)
	_ = os.Remove(f.Name())
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return osFile{f}, nil
}

func (d osDisk) fill(f *os.File, name string, contents []byte) error {
	if err := hold(f); err != nil {
		return err
	}
	if _, err := f.WriteAt(contents, 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), filepath.Join(string(d), name)); err != nil {
		return err
	}
	return d.sync()
}

// sync makes the names in the directory durable.
func (d osDisk) sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func (d osDisk) Open(name string) (File, error) {
	f, err := os.OpenFile(filepath.Join(string(d), name), os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := hold(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return osFile{f}, nil
}

// hold takes the lock, which ends with the last process that has the file open.
// That may be a child that libxl has forked and that still works on the guest.
func hold(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrBusy
	}
	return err
}

func (d osDisk) Read(name string, limit int) ([]byte, error) {
	f, err := os.OpenFile(filepath.Join(string(d), name), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, int64(limit)))
}

// Boot implements Disk.
func (osDisk) Boot() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // as if it had never gone down
	}
	return strings.TrimSpace(string(b))
}

func (d osDisk) Path(name string) string { return filepath.Join(string(d), name) }

func (d osDisk) Names() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Remove removes a file that nobody holds.
func (d osDisk) Remove(name string) error {
	f, err := d.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrBusy):
		return nil
	case err != nil:
		return err
	}
	defer f.Close()
	return os.Remove(filepath.Join(string(d), name))
}

// Sweep goes by the names that Create gives to files which are not whole.
func (d osDisk) Sweep(before time.Time) error {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return err
	}
	var errs error
	for _, e := range entries {
		if !unfinishedName.MatchString(e.Name()) {
			continue
		}
		if info, err := e.Info(); err == nil && info.ModTime().Before(before) {
			errs = errors.Join(errs, d.Remove(e.Name()))
		}
	}
	return errs
}

// osFile is a file of a directory.
type osFile struct{ *os.File }

func (f osFile) Read(limit int) ([]byte, error) {
	return io.ReadAll(io.NewSectionReader(f.File, 0, int64(limit)))
}

// Sync waits for the contents only: size and name have not changed since
// Create.
func (f osFile) Sync() error { return unix.Fdatasync(int(f.Fd())) }
