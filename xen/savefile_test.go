package xen

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// saveText saves a text to a file of that name.
func saveText(name, text string) error {
	f, err := CreateSaveFile(name)
	if err != nil {
		return err
	}
	defer f.Discard()
	if _, err := f.Write([]byte(text)); err != nil {
		return err
	}
	return f.Commit()
}

// TestSaveFileNames: links stay links, also where they lead to nothing yet, and
// the temporary name is in the folder of the final one.
func TestSaveFileNames(t *testing.T) {
	dir := t.TempDir()
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "far/deep"), 0o700), os.Mkdir(filepath.Join(dir, "near"), 0o700))
	must(os.Symlink("../far/deep", filepath.Join(dir, "near/link")))
	long := strings.Repeat("x", 250)
	must(os.Symlink("link/../to", filepath.Join(dir, "near/dangling")))
	for name, real := range map[string]string{
		dir + "/near/link/../a": "far/a",
		dir + "/near/dangling":  "far/to",
		dir + "/" + long:        long,
	} {
		if err := saveText(name, "guest"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, real)); err != nil || string(got) != "guest" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if info, err := os.Lstat(dir + "/near/dangling"); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is one no more: %v", err)
	}
	if parts, _ := filepath.Glob(dir + "/*/.*.part"); len(parts) != 0 {
		t.Errorf("left: %v", parts)
	}
	for _, name := range []string{"", dir + "/none/", dir + "/none/x"} {
		if err := saveText(name, "guest"); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}

// TestSaveDevice: the beginning of a guest is there when all of it is, and that
// of the one before is not there any more.
func TestSaveDevice(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk")
	old, guest := bytes.Repeat([]byte("old"), 1000), bytes.Repeat([]byte("guest"), 500)
	for _, piece := range []int{1, 100, sector, len(guest)} {
		if err := os.WriteFile(name, old, 0o600); err != nil {
			t.Fatal(err)
		}
		device, err := OpenSaveDevice(name)
		if err != nil {
			t.Fatal(err)
		}
		expect := func(want []byte) {
			t.Helper()
			if got, err := os.ReadFile(name); err != nil || !bytes.HasPrefix(got, want) || len(got) != len(old) {
				t.Fatalf("pieces of %d: %d bytes, %.20q, %v", piece, len(got), got, err)
			}
		}
		expect(old)
		for at := 0; at < len(guest); at += piece {
			if _, err := device.Write(guest[at:min(at+piece, len(guest))]); err != nil {
				t.Fatal(err)
			}
			expect(make([]byte, sector))
		}
		expect(append(make([]byte, sector), guest[sector:]...))
		if err := device.Commit(); err != nil {
			t.Fatal(err)
		}
		device.Discard()
		expect(guest)
	}
}

// TestPipeCommit: standard output that is a file is brought to the disk.
func TestPipeCommit(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for _, out := range []*os.File{f, w} {
		p, err := OpenPipe(int(out.Fd()), "standard output", time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Commit(); err != nil {
			t.Errorf("%s: %v", out.Name(), err)
		}
		if err := errors.Join(p.Close(), p.Commit()); err == nil {
			t.Errorf("%s: committed, and not brought to the disk", out.Name())
		}
	}
}

// TestSaveFileRefused: a name that no file can have is refused at once, and named.
func TestSaveFileRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{
		strings.Repeat("n", 255): nil,
		strings.Repeat("n", 256): unix.ENAMETOOLONG,
		"file/f":                 unix.ENOTDIR,
		"none/f":                 os.ErrNotExist,
	} {
		f, err := CreateSaveFile(filepath.Join(dir, name))
		if err == nil {
			f.Discard()
		}
		if !errors.Is(err, want) || err != nil && !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

// TestPipeCommitTaken: what nobody has read yet is not saved yet.
func TestPipeCommitTaken(t *testing.T) {
	for name, tt := range map[string]struct {
		reader func(r *os.File)
		want   error
	}{
		"reads it late": {func(r *os.File) { _, _ = io.CopyN(io.Discard, r, 1000); _ = r.Close() }, nil},
		"reads a part":  {func(r *os.File) { _, _ = io.CopyN(io.Discard, r, 999); _ = r.Close() }, unix.EPIPE},
		"does nothing":  {func(*os.File) {}, os.ErrDeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			defer w.Close()
			p, err := OpenPipe(int(w.Fd()), "standard output", 500*time.Millisecond)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if _, err := p.Write(make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			timer := time.AfterFunc(50*time.Millisecond, func() { tt.reader(r) })
			defer timer.Stop()
			if err := p.Commit(); !errors.Is(err, tt.want) || time.Since(begun) < 50*time.Millisecond {
				t.Errorf("%v after %s, want %v", err, time.Since(begun), tt.want)
			}
		})
	}
}

// TestPipeCommitClosed: a Commit that waits ends with the pipe's Close.
func TestPipeCommitClosed(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	p, err := OpenPipe(int(w.Fd()), "standard output", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write([]byte("guest")); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { _ = p.Close() })
	if err := p.Commit(); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("%v", err)
	}
}

// TestNamedPipeLimit: nobody at the other end, for longer than the limit, or
// than somebody wants to wait; and a writer that has come and gone.
func TestNamedPipeLimit(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, write := range []bool{false, true} {
		if _, err := OpenNamedPipe(t.Context(), name, write, 50*time.Millisecond); err == nil || !strings.Contains(err.Error(), "nobody") {
			t.Errorf("write %v: %v", write, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := OpenNamedPipe(ctx, name, write, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("write %v: %v", write, err)
		}
		cancel()
	}
	go func() {
		if w, err := OpenNamedPipe(t.Context(), name, true, time.Minute); err == nil {
			_, _ = w.Write([]byte("guest"))
			_ = w.Close()
		}
	}()
	r, err := OpenNamedPipe(t.Context(), name, false, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b := make([]byte, 10)
	if n, err := r.Read(b); err != nil || string(b[:n]) != "guest" {
		t.Errorf("%q, %v", b[:n], err)
	}
}
