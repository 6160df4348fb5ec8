package xen

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// frameWriter writes the pieces of one frame, together and in order.
type frameWriter interface {
	writeFrame(pieces *net.Buffers) error
	// unsent returns how many bytes that were written have not yet reached
	// the other end, 0 where that is not known.
	unsent() int
}

// writeFrame makes the link a frameWriter, for DataControl.
func (l *Link) writeFrame(pieces *net.Buffers) error { return l.write(*pieces...) }

// unsent: the link is a pipe to another program.
func (l *Link) unsent() int { return 0 }

// connWriter writes to a data connection: by writev where it is plain TCP. For
// TLS the pieces are gathered, so that records are full, and the records are,
// so that a system call takes many.
type connWriter struct {
	net.Conn
	raw     syscall.RawConn // of the TCP connection, nil if unknown
	plain   *bufio.Writer   // into TLS; nil without
	records *gatheredConn   // out of TLS; nil without
}

// Sizes of the buffers for TLS, whose records have up to 16 KiB.
const (
	plainGather  = 64 << 10
	recordGather = 256 << 10
)

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
	if t, ok := conn.(*tls.Conn); ok {
		w.plain = bufio.NewWriterSize(conn, plainGather)
		under = t.NetConn()
	}
	if g, ok := under.(*gatheredConn); ok {
		g.gather = bufio.NewWriterSize(g.Conn, recordGather)
		w.records, under = g, g.Conn
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
	if c.plain == nil {
		_, err = pieces.WriteTo(c.Conn)
	} else {
		err = c.writeTLS(*pieces)
	}
	if err != nil {
		return fmt.Errorf("data connection: %w: %w", ErrPeerLost, err)
	}
	return nil
}

func (c *connWriter) writeTLS(pieces net.Buffers) error {
	for _, piece := range pieces {
		if _, err := c.plain.Write(piece); err != nil {
			return err
		}
	}
	if err := c.plain.Flush(); err != nil || c.records == nil {
		return err
	}
	return c.records.flush()
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

// gatheredConn is a connection whose writes are gathered once there is a
// buffer for them: after the handshake, which waits for answers. One lane
// writes then. Somebody else who closes the connection does not wait for it:
// the last word of TLS is left out.
type gatheredConn struct {
	net.Conn
	mu     sync.Mutex
	gather *bufio.Writer
}

func (g *gatheredConn) Write(p []byte) (int, error) {
	if !g.mu.TryLock() {
		return 0, net.ErrClosed
	}
	defer g.mu.Unlock()
	if g.gather != nil {
		return g.gather.Write(p)
	}
	return g.Conn.Write(p)
}

// flush writes what was gathered.
func (g *gatheredConn) flush() error {
	if !g.mu.TryLock() {
		return net.ErrClosed
	}
	defer g.mu.Unlock()
	return g.gather.Flush()
}
