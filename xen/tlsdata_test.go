package xen

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// tlsPair returns a connection over loopback as the two ends have it.
func tlsPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	a, b := tcpPair(t)
	source, err := newKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	destination, err := newKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	type result struct {
		net.Conn
		error
	}
	served := make(chan result, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	go func() {
		conn, err := destination.server(ctx, b, source.fingerprint)
		served <- result{conn, err}
	}()
	if near, err = source.client(ctx, a, destination.fingerprint); err != nil {
		t.Fatal(err)
	}
	r := <-served
	if r.error != nil {
		t.Fatal(r.error)
	}
	return near, r.Conn
}

// TestTLSData: headers and payloads of any size, sent with pauses anywhere,
// are read as they are; and none waits for more than will come: a pause ends only
// when all that was sent before it has been read.
func TestTLSData(t *testing.T) {
	near, far := tlsPair(t)
	in := newDataReader(far)
	if in.full == nil {
		t.Fatal("TLS is read in the slow way")
	}
	const seed, frames = 11, 60
	random := rand.New(rand.NewPCG(seed, 1))
	sizes := make([]int, frames)
	for i := range sizes {
		sizes[i] = random.IntN(1 << 20)
		if i%4 == 0 {
			sizes[i] = random.IntN(100)
		}
	}
	read := make(chan struct{}, frames) // a frame was read
	data := func(i int) []byte {
		b := make([]byte, 32+sizes[i])
		rand.NewChaCha8([32]byte{seed, byte(i)}).Read(b)
		return b
	}
	go func() {
		pauses := rand.New(rand.NewPCG(seed, 2))
		w := newConnWriter(near, time.Minute)
		for i, waited := 0, 0; i < frames; i++ {
			b := data(i)
			cut := pauses.IntN(len(b)) + 1
			if w.writeFrame(&net.Buffers{b[:cut], b[cut:]}) != nil {
				return
			}
			if pauses.IntN(3) == 0 { // nothing follows until all was read
				for ; waited <= i; waited++ {
					<-read
				}
			}
		}
	}()
	done := make(chan error, 1)
	go func() {
		for i := range frames {
			got := make([]byte, 32+sizes[i])
			if _, err := io.ReadFull(in.r, got[:32]); err != nil {
				done <- err
				return
			}
			half := 32 + sizes[i]/2
			if err := in.readFull([][]byte{got[32:half], got[half:]}); err != nil {
				done <- err
				return
			}
			if !bytes.Equal(got, data(i)) {
				t.Errorf("frame %d is not what was sent", i)
			}
			read <- struct{}{}
		}
		done <- nil
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the reader waits for more than was sent")
	}
}

// TestTLSDataEnds: an end in the middle of what is waited for is one.
func TestTLSDataEnds(t *testing.T) {
	near, far := tlsPair(t)
	in := newDataReader(far)
	read := make(chan error, 1)
	go func() { read <- in.readFull([][]byte{make([]byte, 1<<20)}) }()
	if _, err := near.Write(make([]byte, 300<<10)); err != nil {
		t.Fatal(err)
	}
	near.Close()
	select {
	case err := <-read:
		if err == nil {
			t.Error("half of it was enough")
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits on")
	}
}
