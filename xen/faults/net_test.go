package faults

import (
	"bytes"
	"encoding/json"
	"io"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// linkTime is how long a message is under way.
const linkTime = time.Millisecond

// pipe is a connection between two programs. Writes never block: what the
// network does not deliver is kept.
type pipe struct {
	w       *world
	procs   [2]*proc
	queues  [2][]parcel // to procs[i]
	changed [2]chan struct{}
	closed  bool
	stalled bool
}

type parcel struct {
	due  time.Time
	data []byte
}

// connect makes a connection between two programs. The world is locked.
func (w *world) connect(a, b *proc) *pipe {
	c := &pipe{w: w, procs: [2]*proc{a, b}}
	for i := range c.changed {
		c.changed[i] = make(chan struct{}, 1)
	}
	c.closed = a.dead || b.dead
	w.conns = append(w.conns, c)
	return c
}

// cut ends the connection. What is under way is lost. The world is locked.
func (c *pipe) cut() {
	c.closed = true
	c.queues = [2][]parcel{}
	c.wake()
}

func (c *pipe) wake() {
	for _, ch := range c.changed {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// end is one end of a pipe, for xen.NewLink.
type end struct {
	*pipe
	side int // whose end it is
}

func (e end) Write(b []byte) (int, error) {
	p := e.procs[e.side]
	what := frameKind(b)
	if what == "ping" { // their number depends on time alone
		return len(b), e.send(bytes.Clone(b))
	}
	err := p.do("send "+what, func() error { return e.sendLocked(bytes.Clone(b)) })
	return len(b), err
}

func (e end) send(b []byte) error {
	if err := e.procs[e.side].alive(); err != nil {
		return err
	}
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	return e.sendLocked(b)
}

func (e end) sendLocked(b []byte) error {
	if e.closed {
		return io.ErrClosedPipe
	}
	if e.w.plan.damages() && len(b) > 0 {
		b[len(b)/2] ^= 0x40
	}
	other := 1 - e.side
	e.queues[other] = append(e.queues[other], parcel{time.Now().Add(linkTime), b})
	e.wake()
	return nil
}

// damages tells, once, whether the message at this point is to be damaged.
func (p *plan) damages() bool {
	if p == nil {
		return false
	}
	if p.first == damage && p.struck == 1 {
		p.first = "" // done
		return true
	}
	if p.second == damage && p.struck == p.after+1 {
		p.second = ""
		return true
	}
	return false
}

func (e end) Read(b []byte) (int, error) {
	for {
		if err := e.procs[e.side].alive(); err != nil {
			return 0, err
		}
		e.w.mu.Lock()
		queue, closed, stalled := e.queues[e.side], e.closed, e.stalled
		var wait time.Duration
		if len(queue) > 0 && !stalled {
			if wait = time.Until(queue[0].due); wait <= 0 {
				n := copy(b, queue[0].data)
				if queue[0].data = queue[0].data[n:]; len(queue[0].data) == 0 {
					e.queues[e.side] = queue[1:]
				}
				e.w.mu.Unlock()
				return n, nil
			}
		}
		e.w.mu.Unlock()
		switch {
		case wait > 0:
			time.Sleep(wait)
		case closed:
			return 0, io.EOF
		default:
			<-e.changed[e.side]
		}
	}
}

func (e end) Close() error {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	e.closed = true // what is under way still arrives
	e.wake()
	return nil
}

// frameKind names what is written, for the points.
func frameKind(b []byte) string {
	h, err := savefmt.ParseHeader(b)
	if err != nil {
		return "data"
	}
	switch h.Type {
	case savefmt.FramePing:
		return "ping"
	case savefmt.FrameMessage:
		var m struct {
			Kind string `json:"kind"`
		}
		_ = json.Unmarshal(b[savefmt.HeaderSize:], &m)
		return m.Kind
	case savefmt.FrameState:
		return "state"
	case savefmt.FrameRoundEnd:
		return "round end"
	}
	return "pages"
}
