package evtchn

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// FindPage finds the page of that name among the open files of this user's
// processes (of all, for root: then those of root), and returns it together
// with its owner. The error wraps ErrNoPage if there is none, and
// ErrPageVersion or ErrBadPage if one cannot be read. Pages of other users are
// not looked at: their contents could be anything.
func FindPage(name string, writable bool) (*Page, *Process, error) {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, nil, err
	}
	none := fmt.Errorf("%w under the name %s", ErrNoPage, name)
	for _, proc := range procs {
		pid, err := strconv.Atoi(proc.Name())
		if err != nil || !ours(proc) {
			continue
		}
		page, owner, err := pageOf(pid, name, writable)
		if err == nil {
			return page, owner, nil
		}
		if !errors.Is(err, ErrNoPage) {
			none = err // another process may have a better one
		}
	}
	return nil, nil, none
}

func ours(proc os.DirEntry) bool {
	info, err := proc.Info()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// pageOf returns the page of that name of which the process is the owner.
func pageOf(pid int, name string, writable bool) (*Page, *Process, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, ErrNoPage // it has ended, or may not be looked at
	}
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		if target, err := os.Readlink(path); err != nil || target != "/memfd:"+name+" (deleted)" {
			continue
		}
		return takePage(pid, path, writable)
	}
	return nil, nil, ErrNoPage
}

// takePage opens the page behind one open file of a process. The handle on the
// process is taken first: if it lives still at the end, the file was its own,
// and not that of a later one with the same number.
func takePage(pid int, path string, writable bool) (*Page, *Process, error) {
	owner, err := OpenProcess(pid)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrNoPage, err)
	}
	flags := unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY // the latter if it is another file by now
	if writable {
		flags = unix.O_RDWR | unix.O_NONBLOCK | unix.O_NOCTTY
	}
	var page *Page
	file, err := os.OpenFile(path, flags, 0)
	if err == nil {
		page, err = openPage(file, writable)
	} else {
		err = fmt.Errorf("%w: %w", ErrNoPage, err)
	}
	if err == nil && page.Owner() != pid || owner.Gone() {
		err = ErrNoPage // a child of the owner that has it open, or what is left of one
	}
	if err != nil {
		if page != nil {
			_ = page.Close()
		}
		_ = owner.Close()
		return nil, nil, err
	}
	return page, owner, nil
}
