package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// transport is a program, started by a shell, whose stdin and stdout are the
// control connection: ssh with xenferry migrate-receive at its far end.
type transport struct {
	io.Reader
	io.WriteCloser
	cmd    *exec.Cmd
	stderr *tailWriter
	wait   func() error
}

// closeGrace is how long the program may take to end by itself once its stdin
// is closed.
const closeGrace = 3 * time.Second

// startTransport starts command. It does not get the terminal's Ctrl-C:
// xenferry decides what a cancel means, and the connection must outlive it.
func startTransport(command string) (*transport, error) {
	cmd := exec.Command("/bin/sh", "-c", `trap "" INT QUIT HUP; `+command)
	t := &transport{cmd: cmd, stderr: &tailWriter{to: os.Stderr}}
	cmd.Stderr = t.stderr
	// Without this, a grandchild that keeps stderr open would hold up Wait.
	cmd.WaitDelay = closeGrace
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// A pipe of our own: that of StdoutPipe is closed by Wait, which may come
	// before everything in it was read.
	stdout, child, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout = child
	err = cmd.Start()
	_ = child.Close()
	if err != nil {
		_ = stdout.Close()
		return nil, fmt.Errorf("starting %q: %w", command, err)
	}
	t.Reader, t.WriteCloser = stdout, stdin
	t.wait = sync.OnceValue(cmd.Wait)
	return t, nil
}

// Close ends the program: by closing its stdin, and if need be by a signal.
func (t *transport) Close() error {
	_ = t.WriteCloser.Close()
	done := make(chan struct{})
	go func() {
		_ = t.wait()
		close(done)
	}()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		select {
		case <-done:
			return t.Reader.(io.Closer).Close()
		case <-time.After(closeGrace):
			_ = t.cmd.Process.Signal(sig)
		}
	}
	<-done
	return t.Reader.(io.Closer).Close()
}

// errNoReceiver: the shell at the other end did not find the program.
var errNoReceiver = errors.New("the receiving program was not found there")

// failure says in what way the program ended, or nil if it ended well. It is
// asked after Close.
func (t *transport) failure() error {
	var exit *exec.ExitError
	if !errors.As(t.wait(), &exit) || exit.ExitCode() == 0 {
		return nil
	}
	text := t.stderr.lastLine()
	switch code := exit.ExitCode(); {
	case code == 127:
		return fmt.Errorf("%w (%s): install xenferry on that host, or name it with --receiver", errNoReceiver, text)
	case text != "":
		return fmt.Errorf("%s (exit status %d)", text, code)
	default:
		return exit
	}
}

// tailWriter passes on what it gets, and keeps its end.
type tailWriter struct {
	to   io.Writer
	mu   sync.Mutex
	tail []byte
}

const tailBytes = 4096

func (w *tailWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	w.tail = append(w.tail, p...)
	if over := len(w.tail) - tailBytes; over > 0 {
		w.tail = bytes.Clone(w.tail[over:])
	}
	w.mu.Unlock()
	return w.to.Write(p)
}

func (w *tailWriter) lastLine() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(w.tail)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
