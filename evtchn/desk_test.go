package evtchn

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

// double is what the owner answers in these tests: each word twice as large.
func double(request [RequestWords]uint64) (answer [AnswerWords]uint64) {
	for i, w := range request {
		answer[i] = 2 * w
	}
	return answer
}

// serve answers at an owner's desk until the test ends.
func serve(t *testing.T, owner *Page, answer func([RequestWords]uint64) [AnswerWords]uint64) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		owner.Desk().Serve(ctx, answer)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("the server does not end")
			<-done
		}
	})
}

func TestDeskAnswers(t *testing.T) {
	owner, other := pair(t)
	serve(t, owner, double)
	for i := range uint64(2000) {
		answer, err := other.Desk().Ask(t.Context(), patience, [RequestWords]uint64{i, 7})
		if err != nil || answer[0] != 2*i || answer[1] != 14 {
			t.Fatalf("request %d: %v, %v", i, answer[:2], err)
		}
	}
}

// TestDeskWithdraws: a request that nobody takes is not acted on later.
func TestDeskWithdraws(t *testing.T) {
	owner, other := pair(t)
	if _, err := other.Desk().Ask(t.Context(), 20*time.Millisecond, [RequestWords]uint64{1}); !errors.Is(err, ErrNoAnswer) {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var seen []uint64
	serve(t, owner, func(request [RequestWords]uint64) [AnswerWords]uint64 {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, request[0])
		return double(request)
	})
	if answer, err := other.Desk().Ask(t.Context(), patience, [RequestWords]uint64{2}); err != nil || answer[0] != 4 {
		t.Errorf("%d, %v", answer[0], err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != 1 || seen[0] != 2 {
		t.Errorf("acted on %v", seen)
	}
}

// TestDeskSlowOwner: one who has taken a request and does not answer leaves the
// asker unsure, and the next answer is not taken for the old one.
func TestDeskSlowOwner(t *testing.T) {
	owner, other := pair(t)
	taken, release := make(chan struct{}), make(chan struct{})
	serve(t, owner, func(request [RequestWords]uint64) [AnswerWords]uint64 {
		if request[0] == 1 {
			close(taken)
			<-release
		}
		return double(request)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-taken
		cancel()
	}()
	if _, err := other.Desk().Ask(ctx, patience, [RequestWords]uint64{1}); !errors.Is(err, ErrUnsure) || !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, func() { close(release) })
	if answer, err := other.Desk().Ask(t.Context(), patience, [RequestWords]uint64{2}); err != nil || answer[0] != 4 {
		t.Errorf("%d, %v", answer[0], err)
	}
}

// TestDeskAfterDeaths: whatever step a request was left at by one that died,
// the next is answered.
func TestDeskAfterDeaths(t *testing.T) {
	owner, other := pair(t)
	serve(t, owner, double)
	for step := range uint64(deskSteps) {
		owner.word(atState).Store(41<<8 | step)
		owner.Desk().asked().Post() // as one that died just after, or never got there
		if answer, err := other.Desk().Ask(t.Context(), patience, [RequestWords]uint64{step}); err != nil || answer[0] != 2*step {
			t.Errorf("left at step %d: %d, %v", step, answer[0], err)
		}
	}
}

func TestDeskDamage(t *testing.T) {
	owner, other := pair(t)
	ask := func() error {
		_, err := other.Desk().Ask(t.Context(), 100*time.Millisecond, [RequestWords]uint64{1})
		return err
	}
	owner.word(atState).Store(0xff)
	if err := ask(); !errors.Is(err, ErrBadPage) {
		t.Errorf("a state that is none: %v", err)
	}
	owner.word(atState).Store(0)
	answered := make(chan struct{})
	go func() { // an owner that answers with nonsense
		defer close(answered)
		_ = owner.Desk().asked().Wait(t.Context(), patience)
		number, _ := owner.Desk().state()
		owner.Desk().answer().put(number+1, []uint64{1, 2, 3})
		owner.word(atState).Store(number<<8 | deskAnswered)
		owner.Desk().answered().Post()
	}()
	if err := ask(); !errors.Is(err, ErrBadPage) {
		t.Errorf("an answer to another request: %v", err)
	}
	<-answered
}

// TestDeskTornRequest: what does not match its sum is not acted on.
func TestDeskTornRequest(t *testing.T) {
	owner, other := pair(t)
	other.Desk().request().put(5, []uint64{1})
	other.word(atRequest + 16).Add(1)
	other.word(atState).Store(5<<8 | deskAsked)
	owner.Desk().serveOne(func([RequestWords]uint64) [AnswerWords]uint64 {
		t.Error("it was acted on")
		return [AnswerWords]uint64{}
	})
	if _, step := other.Desk().state(); step != deskRefused {
		t.Errorf("step %d", step)
	}
}

func TestDeskOneAtATime(t *testing.T) {
	owner, first := pair(t)
	second, process, err := FindPage(owner.file.Name(), true)
	if err != nil {
		t.Fatal(err)
	}
	defer process.Close()
	defer second.Close()
	if err := first.Desk().lock(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Desk().Ask(t.Context(), 30*time.Millisecond, [RequestWords]uint64{1}); !errors.Is(err, ErrDeskBusy) {
		t.Error(err)
	}
	_ = first.Close() // as its death does
	serve(t, owner, double)
	if _, err := second.Desk().Ask(t.Context(), patience, [RequestWords]uint64{1}); err != nil {
		t.Error(err)
	}
}
