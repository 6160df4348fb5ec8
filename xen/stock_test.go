package xen

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/savefmt"
)

var stockLimits = Limits{Connect: 5 * time.Second, Ready: 5 * time.Second, Commit: 5 * time.Second}

// TestStockBothWays: our sender to our receiver, in the words of xl.
func TestStockBothWays(t *testing.T) {
	for _, fail := range []string{"", "LoadStatic", "Finish", "In.Rename", "Unpause"} {
		t.Run("fails at "+fail, func(t *testing.T) {
			host, dom := newSaved(TypeHVM)
			to := &savedHost{fakeHost: &fakeHost{name: "beta"}}
			if fail != "" {
				to.failAt = map[string]error{fail: errors.New("told to")}
			}
			near, far := net.Pipe()
			done := make(chan error, 1)
			go func() {
				_, err := ReceiveStock(context.Background(), to, far, RestoreOptions{Limits: stockLimits})
				far.Close()
				done <- err
			}()
			_, err := MigrateStock(t.Context(), host, dom, near, SaveOptions{Limits: stockLimits})
			receiveErr := <-done
			if fail == "" {
				if err != nil || receiveErr != nil || !dom.destroyed || to.got.state != StateRunning || to.got.name != "db1" {
					t.Fatalf("%v, %v, %+v", err, receiveErr, to.got)
				}
				return
			}
			var failure *SaveError
			if !errors.As(err, &failure) || failure.Outcome != OutcomeAtSource || receiveErr == nil {
				t.Fatalf("%v, %v", err, receiveErr)
			}
			if dom.state != StateRunning || dom.destroyed || dom.name != "db1" || !to.got.destroyed {
				t.Errorf("guest %s, destroyed %v, named %s; copy destroyed %v", dom.state, dom.destroyed, dom.name, to.got.destroyed)
			}
		})
	}
}

// stockPeer plays xl migrate-receive, and hangs up where it is told to.
func stockPeer(t *testing.T, conn net.Conn, script string, status byte) {
	defer conn.Close()
	say := func(text string) { _, _ = conn.Write([]byte(text)) }
	in := bufio.NewReader(conn)
	if script == "noise" {
		say(strings.Repeat("Welcome to this host! ", 10))
		return
	}
	say(stockBanner)
	if script == "banner" {
		return
	}
	r := savefmt.NewReader(in)
	rest := r.Rest()
	_, err := r.Open()
	for err == nil {
		_, err = r.Next()
	}
	if err != io.EOF {
		t.Errorf("the stream to a stock receiver: %v", err)
		return
	}
	if script == "stream" {
		return
	}
	say(stockReady)
	if script == "ready" {
		return
	}
	word := make([]byte, len(stockGo))
	if _, err := io.ReadFull(rest, word); err != nil || !bytes.Equal(word, []byte(stockGo)) {
		t.Errorf("heard %q, %v", word, err)
	}
	if script == "go" {
		return
	}
	say(stockReport)
	if script == "report" {
		return
	}
	say(string(status))
	if script == "all" && status != 0 {
		say(stockGo)
	}
}

func TestStockReceiverHangsUp(t *testing.T) {
	for _, tt := range []struct {
		script string
		status byte
		want   Outcome // "": moved
	}{
		{"noise", 0, OutcomeAtSource},
		{"banner", 0, OutcomeAtSource},
		{"stream", 0, OutcomeAtSource},
		{"ready", 0, OutcomeInDoubt}, // "go" cannot be known not to have arrived
		{"go", 0, OutcomeInDoubt},
		{"report", 0, OutcomeInDoubt},
		{"status", 7, OutcomeInDoubt},
		{"all", 7, OutcomeAtSource},
		{"all", 0, ""},
	} {
		t.Run(tt.script, func(t *testing.T) {
			host, dom := newSaved(TypePVH)
			near, far := net.Pipe()
			done := make(chan struct{})
			go func() { defer close(done); stockPeer(t, far, tt.script, tt.status) }()
			_, err := MigrateStock(t.Context(), host, dom, near, SaveOptions{Limits: stockLimits})
			<-done
			var failure *SaveError
			errors.As(err, &failure)
			switch {
			case tt.want == "":
				if err != nil || !dom.destroyed {
					t.Errorf("%v, destroyed %v", err, dom.destroyed)
				}
			case failure == nil || failure.Outcome != tt.want || dom.destroyed:
				t.Errorf("%+v, destroyed %v; want %s", failure, dom.destroyed, tt.want)
			case tt.want == OutcomeInDoubt && (dom.state != StateSuspended || dom.name != "db1--migratedaway"):
				t.Errorf("in doubt, and the guest is %s, named %s", dom.state, dom.name)
			case tt.want == OutcomeAtSource && (dom.state != StateRunning || dom.name != "db1"):
				t.Errorf("at the source, and the guest is %s, named %s", dom.state, dom.name)
			}
		})
	}
}

// TestStockSilence: a peer that says nothing does not hold us for ever.
func TestStockSilence(t *testing.T) {
	host, dom := newSaved(TypePVH)
	near, far := net.Pipe()
	defer far.Close()
	_, err := MigrateStock(t.Context(), host, dom, near, SaveOptions{Limits: Limits{Connect: 50 * time.Millisecond}})
	if !errors.Is(err, ErrPeerSilent) || dom.state != StateRunning {
		t.Errorf("%v, guest %s", err, dom.state)
	}
	near, far = net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	go func() { _, _ = far.Write([]byte(stockBanner)) }() // and never reads
	_, err = MigrateStock(ctx, host, dom, near, SaveOptions{Limits: stockLimits})
	if !errors.Is(err, context.Canceled) || dom.state != StateRunning {
		t.Errorf("cancelled while the receiver hangs: %v, guest %s", err, dom.state)
	}
	far.Close()
}

// TestStockSenderHangsUp: a receiver that is left alone keeps nothing.
func TestStockSenderHangsUp(t *testing.T) {
	host, dom := newSaved(TypePVH)
	var file memoryTarget
	if _, err := Save(t.Context(), host, dom, &file, SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 10, file.Len() / 2, file.Len()} {
		to := &savedHost{fakeHost: &fakeHost{name: "beta"}}
		near, far := net.Pipe()
		go func() {
			_, _ = io.ReadFull(near, make([]byte, len(stockBanner)))
			_, _ = near.Write(file.Bytes()[:n])
			if n == file.Len() {
				_, _ = io.ReadFull(near, make([]byte, len(stockReady)))
			}
			near.Close()
		}()
		_, err := ReceiveStock(t.Context(), to, far, RestoreOptions{Limits: stockLimits})
		if err == nil || to.called("Unpause") || to.got != nil && !to.got.destroyed {
			t.Errorf("cut at %d of %d: %v", n, file.Len(), err)
		}
	}
}

// namedAtEnd notes the guest's name when the journal says that it runs here.
type namedAtEnd struct {
	noProtection
	dom  *savedDomain
	name string
}

func (n *namedAtEnd) Append(r fallback.Record, _ bool) error {
	if r.State == fallback.SourceResumed {
		n.name = n.dom.name
	}
	return nil
}

// TestStockNameBeforeEnd: a guest that stays has its name again before the
// journal is at its end, behind which nobody would look after it.
func TestStockNameBeforeEnd(t *testing.T) {
	host, dom := newSaved(TypePVH)
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); stockPeer(t, far, "all", 7) }()
	shield := &namedAtEnd{dom: dom}
	_, err := MigrateStock(t.Context(), host, dom, near, SaveOptions{Limits: stockLimits,
		Protect: func(context.Context, fallback.Migration) (Protection, error) { return shield, nil }})
	<-done
	if err == nil || shield.name != "db1" {
		t.Errorf("%v; named %q at the end", err, shield.name)
	}
}
