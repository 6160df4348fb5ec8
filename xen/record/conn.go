package record

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
)

// Conn is one end of a TLS 1.3 connection. One goroutine may read and one may
// write at the same time. Close and the deadlines are those of the connection
// below: nothing is said to the other end, which has to know by what it has read
// whether that was all.
type Conn struct {
	net.Conn
	reader reader
	writer writer
	asked  atomic.Bool // by the other end: new keys for what is written
}

// Client makes the handshake of the end that has called. conn is closed if that
// fails.
func Client(ctx context.Context, conn net.Conn, config *tls.Config) (*Conn, error) {
	return handshake(ctx, conn, config, false)
}

// Server makes the handshake of the end that was called. conn is closed if that
// fails.
func Server(ctx context.Context, conn net.Conn, config *tls.Config) (*Conn, error) {
	return handshake(ctx, conn, config, true)
}

func handshake(ctx context.Context, conn net.Conn, config *tls.Config, server bool) (*Conn, error) {
	log := &keyLog{}
	config = config.Clone()
	config.MinVersion, config.MaxVersion = tls.VersionTLS13, tls.VersionTLS13
	config.SessionTicketsDisabled = true // they would be the first records under the new keys
	config.KeyLogWriter = log
	below := &framed{Conn: conn}
	end := tls.Client
	if server {
		end = tls.Server
	}
	t := end(below, config)
	err := t.HandshakeContext(ctx)
	if err == nil && !below.between() {
		err = badRecord("the handshake ends within it")
	}
	if err != nil {
		_ = t.Close()
		return nil, err
	}
	c, err := newConn(conn, t.ConnectionState().CipherSuite, log, server)
	if err != nil {
		_ = conn.Close()
	}
	return c, err
}

// newConn takes over from crypto/tls.
func newConn(conn net.Conn, id uint16, log *keyLog, server bool) (*Conn, error) {
	s, err := newSuite(id)
	if err != nil {
		return nil, err
	}
	out, in := log.client, log.server
	if server {
		out, in = in, out
	}
	c := &Conn{Conn: conn}
	if c.writer.keys, err = newKeys(s, out); err != nil {
		return nil, err
	}
	if c.reader.keys, err = newKeys(s, in); err != nil {
		return nil, err
	}
	c.writer.to, c.writer.asked, c.writer.perKey = conn, &c.asked, recordsPerKey
	c.reader.from, c.reader.asked = anySource{conn}, &c.asked
	if from, ok := conn.(Source); ok {
		c.reader.from = from
	}
	return c, nil
}

// framed is a connection that is read by one record at a time, so that
// crypto/tls takes none of those behind its handshake.
type framed struct {
	net.Conn
	header [headerSize]byte
	head   int // bytes of the record's header that were read
	left   int // bytes behind it that were not
}

func (f *framed) Read(p []byte) (int, error) {
	if f.left > 0 {
		n, err := f.Conn.Read(p[:min(len(p), f.left)])
		f.left -= n
		return n, err
	}
	n, err := f.Conn.Read(p[:min(len(p), headerSize-f.head)])
	copy(f.header[f.head:], p[:n])
	if f.head += n; f.head == headerSize {
		f.head, f.left = 0, int(binary.BigEndian.Uint16(f.header[3:]))
	}
	return n, err
}

// between tells whether the records that were read are whole.
func (f *framed) between() bool { return f.head == 0 && f.left == 0 }

// Source is a connection that can wait for more than one byte.
type Source interface {
	// ReadSome reads what there is into p, and while there is nothing waits for
	// low bytes, of which the caller knows that they follow.
	ReadSome(p []byte, low int) (int, error)
}

// anySource is one that cannot.
type anySource struct{ net.Conn }

func (s anySource) ReadSome(p []byte, _ int) (int, error) { return s.Read(p) }

// Sizes and types of records, RFC 8446 section 5 and appendix B.1.
const (
	headerSize = 5
	maxContent = 1 << 14
	maxSealed  = maxContent + 256 // with type, padding and tag
	tagSize    = 16

	typeAlert     = 21
	typeHandshake = 22
	typeData      = 23
)

// header returns that of a record whose protected part has n bytes.
func header(n int) [headerSize]byte {
	return [headerSize]byte{typeData, 3, 3, byte(n >> 8), byte(n)}
}

// Messages behind the handshake, RFC 8446 section 4.6.
const (
	messageNewTicket = 4
	messageKeyUpdate = 24
)

// ErrRecord is what an error of the records themselves wraps: they are not
// what the other end has sent, or not TLS 1.3.
var ErrRecord = errors.New("tls: bad record")

func badRecord(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRecord, fmt.Sprintf(format, args...))
}
