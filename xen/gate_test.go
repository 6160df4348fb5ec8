package xen

import (
	"context"
	"testing"
	"time"
)

func TestGate(t *testing.T) {
	g := newGate(1)
	passed := make(chan struct{}, 2)
	wait := func(lane int) {
		g.pass(t.Context(), lane)
		passed <- struct{}{}
	}
	g.pass(t.Context(), 0) // or it hangs
	held := func(what string) {
		t.Helper()
		select {
		case <-passed:
			t.Errorf("%s: a lane passed that should be held back", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
	go wait(1)
	held("one may work")
	g.set(2)
	<-passed
	go wait(2)
	held("two may work")
	g.finish()
	<-passed
	g.begin()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g.pass(ctx, 2)
	go wait(3)
	held("a new round")
	g.set(64)
	<-passed
}
