package xen

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/xenferry/xenferry/evtchn"
	"github.com/xenferry/xenferry/fallback"
)

// panel shows the figures of a migration in shared memory, and takes changes
// from there. A nil one shows nothing. Lanes never touch it: its lock is taken
// ten times a second, and when something happens.
type panel struct {
	page *evtchn.Page
	end  func() // of the goroutine that serves the desk

	mu     sync.Mutex
	now    Figures
	record [figuresWords]uint64
}

// panelName is the name of a migration's page.
func panelName(id string, side fallback.Side) string { return "xenferry-" + id + "-" + string(side) }

// openPanel opens the panel of a migration, with what is known of it.
func openPanel(m fallback.Migration, first Figures) (*panel, error) {
	page, err := evtchn.CreatePage(panelName(m.ID, m.Side))
	if err != nil {
		return nil, err
	}
	first.Began = time.Now()
	p := &panel{page: page, now: first, end: func() {}}
	p.show(func(*Figures) {})
	return p, nil
}

// serve lets a goroutine call change for each change that is asked for, until
// close.
func (p *panel) serve(change func(Change) error) {
	p.show(func(f *Figures) { f.Tunable = true })
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() {
		defer close(served)
		p.page.Desk().Serve(ctx, func(request [evtchn.RequestWords]uint64) [evtchn.AnswerWords]uint64 {
			c, err := parseChange(request[:])
			if err == nil {
				err = change(c)
			}
			return answerTo(err)
		})
	}()
	p.end = func() {
		cancel()
		<-served
	}
}

// show changes what is shown.
func (p *panel) show(edit func(*Figures)) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.page == nil {
		return // closed
	}
	edit(&p.now)
	p.now.Updated = time.Now()
	p.now.layout(&words{list: p.record[:]})
	p.page.Board().Publish(p.record[:])
}

// event shows what there is to an event.
func (p *panel) event(e Event) {
	switch {
	case p == nil:
	case e.Kind == EventPhase:
		p.show(func(f *Figures) { f.Phase = e.Phase })
	case e.Kind == EventRound:
		p.show(func(f *Figures) { f.Dirty = e.Round.Dirty })
	}
}

// progress shows how far a round is.
func (p *panel) progress(s *Progress, round time.Duration) {
	p.show(func(f *Figures) {
		f.Round, f.RoundTime, f.Pages, f.OfPages = uint64(s.Round), round, s.Pages, s.OfPages
		f.Zero, f.Copied, f.Stages = s.Zero, s.Copied, s.Stages
		f.WireBytes, f.BytesPerS = s.WireBytes, s.BytesPerS
		if s.Method != "" { // a save has one, which stays
			f.Method = s.Method
		}
	})
}

// close takes the panel down: its memory is gone when those who look at it
// have gone.
func (p *panel) close() {
	if p == nil {
		return
	}
	p.end()
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.page.Close()
	p.page = nil
}

// PanelView is another program's look at a panel.
type PanelView struct {
	page  *evtchn.Page
	owner *evtchn.Process
}

// OpenPanel opens the panel of a migration that a program on this host works
// on. tune: changes are to be asked for. The error wraps evtchn.ErrNoPage,
// ErrPageVersion or ErrBadPage.
func OpenPanel(id string, side fallback.Side, tune bool) (*PanelView, error) {
	page, owner, err := evtchn.FindPage(panelName(id, side), tune)
	if err != nil {
		return nil, err
	}
	return &PanelView{page, owner}, nil
}

// Figures returns what is shown now. The error wraps evtchn.ErrBadPage.
func (v *PanelView) Figures() (Figures, error) {
	record, _, err := v.page.Board().Read()
	if err != nil {
		return Figures{}, err
	}
	return parseFigures(record[:])
}

// Owner returns a handle on the program that shows the panel.
func (v *PanelView) Owner() *evtchn.Process { return v.owner }

// Change asks for a change, and waits for the answer up to limit: nil if it was
// made. The error wraps ErrChangeRefused, evtchn.ErrGone if the program has
// ended, or what evtchn.Desk.Ask returns.
func (v *PanelView) Change(ctx context.Context, c Change, limit time.Duration) error {
	now, err := v.Figures()
	if err == nil && !now.Tunable {
		err = fmt.Errorf("%w: a save, or a migration to stock xl, cannot be tuned", ErrChangeRefused)
	}
	if err != nil {
		return err
	}
	ctx, cancel := v.owner.Context(ctx)
	defer cancel()
	answer, err := v.page.Desk().Ask(ctx, limit, c.words())
	if err != nil {
		return err
	}
	return parseAnswer(answer[:])
}

// Close ends the look.
func (v *PanelView) Close() {
	_ = v.page.Close()
	_ = v.owner.Close()
}
