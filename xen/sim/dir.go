package sim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// DirEnv is the environment variable that names the run directory.
const DirEnv = "XENFERRY_SIM_DIR"

// maxSocketPath is the longest path of a unix socket: sun_path less its NUL.
const maxSocketPath = 107

const socketSuffix = ".sock"

var hostName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Dir returns the directory in which hosts have their sockets, and makes it if
// need be: $XENFERRY_SIM_DIR, else $XDG_RUNTIME_DIR/xenferry-sim, else
// /tmp/xenferry-sim-<uid>. It must belong to this user, who alone may enter.
func Dir() (string, error) {
	dir := os.Getenv(DirEnv)
	if dir == "" {
		if run := os.Getenv("XDG_RUNTIME_DIR"); run != "" {
			dir = filepath.Join(run, "xenferry-sim")
		} else {
			dir = fmt.Sprintf("/tmp/xenferry-sim-%d", os.Getuid())
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return dir, prepareDir(dir)
}

func prepareDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("run directory of simulated hosts: %w", err)
	}
	// Not Stat: in /tmp anybody could have put a link there before us.
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("run directory of simulated hosts: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(st.Uid) != os.Getuid() || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("run directory %s must be a directory of your own with mode 0700; correct it, or set %s",
			dir, DirEnv)
	}
	return nil
}

// CheckHostName tells whether a host can be called name.
func CheckHostName(name string) error {
	if !hostName.MatchString(name) {
		return fmt.Errorf("host name %.80q: must be 1 to 63 letters, digits, dots, dashes or underscores", name)
	}
	return nil
}

// socketPath returns the socket of the host called name in dir.
func socketPath(dir, name string) (string, error) {
	if err := CheckHostName(name); err != nil {
		return "", err
	}
	path := filepath.Join(dir, name+socketSuffix)
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("socket path %s has %d bytes, %d is the most: set %s to a shorter directory",
			path, len(path), maxSocketPath, DirEnv)
	}
	return path, nil
}

// resolve returns the socket path that addr, a path or a bare name, means.
func resolve(addr string) (string, error) {
	if strings.Contains(addr, "/") {
		return addr, nil
	}
	dir, err := Dir()
	if err != nil {
		return "", err
	}
	return socketPath(dir, addr)
}

// Names returns the names of the hosts that have a socket in the run
// directory. One that was killed still has: Dial it to know.
func Names() ([]string, error) {
	dir, err := Dir()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), socketSuffix); ok && hostName.MatchString(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// lockName takes the lock that makes a host the only one of its name. It is
// held until unlock, or until the process ends in whatever way.
func lockName(dir, name string) (unlock func(), err error) {
	path := filepath.Join(dir, name+".lock")
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			f.Close()
			return nil, fmt.Errorf("a simulated host %q already runs in %s; stop it with: xenferry sim stop %s",
				name, dir, name)
		}
		// Its last owner may have removed the file between open and lock.
		mine, err1 := f.Stat()
		there, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(mine, there) {
			return func() { os.Remove(path); f.Close() }, nil
		}
		f.Close()
	}
}
