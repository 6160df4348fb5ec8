package xen

import (
	"cmp"
	"slices"
	"time"
)

// BudgetItem is one part of the downtime. Parts may overlap.
type BudgetItem struct {
	Name string `json:"name"`
	Host string `json:"host"`
	// From is when it began, from the moment that the guest was known to have
	// stopped, by the source's clock.
	From time.Duration `json:"from_ns"`
	Time time.Duration `json:"time_ns"`
}

// stopwatch collects the steps of one end from the guest's stop on. It is used
// by one goroutine at a time.
type stopwatch struct{ steps []step }

// note adds a step that has lasted from began until now.
func (w *stopwatch) note(name string, began time.Time) {
	w.add(name, began, time.Now())
}

func (w *stopwatch) add(name string, began, ended time.Time) {
	w.steps = append(w.steps, step{Name: name, BeganNs: began.UnixNano(), EndedNs: ended.UnixNano()})
}

// take returns the steps so far, and begins anew.
func (w *stopwatch) take() []step {
	steps := w.steps
	w.steps = nil
	return steps
}

// maxSteps bounds what of a destination's steps is kept.
const maxSteps = 32

// budget puts the steps of both ends on one line.
func (s *source) budget() []BudgetItem {
	items := make([]BudgetItem, 0, len(s.watch.steps)+len(s.theirs))
	add := func(host string, steps []step, ahead time.Duration) {
		for _, st := range steps[:min(len(steps), maxSteps)] {
			if time.Unix(0, st.EndedNs).Add(-ahead).Before(s.stopped) {
				continue // it took nothing of the downtime
			}
			items = append(items, BudgetItem{
				Name: peerText(st.Name), Host: host, From: time.Unix(0, st.BeganNs).Sub(s.stopped) - ahead,
				Time: time.Duration(st.EndedNs - st.BeganNs),
			})
		}
	}
	add(s.report.From, s.watch.steps, 0)
	add(s.report.To, s.theirs, s.report.ClockAhead)
	slices.SortStableFunc(items, func(a, b BudgetItem) int { return cmp.Compare(a.From, b.From) })
	return items
}
