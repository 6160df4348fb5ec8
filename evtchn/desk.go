package evtchn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Desk is the part of a page at which others ask something of its owner, one
// after the other. The state is a word: a number that counts the requests,
// shifted up by eight bits, and a step in the lowest byte:
//
//	free -> writing -> asked -> taken -> answered
//	                     |        |
//	                 withdrawn  refused
//
// The asker takes the steps up to asked, and withdraws by itself; the owner
// takes the others. Each is one compare-and-swap, so of two that want to take
// a step one learns that it came too late. Whoever dies or is stopped in the
// middle stops nobody: the next asker begins a new number, from any state, and
// an owner that is late with an answer finds that the number is no longer its
// own. The sums of request and answer hold the number.
//
// Only one asker at a time: it holds a lock of the page's file (flock(2)),
// which the kernel takes back when a process ends. A semaphore in its place
// would stay locked, or would have to guess.
type Desk struct {
	page *Page
}

// The steps of a request.
const (
	deskFree = iota
	deskWriting
	deskAsked
	deskTaken
	deskAnswered
	deskWithdrawn
	deskRefused
	deskSteps
)

// Errors of asking, for errors.Is.
var (
	// ErrDeskBusy: another process is asking.
	ErrDeskBusy = errors.New("another program asks for something at this moment")
	// ErrNoAnswer: the owner has not seen the request, and will not act on it.
	ErrNoAnswer = errors.New("the program does not answer; the request was withdrawn")
	// ErrUnsure: the owner has taken the request and has not answered it.
	ErrUnsure = errors.New("the program has taken the request, and does not answer")
)

// Desk returns the page's desk.
func (p *Page) Desk() Desk { return Desk{p} }

func (d Desk) asked() Semaphore    { return Semaphore{d.page.word32(atAsked)} }
func (d Desk) answered() Semaphore { return Semaphore{d.page.word32(atAnswered)} }
func (d Desk) request() record     { return record{d.page, atRequest, RequestWords} }
func (d Desk) answer() record      { return record{d.page, atAnswer, AnswerWords} }

// move takes a step of request number, if that is still at the step before.
func (d Desk) move(number uint64, from, to uint64) bool {
	return d.page.word(atState).CompareAndSwap(number<<8|from, number<<8|to)
}

func (d Desk) state() (number, step uint64) {
	s := d.page.word(atState).Load()
	return s >> 8, s & 0xff
}

// Serve answers what is asked, until ctx ends. answer fills the words of the
// answer; it must not block. One goroutine of the owner calls it.
func (d Desk) Serve(ctx context.Context, answer func(request [RequestWords]uint64) [AnswerWords]uint64) {
	for ctx.Err() == nil {
		if d.asked().Wait(ctx, serveWait) == nil {
			d.serveOne(answer)
		}
	}
}

// serveWait is how long one sleep of a server takes at most. Its length does
// not matter: it is woken.
const serveWait = time.Hour

func (d Desk) serveOne(answer func([RequestWords]uint64) [AnswerWords]uint64) {
	number, step := d.state()
	if step != deskAsked || !d.move(number, deskAsked, deskTaken) {
		return // withdrawn, or left by an asker that was killed
	}
	var request [RequestWords]uint64
	if !d.request().get(number, request[:]) {
		d.move(number, deskTaken, deskRefused)
		d.answered().Post()
		return
	}
	words := answer(request)
	d.answer().put(number, words[:])
	d.move(number, deskTaken, deskAnswered) // or nobody waits for it any more
	d.answered().Post()
}

// unsureFor is how much longer an asker waits once the owner has taken its
// request.
const unsureFor = time.Second

// Ask asks, and waits for the answer up to limit. The error wraps ErrDeskBusy,
// ErrNoAnswer, ErrUnsure, ErrBadPage, or the cause of ctx; with that of
// [Process.Context], the owner's death.
func (d Desk) Ask(ctx context.Context, limit time.Duration, request [RequestWords]uint64) (answer [AnswerWords]uint64, err error) {
	end := time.Now().Add(limit)
	if err := d.lock(ctx, end); err != nil {
		return answer, err
	}
	defer d.unlock()
	number, err := d.put(request)
	if err != nil {
		return answer, err
	}
	why := d.await(ctx, number, end)
	if why != nil && d.move(number, deskAsked, deskWithdrawn) {
		return answer, noAnswer(ctx, ErrNoAnswer)
	}
	if why != nil { // it was taken in the last moment
		why = d.await(ctx, number, time.Now().Add(unsureFor))
	}
	if why != nil {
		return answer, noAnswer(ctx, ErrUnsure)
	}
	if _, step := d.state(); step != deskAnswered || !d.answer().get(number, answer[:]) {
		return answer, fmt.Errorf("%w: request or answer does not match its sum", ErrBadPage)
	}
	return answer, nil
}

// noAnswer joins the reason in ctx, if there is one.
func noAnswer(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", err, context.Cause(ctx))
	}
	return err
}

// putTries bounds how often put meets an owner that moves the state.
const putTries = 100

// put writes a request under a new number, whatever became of the last one.
func (d Desk) put(request [RequestWords]uint64) (number uint64, err error) {
	for range putTries {
		last, step := d.state()
		if step >= deskSteps {
			return 0, fmt.Errorf("%w: the desk's state is %#x", ErrBadPage, step)
		}
		number = (last + 1) & (1<<56 - 1)
		if !d.page.word(atState).CompareAndSwap(last<<8|step, number<<8|deskWriting) {
			continue
		}
		d.answered().drain()
		d.request().put(number, request[:])
		if d.move(number, deskWriting, deskAsked) {
			d.asked().Post()
			return number, nil
		}
	}
	return 0, fmt.Errorf("%w: the desk's state does not stay", ErrBadPage)
}

// await waits until the owner is done with a request. What is there counts even
// if ctx or the time have ended.
func (d Desk) await(ctx context.Context, number uint64, end time.Time) error {
	for {
		switch at, step := d.state(); {
		case at != number:
			return fmt.Errorf("%w: request %d has become %d", ErrBadPage, number, at)
		case step == deskAnswered, step == deskRefused:
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		left := time.Until(end)
		if left <= 0 {
			return ErrTimeout
		}
		_ = d.answered().Wait(ctx, left) // the state says what it was
	}
}

// lockRetry is the pause between two attempts to get the lock: flock has no
// limit of its own, and two askers at once are rare.
const lockRetry = 10 * time.Millisecond

func (d Desk) lock(ctx context.Context, end time.Time) error {
	for {
		err := unix.Flock(int(d.page.file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		if time.Now().After(end) {
			return ErrDeskBusy
		}
		select {
		case <-time.After(lockRetry):
		case <-ctx.Done():
			return noAnswer(ctx, ErrNoAnswer)
		}
	}
}

func (d Desk) unlock() { _ = unix.Flock(int(d.page.file.Fd()), unix.LOCK_UN) }
