package xen

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Pipe is standard input or output, or a named pipe. A write or read of it
// ends when nothing moves for a limit: the guest must not stay suspended
// because the program at the other end hangs. Close ends one at once.
type Pipe struct {
	f       *os.File
	limit   time.Duration
	blocked bool // set back to blocking at the end: others may share it
	fd      int
	unblock sync.Once
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

// pipePoll is how often OpenNamedPipe looks for the program at the other end.
const pipePoll = 50 * time.Millisecond

// OpenNamedPipe opens a pipe by its name, and waits up to limit until there is
// a program at its other end. open(2) would wait for that too, but for ever,
// and deaf to every signal.
func OpenNamedPipe(ctx context.Context, name string, write bool, limit time.Duration) (*Pipe, error) {
	mode, peer := unix.O_RDONLY, "writes to"
	if write {
		mode, peer = unix.O_WRONLY, "reads"
	}
	limited, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s: nobody %s it for %s", name, peer, limit))
	defer cancel()
	for {
		fd, err := unix.Open(name, mode|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		switch {
		case err == nil:
			defer unix.Close(fd) // the Pipe has its own
			if !write {
				err = awaitWriter(limited, fd)
			}
			if err != nil {
				return nil, err
			}
			return OpenPipe(fd, name, limit)
		case err != unix.ENXIO && err != unix.EINTR:
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
		select {
		case <-limited.Done():
			return nil, context.Cause(limited)
		case <-time.After(pipePoll):
		}
	}
}

// awaitWriter waits until something has come through a named pipe, or its
// writer has gone again: before that a read would take it for ended.
func awaitWriter(ctx context.Context, fd int) error {
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(pipePoll/time.Millisecond))
		switch {
		case n > 0:
			return nil
		case err != nil && err != unix.EINTR:
			return err
		}
	}
	return context.Cause(ctx)
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

// Commit implements SaveTarget. A real pipe's reader is to have taken all of it
// before the guest is destroyed, and sees by the stream in it whether it came to
// its end. Standard output may as well be a file, which is to be on the disk.
func (p *Pipe) Commit() error {
	if err := p.awaitTaken(); err != nil {
		return err
	}
	return syncFile(p.f)
}

// takenPoll is how often Commit looks: the guest is suspended meanwhile.
const takenPoll = 2 * time.Millisecond

// awaitTaken waits until nothing is left in a pipe, as long as its reader goes
// on taking from it.
func (p *Pipe) awaitTaken() error {
	for last, since := -1, time.Now(); ; time.Sleep(takenPoll) {
		left, err := p.untaken()
		switch {
		case err != nil || left == 0:
			return err
		case left != last:
			last, since = left, time.Now()
		case time.Since(since) > p.limit:
			return fmt.Errorf("%s took nothing for %s: %w", p.f.Name(), p.limit, os.ErrDeadlineExceeded)
		}
	}
}

// untaken is how many bytes are in the pipe: 0 of what is none. They are lost
// if nobody is there to read them.
func (p *Pipe) untaken() (left int, err error) {
	conn, err := p.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := conn.Control(func(fd uintptr) { left, err = inPipe(int(fd)) })
	if err = errors.Join(controlErr, err); err != nil {
		err = fmt.Errorf("%s: %w", p.f.Name(), err)
	}
	return left, err
}

func inPipe(fd int) (int, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return 0, err
	}
	// The reader is looked for first: what it takes before it goes is taken.
	look := []unix.PollFd{{Fd: int32(fd)}}
	if _, err := unix.Poll(look, 0); err != nil && err != unix.EINTR {
		return 0, err
	}
	left, err := unix.IoctlGetInt(fd, unix.TIOCINQ) // FIONREAD
	if err == nil && left > 0 && look[0].Revents&unix.POLLERR != 0 {
		return left, fmt.Errorf("its reader is gone and has left %d bytes in it: %w", left, unix.EPIPE)
	}
	return left, err
}

// syncFile puts what was written onto the disk, if there is one behind it.
func syncFile(f *os.File) error {
	err := f.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EROFS) {
		return nil
	}
	return err
}

// Close ends all use of the pipe here, also a Read or Write that blocks. The
// descriptor that it was made of stays. It may be called at any time, and again.
func (p *Pipe) Close() error {
	err := p.f.Close()
	p.unblock.Do(func() {
		if p.blocked {
			err = errors.Join(err, unix.SetNonblock(p.fd, false))
		}
	})
	return err
}
