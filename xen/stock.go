package xen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/xenferry/xenferry/fallback"
)

// Stock xl's own migration: its sender and its receiver speak over one
// connection, in which the guest travels as a save file does. What they say
// beside it (tools/xl/xl.h, xl_migrate.c):
//
//	receiver  stockBanner        once, at the beginning
//	sender    xl header, libxl stream
//	receiver  stockReady         the guest is there, paused
//	sender    stockGo            the guest is renamed here, and yours
//	receiver  stockReport        followed by one byte, 0 for: it runs
//	receiver  stockGo            only after another byte: my copy is gone, yours again
//
// There is no word by which a sender could ask again. So a connection that
// breaks after stockGo leaves a doubt that only a person can resolve.
const (
	stockBanner = "xl migration receiver ready, send binary domain data.\n"
	stockReady  = "domain received, ready to unpause\x00"
	stockGo     = "domain is yours, you are cleared to unpause\x00"
	stockReport = "my copy unpause results are as follows\x00"
)

// errDoubt: the guest was handed to a stock receiver, and what has become of
// it is not known.
var errDoubt = errors.New("the guest was handed over, and no answer came")

// hear reads one of the texts above, within a limit. Close of from ends a read
// that takes longer.
func hear(ctx context.Context, from io.Reader, closer io.Closer, want string, limit time.Duration) error {
	got := make([]byte, len(want))
	if err := hearBytes(ctx, from, closer, got, limit); err != nil {
		return fmt.Errorf("waiting for %.40q: %w", want, err)
	}
	if !bytes.Equal(got, []byte(want)) {
		return fmt.Errorf("%w: it says %.60q, want %.40q", ErrNotPeer, got, want)
	}
	return nil
}

func hearBytes(ctx context.Context, from io.Reader, closer io.Closer, b []byte, limit time.Duration) error {
	limited, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w within %s", ErrPeerSilent, limit))
	defer cancel()
	stop := context.AfterFunc(limited, func() { _ = closer.Close() })
	_, err := io.ReadFull(from, b)
	if !stop() {
		return context.Cause(limited)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrPeerLost
	}
	return err
}

// patientConn ends a Write or Read in which nothing moves for a limit, by
// closing the connection. 0 is no limit.
type patientConn struct {
	io.ReadWriteCloser
	reads, writes time.Duration
}

func (p *patientConn) Write(b []byte) (int, error) {
	return p.within(p.writes, b, p.ReadWriteCloser.Write)
}
func (p *patientConn) Read(b []byte) (int, error) {
	return p.within(p.reads, b, p.ReadWriteCloser.Read)
}

func (p *patientConn) within(limit time.Duration, b []byte, move func([]byte) (int, error)) (int, error) {
	if limit == 0 {
		return move(b)
	}
	timer := time.AfterFunc(limit, func() { _ = p.Close() })
	n, err := move(b)
	switch {
	case !timer.Stop() && err != nil:
		err = fmt.Errorf("%w for %s", ErrPeerSilent, limit)
	case err != nil && !errors.Is(err, io.EOF):
		err = fmt.Errorf("%w: %w", ErrPeerLost, err)
	}
	return n, err
}

// stockReceiver is the sender's view of a stock receiver: the target of a save.
type stockReceiver struct {
	ctx    context.Context // of the migration: until stockGo its end counts
	conn   io.ReadWriteCloser
	dom    Domain
	name   string // of the guest, once known
	step   func(fallback.Event, error) (fallback.Action, error)
	limits Limits
	handed atomic.Bool // stockGo may have left: a cancel comes too late
}

func (s *stockReceiver) Write(b []byte) (int, error) {
	n, err := s.conn.Write(b)
	if err != nil && s.ctx.Err() != nil {
		err = context.Cause(s.ctx)
	}
	return n, err
}

// Commit hands the guest over. An error that is errDoubt says that it may run
// there; any other that it does not and will not.
func (s *stockReceiver) Commit() error {
	if err := hear(s.ctx, s.conn, s.conn, stockReady, s.limits.Ready); err != nil {
		return err
	}
	if _, err := s.step(fallback.EventReady, nil); err != nil {
		return err
	}
	if err := s.dom.Rename(s.ctx, s.name+suffixAway); err != nil {
		return err
	}
	s.handed.Store(true)
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if _, err := s.step(fallback.EventSendGo, nil); err != nil {
		return err
	}
	// From here on only the receiver's word counts.
	ctx := context.WithoutCancel(s.ctx)
	if _, err := s.conn.Write([]byte(stockGo)); err != nil {
		return fmt.Errorf("%w: %w", errDoubt, err)
	}
	if err := hear(ctx, s.conn, s.conn, stockReport, s.limits.Commit); err != nil {
		return fmt.Errorf("%w: %w", errDoubt, err)
	}
	var status [1]byte
	if err := hearBytes(ctx, s.conn, s.conn, status[:], s.limits.Commit); err != nil {
		return fmt.Errorf("%w: %w", errDoubt, err)
	}
	if status[0] == 0 {
		_, err := s.step(fallback.EventStarted, nil)
		return err
	}
	if err := hear(ctx, s.conn, s.conn, stockGo, s.limits.Commit); err != nil {
		return fmt.Errorf("%w, but that it could not start it (status %d): %w", errDoubt, status[0], err)
	}
	err := fmt.Errorf("the other host could not start the guest (status %d), and has destroyed its copy", status[0])
	_, stepErr := s.step(fallback.EventDiscarded, err)
	return errors.Join(err, stepErr)
}

// MigrateStock moves the guest dom to a host that has no xenferry: to the
// stock `xl migrate-receive` at the other end of conn, which is closed. On
// success it runs there and is destroyed here. The error is a *SaveError; its
// outcome is OutcomeInDoubt where the receiver's last word is missing. Of opts,
// After and Codec are ignored.
func MigrateStock(ctx context.Context, host Host, dom Domain, conn io.ReadWriteCloser, opts SaveOptions) (*SaveReport, error) {
	defer conn.Close()
	opts.Limits = opts.Limits.WithDefaults()
	opts.Live, opts.After, opts.Codec = true, AfterDestroy, nil
	// What is waited for has limits of its own. A stock receiver reads nothing
	// while it makes room for the guest, and has no way to say that it is there.
	conn = &patientConn{conn, 0, opts.Limits.Ready}
	peer := &stockReceiver{ctx: ctx, conn: conn, dom: dom, limits: opts.Limits}
	if err := peer.meet(ctx); err != nil {
		return &SaveReport{}, &SaveError{What: "migration", Phase: PhaseHello, Outcome: OutcomeAtSource, Cause: err}
	}
	defer context.AfterFunc(ctx, func() {
		if !peer.handed.Load() {
			_ = conn.Close() // ends a Write that blocks
		}
	})()
	s := newSave(host, dom, peer, opts)
	peer.step = s.step
	report, err := s.all(ctx)
	var failure *SaveError
	if errors.As(err, &failure) {
		failure.What = "migration"
	}
	return report, err
}

// meet waits for the banner, which a login's own words may precede on no
// account: xl refuses them too.
func (s *stockReceiver) meet(ctx context.Context) error {
	info, err := s.dom.Info(ctx)
	if err != nil {
		return err
	}
	s.name = info.Name
	return hear(ctx, s.conn, s.conn, stockBanner, s.limits.Connect)
}

// ReceiveStock takes in one guest from a stock `xl migrate` at the other end
// of conn. On success it runs here, or is paused. On failure nothing of it is
// left, unless the error says so. The report is never nil.
func ReceiveStock(ctx context.Context, host Host, conn io.ReadWriteCloser, opts RestoreOptions) (*RestoreReport, error) {
	limits := opts.Limits.WithDefaults()
	// A stock sender is silent while its guest suspends: for up to 60 s.
	conn = &patientConn{conn, limits.Ready, limits.Silence}
	r := newRestore(host, conn, opts)
	r.suffix = suffixIncoming
	s := &stockSender{restore: r, conn: conn, rest: r.in.Rest()}
	defer context.AfterFunc(ctx, func() {
		if !s.handed.Load() {
			_ = conn.Close()
		}
	})()
	begun := time.Now()
	phases := append([]phase{{PhaseHello, s.greet}}, r.build()...)
	err := r.runAll(ctx, append(phases, phase{"await go", s.awaitGo}))
	if err == nil {
		err = r.runAll(context.WithoutCancel(ctx), []phase{{"start", s.start}})
	}
	err = r.undo(err)
	if err != nil && s.refused && !r.left {
		// The sender may run it again: what was built here is gone.
		_, sayErr := conn.Write([]byte(stockGo))
		err = errors.Join(err, sayErr)
	}
	r.finishReport(begun, err)
	return r.report, err
}

// stockSender is the receiver's view of a stock sender.
type stockSender struct {
	*restore
	conn    io.ReadWriteCloser
	rest    io.Reader   // what comes behind the guest
	handed  atomic.Bool // stockGo has come
	refused bool        // and the report says that it does not run here
}

func (s *stockSender) greet(context.Context) error {
	_, err := s.conn.Write([]byte(stockBanner))
	return err
}

// awaitGo says that the guest is whole, and waits until it is ours.
func (s *stockSender) awaitGo(ctx context.Context) error {
	if _, err := s.conn.Write([]byte(stockReady)); err != nil {
		return err
	}
	if err := hear(ctx, s.rest, s.conn, stockGo, s.opts.Limits.Ready); err != nil {
		return err
	}
	s.handed.Store(true)
	return nil
}

// start gives the guest its name, lets it run and says how that went.
func (s *stockSender) start(ctx context.Context) error {
	_, err := s.step(fallback.EventGo, nil)
	if err == nil {
		err = s.incoming.Rename(ctx, s.report.Name)
	}
	if err == nil {
		err = s.unpause(ctx)
	}
	status := byte(0)
	if err != nil {
		s.refused, status = true, 0xFF
	}
	if _, sayErr := s.conn.Write(append([]byte(stockReport), status)); sayErr != nil && err == nil {
		s.note(fmt.Sprintf("the guest is here, but the source could not be told (%v): its suspended copy there must be destroyed", sayErr))
	}
	return err
}
