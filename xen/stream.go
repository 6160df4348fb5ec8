package xen

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// DataMode is how the pages travel.
type DataMode string

// The data modes.
const (
	// DataTLS: TCP connections beside the control connection, in TLS 1.3 with
	// keys made for this migration and exchanged over the control connection.
	DataTLS DataMode = "tls"
	// DataPlain: the same without encryption, for a link that is trusted.
	DataPlain DataMode = "plain"
	// DataControl: over the control connection itself, where nothing but ssh
	// passes.
	DataControl DataMode = "ssh"
)

// ParseDataMode reads the value of --data.
func ParseDataMode(s string) (DataMode, error) {
	switch m := DataMode(s); m {
	case DataTLS, DataPlain, DataControl:
		return m, nil
	}
	return "", fmt.Errorf("--data %q: it is one of tls, plain, ssh", s)
}

// MaxConnections bounds the data connections of one migration.
const MaxConnections = 64

// maxAttach bounds the first frame of a data connection: it comes from
// somebody who has not shown the token yet.
const maxAttach = 1024

// dialStreams opens the data connections to the first of the addresses that
// answers. Limits.Connect bounds all of it.
func dialStreams(ctx context.Context, w *welcome, id string, opts SourceOptions, keys *keyPair) ([]net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, opts.Limits.Connect)
	defer cancel()
	var failures []error
	for _, addr := range opts.Pipe.targets(w.Addresses) {
		conns, err := dialAll(ctx, addr, w, id, opts, keys)
		if err == nil {
			return conns, nil
		}
		failures = append(failures, err)
	}
	return nil, errors.Join(failures...)
}

func dialAll(ctx context.Context, addr string, w *welcome, id string, opts SourceOptions, keys *keyPair) ([]net.Conn, error) {
	var conns []net.Conn
	for i := range opts.Pipe.connections() {
		conn, err := dialOne(ctx, addr, w.PublicKey, opts, keys)
		if err == nil {
			conns = append(conns, conn)
			err = sendAttach(ctx, conn, attach{ID: id, Token: w.Token, Index: i})
		}
		if err != nil {
			closeAll(conns)
			return nil, fmt.Errorf("data connection to %s: %w", addr, err)
		}
	}
	return conns, nil
}

// dialTimeout bounds one attempt at one address, so that a filtered address
// does not eat the time for the next.
const dialTimeout = 5 * time.Second

func dialOne(ctx context.Context, addr, peerKey string, opts SourceOptions, keys *keyPair) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	dialer := &net.Dialer{}
	if opts.Pipe.Bind != nil {
		dialer.LocalAddr = &net.TCPAddr{IP: opts.Pipe.Bind}
	}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil || opts.Data == DataPlain {
		return conn, err
	}
	return keys.client(ctx, conn, peerKey)
}

func sendAttach(ctx context.Context, conn net.Conn, a attach) error {
	body, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetWriteDeadline(deadline)
	}
	if _, err := conn.Write(savefmt.AppendFrame(nil, savefmt.FrameAttach, body)); err != nil {
		return err
	}
	return conn.SetWriteDeadline(time.Time{})
}

// dataListener takes the data connections at the destination. It serves from
// the moment that the port is open, as the source connects before it says how
// many connections there are.
type dataListener struct {
	net.Listener
	id, token string
	mode      DataMode
	keys      *keyPair
	peerKey   string

	arrived chan *dataConn // admitted, not yet taken
	refused atomic.Value   // the last error of one that was turned away, a refusal
}

// refusal is why a connection was turned away.
type refusal struct{ error }

// dataConn is an accepted data connection. The reader may hold bytes that
// came after the attach frame.
type dataConn struct {
	net.Conn
	in    *frameReader
	index int
}

// maxStrangers is how many connections may be about to show their token at once.
const maxStrangers = 16

// serve admits connections until the listener is closed. Those that show no
// token are turned away.
func (d *dataListener) serve() {
	room := make(chan struct{}, maxStrangers)
	for {
		raw, err := d.Accept()
		if err != nil {
			return
		}
		room <- struct{}{}
		go func() {
			defer func() { <-room }()
			conn, err := d.admit(raw)
			if err != nil {
				d.refused.Store(refusal{fmt.Errorf("turned away %s: %w", raw.RemoteAddr(), err)})
				_ = raw.Close()
				return
			}
			select {
			case d.arrived <- conn:
			default:
				_ = conn.Close() // more than the protocol allows
			}
		}()
	}
}

// take waits up to limit for n data connections, and then closes the port.
func (d *dataListener) take(ctx context.Context, n int, limit time.Duration) ([]*dataConn, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer d.stop()
	var conns []*dataConn
	taken := make([]bool, n)
	for len(conns) < n {
		select {
		case conn := <-d.arrived:
			if conn.index >= n || taken[conn.index] {
				_ = conn.Close()
				continue
			}
			taken[conn.index] = true
			conns = append(conns, conn)
		case <-ctx.Done():
			closeAll(conns)
			err := fmt.Errorf("%d of %d data connections came: %w", len(conns), n, context.Cause(ctx))
			if r, ok := d.refused.Load().(refusal); ok {
				err = fmt.Errorf("%w (%w)", err, r.error)
			}
			return nil, err
		}
	}
	return conns, nil
}

// stop closes the port, and the connections that nobody took.
func (d *dataListener) stop() {
	_ = d.Close()
	for {
		select {
		case conn := <-d.arrived:
			_ = conn.Close()
		default:
			return
		}
	}
}

// admit checks that a connection is one of this migration. It takes up to
// dialTimeout.
func (d *dataListener) admit(raw net.Conn) (*dataConn, error) {
	if err := raw.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return nil, err
	}
	conn := raw
	if d.mode == DataTLS {
		var err error
		if conn, err = d.keys.server(context.Background(), raw, d.peerKey); err != nil {
			return nil, err
		}
	}
	in := newDataReader(conn)
	h, err := in.header()
	if err != nil {
		return nil, err
	}
	if h.Type != savefmt.FrameAttach || h.Length > maxAttach {
		return nil, fmt.Errorf("%w: a data connection begins with a frame of type %d and %d bytes", ErrCorrupt, h.Type, h.Length)
	}
	body, err := in.body(h)
	if err != nil {
		return nil, err
	}
	var a attach
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, fmt.Errorf("%w: attach: %w", ErrCorrupt, err)
	}
	if a.ID != d.id || subtle.ConstantTimeCompare([]byte(a.Token), []byte(d.token)) != 1 {
		return nil, errors.New("wrong token: it belongs to another migration")
	}
	if a.Index < 0 || a.Index >= MaxConnections {
		return nil, fmt.Errorf("%w: data connection %d", ErrCorrupt, a.Index)
	}
	return &dataConn{Conn: conn, in: in, index: a.Index}, raw.SetDeadline(time.Time{})
}

func closeAll[C net.Conn](conns []C) {
	for _, c := range conns {
		_ = c.Close()
	}
}
