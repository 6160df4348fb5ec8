package evtchn

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fake makes a file that FindPage could come upon, with these contents.
func fake(t testing.TB, contents []byte, seals int) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("fake", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "fake")
	if err := unix.Fchmod(fd, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(contents); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		t.Fatal(err)
	}
	return f
}

func goodPage(t *testing.T) []byte {
	t.Helper()
	p, err := CreatePage("good")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	return append([]byte(nil), p.mem...)
}

func TestOpenPageChecks(t *testing.T) {
	edit := func(at int, v byte) []byte {
		b := goodPage(t)
		b[at] = v
		return b
	}
	tests := []struct {
		name     string
		contents []byte
		seals    int
		mode     uint32
		want     error
	}{
		{"good", goodPage(t), pageSeals, 0o600, nil},
		{"empty", nil, pageSeals, 0o600, ErrBadPage},
		{"too short", goodPage(t)[:pageSize-1], pageSeals, 0o600, ErrBadPage},
		{"too long", append(goodPage(t), 0), pageSeals, 0o600, ErrBadPage},
		{"could shrink", goodPage(t), unix.F_SEAL_GROW, 0o600, ErrBadPage},
		{"open to others", goodPage(t), pageSeals, 0o666, ErrBadPage},
		{"not yet made", edit(atMagic, 0), pageSeals, 0o600, ErrBadPage},
		{"newer", edit(atVersion, pageVersion+1), pageSeals, 0o600, ErrPageVersion},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := fake(t, tt.contents, tt.seals)
			if err := unix.Fchmod(int(f.Fd()), tt.mode); err != nil {
				t.Fatal(err)
			}
			p, err := openPage(f, false)
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if err == nil {
				_ = p.Close()
			}
		})
	}
}

func TestFindPage(t *testing.T) {
	owner, _ := pair(t)
	p, process, err := FindPage(owner.file.Name(), false)
	if err != nil || p.Owner() != os.Getpid() || process.PID != os.Getpid() || process.Gone() || process.Stopped() {
		t.Fatalf("%v, %+v", err, process)
	}
	_ = process.Close()
	_ = p.Close()
	if _, _, err := FindPage("no-such-page", false); !errors.Is(err, ErrNoPage) {
		t.Error(err)
	}
	owner.word32(atPID).Store(1) // whoever has it open is not its owner
	if _, _, err := FindPage(owner.file.Name(), false); !errors.Is(err, ErrNoPage) {
		t.Error(err)
	}
}

// TestProcess follows a process through stop, continuation and death.
func TestProcess(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	p, err := OpenProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := p.Context(t.Context())
	defer cancel()
	if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); !p.Stopped(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not seen to be stopped")
		}
	}
	if p.Gone() || ctx.Err() != nil {
		t.Error("a stopped process counts as gone")
	}
	_ = cmd.Process.Kill()
	select {
	case <-ctx.Done():
	case <-time.After(patience):
		t.Fatal("its death was not heard")
	}
	if !errors.Is(context.Cause(ctx), ErrGone) || !p.Gone() || p.Stopped() {
		t.Errorf("%v, gone %v, stopped %v", context.Cause(ctx), p.Gone(), p.Stopped())
	}
	_ = cmd.Wait()
	if _, err := OpenProcess(cmd.Process.Pid); !errors.Is(err, ErrGone) {
		t.Errorf("a handle on a dead process: %v", err)
	}
}

// TestProcessClosed: a handle that is closed ends no context, and leaves
// nothing that waits.
func TestProcessClosed(t *testing.T) {
	p, err := OpenProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := p.Context(t.Context())
	waited := make(chan bool, 1)
	go func() { waited <- p.wait() }()
	_ = p.Close()
	select {
	case gone := <-waited:
		if gone || ctx.Err() != nil {
			t.Error("it counts as gone")
		}
	case <-time.After(patience):
		t.Error("the waiter waits on")
	}
	cancel()
}

// FuzzPage reads, and asks at, pages that hold anything.
func FuzzPage(f *testing.F) {
	f.Add([]byte("short"), uint64(0), uint64(1))
	f.Add([]byte(strings.Repeat("\xff", pageSize)), ^uint64(0), ^uint64(0))
	f.Fuzz(func(t *testing.T, contents []byte, state, number uint64) {
		b := make([]byte, pageSize)
		copy(b[atPID:], contents)
		p := &Page{mem: b, file: fake(t, nil, 0)}
		defer func() {
			p.mem = nil
			_ = p.Close()
		}()
		p.word(atMagic).Store(pageMagic)
		p.word32(atVersion).Store(pageVersion)
		p.word(atState).Store(state)
		p.word(atNumber).Store(number)
		if words, n, err := p.Board().Read(); err == nil && n > 0 && sum(n, words[:]) != p.word(atSlots+int(n&1)*8*(1+RecordWords)).Load() {
			t.Error("a record that does not match its sum")
		}
		p.Desk().serveOne(double)
		_, err := p.Desk().Ask(t.Context(), 0, [RequestWords]uint64{1})
		if err == nil {
			t.Error("an answer, and nobody there to answer")
		}
	})
}
