package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
)

// What saved guests are read from and written to: files, block devices, pipes.

// pipeLimit is how long the program at the other end of a pipe may do nothing.
const pipeLimit = 2 * time.Minute

// pipeName is the file name that stands for standard input or output.
const pipeName = "-"

// isStandard tells whether a name stands for this standard input or output:
// pipeName does, and so do /dev/stdout and the other links to it. What they
// lead to could not always be opened a second time, and not with its limits.
func isStandard(name string, std *os.File) bool {
	if name == pipeName {
		return true
	}
	path, err := filepath.Abs(name)
	if err != nil || !strings.HasPrefix(path, "/dev/") && !strings.HasPrefix(path, "/proc/") {
		return false
	}
	if link, err := os.Lstat(path); err != nil || link.Mode()&os.ModeSymlink == 0 {
		return false
	}
	named, err := os.Stat(path)
	if err != nil {
		return false
	}
	own, err := std.Stat()
	return err == nil && os.SameFile(named, own)
}

// input is read from beginning to end. A Read of it ends with ctx.
type input struct {
	ctx     context.Context
	r       io.Reader
	name    string
	file    *os.File // nil: a pipe
	mode    os.FileMode
	closing func()
}

// openInput opens a file, a block device or a pipe, or standard input.
func openInput(ctx context.Context, name string) (*input, error) {
	if isStandard(name, os.Stdin) {
		info, err := os.Stdin.Stat()
		if err != nil {
			return nil, err
		}
		pipe, err := xen.OpenPipe(int(os.Stdin.Fd()), "standard input", pipeLimit)
		if err != nil {
			return nil, err
		}
		in := pipeInput(ctx, pipe, "standard input", info.Mode())
		return in, in.usable(os.Stdin)
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Mode()&os.ModeNamedPipe != 0 {
		pipe, err := xen.OpenNamedPipe(ctx, name, false, pipeLimit)
		if err != nil {
			return nil, err
		}
		return pipeInput(ctx, pipe, name, info.Mode()), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	in := &input{ctx: ctx, r: f, name: name, file: f, mode: info.Mode(), closing: func() { _ = f.Close() }}
	return in, in.usable(f)
}

func pipeInput(ctx context.Context, pipe *xen.Pipe, name string, mode os.FileMode) *input {
	stop := context.AfterFunc(ctx, func() { _ = pipe.Close() })
	return &input{ctx: ctx, r: pipe, name: name, mode: mode, closing: func() { stop(); _ = pipe.Close() }}
}

// usable refuses, and closes, what nothing can be read from.
func (in *input) usable(f *os.File) error {
	var err error
	switch {
	case in.mode.IsDir():
		err = fmt.Errorf("%s is a folder", in.name)
	case term.IsTerminal(int(f.Fd())):
		err = usagef("%s is a terminal: name a file, or redirect one into it", in.name)
	}
	if err != nil {
		in.close()
	}
	return err
}

func (in *input) close() { in.closing() }

// Read implements io.Reader.
func (in *input) Read(b []byte) (int, error) {
	if in.ctx.Err() != nil {
		return 0, context.Cause(in.ctx)
	}
	n, err := in.r.Read(b)
	if err != nil && in.ctx.Err() != nil {
		err = context.Cause(in.ctx) // that it was closed is no news
	}
	return n, err
}

// saved is the saved guest in it.
func (in *input) saved() io.Reader {
	if isBlockDevice(in.mode) {
		return savefmt.Device{Reader: in}
	}
	return in
}

func isBlockDevice(mode os.FileMode) bool {
	return mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0
}

// sameDevice tells whether that name is of the block device that this is.
func (in *input) sameDevice(name string) bool {
	named, err := os.Stat(name)
	if err != nil || in.file == nil || !isBlockDevice(in.mode) || !isBlockDevice(named.Mode()) {
		return false
	}
	own, err := in.file.Stat()
	return err == nil && own.Sys().(*syscall.Stat_t).Rdev == named.Sys().(*syscall.Stat_t).Rdev
}

// checkEnd refuses a container that was cut off, if that can be seen without
// reading it.
func (in *input) checkEnd() error {
	if in.file == nil || !in.mode.IsRegular() {
		return nil
	}
	info, err := in.file.Stat()
	if err != nil {
		return err
	}
	return savefmt.CheckContainerEnd(in.file, info.Size())
}

// tellAside returns where to tell about a guest that is saved to that name:
// not into the guest.
func tellAside(c *cli.Context, name string) io.Writer {
	if isStandard(name, os.Stdout) {
		return os.Stderr
	}
	return c.App.Writer
}

// openTarget opens what a guest is saved to. discard removes what was not
// committed.
func openTarget(ctx context.Context, name string) (to xen.SaveTarget, discard func(), err error) {
	if isStandard(name, os.Stdout) {
		if term.IsTerminal(int(os.Stdout.Fd())) {
			return nil, nil, usagef("a saved guest is not for a terminal: redirect standard output")
		}
		pipe, err := xen.OpenPipe(int(os.Stdout.Fd()), "standard output", pipeLimit)
		return pipeTarget(ctx, pipe, err)
	}
	switch info, err := os.Stat(name); {
	case err == nil && info.Mode()&os.ModeNamedPipe != 0:
		pipe, err := xen.OpenNamedPipe(ctx, name, true, pipeLimit)
		return pipeTarget(ctx, pipe, err)
	case err == nil && isTerminal(name, info.Mode()):
		return nil, nil, usagef("a saved guest is not for a terminal: %s is one", name)
	case err == nil && isBlockDevice(info.Mode()):
		device, err := xen.OpenSaveDevice(name)
		if err != nil {
			return nil, nil, err
		}
		return device, device.Discard, nil
	}
	file, err := xen.CreateSaveFile(name)
	if err != nil {
		return nil, nil, err
	}
	return file, file.Discard, nil
}

// isTerminal tells whether a file of that name and mode is a terminal.
func isTerminal(name string, mode os.FileMode) bool {
	if mode&os.ModeCharDevice == 0 {
		return false
	}
	f, err := os.OpenFile(name, os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return term.IsTerminal(int(f.Fd()))
}

// checkKept refuses a target that would take a guest which is then destroyed,
// and of which nobody knows that it keeps it: /dev/null takes everything. It
// also stands in for a standard output that was closed.
func checkKept(name string) error {
	what := name + " is a character device"
	info, err := os.Stat(name)
	if isStandard(name, os.Stdout) {
		what = "standard output is closed, or a character device"
		info, err = os.Stdout.Stat()
	}
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return nil // what cannot be looked at fails when it is opened
	}
	return usagef("save: %s: what is written there may be lost, and the guest would be destroyed; -c lets it run on", what)
}

func pipeTarget(ctx context.Context, pipe *xen.Pipe, err error) (xen.SaveTarget, func(), error) {
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = pipe.Close() })
	return pipe, func() { stop(); _ = pipe.Close() }, nil
}

// warnUntold says that how something has ended could not be told, which does not
// change how it has.
func warnUntold(err error) {
	if err != nil {
		logrus.Warnf("how it has ended could not be told: %v", err)
	}
}
