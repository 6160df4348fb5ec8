package xen

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// tunable is the part of a source that may be changed while it runs, and the
// panel by which that is done.
type tunable struct {
	panel *panel // nil where none is wanted

	mu          sync.Mutex // of what follows, and of source.pages until it is set
	maxDowntime time.Duration
	paused      bool // the pause is being counted: its limit stays
	throttled   bool // the guest may be
	asked       bool // the guest is asked to suspend: it is throttled no more
}

// prepareTuning makes the observer one that several goroutines may call.
func (s *source) prepareTuning() {
	s.maxDowntime = s.opts.MaxDowntime
	if s.opts.Pipe.RateLimit == nil {
		s.opts.Pipe.RateLimit = new(RateLimit)
	}
	observe := s.opts.Observe
	if observe == nil && !s.opts.Panel {
		return
	}
	var one sync.Mutex
	s.observe = func(e Event) {
		s.panel.event(e)
		if observe != nil {
			one.Lock()
			defer one.Unlock()
			observe(e)
		}
	}
}

// startPanel opens the panel. That there is none is no reason not to migrate.
func (s *source) startPanel() {
	if !s.opts.Panel {
		return
	}
	var err error
	s.panel, err = openPanel(s.migration, Figures{
		Phase: s.current, MemoryPages: s.dom.Pages(), Compress: s.opts.Pipe.Compress.String(),
		RateBits: s.opts.Pipe.RateLimit.Get(), MaxDowntime: s.maxDowntime,
	})
	if err != nil {
		s.note("this migration cannot be looked at, nor tuned, while it runs: %v", err)
		return
	}
	s.panel.serve(s.change)
}

// startSender makes the sender; from then on its encoding can be changed.
func (s *source) startSender(outs []frameWriter) error {
	pages, err := newSender(s.dom, outs, &s.opts.Pipe)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.pages = pages
	s.mu.Unlock()
	s.panel.show(func(f *Figures) { f.Connections, f.Threads = uint64(len(outs)), uint64(len(outs)) })
	return nil
}

// settleDowntime returns the limit of the pause, which stays from now on.
func (s *source) settleDowntime() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = true
	return s.maxDowntime
}

// change does what xenferry tune asks for: all of it or, with an error, nothing.
func (s *source) change(c Change) error {
	if err := s.changeAll(c); err != nil {
		return err
	}
	if c.Compress != nil {
		s.report.Compress += ", then " + c.Compress.String()
	}
	s.observe(Event{Time: time.Now(), Kind: EventNote, Text: "changed by xenferry tune: " + c.String()})
	return nil
}

// changeAll refuses first what may be refused. What can fail is done before what
// cannot.
func (s *source) changeAll(c Change) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.changeable(c); err != nil {
		return err
	}
	var encode *plan
	if c.Compress != nil {
		var err error
		if encode, err = s.pages.tuner.planFor(*c.Compress); err != nil {
			return err
		}
	}
	if c.Throttle != nil {
		if err := s.throttle(int(*c.Throttle)); err != nil {
			return err
		}
	}
	if encode != nil {
		s.pages.tuner.set(encode)
	}
	if c.Threads != nil {
		s.pages.work(int(*c.Threads))
	}
	if c.RateBits != nil {
		s.opts.Pipe.RateLimit.Set(*c.RateBits)
	}
	if c.MaxDowntime != nil {
		s.maxDowntime = *c.MaxDowntime
	}
	s.showChange(c)
	return nil
}

// showChange shows on the panel what has been changed. s.mu is held: what ends a
// throttle shows that as well.
func (s *source) showChange(c Change) {
	s.panel.show(func(f *Figures) {
		f.RateBits, f.Changes = s.opts.Pipe.RateLimit.Get(), f.Changes+1
		if c.MaxDowntime != nil {
			f.MaxDowntime = *c.MaxDowntime
		}
		if c.Compress != nil {
			f.Compress = c.Compress.String()
		}
		if c.Threads != nil {
			f.Threads = *c.Threads
		}
		if c.Throttle != nil {
			f.Throttle = *c.Throttle
		}
	})
}

// changeable says why something cannot be changed, or not now. s.mu is held.
func (s *source) changeable(c Change) error {
	if c.MaxDowntime != nil && s.paused {
		return errors.New("the guest is suspended already, and its pause is being counted: the limit of the downtime stays")
	}
	if s.pages == nil && (c.Compress != nil || c.Threads != nil || c.Throttle != nil) {
		return errors.New("the data connections are not open yet: all but the bandwidth limit and the limit of the downtime can be changed as soon as they are")
	}
	if c.Threads != nil {
		if most := uint64(len(s.pages.lanes)); *c.Threads < 1 || *c.Threads > most {
			return fmt.Errorf("%d connections at work: this migration has %d, so 1 to %[2]d are possible", *c.Threads, most)
		}
	}
	if c.Throttle != nil && !s.touched {
		return errors.New("its memory is not being copied yet: the guest can be throttled as soon as it is")
	}
	if c.Throttle != nil && s.asked {
		return errors.New("the guest is asked to suspend already, and is not throttled while it does")
	}
	return nil
}

// throttle makes the guest run more slowly, by so many percent. s.mu is held.
func (s *source) throttle(percent int) error {
	dom, ok := s.dom.(Throttler)
	if !ok {
		return fmt.Errorf("throttle the guest: %w: not one of its type on this host", ErrUnsupported)
	}
	ctx, cancel := context.WithTimeout(context.Background(), throttleLimit)
	defer cancel()
	s.throttled = true
	done := make(chan error, 1)
	go func() { done <- dom.Throttle(ctx, percent) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done(): // a call of libxl does not hear of that
		return fmt.Errorf("throttle the guest by %d %%: no answer from the host within %v: does xenstored hang?", percent, throttleLimit)
	}
}

// throttleLimit bounds what is a hypercall and a note in xenstore.
const throttleLimit = 10 * time.Second

// endThrottle lets the guest run as fast as ever, as it is asked to suspend now:
// a slow one would take long to do so.
func (s *source) endThrottle() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = true
	if !s.throttled {
		return nil
	}
	if err := s.throttle(0); err != nil {
		return err
	}
	s.throttled = false
	s.panel.show(func(f *Figures) { f.Throttle = 0 })
	return nil
}
