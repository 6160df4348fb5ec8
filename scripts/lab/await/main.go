// Command await waits in a lab host's dom0 until a file says something, and
// returns at once then: what follows it in a shell comes at a known moment of a
// migration.
//
//	await SECONDS PATTERN TEXT
//
// The file is any that PATTERN (of package path/filepath) matches and that was
// changed after the start of await. Its folder must exist. Started under
// "chrt -f 50" on a host with one processor, await and what follows it run
// before the program that writes the file goes on.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "await:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: await SECONDS PATTERN TEXT")
	}
	seconds, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	start := time.Now()
	dir, pattern, text := filepath.Dir(args[1]), args[1], []byte(args[2])
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MODIFY|unix.IN_MOVED_TO); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	for end := start.Add(time.Duration(seconds) * time.Second); ; {
		found, err := says(pattern, text, start)
		if found || err != nil {
			return err
		}
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("in %d s no file %s has said %q", seconds, pattern, text)
		}
		if err := change(fd, left); err != nil {
			return err
		}
	}
}

// change waits for a change in the folder, or for the time to be over.
func change(fd int, limit time.Duration) error {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(limit.Milliseconds())+1)
	if errors.Is(err, unix.EINTR) || err == nil && n == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	var events [4096]byte
	_, err = unix.Read(fd, events[:])
	return err
}

// says tells whether one of the files, changed after start, has the text.
func says(pattern string, text []byte, start time.Time) (bool, error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return false, err
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil || info.ModTime().Before(start) {
			continue // gone, or of an earlier migration
		}
		content, err := os.ReadFile(file)
		if err == nil && bytes.Contains(content, text) {
			return true, nil
		}
	}
	return false, nil
}
