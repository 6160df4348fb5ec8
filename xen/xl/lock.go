package xl

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lockDomain takes the lock that lets one process at a time move a domain: a
// second one would take log-dirty mode and the suspend subscription away from
// the first, which would then lose writes of the guest without knowing. The
// lock ends with the process that holds it. The file stays, as deleting it
// would let two processes lock two files of the same name.
func lockDomain(dir string, domid uint32) (*os.File, error) {
	path := fmt.Sprintf("%s/xenferry-domain-%d.lock", dir, domid)
	f, err := lockFile(path)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("domain %d is being moved by another process, which holds %s", domid, path)
	}
	if err != nil {
		return nil, fmt.Errorf("domain %d: %w", domid, err)
	}
	return f, nil
}

// lockFile makes and locks the file. The error is EWOULDBLOCK if another
// process holds it.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}
