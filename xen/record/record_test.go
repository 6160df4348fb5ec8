package record

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"testing"
	"time"
)

func testConfig(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, InsecureSkipVerify: true}
}

// tcpPair returns the two ends of a connection over loopback.
func tcpPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	limit := time.Now().Add(time.Minute)
	for _, c := range []net.Conn{client, server} {
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(limit); err != nil {
			t.Fatal(err)
		}
	}
	return client, server
}

// connect makes a connection of our client and our server, or of crypto/tls's
// where theirs says so.
func connect(t testing.TB, theirClient, theirServer bool) (client, server net.Conn) {
	t.Helper()
	a, b := tcpPair(t)
	config := testConfig(t)
	done := make(chan error, 1)
	go func() {
		var err error
		if theirServer {
			c := tls.Server(b, config)
			server, err = c, c.Handshake()
		} else {
			server, err = Server(context.Background(), b, config)
		}
		done <- err
	}()
	var err error
	if theirClient {
		c := tls.Client(a, config)
		client, err = c, c.Handshake()
	} else {
		client, err = Client(context.Background(), a, config)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return client, server
}

// send writes data in pieces of any size.
func send(c net.Conn, data []byte, random *mrand.Rand) error {
	for len(data) > 0 {
		var pieces [][]byte
		for range 1 + random.IntN(5) {
			n := min(random.IntN(1<<(1+random.IntN(18))), len(data))
			pieces = append(pieces, data[:n])
			data = data[n:]
		}
		var err error
		if ours, ok := c.(*Conn); ok {
			err = ours.WriteBuffers(pieces)
		} else {
			_, err = (*net.Buffers)(&pieces).WriteTo(c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// receive reads as much as want has, in buffers of any size, and compares.
func receive(c net.Conn, want []byte, random *mrand.Rand) error {
	got := make([]byte, len(want))
	for rest := got; len(rest) > 0; {
		var bufs [][]byte
		for range random.IntN(5) {
			n := min(random.IntN(1<<(1+random.IntN(18))), len(rest))
			bufs = append(bufs, rest[:n])
			rest = rest[n:]
		}
		ours, ok := c.(*Conn)
		if ok && random.IntN(3) > 0 {
			if err := ours.ReadFull(bufs); err != nil {
				return err
			}
			continue
		}
		for _, b := range bufs {
			if _, err := io.ReadFull(c, b); err != nil {
				return err
			}
		}
	}
	if !bytes.Equal(got, want) {
		return errors.New("what was read is not what was written")
	}
	return nil
}

// TestBothWays: what is written is what is read, in both directions at once,
// whichever end is ours and whichever is crypto/tls's.
func TestBothWays(t *testing.T) {
	for name, theirs := range map[string][2]bool{"ours": {false, false}, "their client": {true, false}, "their server": {false, true}} {
		t.Run(name, func(t *testing.T) {
			client, server := connect(t, theirs[0], theirs[1])
			data := make([]byte, 8<<20)
			mrand.NewChaCha8([32]byte{1}).Read(data)
			errs := make(chan error, 4)
			for i, c := range []net.Conn{client, server} {
				go func() { errs <- send(c, data, mrand.New(mrand.NewPCG(1, uint64(i)))) }()
				go func() { errs <- receive(c, data, mrand.New(mrand.NewPCG(2, uint64(i)))) }()
			}
			for range 4 {
				if err := <-errs; err != nil {
					t.Error(err)
					client.Close() // nobody waits for the rest
					server.Close()
				}
			}
		})
	}
}

// TestCiphers: each cipher suite of TLS 1.3 protects in the way that crypto/tls
// does, through changes of keys.
func TestCiphers(t *testing.T) {
	for _, id := range []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256} {
		t.Run(tls.CipherSuiteName(id), func(t *testing.T) {
			a, b := tcpPair(t)
			near, far := ends(t, a, b, id)
			data := make([]byte, 100_000)
			mrand.NewChaCha8([32]byte{2}).Read(data)
			for i := range 5 {
				near.asked.Store(i > 0) // new keys
				sent := make(chan error, 1)
				go func() { sent <- near.WriteBuffers([][]byte{data[:10], data[10:]}) }()
				got := make([]byte, len(data))
				if err := far.ReadFull([][]byte{got[:50_000], got[50_000:]}); err != nil {
					t.Fatal(err)
				}
				if err := <-sent; err != nil || !bytes.Equal(got, data) {
					t.Fatal("other data, or: ", err)
				}
			}
			if near.writer.secret == nil || !bytes.Equal(near.writer.secret, far.reader.secret) {
				t.Error("the keys were not changed together")
			}
		})
	}
}

// ends returns two ends of a connection without a handshake.
func ends(t testing.TB, a, b net.Conn, id uint16) (near, far *Conn) {
	t.Helper()
	s, err := newSuite(id)
	if err != nil {
		t.Fatal(err)
	}
	size := s.hash().Size()
	log := &keyLog{client: bytes.Repeat([]byte{1}, size), server: bytes.Repeat([]byte{2}, size)}
	if near, err = newConn(a, id, log, false); err != nil {
		t.Fatal(err)
	}
	if far, err = newConn(b, id, log, true); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// TestNewKeys: crypto/tls follows when our key has protected what it may.
func TestNewKeys(t *testing.T) {
	client, server := connect(t, false, true)
	client.(*Conn).writer.perKey = 7
	before := client.(*Conn).writer.secret
	data := make([]byte, 1<<20)
	sent := make(chan error, 1)
	go func() { sent <- send(client, data, mrand.New(mrand.NewPCG(3, 3))) }()
	if err := receive(server, data, mrand.New(mrand.NewPCG(4, 4))); err != nil {
		t.Fatal(err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if w := client.(*Conn).writer; bytes.Equal(w.secret, before) || w.seq > 7 {
		t.Errorf("the key is the first one, or was used for %d records of 7", w.seq)
	}
}

// TestAskedForNewKeys: the other end may ask for them.
func TestAskedForNewKeys(t *testing.T) {
	a, b := tcpPair(t)
	near, far := ends(t, a, b, tls.TLS_AES_128_GCM_SHA256)
	before := far.writer.secret
	mustAdd(t, near, typeHandshake, messageKeyUpdate, 0, 0, 1, 1)
	if err := near.writer.update(); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]*Conn{{near, far}, {far, near}} {
		if _, err := c[0].Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := c[1].ReadFull([][]byte{make([]byte, 5)}); err != nil {
			t.Fatal(err)
		}
	}
	if bytes.Equal(before, far.writer.secret) {
		t.Error("it goes on with its old keys")
	}
}

// mustAdd sends one record.
func mustAdd(t testing.TB, c *Conn, typ byte, content ...byte) {
	t.Helper()
	if c.writer.out == nil {
		c.writer.out = make([]byte, 0, gather)
	}
	if err := c.writer.add(content, typ); err != nil {
		t.Fatal(err)
	}
	if err := c.writer.flush(); err != nil {
		t.Fatal(err)
	}
}

// TestHostile: whatever comes that is not data is refused, with a reason, and an
// end in the middle of something is one.
func TestHostile(t *testing.T) {
	raw := func(b ...byte) func(*testing.T, *Conn) {
		return func(t *testing.T, near *Conn) {
			if _, err := near.Conn.Write(b); err != nil {
				t.Fatal(err)
			}
			near.Close()
		}
	}
	sealed := func(typ byte, content ...byte) func(*testing.T, *Conn) {
		return func(t *testing.T, near *Conn) {
			mustAdd(t, near, typ, content...)
			near.Close()
		}
	}
	for name, c := range map[string]struct {
		send func(*testing.T, *Conn)
		want error
	}{
		"the end":             {raw(), io.ErrUnexpectedEOF},
		"half a header":       {raw(typeData, 3, 3), io.ErrUnexpectedEOF},
		"half a record":       {raw(typeData, 3, 3, 0, 40, 1, 2, 3), io.ErrUnexpectedEOF},
		"not encrypted":       {raw(typeAlert, 3, 3, 0, 2, 2, 40), ErrRecord},
		"another version":     {raw(typeData, 3, 4, 0, 40), ErrRecord},
		"too long":            {raw(typeData, 3, 3, 0x41, 1), ErrRecord},
		"too short":           {raw(typeData, 3, 3, 0, tagSize), ErrRecord},
		"forged":              {raw(append([]byte{typeData, 3, 3, 0, 40}, make([]byte, 40)...)...), ErrRecord},
		"only padding":        {sealed(0, 0, 0, 0), ErrRecord},
		"a message":           {sealed(typeHandshake, 1, 0, 0, 0), ErrRecord},
		"half a key update":   {sealed(typeHandshake, messageKeyUpdate, 0), ErrRecord},
		"an odd key update":   {sealed(typeHandshake, messageKeyUpdate, 0, 0, 1, 2), ErrRecord},
		"half an alert":       {sealed(typeAlert, 2), ErrRecord},
		"an alert":            {sealed(typeAlert, 2, 42), tls.AlertError(42)},
		"goodbye":             {sealed(typeAlert, 1, 0), io.ErrUnexpectedEOF},
		"an unknown type":     {sealed(99, 1, 2), ErrRecord},
		"nothing, for ever":   {func(t *testing.T, near *Conn) { repeat(t, near, maxIdle+1, typeData) }, ErrRecord},
		"tickets, for ever":   {func(t *testing.T, near *Conn) { repeat(t, near, maxIdle+1, typeHandshake, messageNewTicket) }, ErrRecord},
		"one key for ever":    {func(t *testing.T, near *Conn) { near.writer.seq = 2 * recordsPerKey; repeat(t, near, 1, typeData, 1) }, ErrRecord},
		"a bit of it changed": {flipped, ErrRecord},
		"the same once more":  {replayed, ErrRecord},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := tcpPair(t)
			near, far := ends(t, a, b, tls.TLS_AES_128_GCM_SHA256)
			go c.send(t, near)
			if name == "one key for ever" {
				far.reader.seq = 2 * recordsPerKey
			}
			err := far.ReadFull([][]byte{make([]byte, 30), make([]byte, 70_000)})
			if !errors.Is(err, c.want) {
				t.Errorf("%v, not %v", err, c.want)
			}
		})
	}
}

func repeat(t *testing.T, near *Conn, n int, typ byte, content ...byte) {
	for range n {
		mustAdd(t, near, typ, content...)
	}
}

// recorded returns a record of 1,000 bytes, which near has not sent.
func recorded(near *Conn) []byte {
	to := near.writer.to
	defer func() { near.writer.to = to }()
	kept := &keeper{Conn: to}
	near.writer.to = kept
	_, _ = near.Write(make([]byte, 1000))
	return kept.Bytes()
}

type keeper struct {
	net.Conn
	bytes.Buffer
}

func (k *keeper) Write(p []byte) (int, error) { return k.Buffer.Write(p) }
func (k *keeper) Read(p []byte) (int, error)  { return k.Buffer.Read(p) }

func flipped(t *testing.T, near *Conn) {
	r := recorded(near)
	r[500] ^= 4
	_, _ = near.Conn.Write(r)
}

func replayed(t *testing.T, near *Conn) {
	r := recorded(near)
	_, _ = near.Conn.Write(append(r, r...))
}

// TestPadding: records may be longer than their contents.
func TestPadding(t *testing.T) {
	a, b := tcpPair(t)
	near, far := ends(t, a, b, tls.TLS_AES_128_GCM_SHA256)
	mustAdd(t, near, 0, append([]byte("hello"), typeData, 0, 0)...)
	mustAdd(t, near, typeData, []byte("world")...)
	got := make([]byte, 10)
	if err := far.ReadFull([][]byte{got[:7], got[7:]}); err != nil || string(got) != "helloworld" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestHandshakeFails: both ends say so, and hold nothing.
func TestHandshakeFails(t *testing.T) {
	a, b := tcpPair(t)
	config := testConfig(t)
	go func() { _, _ = a.Write([]byte("GET / HTTP/1.1\r\n\r\n")) }()
	if c, err := Server(context.Background(), b, config); err == nil || c != nil {
		t.Errorf("a handshake with somebody who makes none: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	a, _ = tcpPair(t)
	if c, err := Client(ctx, a, config); err == nil || c != nil {
		t.Errorf("a handshake with somebody who says nothing: %v", err)
	}
}

// FuzzReader: any bytes where records should be, some of them sealed as the other
// end would, are read or refused.
func FuzzReader(f *testing.F) {
	f.Add([]byte{23, 3, 3, 0, 20}, byte(typeData), []byte("hello"))
	f.Add([]byte{}, byte(typeHandshake), []byte{messageKeyUpdate, 0, 0, 1, 1})
	f.Add([]byte{}, byte(0), []byte{1, typeData, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte, typ byte, content []byte) {
		wire := &keeper{}
		near, far := ends(t, wire, wire, tls.TLS_AES_128_GCM_SHA256)
		if len(content) > maxContent {
			return
		}
		mustAdd(t, near, typ, content...)
		wire.Buffer.Write(raw)
		got := make([]byte, 40_000)
		if err := far.ReadFull([][]byte{got[:100], got[100:]}); err == nil {
			t.Error("it reads more than there is")
		}
	})
}

// TestAllocations: nothing is allocated for a record.
func TestAllocations(t *testing.T) {
	wire := &keeper{}
	near, far := ends(t, wire, wire, tls.TLS_AES_128_GCM_SHA256)
	data := make([]byte, 100_000)
	pieces, bufs := make([][]byte, 2), make([][]byte, 2)
	n := testing.AllocsPerRun(100, func() {
		wire.Reset()
		pieces[0], pieces[1] = data[:100], data[100:]
		bufs[0], bufs[1] = data[:200], data[200:]
		if near.WriteBuffers(pieces) != nil || far.ReadFull(bufs) != nil {
			t.Error("it fails")
		}
	})
	if n > 0 {
		t.Errorf("%v allocations for 7 records", n)
	}
}

// BenchmarkRecord seals, and opens, a full record.
func BenchmarkRecord(b *testing.B) {
	wire := &keeper{}
	near, far := ends(b, wire, wire, tls.TLS_AES_128_GCM_SHA256)
	content, sealed := make([]byte, maxContent), make([]byte, 0, maxSealed)
	nonce, head := new([12]byte), header(maxContent+1+tagSize)
	b.Run("seal", func(b *testing.B) {
		b.SetBytes(maxContent)
		for b.Loop() {
			sealed = near.writer.seal(sealed[:0], nonce, head[:], content, typeData)
		}
	})
	b.Run("open", func(b *testing.B) {
		kept := append([]byte(nil), sealed...)
		b.SetBytes(maxContent)
		for b.Loop() {
			copy(sealed, kept) // what is sealed is lost
			if _, err := far.reader.open(content, nonce, head[:], sealed); err != nil {
				b.Fatal(err)
			}
		}
	})
}
