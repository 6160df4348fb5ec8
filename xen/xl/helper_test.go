package xl

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/xenferry/xenferry/savefmt"
	"golang.org/x/sys/unix"
)

// fakeLibxl is libxl's end of the pipes to its save helper: it reads messages
// as tools/libs/light/libxl_save_callout.c does, and replies where that does.
type fakeLibxl struct {
	in  *os.File // the helper's standard output
	out *os.File // the helper's standard input

	reply8 int32
	got    []libxlMsg
	ended  chan struct{}
}

type libxlMsg struct {
	number uint16
	args   []byte
}

func (l *fakeLibxl) serve() {
	defer close(l.ended)
	for {
		var head [2]byte
		if _, err := io.ReadFull(l.in, head[:]); err != nil {
			return
		}
		body := make([]byte, binary.NativeEndian.Uint16(head[:]))
		if _, err := io.ReadFull(l.in, body); err != nil || len(body) < 2 {
			return
		}
		m := libxlMsg{binary.NativeEndian.Uint16(body), body[2:]}
		l.got = append(l.got, m)
		switch m.number {
		case msgStaticDataDone:
			l.out.Write(appendInt(nil, l.reply8))
		case msgSuspend:
			l.out.Write(appendInt(nil, 1))
		case msgQEMULogDirty:
			l.out.Write(appendInt(nil, 0))
		case msgComplete:
			l.out.Write(appendInt(nil, 0))
			return // libxl reads nothing after it
		}
	}
}

// rig is a helper between a bridge and a fake libxl, all in this process.
type rig struct {
	libxl     *fakeLibxl
	bridge    *bridge
	stream    *os.File // libxl's and the helper's end
	destroyed []uint32
	err       chan error
	uuid      [16]byte
}

var testHello = hello{7, 1, 0, 2, 0}

func newRig(t *testing.T, libxlDead bool) *rig {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	pipe := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		return r, w
	}
	outR, outW := pipe()
	inR, inW := pipe()
	r := &rig{
		libxl:  &fakeLibxl{in: outR, out: inW, ended: make(chan struct{})},
		bridge: &bridge{os.NewFile(uintptr(fds[0]), "ours")},
		stream: os.NewFile(uintptr(fds[1]), "libxl's"),
		err:    make(chan error, 1),
		uuid:   [16]byte{1, 2, 3},
	}
	t.Cleanup(func() { r.bridge.close(); r.stream.Close() })
	h := &helper{
		stream: r.stream, callouts: callouts{fromLibxl: inR, toLibxl: outW}, hello: testHello,
		libxlGone: func() bool { return libxlDead },
		load: func(h *helper, stream io.Reader) error {
			if _, err := io.Copy(io.Discard, stream); err != nil {
				return err
			}
			return h.send(msgRestoreResults, appendUlong(appendUlong(nil, 1), 2))
		},
		destroy: func(domid uint32, uuid [16]byte) error {
			if uuid != r.uuid {
				t.Errorf("destroy of UUID %x, want %x", uuid, r.uuid)
			}
			r.destroyed = append(r.destroyed, domid)
			return nil
		},
	}
	if libxlDead {
		outR.Close()
		inW.Close()
	} else {
		go r.libxl.serve()
	}
	go func() {
		// libxl reads its header and the LIBXC_CONTEXT record first.
		head := make([]byte, 24)
		if _, err := io.ReadFull(r.stream, head); err != nil {
			r.err <- err
			return
		}
		r.err <- h.run()
	}()
	return r
}

func (r *rig) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.err:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("the helper did not end")
		return nil
	}
}

// numbers are those of the messages that libxl got.
func (r *rig) numbers(t *testing.T) (n []uint16) {
	t.Helper()
	select {
	case <-r.libxl.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("libxl got no complete")
	}
	for _, m := range r.libxl.got {
		n = append(n, m.number)
	}
	return n
}

func TestHelperWholeRestore(t *testing.T) {
	r := newRig(t, false)
	ctx := t.Context()
	hi, err := r.bridge.open(ctx, r.uuid)
	if err != nil {
		t.Fatal(err)
	}
	if hi != testHello {
		t.Errorf("hello %+v, want %+v", hi, testHello)
	}
	if err := r.bridge.staticDone(ctx, missingMSR); err != nil {
		t.Fatal(err)
	}
	deviceModel := bytes.Repeat([]byte{0xAB}, 100)
	if err := r.bridge.complete(ctx, 0xfeffc, 0xfefff, deviceModel); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(t); err != nil {
		t.Fatalf("helper: %v", err)
	}
	if got := r.numbers(t); len(got) != 3 || got[0] != 8 || got[1] != 9 || got[2] != 10 {
		t.Fatalf("libxl got messages %v, want 8, 9, 10", got)
	}
	for i, want := range [][]byte{
		{2, 0, 0, 0},
		{0xfc, 0xef, 0x0f, 0, 0, 0, 0, 0, 0xff, 0xef, 0x0f, 0, 0, 0, 0, 0},
		{0, 0, 0, 0, 0, 0, 0, 0},
	} {
		if got := r.libxl.got[i].args; !bytes.Equal(got, want) {
			t.Errorf("message %d has % x, want % x", r.libxl.got[i].number, got, want)
		}
	}
	// libxl must find the rest of its stream untouched.
	var want bytes.Buffer
	lw := savefmt.NewLibxlWriter(&want)
	if err := errors.Join(lw.DeviceModel(deviceModel), lw.End()); err != nil {
		t.Fatal(err)
	}
	rest := make([]byte, want.Len())
	r.stream.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(r.stream, rest); err != nil || !bytes.Equal(rest, want.Bytes()) {
		t.Errorf("libxl reads on with %x, %v, want %x", rest, err, want.Bytes())
	}
}

func TestHelperGivesUp(t *testing.T) {
	preamble := append(bridgeMagic[:], make([]byte, 16)...)
	for _, c := range []struct {
		name string
		send func(w io.Writer)
		log  string // part of what libxl is told
	}{
		{"receiver closes at once", func(io.Writer) {}, "closed the stream"},
		{"receiver closes after the preamble", func(w io.Writer) { w.Write(preamble) }, "closed the stream"},
		{"receiver closes within a frame", func(w io.Writer) { w.Write(append(preamble, 0x58, 0x46)) }, "unexpected EOF"},
		{"neither stream", func(w io.Writer) { w.Write(bytes.Repeat([]byte{0xFE}, 8)) }, "neither one of Xen nor of a xenferry receiver"},
		{"stock stream that ends early", func(w io.Writer) { w.Write(stockMagic[:]) }, "unexpected EOF"},
		{"no frame", func(w io.Writer) { w.Write(append(preamble, make([]byte, frameSize)...)) }, "begins with 0x0"},
		{"frame of the wrong kind", func(w io.Writer) { w.Write(preamble); writeFrame(w, opHello) }, "frame 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, false)
			savefmt.NewLibxlWriter(r.bridge.f).Start()
			c.send(r.bridge.f)
			unix.Shutdown(int(r.bridge.f.Fd()), unix.SHUT_WR)
			if err := r.wait(t); err != nil {
				t.Errorf("helper: %v; want nil, as libxl has been told", err)
			}
			n := r.numbers(t)
			if len(n) != 2 || n[0] != msgLog || n[1] != msgComplete {
				t.Fatalf("libxl got messages %v, want 1, 10", n)
			}
			if text := string(r.libxl.got[0].args); !strings.Contains(text, c.log) {
				t.Errorf("libxl was told %q, want %q in it", text, c.log)
			}
			if got := int32(binary.NativeEndian.Uint32(r.libxl.got[1].args)); got != -1 {
				t.Errorf("complete with %d, want -1", got)
			}
			if len(r.destroyed) != 0 {
				t.Errorf("destroyed %v, which is libxl's to do", r.destroyed)
			}
		})
	}
}

func TestHelperDestroysAfterReceiverDied(t *testing.T) {
	for _, c := range []struct {
		name string
		send func(w io.Writer)
	}{
		{"before complete", func(io.Writer) {}},
		{"static state told to a dead libxl", func(w io.Writer) { writeFrame(w, opStaticDone, 0) }},
		{"complete told to a dead libxl", func(w io.Writer) { writeFrame(w, opResults, 1, 2); writeFrame(w, opComplete, 0, 0) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, true)
			if _, err := r.bridge.open(t.Context(), r.uuid); err != nil {
				t.Fatal(err)
			}
			c.send(r.bridge.f)
			r.bridge.close()
			err := r.wait(t)
			if err == nil || !strings.Contains(err.Error(), "has been destroyed") {
				t.Errorf("helper: %v", err)
			}
			if len(r.destroyed) != 1 || r.destroyed[0] != testHello.domid {
				t.Errorf("destroyed %v, want domain %d", r.destroyed, testHello.domid)
			}
		})
	}
}

func TestBridgeStaticRefused(t *testing.T) {
	r := newRig(t, false)
	r.libxl.reply8 = -3
	if _, err := r.bridge.open(t.Context(), r.uuid); err != nil {
		t.Fatal(err)
	}
	if err := r.bridge.staticDone(t.Context(), missingCPUID); err == nil || !strings.Contains(err.Error(), "libxl error -3") {
		t.Errorf("static state refused by libxl: %v", err)
	}
}

func TestBridgeEndsWithContext(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	br := &bridge{os.NewFile(uintptr(fds[0]), "ours")}
	defer br.close()
	why := errors.New("the operator wants it")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(20*time.Millisecond, func() { cancel(why) })
	if _, err := br.open(ctx, [16]byte{}); !errors.Is(err, why) {
		t.Errorf("open ended by its context: %v, want %v", err, why)
	}
}

func TestLogMessageLayout(t *testing.T) {
	// As libxl's own helper was seen to send it, but for the words and the errno.
	var out bytes.Buffer
	h := &callouts{toLibxl: &out}
	if err := h.sendLog("no"); err != nil {
		t.Fatal(err)
	}
	want := []byte("\x1e\x00" + "\x01\x00" + "\x08\x00\x00\x00" + "\xff\xff\xff\xff" +
		"\x09\x00\x00\x00xenferry\x00" + "\x03\x00\x00\x00no\x00")
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("log message % x, want % x", out.Bytes(), want)
	}
	out.Reset()
	if err := h.sendLog(strings.Repeat("x", 1<<20)); err != nil {
		t.Fatal(err)
	}
	if n := int(binary.NativeEndian.Uint16(out.Bytes())); n != out.Len()-2 {
		t.Errorf("a long text makes a message of %d bytes that claims %d", out.Len()-2, n)
	}
}

func TestParseRestoreArgs(t *testing.T) {
	good := "14 -1 5 1 0 2 0 768 0"
	a, err := parseRestoreArgs(strings.Fields(good))
	if err != nil || a.streamFd != 14 || a.hello != (hello{5, 1, 0, 2, 0}) {
		t.Errorf("%q: %+v, %v", good, a, err)
	}
	for _, bad := range []string{
		"", "14", good + " 1", // count
		"x -1 5 1 0 2 0 768 0", "14 -1 -5 1 0 2 0 768 0", "14 -1 99999999999 1 0 2 0 768 0",
		"2 -1 5 1 0 2 0 768 0", "2000000 -1 5 1 0 2 0 768 0", // descriptor
		"14 -1 5 1 0 2 0 136 0", "14 -1 5 1 0 2 0 768 1", // callbacks, stream type
	} {
		if _, err := parseRestoreArgs(strings.Fields(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// TestProgress has the bytes of libxl's protocol: length, number 2, two strings
// with their NULs, two unsigned longs.
func TestProgress(t *testing.T) {
	var out bytes.Buffer
	c := &callouts{toLibxl: &out}
	if err := c.progress("pages", 3, 1<<33); err != nil {
		t.Fatal(err)
	}
	want := []byte("\x29\x00" + "\x02\x00" + "\x09\x00\x00\x00xenferry\x00" + "\x06\x00\x00\x00pages\x00" +
		"\x03\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00\x02\x00\x00\x00")
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("% x\nwant % x", out.Bytes(), want)
	}
}
