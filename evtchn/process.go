package evtchn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrGone: the process at the other end has ended.
var ErrGone = errors.New("the program has ended")

// Process is a handle on another process: its end is heard from the kernel,
// however it came, and its number cannot come to mean another one unnoticed.
type Process struct {
	PID   int
	pidfd *os.File
}

// OpenProcess returns a handle on the process that has this id now.
func OpenProcess(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("a handle on process %d: %w", pid, err)
	}
	return &Process{PID: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// Context returns a context that ends with the cause ErrGone when the process
// does. cancel must be called.
func (p *Process) Context(parent context.Context) (ctx context.Context, cancel func()) {
	ctx, end := context.WithCancelCause(parent)
	go func() {
		if p.wait() {
			end(ErrGone)
		}
	}()
	return ctx, func() { end(nil) }
}

// wait waits for the end of the process: false if Close comes before.
func (p *Process) wait() bool {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return false
	}
	return conn.Read(func(fd uintptr) bool { return ended(int(fd)) }) == nil
}

// Gone tells whether the process has ended.
func (p *Process) Gone() bool {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return true
	}
	gone := true
	_ = conn.Control(func(fd uintptr) { gone = ended(int(fd)) })
	return gone
}

// ended tells whether a pidfd can be read: its process has ended.
func ended(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// Stopped tells whether a signal (SIGSTOP) or a debugger has stopped the
// process.
func (p *Process) Stopped() bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if err != nil {
		return false
	}
	// "1234 (name) T ...", where the name may hold anything: see proc(5).
	_, after, ok := bytes.Cut(text[max(bytes.LastIndexByte(text, ')'), 0):], []byte(") "))
	return ok && len(after) > 0 && (after[0] == 'T' || after[0] == 't')
}

// Close ends the handle, and the waiting of its contexts.
func (p *Process) Close() error { return p.pidfd.Close() }
