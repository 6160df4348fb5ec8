package xen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

func TestMoves(t *testing.T) {
	for _, mode := range []DataMode{DataTLS, DataPlain, DataControl} {
		for _, n := range []int{1, 4} {
			for _, verify := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d/verify=%v", mode, n, verify), func(t *testing.T) {
					m := newMove()
					m.opts.Data, m.opts.Pipe.Connections, m.opts.Verify, m.opts.MemoryHash = mode, n, verify, true
					m.run(t.Context(), t)
					m.expectMoved(t)
					if m.report.Differing != 0 {
						t.Errorf("%d pages differ", m.report.Differing)
					}
					if len(m.report.Rounds) < 2 || m.report.PagesZero == 0 || m.report.Downtime == 0 || m.report.Build == 0 || m.report.Start == 0 || m.report.MemoryHash == "" {
						t.Errorf("report %+v", m.report)
					}
					if mode != DataControl && !strings.HasPrefix(m.report.Data, string(mode)+" 127.0.0.1:") {
						t.Errorf("data went over %q", m.report.Data)
					}
				})
			}
		}
	}
}

func TestPolicyIsAsked(t *testing.T) {
	late := map[string]error{"Preparable": ErrUnsupported} // no second run of rounds, while devices are built
	m := newMove()
	m.dom.writes = 60 // never fewer than the target of 50
	m.src.failAt = late
	m.run(t.Context(), t)
	m.expectMoved(t)
	if m.dst.in.prepared {
		t.Error("devices were built early that must not be")
	}
	// The policy's, one or more while the guest answers the request, and the last.
	if got, least := len(m.report.Rounds), StockMaxRounds+2; got < least {
		t.Errorf("%d rounds, want %d at least", got, least)
	}
	m = newMove()
	m.dom.writes = 5
	m.src.failAt = late
	m.run(t.Context(), t)
	m.expectMoved(t)
	if got := len(m.report.Rounds); got < 3 || got >= StockMaxRounds+2 {
		t.Errorf("%d rounds for a guest that writes little, want 3", got)
	}
}

// TestSlowSuspend: what a guest writes while it takes its time to suspend is not
// sent in the downtime.
func TestSlowSuspend(t *testing.T) {
	m := newMove()
	m.dom.writes = 60
	var looks atomic.Int32
	looked := make(chan struct{})
	m.src.onCall = func(method string) {
		switch method {
		case "CleanDirty":
			if looks.Add(1) == StockMaxRounds+2 { // 5 before the guest is asked, and 2 more
				close(looked)
			}
		case "Suspend":
			select {
			case <-looked:
			case <-time.After(time.Minute):
				t.Error("the source does not look what is written while it waits")
			}
		}
	}
	m.src.failAt = map[string]error{"Preparable": ErrUnsupported} // no second run of rounds
	m.run(t.Context(), t)
	m.expectMoved(t)
	if got, least := len(m.report.Rounds), StockMaxRounds+3; got < least {
		t.Errorf("%d rounds, want %d at least", got, least)
	}
}

// TestReadyBeforeTheSuspend: the copy gets its name while the guest answers the
// request to suspend, where its devices are there by then, and else after Finish.
func TestReadyBeforeTheSuspend(t *testing.T) {
	for _, early := range []bool{true, false} {
		m := newMove()
		named := make(chan struct{})
		m.dst.onCall = func(method string) {
			if method == "In.Rename" {
				close(named) // panics if it is named twice
			}
		}
		if early {
			m.src.onCall = func(method string) {
				if method != "Suspend" {
					return
				}
				select {
				case <-named:
				case <-time.After(time.Minute):
					t.Error("the copy gets its name only after the suspend")
				}
			}
		} else {
			m.src.failAt = map[string]error{"Preparable": ErrUnsupported}
		}
		m.run(t.Context(), t)
		m.expectMoved(t)
		finished, renamed := slices.Index(m.dst.calls, "Finish"), slices.Index(m.dst.calls, "In.Rename")
		if (renamed < finished) != early {
			t.Errorf("devices early: %v; the destination's calls: %q", early, m.dst.calls)
		}
	}
}

// TestSourceFailures lets every call at the source fail once.
func TestSourceFailures(t *testing.T) {
	broken := errors.New("broken on purpose")
	for _, method := range []string{"Host.Info", "Info", "Config", "StaticState", "Preparable", "StartLogDirty", "EarlyState", "CleanDirty", "Map", "Suspend", "FinalState", "Rename"} {
		t.Run(method, func(t *testing.T) {
			m := newMove()
			m.src.failAt = map[string]error{method: broken}
			m.run(t.Context(), t)
			m.expectAtSource(t)
			if !errors.Is(m.srcErr, broken) {
				t.Errorf("the cause is lost: %v", m.srcErr)
			}
			if !strings.Contains(m.dstErr.Error(), broken.Error()) {
				t.Errorf("the destination was not told why: %v", m.dstErr)
			}
		})
	}
}

// TestDestinationFailures lets every call at the destination fail once, those
// after GO included.
func TestDestinationFailures(t *testing.T) {
	for _, method := range []string{"Host.Info", "List", "Receive", "LoadStatic", "In.Map", "Prepare", "Finish", "Whole", "In.Rename", "Unpause"} {
		for _, mode := range []DataMode{DataPlain, DataControl} {
			t.Run(method+"/"+string(mode), func(t *testing.T) {
				m := newMove()
				m.opts.Data = mode
				m.dst.failAt = map[string]error{method: ErrNoMemory}
				m.run(t.Context(), t)
				m.expectAtSource(t)
				if !errors.Is(m.srcErr, ErrNoMemory) || !strings.Contains(m.srcErr.Error(), method) {
					t.Errorf("the source was not told why: %v", m.srcErr)
				}
			})
		}
	}
}

func TestNameTaken(t *testing.T) {
	m := newMove()
	m.dst.others = []DomainInfo{{Domid: 4, Name: "db1", UUID: "another"}}
	m.run(t.Context(), t)
	m.expectAtSource(t)
	if !errors.Is(m.srcErr, ErrNameTaken) || m.dst.called("Receive") {
		t.Errorf("%v", m.srcErr)
	}
}

func TestSuspendRefused(t *testing.T) {
	m := newMove()
	m.limits.Suspend = 50 * time.Millisecond
	m.src.blockAt = map[string]bool{"Suspend": true}
	m.run(t.Context(), t)
	m.expectAtSource(t)
	if !errors.Is(m.srcErr, ErrSuspendRefused) {
		t.Errorf("%v", m.srcErr)
	}
}

// messageKind returns the kind of a message frame, or "" for other frames.
func messageKind(frame []byte) string {
	h, err := savefmt.ParseHeader(frame)
	if err != nil || h.Type != savefmt.FrameMessage {
		return ""
	}
	var m message
	_ = json.Unmarshal(frame[savefmt.HeaderSize:], &m)
	return m.Kind
}

// TestLinkCut cuts the control connection instead of passing on each message.
func TestLinkCut(t *testing.T) {
	for _, kind := range []string{kindHello, kindWelcome, kindStreams, kindFinal, kindReady} {
		t.Run(kind, func(t *testing.T) {
			m := newMove()
			m.onMessage = func(_ bool, frame []byte) bool { return messageKind(frame) != kind }
			m.run(t.Context(), t)
			m.expectAtSource(t)
			if !errors.Is(m.srcErr, ErrPeerLost) {
				t.Errorf("%v", m.srcErr)
			}
		})
	}
}

// TestLinkCutAfterGo: the source cannot know, so it must not resume.
func TestLinkCutAfterGo(t *testing.T) {
	for _, kind := range []string{kindGo, kindStarted} {
		t.Run(kind, func(t *testing.T) {
			m := newMove()
			m.onMessage = func(_ bool, frame []byte) bool { return messageKind(frame) != kind }
			m.run(t.Context(), t)
			if m.report.Outcome != OutcomeInDoubt || m.dom.state != StateSuspended || m.dom.destroyed || m.src.called("Resume") {
				t.Errorf("outcome %q, source %s, destroyed %v", m.report.Outcome, m.dom.state, m.dom.destroyed)
			}
			runsThere := m.dst.in.state == StateRunning
			if want := kind == kindStarted; runsThere != want || m.dst.in.destroyed == want {
				t.Errorf("destination: runs %v, destroyed %v", runsThere, m.dst.in.destroyed)
			}
		})
	}
}

func TestSilence(t *testing.T) {
	m := newMove()
	m.limits.Silence = 1500 * time.Millisecond
	hung := make(chan struct{})
	m.onMessage = func(fromSource bool, frame []byte) bool {
		if !fromSource && messageKind(frame) == kindReady {
			<-hung // a destination that hangs: nothing more comes from it
			return false
		}
		return true
	}
	time.AfterFunc(6*time.Second, func() { close(hung) })
	m.run(t.Context(), t)
	m.expectAtSource(t)
	if !errors.Is(m.srcErr, ErrPeerSilent) {
		t.Errorf("%v", m.srcErr)
	}
}

func TestCancel(t *testing.T) {
	for _, at := range []string{kindStreams, kindFinal} {
		t.Run(at, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			m := newMove()
			m.dst.blockAt = map[string]bool{"Finish": true}
			m.onMessage = func(fromSource bool, frame []byte) bool {
				if fromSource && messageKind(frame) == at {
					cancel()
				}
				return true
			}
			m.run(ctx, t)
			m.expectAtSource(t)
			if !errors.Is(m.srcErr, context.Canceled) {
				t.Errorf("%v", m.srcErr)
			}
			var said *PeerError
			if !errors.As(m.dstErr, &said) || said.Code != CodeCancelled {
				t.Errorf("the destination was not told: %v", m.dstErr)
			}
		})
	}
}

// TestUserLimits: the whole takes too long, or the pause does.
func TestUserLimits(t *testing.T) {
	t.Run("downtime", func(t *testing.T) {
		m := newMove()
		m.opts.MaxDowntime = 50 * time.Millisecond
		m.dst.blockAt = map[string]bool{"Finish": true}
		m.run(t.Context(), t)
		m.expectAtSource(t)
		if !errors.Is(m.srcErr, ErrDowntime) {
			t.Errorf("%v", m.srcErr)
		}
		if m.report.Paused < m.opts.MaxDowntime || m.report.Paused > m.report.Total {
			t.Errorf("it was paused for %v, of %v", m.report.Paused, m.report.Total)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, ErrDeadline)
		defer cancel()
		m := newMove()
		m.dst.blockAt = map[string]bool{"Finish": true}
		m.run(ctx, t)
		m.expectAtSource(t)
		if !errors.Is(m.srcErr, ErrDeadline) {
			t.Errorf("%v", m.srcErr)
		}
	})
}

// TestUntouched: a guest that somebody else has suspended is left as it is.
func TestUntouched(t *testing.T) {
	m := newMove()
	m.dom.state = StateSuspended
	m.run(t.Context(), t)
	if m.srcErr == nil || m.src.called("Resume") || m.dom.state != StateSuspended {
		t.Errorf("%v, the guest is %s", m.srcErr, m.dom.state)
	}
}

func TestDestroyFails(t *testing.T) {
	m := newMove()
	m.src.failAt = map[string]error{"Destroy": errors.New("busy")}
	m.run(t.Context(), t)
	if m.report.Outcome != OutcomeLeftover || m.dst.in.state != StateRunning || m.dom.state != StateSuspended {
		t.Errorf("outcome %q, destination %s, source %s", m.report.Outcome, m.dst.in.state, m.dom.state)
	}
}

func TestVersionMismatch(t *testing.T) {
	m := newMove()
	m.onMessage = func(fromSource bool, frame []byte) bool {
		if messageKind(frame) == kindHello {
			rewriteHello(frame, fmt.Sprintf(`"min_version":%d,"max_version":%d`, ProtocolMin, ProtocolMax), `"min_version":7,"max_version":9`)
		}
		return true
	}
	m.run(t.Context(), t)
	m.expectAtSource(t)
	if !errors.Is(m.srcErr, ErrVersion) {
		t.Errorf("%v", m.srcErr)
	}
}

// rewriteHello replaces text in a message frame by text of the same length.
func rewriteHello(frame []byte, from, to string) {
	body := strings.Replace(string(frame[savefmt.HeaderSize:]), from, to, 1)
	copy(frame, savefmt.AppendFrame(nil, savefmt.FrameMessage, []byte(body)))
}

// TestCorruptControl flips one bit in each kind of frame of the control
// connection, pages included.
func TestCorruptControl(t *testing.T) {
	for _, typ := range []savefmt.FrameType{savefmt.FrameMessage, savefmt.FrameState, savefmt.FramePages, savefmt.FrameRoundEnd} {
		for _, offset := range []int{5, savefmt.HeaderSize + 3} {
			t.Run(fmt.Sprintf("%d+%d", typ, offset), func(t *testing.T) {
				m := newMove()
				m.opts.Data = DataControl
				done := false
				m.onMessage = func(fromSource bool, frame []byte) bool {
					if fromSource && !done && savefmt.FrameType(frame[4]) == typ {
						done = true
						frame[offset] ^= 0x10
					}
					return true
				}
				// The relay itself must not trip over what it has broken.
				m.run(t.Context(), t)
				m.expectAtSource(t)
				if !errors.Is(m.srcErr, ErrCorrupt) {
					t.Errorf("%v", m.srcErr)
				}
			})
		}
	}
}

// TestDamagedPage flips a bit in a page's contents: in a live round that is
// found at the end, when the page has not come again.
func TestDamagedPage(t *testing.T) {
	for _, round := range []uint32{0, 5} {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			m := newMove()
			m.dom.writes = 60
			m.opts.Data = DataControl
			done := false
			m.onMessage = func(fromSource bool, frame []byte) bool {
				h, err := savefmt.ParseHeader(frame)
				if err == nil && h.Type == savefmt.FramePages && h.Round == round && !done && h.Length > 0 {
					done = true
					frame[len(frame)-1] ^= 1
				}
				return true
			}
			m.run(t.Context(), t)
			if !done {
				t.Fatal("no page was damaged")
			}
			if m.srcErr == nil && round == 0 { // the page was written again by chance: then it is whole
				m.expectMoved(t)
				return
			}
			m.expectAtSource(t)
			if !errors.Is(m.srcErr, ErrCorrupt) || !strings.Contains(m.srcErr.Error(), "damaged") {
				t.Errorf("%v", m.srcErr)
			}
		})
	}
}

// TestLostWriteIsFound: memory that changes behind log-dirty's back is what
// --debug and --memory-hash are for. The first tells, the second refuses.
func TestLostWriteIsFound(t *testing.T) {
	lose := func(m *move) {
		m.dom.writes = 0
		lost := sync.OnceFunc(func() { m.dom.mem[0] ^= 1 })
		m.opts.Policy = func([]RoundStats) bool {
			lost() // page 0 was sent in round 0, and is not marked dirty
			return true
		}
	}
	t.Run("verify", func(t *testing.T) {
		m := newMove()
		m.opts.Verify = true
		lose(m)
		m.run(t.Context(), t)
		if m.srcErr != nil || m.report.Differing != 1 {
			t.Errorf("%v, %d pages differ", m.srcErr, m.report.Differing)
		}
	})
	t.Run("hash", func(t *testing.T) {
		m := newMove()
		m.opts.MemoryHash = true
		lose(m)
		m.run(t.Context(), t)
		m.expectAtSource(t)
		if !errors.Is(m.srcErr, ErrCorrupt) {
			t.Errorf("%v", m.srcErr)
		}
	})
}

// TestSuspendsLate: the call that asks the guest to suspend fails, and the guest
// follows the request after it was resumed. It must not stay suspended.
func TestSuspendsLate(t *testing.T) {
	m := newMove()
	m.dom.failsLate = true
	m.run(t.Context(), t)
	m.expectAtSource(t)
	if m.dom.due {
		t.Error("nobody has looked whether it suspends")
	}
}

// TestGuestEnds: a guest that powers off while it is moved has not been left
// suspended.
func TestGuestEnds(t *testing.T) {
	m := newMove()
	gone := fmt.Errorf("%w: domain 3", ErrNoDomain)
	m.src.failAt = map[string]error{"Suspend": gone, "Resume": gone, "StopLogDirty": gone}
	m.run(t.Context(), t)
	if m.report.Outcome != OutcomeEnded || !m.dst.in.destroyed {
		t.Errorf("outcome %q (%v), copy destroyed %v", m.report.Outcome, m.srcErr, m.dst.in.destroyed)
	}
}
