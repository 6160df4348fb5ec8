package xen

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// Signs implements Watcher, where the test has some.
func (in *fakeIncoming) Signs(context.Context) ([]Sign, error) {
	if in.h.signs == nil {
		return nil, errors.New("this guest gives none")
	}
	return in.h.signs, nil
}

// told tells whether the report has a part of the downtime with that name. When
// it was depends on how well the clocks are known.
func (m *move) told(name string) bool {
	return slices.ContainsFunc(m.report.Budget, func(b BudgetItem) bool { return b.Name == name })
}

func TestSigns(t *testing.T) {
	looks := 0
	m := newMove()
	m.dst.signs = []Sign{
		{Name: "a breath", Shown: func(context.Context) (bool, error) { looks++; return looks > 3, nil }},
		{Name: "a word", Shown: func(context.Context) (bool, error) { return true, nil }},
	}
	m.run(t.Context(), t)
	m.expectMoved(t)
	for _, name := range []string{"a breath", "a word"} {
		if !m.told(name) {
			t.Errorf("%s is not in the budget: %+v", name, m.report.Budget)
		}
	}
}

// TestSignsBesideDestroy: where the destroy takes longer than signs count, nothing
// is waited for behind it, but what has come meanwhile is there.
func TestSignsBesideDestroy(t *testing.T) {
	m := newMove()
	m.dst.signs = []Sign{
		{Name: "a breath", Shown: func(context.Context) (bool, error) { return true, nil }},
		{Name: "a word", Shown: func(context.Context) (bool, error) { return false, nil }},
	}
	var destroyed time.Time
	m.src.onCall = func(method string) {
		if method == "Destroy" {
			time.Sleep(signsLimit + 100*time.Millisecond)
			destroyed = time.Now()
		}
	}
	m.run(t.Context(), t)
	m.expectMoved(t)
	if took := time.Since(destroyed); took > m.limits.WithDefaults().Undo/2 {
		t.Errorf("it took %v after the destroy", took)
	}
	if !m.told("a breath") || m.told("a word") {
		t.Errorf("the budget: %+v", m.report.Budget)
	}
}

// TestPeerText: a peer's names are printed on a terminal.
func TestPeerText(t *testing.T) {
	for name, want := range map[string]string{
		"guest completed":         "guest completed",
		"\x1b[2Jgone\nfaked":      "?[2Jgone?faked",
		strings.Repeat("ä", 1000): strings.Repeat("ä", maxPeerText/2) + "?",
	} {
		if got := peerText(name); got != want {
			t.Errorf("%q is printed as %q, not %q", name, got, want)
		}
	}
}

// TestSignsMissing: what never comes does not keep the source for long, nor
// make a migration fail.
func TestSignsMissing(t *testing.T) {
	for name, shown := range map[string]func(context.Context) (bool, error){
		"never":  func(context.Context) (bool, error) { return false, nil },
		"fails":  func(context.Context) (bool, error) { return false, errors.New("it has gone") },
		"blocks": func(ctx context.Context) (bool, error) { <-ctx.Done(); return false, ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMove()
			m.dst.signs = []Sign{{Name: name, Shown: shown}}
			begun := time.Now()
			m.run(t.Context(), t)
			m.expectMoved(t)
			if took := time.Since(begun); took > 10*signsLimit {
				t.Errorf("it took %v", took)
			}
			if m.told(name) {
				t.Errorf("a sign that never came: %+v", m.report.Budget)
			}
		})
	}
}
