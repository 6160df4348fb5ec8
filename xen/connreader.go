package xen

import (
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// connReader reads from the TCP connection of a data connection. The pages of a frame are read
// by readv to where they belong, and while it waits for them it asks to be woken
// only for a good deal of them (SO_RCVLOWAT, socket(7)): on a fast link it would
// else be woken for each few packets, which in a virtual machine costs more than
// to copy them.
type connReader struct {
	net.Conn
	raw  syscall.RawConn
	low  int // SO_RCVLOWAT, as it is set
	iovs []unix.Iovec
}

// mostLow is how many bytes one wake-up is for at most. It is well below what
// the kernel lets a connection hold.
const mostLow = 256 << 10

// mostIovs is UIO_MAXIOV of Linux.
const mostIovs = 1024

// newConnReader returns nil for a connection that is not TCP.
func newConnReader(conn net.Conn) *connReader {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return &connReader{Conn: conn, raw: raw, low: 1}
}

// Read reads what there is: of a header nobody knows what follows.
func (c *connReader) Read(p []byte) (int, error) {
	if c.low > 1 {
		if err := c.raw.Control(func(fd uintptr) { c.wake(int(fd), 1) }); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}

// wake asks to be woken for so many bytes, from now on. It is a wish: the kernel
// wakes for less where it has no room for that, or nothing more will come.
func (c *connReader) wake(fd, low int) {
	if low != c.low && unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, low) == nil {
		c.low = low
	}
}

// ReadFull fills bufs, in order.
func (c *connReader) ReadFull(bufs [][]byte) error {
	rest := 0
	c.iovs = c.iovs[:0]
	for _, b := range bufs {
		if len(b) > 0 {
			v := unix.Iovec{Base: &b[0]}
			v.SetLen(len(b))
			c.iovs = append(c.iovs, v)
			rest += len(b)
		}
	}
	iovs := c.iovs
	var err error
	waitErr := c.raw.Read(func(fd uintptr) (done bool) {
		for rest > 0 {
			n, _, errno := unix.Syscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&iovs[0])), uintptr(min(len(iovs), mostIovs)))
			switch {
			case errno == unix.EAGAIN:
				c.wake(int(fd), min(rest, mostLow))
				return false
			case errno == unix.EINTR:
			case errno != 0:
				err = os.NewSyscallError("readv", errno)
				return true
			case n == 0:
				err = io.ErrUnexpectedEOF
				return true
			default:
				rest -= int(n)
				iovs = advance(iovs, int(n))
			}
		}
		return true
	})
	clear(c.iovs) // keeps no guest's memory
	if err == nil {
		err = waitErr
	}
	return err
}

// ReadSome reads what there is into p, and while there is nothing waits for low
// bytes, of which the caller knows that they follow: it is what TLS reads from.
func (c *connReader) ReadSome(p []byte, low int) (int, error) {
	n := 0
	var err error
	waitErr := c.raw.Read(func(fd uintptr) (done bool) {
		for {
			var errno error
			n, errno = unix.Read(int(fd), p)
			switch errno {
			case unix.EAGAIN:
				n = 0
				c.wake(int(fd), low)
				return false
			case unix.EINTR:
				continue
			case nil:
				if n == 0 {
					err = io.EOF
				}
			default:
				n, err = 0, os.NewSyscallError("read", errno)
			}
			return true
		}
	})
	if err == nil {
		err = waitErr
	}
	return n, err
}

// advance takes n bytes, of those that iovs have, off their beginning.
func advance(iovs []unix.Iovec, n int) []unix.Iovec {
	for n > 0 {
		v := &iovs[0]
		have := int(v.Len)
		if n < have {
			v.Base = (*byte)(unsafe.Add(unsafe.Pointer(v.Base), n))
			v.SetLen(have - n)
			return iovs
		}
		n -= have
		iovs = iovs[1:]
	}
	return iovs
}
