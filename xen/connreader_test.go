package xen

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tcpPair returns two ends of a connection over loopback.
func tcpPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	return near, far
}

// TestConnReader: headers and payloads of any size, written in pieces of any
// size, are read as they are, whatever one wake-up is for.
func TestConnReader(t *testing.T) {
	near, far := tcpPair(t)
	in := newDataReader(far)
	if _, ok := in.full.(*connReader); !ok {
		t.Fatal("a TCP connection is read in the slow way")
	}
	const seed = 7
	data := make([]byte, 8<<20)
	chacha := rand.NewChaCha8([32]byte{seed})
	chacha.Read(data)
	go func() {
		random := rand.New(rand.NewPCG(seed, 1))
		for rest := data; len(rest) > 0; {
			n := min(1+random.IntN(300<<10), len(rest))
			if _, err := near.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
			if random.IntN(8) == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	random := rand.New(rand.NewPCG(seed, 2))
	got := make([]byte, 0, len(data))
	for len(got) < len(data) {
		head := min(32, len(data)-len(got))
		got = got[:len(got)+head]
		if _, err := io.ReadFull(in.r, got[len(got)-head:]); err != nil {
			t.Fatal(err)
		}
		var bufs [][]byte
		for range random.IntN(6) {
			n := min(random.IntN(256<<10), len(data)-len(got))
			bufs = append(bufs, got[len(got):len(got)+n])
			got = got[:len(got)+n]
		}
		if err := in.readFull(bufs); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, data) {
		t.Error("what was read is not what was written")
	}
}

// TestConnReaderLow: the mark is up while a payload is waited for, and down for
// the header behind it.
func TestConnReaderLow(t *testing.T) {
	near, far := tcpPair(t)
	in := newDataReader(far)
	low := func() (n int) {
		_ = in.full.(*connReader).raw.Control(func(fd uintptr) { n, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT) })
		return n
	}
	read := make(chan error, 1)
	go func() { read <- in.readFull([][]byte{make([]byte, 2*mostLow)}) }()
	for end := time.Now().Add(10 * time.Second); low() != mostLow; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the mark is %d, not %d", low(), mostLow)
		}
	}
	if _, err := near.Write(make([]byte, 2*mostLow+1)); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	if _, err := in.r.ReadByte(); err != nil || low() != 1 {
		t.Errorf("one byte more: %v, the mark is %d", err, low())
	}
	go func() { read <- in.readFull([][]byte{make([]byte, 2*mostLow)}) }()
	near.Write(make([]byte, 100))
	near.Close()
	if err := <-read; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("an end in the middle: %v", err)
	}
}
