package evtchn

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// ErrTimeout: what was waited for has not come within its limit.
var ErrTimeout = errors.New("evtchn: nothing came within the limit")

// Semaphore counts events between processes. It is one word in memory that
// they share, on which they sleep by futex(2):
//
//	bits 0-15   count, at most semaphoreMost
//	bits 16-31  pokes: changes with each wait that is broken off
//
// Nobody owns it, so nobody's death leaves it locked. Each change of the word
// comes before the waking, and a sleeper gives the kernel the word that it has
// seen: no wake-up is lost. That a count was left by somebody who has died
// must do no harm: a waiter looks whether what it waits for is there.
type Semaphore struct{ word *atomic.Uint32 }

const (
	semaphoreMost = 1<<16 - 1
	semaphorePoke = 1 << 16
)

// Post adds one. A full semaphore stays full: its waiters have enough to see.
func (s Semaphore) Post() {
	for {
		w := s.word.Load()
		if w&semaphoreMost == semaphoreMost || s.word.CompareAndSwap(w, w+1) {
			break
		}
	}
	futexWake(s.word)
}

// tryWait takes one if there is one, and returns the word that it has seen.
func (s Semaphore) tryWait() (taken bool, seen uint32) {
	for {
		w := s.word.Load()
		if w&semaphoreMost == 0 {
			return false, w
		}
		if s.word.CompareAndSwap(w, w-1) {
			return true, w
		}
	}
}

// Wait takes one, and waits for it up to limit. The error is ErrTimeout, or the
// cause of ctx when that ends first.
func (s Semaphore) Wait(ctx context.Context, limit time.Duration) error {
	poked := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(poked)
		s.poke()
	})
	defer func() {
		if !stop() {
			<-poked // or it would touch memory that the caller has unmapped
		}
	}()
	end := time.Now().Add(limit)
	for {
		taken, seen := s.tryWait()
		left := time.Until(end)
		switch {
		case taken:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case left <= 0:
			return ErrTimeout
		}
		futexWait(s.word, seen, left)
	}
}

// poke makes all waiters look at their contexts.
func (s Semaphore) poke() {
	s.word.Add(semaphorePoke)
	futexWake(s.word)
}

// drain forgets what was posted.
func (s Semaphore) drain() {
	for taken := true; taken; {
		taken, _ = s.tryWait()
	}
}
