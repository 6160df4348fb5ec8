package xen

import (
	"errors"
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
	pages, err := newSender(s.dom, outs, s.opts.Pipe.Compress, s.opts.Pipe.RateLimit)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.pages = pages
	s.mu.Unlock()
	s.panel.show(func(f *Figures) { f.Connections = uint64(len(outs)) })
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
	s.panel.show(func(f *Figures) {
		f.RateBits, f.Changes = s.opts.Pipe.RateLimit.Get(), f.Changes+1
		if c.MaxDowntime != nil {
			f.MaxDowntime = *c.MaxDowntime
		}
		if c.Compress != nil {
			f.Compress = c.Compress.String()
		}
	})
	if c.Compress != nil {
		s.report.Compress += ", then " + c.Compress.String()
	}
	s.observe(Event{Time: time.Now(), Kind: EventNote, Text: "changed by xenferry tune: " + c.String()})
	return nil
}

func (s *source) changeAll(c Change) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.MaxDowntime != nil && s.paused {
		return errors.New("the guest is suspended already, and its pause is being counted: the limit of the downtime stays")
	}
	if c.Compress != nil {
		if s.pages == nil {
			return errors.New("the data connections are not open yet: the compression can be changed as soon as they are")
		}
		if err := s.pages.tuner.set(*c.Compress); err != nil {
			return err
		}
	}
	if c.RateBits != nil {
		s.opts.Pipe.RateLimit.Set(*c.RateBits)
	}
	if c.MaxDowntime != nil {
		s.maxDowntime = *c.MaxDowntime
	}
	return nil
}
