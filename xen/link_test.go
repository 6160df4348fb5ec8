package xen

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"syscall"
	"testing"

	"github.com/xenferry/xenferry/savefmt"
)

// gone is a connection whose other end has said said, and has closed: writes
// fail before that is read.
type gone struct {
	said   io.Reader
	failed chan struct{} // closed at the first write
	once   sync.Once
}

func (g *gone) Write([]byte) (int, error) {
	defer g.once.Do(func() { close(g.failed) })
	return 0, syscall.EPIPE
}

func (g *gone) Read(p []byte) (int, error) {
	<-g.failed
	return g.said.Read(p)
}

func (g *gone) Close() error { return nil }

// TestAbortBehindWrite: an end that gave up has said why, even if what is
// written to it fails first.
func TestAbortBehindWrite(t *testing.T) {
	body, err := json.Marshal(&message{Kind: kindAbort, Abort: &abort{Code: CodeOf(ErrNoMemory), Text: "no room"}})
	if err != nil {
		t.Fatal(err)
	}
	frame := savefmt.AppendFrame(nil, savefmt.FrameMessage, body)
	link := NewLink(&gone{said: bytes.NewReader(frame), failed: make(chan struct{})}, "beta", Limits{})
	defer link.Close()
	err = link.send(&message{Kind: kindGo})
	if said := (*PeerError)(nil); !errors.As(err, &said) || !errors.Is(err, ErrNoMemory) {
		t.Errorf("the other end has said why, and send returns %v", err)
	}
}
