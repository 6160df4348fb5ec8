package evtchn

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what comes at once, even on a machine
// that has much else to do.
const patience = 20 * time.Second

// pair returns two mappings of one page, as two processes have them.
func pair(t *testing.T) (owner, other *Page) {
	t.Helper()
	name := fmt.Sprintf("test-%s-%d", t.Name(), time.Now().UnixNano())
	owner, err := CreatePage(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = owner.Close() })
	other, process, err := FindPage(name, true)
	if err != nil {
		t.Fatal(err)
	}
	_ = process.Close()
	t.Cleanup(func() { _ = other.Close() })
	return owner, other
}

// TestSemaphoreLosesNothing: what several goroutines post through one mapping
// is taken by several through the other, each once.
func TestSemaphoreLosesNothing(t *testing.T) {
	a, b := pair(t)
	const posters, waiters, each = 4, 3, 3000
	var posting, waiting sync.WaitGroup
	for range posters {
		posting.Go(func() {
			for range each {
				a.Desk().asked().Post()
			}
		})
	}
	taken := make([]int, waiters)
	for i := range waiters {
		waiting.Go(func() {
			for range posters * each / waiters {
				if err := b.Desk().asked().Wait(t.Context(), patience); err != nil {
					t.Errorf("after %d: %v", taken[i], err)
					return
				}
				taken[i]++
			}
		})
	}
	posting.Wait()
	waiting.Wait()
	if err := b.Desk().asked().Wait(t.Context(), 0); !errors.Is(err, ErrTimeout) {
		t.Errorf("one too many: %v, %v", err, taken)
	}
}

// TestSemaphorePingPong wakes a sleeper each time: a lost wake-up stops it.
func TestSemaphorePingPong(t *testing.T) {
	a, b := pair(t)
	const times = 5000
	done := make(chan error, 1)
	go func() {
		for range times {
			if err := b.Desk().asked().Wait(t.Context(), patience); err != nil {
				done <- err
				return
			}
			b.Desk().answered().Post()
		}
		done <- nil
	}()
	for i := range times {
		a.Desk().asked().Post()
		if err := a.Desk().answered().Wait(t.Context(), patience); err != nil {
			t.Fatalf("turn %d: %v", i, err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestSemaphoreEnds: a wait ends with its limit or its context, and that of one
// waiter does not end that of another.
func TestSemaphoreEnds(t *testing.T) {
	a, b := pair(t)
	s := b.Desk().asked()
	if err := s.Wait(t.Context(), 10*time.Millisecond); !errors.Is(err, ErrTimeout) {
		t.Error(err)
	}
	cause := errors.New("because")
	for _, when := range []time.Duration{0, time.Millisecond, 20 * time.Millisecond} {
		ctx, cancel := context.WithCancelCause(t.Context())
		other := make(chan error, 1)
		go func() { other <- s.Wait(t.Context(), patience) }()
		time.AfterFunc(when, func() { cancel(cause) })
		if err := s.Wait(ctx, patience); !errors.Is(err, cause) {
			t.Errorf("%s: %v", when, err)
		}
		a.Desk().asked().Post()
		if err := <-other; err != nil {
			t.Errorf("the other waiter: %v", err)
		}
	}
}

// TestSemaphoreFull: whatever the word is, nothing spills into the pokes.
func TestSemaphoreFull(t *testing.T) {
	a, _ := pair(t)
	s := a.Desk().asked()
	s.word.Store(semaphoreMost + 3*semaphorePoke)
	s.Post()
	if got := s.word.Load(); got != semaphoreMost+3*semaphorePoke {
		t.Errorf("%#x", got)
	}
	s.drain()
	s.word.Store(^uint32(0))
	s.poke()
	s.drain()
	if got := s.word.Load(); got&semaphoreMost != 0 {
		t.Errorf("%#x", got)
	}
}

func TestPageIsNoFile(t *testing.T) {
	a, _ := pair(t)
	var st unix.Stat_t
	if err := unix.Fstat(int(a.file.Fd()), &st); err != nil || st.Nlink != 0 || st.Mode&0o777 != 0o600 {
		t.Errorf("%v: %d links, mode %#o", err, st.Nlink, st.Mode)
	}
	if err := a.file.Truncate(0); err == nil {
		t.Error("it can shrink under those who read it")
	}
	if flags, err := unix.FcntlInt(a.file.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("programs that are started inherit it: %#x, %v", flags, err)
	}
}
