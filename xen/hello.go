package xen

import (
	"context"
	"fmt"
	"time"

	"github.com/xenferry/xenferry/fallback"
)

// hello introduces the guest, begins the journal while the other end reads
// that, and waits until a domain is there to take it. Nothing here is touched
// before.
func (s *source) hello(ctx context.Context) error {
	if err := s.identify(ctx); err != nil {
		return err
	}
	hello, err := s.describe(ctx)
	if err != nil {
		return err
	}
	// The journal begins with the start of a guardian: not while libxl is at
	// work, which holds locks that its child would have.
	begun := make(chan error, 1)
	go func() { begun <- s.begin(ctx, s.opts.Protect, s.migration) }()
	if hello.Guest.State == StateRunning {
		err = s.link.send(&message{Kind: kindHello, Hello: hello})
	} else {
		err = notRunning(hello.Guest, "migrated")
	}
	if beginErr := <-begun; beginErr != nil {
		err = beginErr // who moves the guest already is what the user wants to know
	}
	if err != nil {
		return err
	}
	s.startPanel()
	return s.welcomed(ctx, hello.Early)
}

// identify says what is to be moved.
func (s *source) identify(ctx context.Context) error {
	info, err := s.dom.Info(ctx)
	if err != nil {
		return err
	}
	host, err := s.host.Info(ctx)
	if err != nil {
		return err
	}
	s.report.Guest, s.report.From = info, host.Name
	s.migration = fallback.Migration{
		ID: s.report.ID, Side: fallback.SideSource, Guest: info.Name, UUID: info.UUID, Domid: info.Domid, Peer: s.link.peer,
		Transport: s.opts.Transport,
	}
	return nil
}

// describe makes hello.
func (s *source) describe(ctx context.Context) (*hello, error) {
	config := s.opts.Config
	var err error
	if config == nil {
		if config, err = s.dom.Config(ctx); err != nil {
			return nil, err
		}
	}
	if s.keys, err = newKeyPair(); err != nil {
		return nil, err
	}
	early, err := s.mayPrepare(ctx)
	if err != nil {
		return nil, err
	}
	return &hello{
		MinVersion: ProtocolMin, MaxVersion: ProtocolMax, Program: s.opts.Program,
		ID: s.report.ID, Host: s.report.From, Guest: s.report.Guest, Pages: s.dom.Pages(), Config: config,
		KeepDomid: s.opts.KeepDomid, LeavePause: s.opts.LeavePaused,
		Data: s.opts.Data, PublicKey: s.keys.fingerprint, Early: early, Stored: true, Signs: true, Asks: true,
	}, nil
}

// welcomed takes the answer to hello.
func (s *source) welcomed(ctx context.Context, early bool) error {
	m, _, err := s.link.receive(ctx, kindWelcome, s.opts.Limits.Handshake)
	if err != nil {
		return err
	}
	s.welcome = m.Welcome
	s.early = early && s.welcome.Early
	s.report.Created = time.Duration(s.welcome.CreateNs)
	if s.welcome.Host != "" {
		s.report.To = peerText(s.welcome.Host)
	}
	if v := s.welcome.Version; v < ProtocolMin || v > ProtocolMax {
		return fmt.Errorf("%w: %s chose version %d, this program speaks %d to %d",
			ErrVersion, s.link.peer, v, ProtocolMin, ProtocolMax)
	}
	return nil
}
