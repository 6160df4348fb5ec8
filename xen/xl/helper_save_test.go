package xl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// saveRig is a save helper before a fake libxl.
type saveRig struct {
	*saver
	libxl   *fakeLibxl
	resumed []uint32
}

func newSaveRig(t *testing.T, dead bool) *saveRig {
	t.Helper()
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
	r := &saveRig{libxl: &fakeLibxl{in: outR, out: inW, ended: make(chan struct{})}}
	r.saver = &saver{
		callouts: callouts{fromLibxl: inR, toLibxl: outW}, args: saveArgs{domid: 5},
		libxlGone: func() bool { return dead },
		resume:    func(domid uint32) error { r.resumed = append(r.resumed, domid); return nil },
	}
	if dead {
		outR.Close()
		inW.Close()
		close(r.libxl.ended)
	} else {
		go r.libxl.serve()
	}
	return r
}

// numbers are those of the messages that libxl got, and what complete said.
func (r *saveRig) numbers(t *testing.T) (n []uint16, rc, errno int32) {
	t.Helper()
	select {
	case <-r.libxl.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("libxl got no complete")
	}
	for _, m := range r.libxl.got {
		n = append(n, m.number)
	}
	last := r.libxl.got[len(n)-1].args
	return n, int32(binary.NativeEndian.Uint32(last)), int32(binary.NativeEndian.Uint32(last[4:]))
}

func TestSaverSaves(t *testing.T) {
	r := newSaveRig(t, false)
	r.save = func(context.Context, *saver) error {
		for _, on := range []uint32{1, 0} {
			if rc, err := r.ask(msgQEMULogDirty, appendUint(appendUint(nil, 5), on)); rc != 0 || err != nil {
				t.Errorf("log-dirty: %d, %v", rc, err)
			}
		}
		rc, err := r.ask(msgSuspend, nil)
		if rc != 1 {
			t.Errorf("suspend is answered with %d", rc)
		}
		return err
	}
	if err := r.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	n, rc, _ := r.numbers(t)
	if want := []uint16{msgQEMULogDirty, msgQEMULogDirty, msgSuspend, msgComplete}; !slices.Equal(n, want) || rc != 0 {
		t.Errorf("libxl got %v, complete %d; want %v, 0", n, rc, want)
	}
	if err := r.send(msgSuspend, nil); !errors.Is(err, errCalloutsClosed) {
		t.Errorf("a message behind the last one: %v", err)
	}
}

func TestSaverFails(t *testing.T) {
	r := newSaveRig(t, false)
	r.save = func(context.Context, *saver) error { return fmt.Errorf("the disk is full: %w", syscall.ENOSPC) }
	if err := r.run(t.Context()); err != nil {
		t.Fatalf("%v; want nil, as libxl knows", err)
	}
	n, rc, errno := r.numbers(t)
	if !slices.Equal(n, []uint16{msgLog, msgComplete}) || rc != -1 || errno != int32(syscall.ENOSPC) {
		t.Errorf("libxl got %v, complete %d with errno %d", n, rc, errno)
	}
	if text := string(r.libxl.got[0].args); !strings.Contains(text, "the disk is full") {
		t.Errorf("libxl was told %q", text)
	}
	if len(r.resumed) > 0 {
		t.Error("the guest was resumed, which is for libxl's caller to do")
	}
}

// TestSaverResumesForDeadLibxl: whoever told libxl to save is gone.
func TestSaverResumesForDeadLibxl(t *testing.T) {
	for name, result := range map[string]error{"saved": nil, "failed": errors.New("no")} {
		r := newSaveRig(t, true)
		r.save = func(context.Context, *saver) error { return result }
		err := r.run(t.Context())
		if err == nil || !strings.Contains(err.Error(), "runs on") || !slices.Equal(r.resumed, []uint32{5}) {
			t.Errorf("%s: %v, resumed %v", name, err, r.resumed)
		}
	}
}

func TestParseSaveArgs(t *testing.T) {
	a, err := parseSaveArgs(strings.Fields("11 -1 14 3 136 0"))
	if err != nil || a != (saveArgs{11, 14, true, true}) {
		t.Errorf("%+v, %v", a, err)
	}
	for _, bad := range []string{
		"", "11 -1 14 0 136", "11 -1 14 0 136 0 0", "11 -1 14 4 136 0", "11 -1 14 0 136 1", "11 -1 14 0 768 0", "1 -1 14 0 136 0",
	} {
		if _, err := parseSaveArgs(strings.Fields(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// TestStreamFd writes more than fits into what nobody reads. The end of the
// context ends that; the descriptor stays as blocking as it was.
func TestStreamFd(t *testing.T) {
	for _, kind := range []string{"pipe", "socket"} {
		t.Run(kind, func(t *testing.T) {
			var fds [2]int
			err := unix.Pipe2(fds[:], unix.O_CLOEXEC)
			if kind == "socket" {
				unix.Close(fds[0])
				unix.Close(fds[1])
				fds, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fds[1])
			far := os.NewFile(uintptr(fds[0]), "far end")
			defer far.Close()
			ctx, cancel := context.WithCancelCause(t.Context())
			libxlR, libxlW, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer libxlR.Close()
			defer libxlW.Close()
			s, err := openStreamFd(ctx, fds[1], int(libxlR.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			if _, err := s.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 5)
			if _, err := io.ReadFull(far, got); err != nil || string(got) != "hello" {
				t.Fatalf("%q, %v", got, err)
			}
			time.AfterFunc(50*time.Millisecond, func() { cancel(errTerminated) })
			if _, err := s.Write(make([]byte, 4<<20)); !errors.Is(err, errTerminated) {
				t.Errorf("a write that blocks ends with %v", err)
			}
			s.ctx = t.Context()
			time.AfterFunc(50*time.Millisecond, func() { libxlW.Close() })
			if _, err := s.Write(make([]byte, 4<<20)); !errors.Is(err, errLibxlGone) {
				t.Errorf("a write that blocks ends with libxl: %v", err)
			}
			if flags, err := unix.FcntlInt(uintptr(fds[1]), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
				t.Errorf("the descriptor has become non-blocking: %#x, %v", flags, err)
			}
		})
	}
}

// TestStreamFdFile writes to a file, which is libxl's at every moment.
func TestStreamFdFile(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.Write([]byte("head "))
	s, err := openStreamFd(t.Context(), int(f.Fd()), -1)
	if err != nil {
		t.Fatal(err)
	}
	s.Write([]byte("body "))
	s.close()
	f.Write([]byte("tail"))
	if got, _ := os.ReadFile(f.Name()); string(got) != "head body tail" {
		t.Errorf("%q", got)
	}
}
