package xl

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Limits on what QEMU may make us do.
const (
	maxQMPLine   = 1 << 20          // bytes of one message; real ones are below 64 KiB
	maxQMPSkip   = 10000            // messages passed over while waiting for one reply
	maxQMPAnswer = 60 * time.Second // the wait for one reply, where ctx sets no earlier end
)

// qmpClient speaks QEMU's machine protocol: a greeting, then commands, each
// with a reply of the same id, and events in between, which are passed over.
// One goroutine at a time may use it. A socket serves one client: keep the
// connection for one piece of work only.
type qmpClient struct {
	conn   *net.UnixConn
	r      *bufio.Reader
	lastID int
	broken error // what made the connection unusable
}

// qmpError is QEMU's refusal of a command.
type qmpError struct {
	Command string
	Class   string `json:"class"`
	Desc    string `json:"desc"`
}

func (e *qmpError) Error() string {
	return fmt.Sprintf("QEMU refused %s: %s (%s)", e.Command, e.Desc, e.Class)
}

// dialQMP connects to the QMP socket at path and makes it ready for commands.
func dialQMP(ctx context.Context, path string) (*qmpClient, error) {
	ctx, cancel := context.WithTimeout(ctx, maxQMPAnswer)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%s: %w", path, context.Cause(ctx))
		}
		return nil, fmt.Errorf("connect to QEMU: %w", err)
	}
	q := &qmpClient{conn: conn.(*net.UnixConn), r: bufio.NewReaderSize(conn, maxQMPLine)}
	if err := q.greet(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("QEMU at %s: %w", path, err)
	}
	return q, nil
}

func (q *qmpClient) greet(ctx context.Context) error {
	var hello struct{ QMP *struct{} }
	stop := q.until(ctx)
	err := q.readMessage(&hello)
	stop()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("no greeting (is another program connected to it?): %w", context.Cause(ctx))
	case err != nil:
		return err
	case hello.QMP == nil:
		return errors.New("the greeting is not QMP's")
	}
	return q.execute(ctx, "qmp_capabilities", nil, nil)
}

func (q *qmpClient) close() error { return q.conn.Close() }

// until makes reads and writes fail when ctx ends. After stop it has no effect
// any more, not even a late one on the next command.
func (q *qmpClient) until(ctx context.Context) (stop func()) {
	_ = q.conn.SetDeadline(time.Time{}) // fails only on a closed socket, as all else then does
	done := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = q.conn.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !cancel() {
			<-done
		}
	}
}

// qmpRequest is one command.
type qmpRequest struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        int    `json:"id"`
}

// qmpMessage is anything that QEMU says after its greeting.
type qmpMessage struct {
	Event  string          `json:"event"`
	Return json.RawMessage `json:"return"`
	Error  *qmpError       `json:"error"`
	ID     *int            `json:"id"`
}

// execute runs one command, hands files over with it, and stores what it
// returns in result, unless that is nil. QEMU's refusal is a *qmpError; after
// any other error the connection cannot be used any more.
func (q *qmpClient) execute(ctx context.Context, command string, args, result any, files ...*os.File) error {
	if q.broken != nil {
		return fmt.Errorf("%s: the connection has failed before: %w", command, q.broken)
	}
	ctx, cancel := context.WithTimeout(ctx, maxQMPAnswer)
	defer cancel()
	defer q.until(ctx)()

	q.lastID++
	reply, err := q.exchange(qmpRequest{Execute: command, Arguments: args, ID: q.lastID}, files)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		q.broken = err
		return fmt.Errorf("%s: %w", command, err)
	}
	if reply.Error != nil {
		reply.Error.Command = command
		return reply.Error
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(reply.Return, result); err != nil {
		return fmt.Errorf("%s: unexpected result: %w", command, err)
	}
	return nil
}

// exchange sends a request and returns the message that answers it.
func (q *qmpClient) exchange(req qmpRequest, files []*os.File) (*qmpMessage, error) {
	line, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := q.conn.WriteMsgUnix(append(line, '\n'), rights, nil); err != nil {
		return nil, err
	}
	for range maxQMPSkip {
		var m qmpMessage
		if err := q.readMessage(&m); err != nil {
			return nil, err
		}
		// A refusal of what QEMU could not even parse has no id.
		if m.Event == "" && (m.ID == nil && m.Error != nil || m.ID != nil && *m.ID == req.ID) {
			return &m, nil
		}
	}
	return nil, fmt.Errorf("no reply within %d messages", maxQMPSkip)
}

// readMessage reads one line.
func (q *qmpClient) readMessage(m any) error {
	line, err := q.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return fmt.Errorf("message of more than %d bytes", maxQMPLine)
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, m); err != nil {
		return fmt.Errorf("message is not JSON: %w", err)
	}
	return nil
}
