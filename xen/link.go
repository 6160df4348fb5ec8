package xen

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// abortLimit bounds the telling of a failure: the guest does not wait for it.
const abortLimit = 2 * time.Second

// pingEvery is how often an end that has nothing to say says so.
const pingEvery = time.Second

// Limits on what the other end may send ahead of being read.
const (
	maxQueued     = 256
	maxStateBytes = 64 << 20
)

// Link is the control connection between the two ends of a migration. One
// goroutine reads it, any may write. Its context ends with a cause as soon as
// the other end gives up, falls silent, takes nothing, is lost or sends
// nonsense; what this end has to say about that can still be written.
type Link struct {
	rw     io.ReadWriteCloser
	limits Limits
	peer   string // name of the other host, for errors

	ctx    context.Context
	cancel context.CancelCauseFunc

	writing chan struct{} // has one value while somebody writes

	in         *frameReader
	lastHeard  atomic.Int64 // by monotonic
	writeBegan atomic.Int64 // by monotonic, of the write that goes on; 0: none does
	queue      chan delivery
	stored     storedRounds
	heardFrame atomic.Bool    // the other end is there, and speaks our protocol
	stateSize  int            // of queued records so far; reader goroutine only
	onPages    chan frameSink // gets one value when the control connection is to carry pages
	done       chan struct{}  // closed when the reader goroutine has ended
	closeOnce  func() error
}

// delivery is one thing that came in: a message or a record.
type delivery struct {
	msg    *message
	record savefmt.Record
}

// frameSink takes a frame of a data connection whose header was just read.
type frameSink func(h savefmt.Header, in *frameReader) error

// NewLink starts a link on a connection to peer, the other host's name. It
// owns rw from now on, until Close.
func NewLink(rw io.ReadWriteCloser, peer string, limits Limits) *Link {
	l := &Link{
		rw: rw, limits: limits.WithDefaults(), peer: peer,
		writing: make(chan struct{}, 1), queue: make(chan delivery, maxQueued), onPages: make(chan frameSink, 1), done: make(chan struct{}),
		stored: storedRounds{more: make(chan struct{}, 1)},
	}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	l.in = newFrameReader(heardReader{rw, &l.lastHeard})
	l.lastHeard.Store(monotonic())
	l.closeOnce = sync.OnceValue(rw.Close)
	go l.read()
	go l.ping()
	go l.watchSilence()
	return l
}

// epoch is what monotonic counts from.
var epoch = time.Now()

// monotonic returns nanoseconds that no step of the host's clock changes: what
// is silent must not look lively because somebody has set that back. It is
// never 0.
func monotonic() int64 { return 1 + int64(time.Since(epoch)) }

// heardReader notes the time of each read that brought something.
type heardReader struct {
	r    io.Reader
	when *atomic.Int64
}

func (h heardReader) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	if n > 0 {
		h.when.Store(monotonic())
	}
	return n, err
}

// Context ends, with a cause, when the link does.
func (l *Link) Context() context.Context { return l.ctx }

// Close ends the link and waits for its reader.
func (l *Link) Close() error {
	l.cancel(context.Canceled)
	err := l.closeOnce()
	select {
	case <-l.done:
	case <-time.After(pingEvery): // a blocking stdin cannot be interrupted; the process ends soon
	}
	return err
}

// read delivers what comes in, in order, until the connection ends.
func (l *Link) read() {
	defer close(l.done)
	for {
		if err := l.readOne(); err != nil {
			l.cancel(err)
			return
		}
	}
}

func (l *Link) readOne() error {
	h, err := l.in.header()
	if err != nil {
		return l.lost(err)
	}
	l.heardFrame.Store(true)
	switch h.Type {
	case savefmt.FramePing:
		return nil
	case savefmt.FrameMessage:
		body, err := l.in.body(h)
		if err != nil {
			return l.lost(err)
		}
		m, err := decodeMessage(body)
		if err != nil {
			return fmt.Errorf("from %s: %w", l.peer, err)
		}
		return l.deliver(m)
	case savefmt.FrameState:
		return l.readState(h)
	case savefmt.FramePages, savefmt.FrameCopies, savefmt.FrameRoundEnd:
		select {
		case sink := <-l.onPages:
			l.onPages <- sink // room for one, and this goroutine alone takes it
			return sink(h, l.in)
		case <-l.ctx.Done():
			return context.Cause(l.ctx)
		}
	default:
		return fmt.Errorf("%w: frame of type %d on the control connection", ErrCorrupt, h.Type)
	}
}

func (l *Link) deliver(m *message) error {
	if m.Kind == kindAbort {
		err := &PeerError{Host: l.peer, Code: m.Abort.Code, Text: m.Abort.Text}
		_ = l.push(delivery{msg: m}) // for a receive that waits for an answer, see commit
		return err
	}
	if m.Kind == kindClock && m.Clock.CameNs == 0 {
		return l.tellTime()
	}
	if m.Kind == kindStored { // between any others
		l.stored.tell(m.Stored.Round)
		return nil
	}
	return l.push(delivery{msg: m})
}

func (l *Link) readState(h savefmt.Header) error {
	l.stateSize += int(h.Length)
	if l.stateSize > maxStateBytes {
		return fmt.Errorf("%w: %s sends more than %d MiB of state", ErrCorrupt, l.peer, maxStateBytes>>20)
	}
	body, err := l.in.body(h)
	if err != nil {
		return l.lost(err)
	}
	record, err := savefmt.ParseState(body)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return l.push(delivery{record: record})
}

// push never waits, so that the reader goes on hearing the other end.
func (l *Link) push(d delivery) error {
	select {
	case l.queue <- d:
		return nil
	default:
		return fmt.Errorf("%w: %s sends more control messages than the protocol has", ErrCorrupt, l.peer)
	}
}

// lost turns a read error into what it means for the migration.
func (l *Link) lost(err error) error {
	switch {
	case errors.Is(err, savefmt.ErrNotFrame) && !l.heardFrame.Load():
		return fmt.Errorf("%s: %w (does a login script there print something?): %w", l.peer, ErrNotPeer, err)
	case errors.Is(err, ErrCorrupt), errors.Is(err, savefmt.ErrNotFrame):
		return fmt.Errorf("from %s: %w", l.peer, err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s: %w", l.peer, ErrPeerLost)
	default:
		return fmt.Errorf("%s: %w: %w", l.peer, ErrPeerLost, err)
	}
}

// ping says that this end is there, at once and then again and again. Its
// writes may block: it is not what notices the other end's silence.
func (l *Link) ping() {
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	frame := savefmt.AppendFrame(nil, savefmt.FramePing, nil)
	for l.write(frame) == nil {
		select {
		case <-l.ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// watchSilence ends the link when nothing came for Limits.Silence, or at first
// for Limits.Connect: ssh may be asking for a password.
func (l *Link) watchSilence() {
	ticker := time.NewTicker(min(pingEvery, l.limits.Silence/4))
	defer ticker.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-ticker.C:
		}
		limit := l.limits.Silence
		if !l.heardFrame.Load() {
			limit = l.limits.Connect
		}
		if err := l.stuck(limit); err != nil {
			l.cancel(err)
			_ = l.closeOnce() // a write may be blocked for ever
			return
		}
	}
}

// stuck returns an error if the other end has said nothing, or has taken
// nothing of what is written to it, for longer than limit.
func (l *Link) stuck(limit time.Duration) error {
	silent := time.Duration(monotonic() - l.lastHeard.Load())
	if silent > limit {
		return fmt.Errorf("%s: %w: nothing came for %s", l.peer, ErrPeerSilent, silent.Round(time.Second))
	}
	began := l.writeBegan.Load()
	if waits := time.Duration(monotonic() - began); began != 0 && waits > limit {
		return fmt.Errorf("%s: %w: it is there, but takes nothing for %s", l.peer, ErrPeerSilent, waits.Round(time.Second))
	}
	return nil
}

// writeStep is how much is written at a time: a slow link takes its time for a
// large frame, and is not stuck.
const writeStep = 64 << 10

// write writes whole frames. Of a connection that takes nothing more it returns
// why the link has ended: an abort may still be on its way to the reader.
func (l *Link) write(frames ...[]byte) error {
	l.writing <- struct{}{} // whoever blocks for long is ended with the connection
	defer func() {
		l.writeBegan.Store(0)
		<-l.writing
	}()
	for _, f := range frames {
		for step := range slices.Chunk(f, writeStep) {
			l.writeBegan.Store(monotonic())
			if _, err := l.rw.Write(step); err != nil {
				return l.reason(fmt.Errorf("%s: %w: %w", l.peer, ErrPeerLost, err))
			}
		}
	}
	return nil
}

// send sends a control message.
func (l *Link) send(m *message) error {
	return l.sendState(nil, m)
}

// sendState sends the records, each in a frame, and m behind them, all in one
// write: the other end is not woken for each.
func (l *Link) sendState(records []savefmt.Record, m *message) error {
	var frames []byte
	var err error
	for _, r := range records {
		if frames, err = savefmt.AppendState(frames, r); err != nil {
			return err
		}
	}
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("control message %q: %w", m.Kind, err)
	}
	if len(body) > savefmt.MaxMessage {
		return fmt.Errorf("control message %q has %d bytes, the limit is %d", m.Kind, len(body), savefmt.MaxMessage)
	}
	return l.write(savefmt.AppendFrame(frames, savefmt.FrameMessage, body))
}

// Refuse tells the other end that this one cannot even begin, as it has no
// hypervisor.
func (l *Link) Refuse(cause error) { l.abort(fmt.Errorf("%w: %w", ErrNoHost, cause)) }

// abort tells the other end, if it still listens, why this one gives up.
func (l *Link) abort(cause error) {
	code := CodeOf(cause)
	text := cause.Error()
	if len(text) > 4096 {
		text = text[:4096]
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_ = l.send(&message{Kind: kindAbort, Abort: &abort{Code: code, Text: text}})
	}()
	select {
	case <-sent:
	case <-time.After(abortLimit):
	}
}

// noLimit is for a wait that the silence limit alone bounds: the other end is at
// work, and says so.
const noLimit time.Duration = 0

// receive waits up to limit for the message of that kind, and returns the
// state records that came before it. What has arrived counts even if the link
// has ended since.
func (l *Link) receive(ctx context.Context, kind string, limit time.Duration) (*message, []savefmt.Record, error) {
	return l.receiveEither(ctx, limit, kind, kind)
}

// receiveEither is receive for a message of one kind or another.
func (l *Link) receiveEither(ctx context.Context, limit time.Duration, kind, other string) (*message, []savefmt.Record, error) {
	var records []savefmt.Record
	var late <-chan time.Time
	if limit != noLimit {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		late = timer.C
	}
	for {
		d, err := l.next(ctx, late)
		switch {
		case errors.Is(err, errLimit):
			return nil, nil, fmt.Errorf("%s: %w: no %q within %s", l.peer, ErrPeerSilent, kind, limit)
		case err != nil:
			return nil, nil, err
		case d.msg == nil:
			records = append(records, d.record)
		case d.msg.Kind == kind, d.msg.Kind == other:
			return d.msg, records, nil
		case d.msg.Kind == kindAbort:
			return nil, nil, &PeerError{Host: l.peer, Code: d.msg.Abort.Code, Text: d.msg.Abort.Text}
		default:
			return nil, nil, fmt.Errorf("%w: %s sent %q where %q was due", ErrCorrupt, l.peer, d.msg.Kind, kind)
		}
	}
}

// reasonGrace is how long an end that has lost a connection waits for the
// control connection to tell why.
const reasonGrace = 500 * time.Millisecond

// reason returns what the control connection has to say about the loss of a
// connection, or else err.
func (l *Link) reason(err error) error {
	if !errors.Is(err, ErrPeerLost) {
		return err
	}
	select {
	case <-l.ctx.Done():
		return context.Cause(l.ctx)
	case <-time.After(reasonGrace):
		return err
	}
}

// waiting tells whether something has come that nobody has received yet.
func (l *Link) waiting() bool { return len(l.queue) > 0 }

var errLimit = errors.New("limit reached")

func (l *Link) next(ctx context.Context, limit <-chan time.Time) (delivery, error) {
	select { // what is there comes first
	case d := <-l.queue:
		return d, nil
	default:
	}
	var why error
	select {
	case d := <-l.queue:
		return d, nil
	case <-l.ctx.Done():
		why = context.Cause(l.ctx)
	case <-ctx.Done():
		why = context.Cause(ctx)
	case <-limit:
		why = errLimit
	}
	select { // it may have come together with the end
	case d := <-l.queue:
		return d, nil
	default:
		return delivery{}, why
	}
}

// frameReader reads frames from a connection. It reads a little ahead, but
// large payloads go straight to where they belong.
type frameReader struct {
	r    *bufio.Reader
	full fullReader // below r; nil if it has no better way than r's
	head [savefmt.HeaderSize]byte
}

// fullReader is a connection that takes many buffers at once.
type fullReader interface {
	io.Reader
	// ReadFull fills bufs, in order, and changes the slice.
	ReadFull(bufs [][]byte) error
}

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, 4096)}
}

// newDataReader reads frames from a data connection.
func newDataReader(conn net.Conn) *frameReader {
	full, ok := conn.(fullReader) // TLS
	if !ok {
		if c := newConnReader(conn); c != nil {
			full = c
		}
	}
	if full == nil {
		return newFrameReader(conn)
	}
	f := newFrameReader(full)
	f.full = full
	return f
}

// readFull fills bufs, in order, with what follows.
func (f *frameReader) readFull(bufs [][]byte) error {
	if f.full != nil {
		var err error
		if bufs, err = f.drain(bufs); err == nil {
			err = f.full.ReadFull(bufs)
		}
		return err
	}
	for _, b := range bufs {
		if _, err := io.ReadFull(f.r, b); err != nil {
			return err
		}
	}
	return nil
}

// drain fills bufs with what was read ahead, and returns the rest of them.
func (f *frameReader) drain(bufs [][]byte) ([][]byte, error) {
	for ahead := f.r.Buffered(); ahead > 0 && len(bufs) > 0; {
		n, err := f.r.Read(bufs[0][:min(ahead, len(bufs[0]))])
		if err != nil {
			return nil, err
		}
		ahead -= n
		if bufs[0] = bufs[0][n:]; len(bufs[0]) == 0 {
			bufs = bufs[1:]
		}
	}
	return bufs, nil
}

// header reads the next frame's header.
func (f *frameReader) header() (savefmt.Header, error) {
	if _, err := io.ReadFull(f.r, f.head[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) { // something shorter than a frame: show it
			return savefmt.Header{}, fmt.Errorf("%w: the stream ends within a frame", io.ErrUnexpectedEOF)
		}
		return savefmt.Header{}, err
	}
	h, err := savefmt.ParseHeader(f.head[:])
	if err != nil && !errors.Is(err, savefmt.ErrNotFrame) {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return h, err
}

// body reads a frame's body into new memory and checks it. h has passed
// ParseHeader, so its length is within the limits of its type.
func (f *frameReader) body(h savefmt.Header) ([]byte, error) {
	body := make([]byte, h.Length)
	return body, f.bodyInto(h, body)
}

// bodyInto reads a frame's body, or a pages frame's table, into buf.
func (f *frameReader) bodyInto(h savefmt.Header, buf []byte) error {
	if _, err := io.ReadFull(f.r, buf); err != nil {
		return err
	}
	if err := h.CheckBody(buf); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return nil
}
