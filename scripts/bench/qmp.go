package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// qmp is a connection to a QEMU's monitor (QEMU: docs/interop/qmp-spec.rst).
type qmp struct {
	conn net.Conn
	in   *json.Decoder
	// events that came while an answer was awaited
	events []qmpMessage
}

type qmpMessage struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Desc string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
	Data  struct {
		Status string `json:"status"`
	} `json:"data"`
}

// dialQMP connects as soon as the socket is there.
func dialQMP(ctx context.Context, path string) (*qmp, error) {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		if err == nil {
			q := &qmp{conn: conn, in: json.NewDecoder(conn)}
			var greeting json.RawMessage
			if err := q.in.Decode(&greeting); err != nil {
				conn.Close()
				return nil, fmt.Errorf("QEMU's monitor: %w", err)
			}
			return q, q.do(ctx, "qmp_capabilities", nil, nil)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("QEMU's monitor did not come up: %w", errors.Join(err, ctx.Err()))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// do runs a command and stores what it returns in result, if not nil.
func (q *qmp) do(ctx context.Context, command string, arguments, result any) error {
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = q.conn.SetDeadline(deadline)
	}
	if err := json.NewEncoder(q.conn).Encode(request); err != nil {
		return fmt.Errorf("QEMU: %s: %w", command, err)
	}
	for {
		var m qmpMessage
		if err := q.in.Decode(&m); err != nil {
			return fmt.Errorf("QEMU: %s: %w", command, err)
		}
		switch {
		case m.Event != "":
			q.events = append(q.events, m)
		case m.Error != nil:
			return fmt.Errorf("QEMU: %s: %s", command, m.Error.Desc)
		case result != nil:
			return json.Unmarshal(m.Return, result)
		default:
			return nil
		}
	}
}

// migrated waits until a migration has ended, and fails unless it succeeded.
func (q *qmp) migrated() error {
	for {
		var m qmpMessage
		if len(q.events) > 0 {
			m, q.events = q.events[0], q.events[1:]
		} else if err := q.in.Decode(&m); err != nil {
			return fmt.Errorf("QEMU: waiting for the end of the migration: %w", err)
		}
		switch {
		case m.Event != "MIGRATION":
		case m.Data.Status == "completed":
			return nil
		case m.Data.Status == "failed" || m.Data.Status == "cancelled":
			return fmt.Errorf("QEMU's migration has %s", m.Data.Status)
		}
	}
}
