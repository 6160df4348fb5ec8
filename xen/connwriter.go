package xen

import (
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/xen/record"
)

// frameWriter writes the pieces of one frame, together and in order.
type frameWriter interface {
	writeFrame(pieces *net.Buffers) error
	// unsent returns how many bytes that were written have not yet reached
	// the other end, 0 where that is not known.
	unsent() int
	// arrived returns how many bytes have, since the beginning; 0 where that is not
	// known.
	arrived() uint64
}

// writeFrame makes the link a frameWriter, for DataControl.
func (l *Link) writeFrame(pieces *net.Buffers) error { return l.write(*pieces...) }

// unsent: the link is a pipe to another program.
func (l *Link) unsent() int { return 0 }

func (l *Link) arrived() uint64 { return 0 }

// connWriter writes to a data connection: by writev where it is plain TCP, and
// in TLS many records at once.
type connWriter struct {
	net.Conn
	raw syscall.RawConn // of the TCP connection, nil if unknown
	tls *record.Conn    // nil without
}

// maxNotSent bounds, in bytes, what a connection holds beyond what is in
// flight. What waits in the kernel was decided on some time ago: little of it
// lets the choice of a method follow the link, and a round end.
const maxNotSent = 1 << 20

// newConnWriter makes conn fail when the other end has taken nothing for
// silence: nobody else watches the data connections, which may go by another
// network than the pings, and TCP by itself tries for a quarter of an hour, or
// for ever if it is the other program that hangs.
func newConnWriter(conn net.Conn, silence time.Duration) *connWriter {
	w := &connWriter{Conn: conn}
	under := conn
	if t, ok := conn.(*record.Conn); ok {
		w.tls, under = t, t.Conn
	}
	if tcp, ok := under.(*net.TCPConn); ok {
		w.raw, _ = tcp.SyscallConn() // nil on error: then unsent knows nothing
	}
	if w.raw != nil {
		_ = w.raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxNotSent)
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
		})
	}
	return w
}

func (c *connWriter) writeFrame(pieces *net.Buffers) error {
	var err error
	if c.tls == nil {
		_, err = pieces.WriteTo(c.Conn)
	} else {
		err = c.tls.WriteBuffers(*pieces)
	}
	if err != nil {
		return fmt.Errorf("data connection: %w: %w", ErrPeerLost, err)
	}
	return nil
}

func (c *connWriter) unsent() int {
	n := 0
	if c.raw != nil {
		_ = c.raw.Control(func(fd uintptr) {
			if v, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil {
				n = v
			}
		})
	}
	return n
}

func (c *connWriter) arrived() uint64 {
	n := uint64(0)
	if c.raw != nil {
		_ = c.raw.Control(func(fd uintptr) {
			if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				n = info.Bytes_acked
			}
		})
	}
	return n
}
