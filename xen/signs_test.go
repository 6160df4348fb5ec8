package xen

import (
	"context"
	"errors"
	"slices"
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

func TestSigns(t *testing.T) {
	looks := 0
	m := newMove()
	m.dst.signs = []Sign{
		{Name: "a breath", Shown: func(context.Context) (bool, error) { looks++; return looks > 3, nil }},
		{Name: "a word", Shown: func(context.Context) (bool, error) { return true, nil }},
	}
	m.run(t.Context(), t)
	m.expectMoved(t)
	last := m.report.Budget[len(m.report.Budget)-2:]
	if last[0].Name != "a breath" && last[1].Name != "a breath" || !slices.ContainsFunc(last, func(b BudgetItem) bool { return b.Name == "a word" && b.Time > 0 }) {
		t.Errorf("the budget ends with %+v", last)
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
			if slices.ContainsFunc(m.report.Budget, func(b BudgetItem) bool { return b.Name == name }) {
				t.Errorf("a sign that never came: %+v", m.report.Budget)
			}
		})
	}
}
