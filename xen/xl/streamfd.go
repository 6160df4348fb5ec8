package xl

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// streamFd writes to a stream of libxl until ctx or libxl ends. The descriptor is
// libxl's too and must stay blocking, but a write that blocks must not keep
// the guest suspended: so what can block is asked before, and written to
// without blocking.
type streamFd struct {
	ctx    context.Context
	fd     int
	libxl  int // what libxl writes to: it hangs up when libxl dies
	own    int // a pipe, opened anew, so that its mode is ours alone; -1: none
	socket bool
	file   bool // nothing that blocks
}

// streamPoll is how often ctx is looked at while nothing can be written.
const streamPoll = 200 * time.Millisecond

// errLibxlGone: whoever has started this helper is not there any more.
var errLibxlGone = errors.New("libxl has died")

// openStreamFd makes a streamFd of descriptor fd. libxl is the end of a pipe
// that libxl writes to.
func openStreamFd(ctx context.Context, fd, libxl int) (*streamFd, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("the stream, descriptor %d: %w", fd, err)
	}
	s := &streamFd{ctx: ctx, fd: fd, libxl: libxl, own: -1}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFIFO:
		s.own, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	case unix.S_IFSOCK:
		s.socket = true
	default:
		s.file = true
	}
	if err != nil {
		return nil, fmt.Errorf("open the stream, descriptor %d, anew: %w", fd, err)
	}
	return s, nil
}

func (s *streamFd) Write(b []byte) (int, error) {
	if s.file {
		return fd(s.fd).Write(b)
	}
	done := 0
	for done < len(b) {
		if err := s.ready(); err != nil {
			return done, err
		}
		n, err := s.some(b[done:])
		if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return done, err
		}
		done += max(n, 0)
	}
	return done, nil
}

func (s *streamFd) some(b []byte) (int, error) {
	if s.socket {
		return unix.SendmsgN(s.fd, b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	}
	return unix.Write(s.own, b)
}

// ready waits until something can be written, or an error be seen.
func (s *streamFd) ready() error {
	for {
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}, {Fd: int32(s.libxl)}}
		n, err := unix.Poll(fds, int(streamPoll.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n > 0 && fds[1].Revents != 0:
			return errLibxlGone
		case n > 0:
			return nil
		}
	}
}

// close gives up what is our own. libxl's descriptor stays as it is.
func (s *streamFd) close() {
	if s.own >= 0 {
		_ = unix.Close(s.own)
		s.own = -1
	}
}
