//go:build xen && lab

package xl

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
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
// as fast as xenstored answers, until its stdin ends; between a clientPause and a
// clientGoOn on it, it rests. It prints a line when it has begun, and in the end
// how often.
func hammer(path string) {
	s, err := openStore()
	if err != nil {
		fatal("client", err)
	}
	var stop atomic.Bool
	var turn sync.Mutex // held by the turn, or while it rests
	go func() {
		told, rests := make([]byte, 1), false
		for !stop.Load() {
			n, _ := os.Stdin.Read(told)
			stop.Store(n == 0)
			switch rest := n > 0 && told[0] == clientPause; {
			case rest && !rests:
				turn.Lock()
			case rests && !rest:
				turn.Unlock()
			default:
				continue
			}
			rests = !rests
		}
	}()
	turns := 0
	for ; !stop.Load(); turns++ {
		turn.Lock()
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
		turn.Unlock()
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
	stdin io.WriteCloser
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

// What a client is told.
const (
	clientPause = 'p'
	clientGoOn  = 'g'
)

// loadRise is enough for all clients to be at work again.
const loadRise = 200 * time.Millisecond

// without lets the clients rest while f runs, and returns when they are at work
// again, after a random time: no suspend is to keep step with the load. (A
// signal would stop a client in the middle of a message, for which xenstored
// waits with all others.)
func (l *load) without(t *testing.T, f func()) {
	t.Helper()
	l.tell(t, clientPause)
	l.worked += time.Since(l.begun)
	f()
	l.tell(t, clientGoOn)
	l.begun = time.Now()
	time.Sleep(loadRise + rand.N(loadRise))
}

func (l *load) tell(t *testing.T, what byte) {
	t.Helper()
	for _, c := range l.clients {
		if _, err := c.stdin.Write([]byte{what}); err != nil {
			t.Fatal(err)
		}
	}
}

// stop ends the clients and returns how many requests xenstored has answered
// them in a second.
func (l *load) stop(t *testing.T) (requests int) {
	t.Helper()
	took := l.worked + time.Since(l.begun)
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
