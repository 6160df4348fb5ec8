package xl

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const qmpGreeting = `{"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": ["oob"]}}`

// fakeQEMU listens on a QMP socket. Each command gets what answer returns; it
// may hold several lines, and %ID% is the command's id.
type fakeQEMU struct {
	greeting string
	answer   func(command string, args json.RawMessage) string

	mu       sync.Mutex
	commands []string
	files    []*os.File // received with commands
	loaded   []byte     // of a state that it was given
}

func (f *fakeQEMU) listen(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "qmp")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.serve(conn.(*net.UnixConn))
			conn.Close()
		}
	})
	t.Cleanup(func() {
		l.Close()
		served.Wait()
		for _, file := range f.files {
			file.Close()
		}
	})
	return path
}

// serve reads through a reader that collects the descriptors on the way.
func (f *fakeQEMU) serve(conn *net.UnixConn) {
	fmt.Fprintln(conn, f.greeting)
	in := bufio.NewScanner(readerFunc(func(b []byte) (int, error) {
		oob := make([]byte, 64)
		n, oobn, _, _, err := conn.ReadMsgUnix(b, oob)
		f.keep(oob[:oobn])
		return n, err
	}))
	for in.Scan() {
		var req struct {
			Execute   string
			Arguments json.RawMessage
			ID        json.RawMessage
		}
		if err := json.Unmarshal(in.Bytes(), &req); err != nil {
			return
		}
		f.mu.Lock()
		f.commands = append(f.commands, req.Execute)
		f.mu.Unlock()
		reply := `{"return": {}, "id": %ID%}`
		if req.Execute != "qmp_capabilities" {
			reply = f.answer(req.Execute, req.Arguments)
		}
		io.WriteString(conn, strings.ReplaceAll(reply, "%ID%", string(req.ID))+"\n")
	}
}

type readerFunc func([]byte) (int, error)

func (r readerFunc) Read(b []byte) (int, error) {
	n, err := r(b)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

func (f *fakeQEMU) keep(oob []byte) {
	msgs, _ := unix.ParseSocketControlMessage(oob)
	for i := range msgs {
		fds, _ := unix.ParseUnixRights(&msgs[i])
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			f.mu.Lock()
			f.files = append(f.files, os.NewFile(uintptr(fd), "received"))
			f.mu.Unlock()
		}
	}
}

func (f *fakeQEMU) heard() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.commands)
}

// always answers every command with the same.
func always(reply string) func(string, json.RawMessage) string {
	return func(string, json.RawMessage) string { return reply }
}

func TestQMPExecute(t *testing.T) {
	const event = `{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}`
	long := `{"event": "X", "data": "` + strings.Repeat("x", maxQMPLine) + `"}`
	for _, tc := range []struct {
		name, reply, fails string // fails: what the error must say
	}{
		{"plain", `{"return": {"running": true}, "id": %ID%}`, ""},
		{"after events", event + "\n" + event + "\n" + `{"return": {"running": true}, "id": %ID%}`, ""},
		{"after another's reply", `{"return": {"running": false}, "id": 12345}` + "\n" + `{"return": {"running": true}, "id": %ID%}`, ""},
		{"refused", `{"error": {"class": "GenericError", "desc": "no way"}, "id": %ID%}`, "refused query-status: no way (GenericError)"},
		{"refused unread", `{"error": {"class": "GenericError", "desc": "Invalid JSON"}}`, "Invalid JSON"},
		{"not JSON", `Segmentation fault`, "not JSON"},
		{"wrong type", `{"return": {"running": 5}, "id": %ID%}`, "unexpected result"},
		{"no object", `{"return": 7, "id": %ID%}`, "unexpected result"},
		{"too long", long, "more than"},
		{"events without end", strings.Repeat(event+"\n", maxQMPSkip), "no reply"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := &fakeQEMU{greeting: qmpGreeting, answer: always(tc.reply)}
			q, err := dialQMP(t.Context(), f.listen(t))
			if err != nil {
				t.Fatal(err)
			}
			defer q.close()
			var st struct{ Running bool }
			err = q.execute(t.Context(), "query-status", nil, &st)
			switch {
			case tc.fails == "" && (err != nil || !st.Running):
				t.Errorf("got %+v, %v", st, err)
			case tc.fails != "" && (err == nil || !strings.Contains(err.Error(), tc.fails)):
				t.Errorf("error %v, want %q in it", err, tc.fails)
			}
		})
	}
}

func TestQMPGreeting(t *testing.T) {
	for greeting, want := range map[string]string{
		"":                     "not JSON",
		`{"hello": "world"}`:   "not QMP's",
		`{"QMP": null}`:        "not QMP's",
		`{"QMP": {}} trailing`: "not JSON",
	} {
		f := &fakeQEMU{greeting: greeting}
		q, err := dialQMP(t.Context(), f.listen(t))
		if err == nil {
			q.close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("greeting %q: %v, want %q in it", greeting, err, want)
		}
	}
}

// A socket that another client holds accepts the connection, and says nothing.
func TestQMPBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "qmp")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	q, err := dialQMP(ctx, path)
	if err == nil {
		q.close()
	}
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another program") {
		t.Errorf("got %v, want DeadlineExceeded and a hint", err)
	}
}

// After a lost reply nothing can be relied on any more, and the next command
// must not take the late reply for its own.
func TestQMPTimeout(t *testing.T) {
	f := &fakeQEMU{greeting: qmpGreeting, answer: always(`{"event": "STOP"}`)}
	q, err := dialQMP(t.Context(), f.listen(t))
	if err != nil {
		t.Fatal(err)
	}
	defer q.close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := q.execute(ctx, "stop", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want DeadlineExceeded", err)
	}
	if err := q.execute(t.Context(), "cont", nil, nil); err == nil || !strings.Contains(err.Error(), "failed before") {
		t.Errorf("the broken connection: %v", err)
	}
	if heard := f.heard(); slices.Contains(heard, "cont") {
		t.Errorf("QEMU has heard %v", heard)
	}
}
