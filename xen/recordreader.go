package xen

import (
	"crypto/tls"
	"net"
)

// recordReader is a TCP connection below TLS, which would read it record by
// record, of 16 KiB each, and be woken for each. While many bytes are due, it reads
// what there is into a buffer of its own, and lets the kernel wake it for a good
// deal of them, as connReader does for a plain connection.
type recordReader struct {
	*connReader
	due  int    // bytes of the pages that are waited for, those of TLS not counted
	buf  []byte // once something was due: a stranger's connection has none
	rest []byte // of buf: read, and not yet taken
}

// recordBuffer is what one system call reads at most.
const recordBuffer = 256 << 10

// inTLS is more than what crypto/tls holds of the bytes that are due: a record that
// is decrypted, of 16 KiB, and a buffer for those to come, which grows by doubling
// while it has no room for two of them twice over, to 135 KiB at most. To wait for
// what has come already would be to wait for ever.
const inTLS = 192 << 10

// newRecordReader returns what TLS is to read, conn itself if that is not TCP.
func newRecordReader(conn net.Conn) net.Conn {
	if c := newConnReader(conn); c != nil {
		return &recordReader{connReader: c}
	}
	return conn
}

// below returns the recordReader of a TLS connection, nil if it has none.
func below(conn net.Conn) *recordReader {
	t, ok := conn.(*tls.Conn)
	if !ok {
		return nil
	}
	r, _ := t.NetConn().(*recordReader)
	return r
}

// expect says how much is to be read next.
func (r *recordReader) expect(n int) {
	r.due = n - len(r.rest)
	if r.buf == nil && n > inTLS {
		r.buf = make([]byte, recordBuffer)
	}
}

// Read gives what was read before, or reads what there is.
func (r *recordReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		if r.buf == nil || r.due <= inTLS {
			return r.connReader.Read(p)
		}
		n, err := r.readSome(r.buf, min(r.due-inTLS, mostLow))
		if n == 0 {
			return 0, err
		}
		r.rest = r.buf[:n]
		r.due -= n
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
