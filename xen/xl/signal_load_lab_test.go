//go:build xen && lab

package xl

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// clientEnv makes a process of this binary a client that hammers the node.
	clientEnv = "XENFERRY_XL_CLIENT"
	loadPath  = "/tool/xenferry-load" // the clients' nodes
	// requestsPerTurn: a transaction is start, read, write and end; and a read.
	requestsPerTurn = 5
)

func init() { roles[clientEnv] = hammer }

// hammer changes a node of its own in a transaction and reads it, over and over
// as fast as xenstored answers, until its stdin ends. It prints a line when it
// has begun, and in the end how often.
func hammer(path string) {
	s, err := openStore()
	if err != nil {
		fatal("client", err)
	}
	var stop atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop.Store(true)
	}()
	turns := 0
	for ; !stop.Load(); turns++ {
		err := s.update(path, func(string) (string, bool) { return strconv.Itoa(turns), true })
		if err == nil {
			_, _, err = s.read(path)
		}
		if err != nil {
			fatal("client", err)
		}
		if turns == 0 {
			fmt.Println("begun")
		}
	}
	fmt.Println(turns)
}

// load is a number of clients that hammer xenstored.
type load struct {
	begun   time.Time     // to hammer, the last time
	worked  time.Duration // before that
	clients []*client
}

type client struct {
	cmd   *exec.Cmd
	stdin io.Closer
	lines *bufio.Scanner
}

// startLoad returns when all clients hammer.
func startLoad(t *testing.T, clients int) *load {
	t.Helper()
	l := &load{}
	t.Cleanup(func() { l.stop(t) })
	for i := range clients {
		cmd := asRole(clientEnv, fmt.Sprintf("%s/%d", loadPath, i))
		stdin, err := cmd.StdinPipe()
		stdout, err2 := cmd.StdoutPipe()
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		l.clients = append(l.clients, &client{cmd, stdin, bufio.NewScanner(stdout)})
	}
	for _, c := range l.clients {
		if !c.lines.Scan() {
			t.Fatal("a client of xenstored has not begun")
		}
	}
	l.begun = time.Now()
	return l
}

// pause stops the clients until they are told to go on.
func (l *load) pause(t *testing.T) {
	l.signal(t, unix.SIGSTOP)
	l.worked += time.Since(l.begun)
}

func (l *load) goOn(t *testing.T) {
	l.signal(t, unix.SIGCONT)
	l.begun = time.Now()
}

func (l *load) signal(t *testing.T, sig unix.Signal) {
	t.Helper()
	for _, c := range l.clients {
		if err := c.cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
}

// stop ends the clients and returns how many requests xenstored has answered
// them in a second.
func (l *load) stop(t *testing.T) (requests int) {
	t.Helper()
	took := l.worked + time.Since(l.begun)
	l.signal(t, unix.SIGCONT) // a measurement may have failed in a pause
	for _, c := range l.clients {
		c.stdin.Close()
	}
	turns := 0
	for _, c := range l.clients {
		n := 0
		if c.lines.Scan() {
			n, _ = strconv.Atoi(c.lines.Text())
		}
		if err := c.cmd.Wait(); err != nil || n == 0 {
			t.Errorf("a client of xenstored has ended after %d turns: %v", n, err)
		}
		turns += n
	}
	l.clients = nil
	return int(float64(turns*requestsPerTurn) / took.Seconds())
}
