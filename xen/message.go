package xen

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/xenferry/xenferry/fallback"
)

// The protocol versions that this program speaks. A version is raised when an
// end that does not know the change would do harm; new kinds of messages that
// may be ignored do not raise it.
const (
	ProtocolMin = 4
	ProtocolMax = 4
)

// Kinds of control messages, in the order in which they are sent.
const (
	kindHello   = "hello"   // source: who I am, what comes
	kindWelcome = "welcome" // destination: a domain is there to take it, and where to connect
	kindStreams = "streams" // source: the static state is sent, this many data connections carry the pages
	kindPrepare = "prepare" // source, if both have said early: all pages were sent once, build the devices
	kindReadied = "readied" // destination: the devices are there
	kindStored  = "stored"  // destination, if both have said stored: that live round is in the guest's memory here
	kindAsked   = "asked"   // source, if both have said asks: the guest is being asked to suspend
	kindFinal   = "final"   // source: everything is sent
	kindReady   = "ready"   // destination: the guest is whole, and paused
	kindGo      = "go"      // source: it is yours
	kindStarted = "started" // destination: it runs
	kindSign    = "sign"    // destination, if hello has said signs: the guest has shown that it runs
	kindAck     = "ack"     // source: mine is destroyed
	kindAsk     = "ask"     // source, in place of hello: what has become of this migration?
	kindAnswer  = "answer"  // destination: this
	kindClock   = "clock"   // source, if the destination's welcome says so: what time is it? And the answer
	kindAbort   = "abort"   // either: I give up; from the destination: the copy will never run
)

// message is one control message: its kind, and the part that the kind has.
type message struct {
	Kind    string   `json:"kind"`
	Hello   *hello   `json:"hello,omitempty"`
	Welcome *welcome `json:"welcome,omitempty"`
	Streams *streams `json:"streams,omitempty"`
	Stored  *stored  `json:"stored,omitempty"`
	Final   *final   `json:"final,omitempty"`
	Abort   *abort   `json:"abort,omitempty"`
	Ready   *ready   `json:"ready,omitempty"`
	Started *started `json:"started,omitempty"`
	Sign    *step    `json:"sign,omitempty"`
	Ask     *ask     `json:"ask,omitempty"`
	Clock   *clock   `json:"clock,omitempty"`
	Answer  *answer  `json:"answer,omitempty"`
}

type hello struct {
	MinVersion int             `json:"min_version"`
	MaxVersion int             `json:"max_version"`
	Program    string          `json:"program"` // version of the sending program, for people
	ID         string          `json:"id"`      // of this migration, 32 hex digits
	Host       string          `json:"host"`
	Guest      DomainInfo      `json:"guest"`
	Pages      uint64          `json:"pages"`
	Config     json.RawMessage `json:"config"`
	KeepDomid  bool            `json:"keep_domid,omitempty"`
	LeavePause bool            `json:"leave_paused,omitempty"`
	Data       DataMode        `json:"data"`
	Early      bool            `json:"early,omitempty"`  // its devices may be built while it runs here
	Stored     bool            `json:"stored,omitempty"` // tell me when a live round is stored
	Signs      bool            `json:"signs,omitempty"`  // tell me when the guest shows that it runs there
	Asks       bool            `json:"asks,omitempty"`   // I tell when the guest is asked to suspend
	PublicKey  string          `json:"public_key"`       // fingerprint of the sender's TLS key
}

type welcome struct {
	Version   int      `json:"version"`
	Program   string   `json:"program"`
	Host      string   `json:"host"`
	Early     bool     `json:"early,omitempty"`     // send prepare: I will build the devices early
	Stored    bool     `json:"stored,omitempty"`    // I tell when a live round is stored
	Clock     bool     `json:"clock,omitempty"`     // I can be asked for the time
	Asks      bool     `json:"asks,omitempty"`      // send asked: I get the copy ready to run meanwhile
	CreateNs  int64    `json:"create_ns,omitempty"` // what this host took to make the domain
	Addresses []string `json:"addresses,omitempty"` // host:port of the data listener, best first
	PublicKey string   `json:"public_key,omitempty"`
	Token     string   `json:"token,omitempty"`
}

type streams struct {
	// Connections that carry pages, 1 to MaxConnections; 0: the control
	// connection itself does.
	Connections int `json:"connections"`
}

// stored says that all pages of a live round are in the guest's memory at the
// destination.
type stored struct {
	Round uint32 `json:"round"`
}

type final struct {
	// MemoryHash is Hash over the guest's memory, if the source was asked for it.
	MemoryHash string `json:"memory_hash,omitempty"`
}

type ready struct {
	// Differ is the number of pages that a verify round found different,
	// DifferFirst the pfns of the first of them.
	Differ      uint64   `json:"differ,omitempty"`
	DifferFirst []uint64 `json:"differ_first,omitempty"`
	// Receiver is what taking the pages cost there.
	Receiver ReceiverStats `json:"receiver"`
	Steps    []step        `json:"steps,omitempty"` // until now
}

type started struct {
	// BuildNs is how long the destination took from the source's last word
	// to READY, StartNs from GO until the guest was let run.
	BuildNs int64  `json:"build_ns"`
	StartNs int64  `json:"start_ns"`
	Steps   []step `json:"steps,omitempty"` // since READY
	// Signs is how many messages of that kind will come.
	Signs int `json:"signs,omitempty"`
}

// clock is a question for the time, or the answer to it: the times by the
// destination's clock, in ns since 1970, at which the question came and the
// answer left. Both are 0 in the question.
type clock struct {
	CameNs int64 `json:"came_ns,omitempty"`
	LeftNs int64 `json:"left_ns,omitempty"`
}

// step is a part of the downtime at the destination: times by its clock, in ns
// since 1970.
type step struct {
	Name    string `json:"name"`
	BeganNs int64  `json:"began_ns"`
	EndedNs int64  `json:"ended_ns"`
}

// ask is a source's question after a migration whose end it did not hear.
type ask struct {
	ID   string `json:"id"`
	UUID string `json:"uuid"` // of the guest
}

type answer struct {
	Answer fallback.Answer `json:"answer"`
	Text   string          `json:"text,omitempty"` // why there is none yet
}

type abort struct {
	Code Code   `json:"code"`
	Text string `json:"text"`
}

// attach is the first frame of a data connection.
type attach struct {
	ID    string `json:"id"`
	Token string `json:"token"`
	Index int    `json:"index"` // 0 to Connections-1
}

// decodeMessage reads a control message and checks that it has the part that
// its kind needs.
func decodeMessage(body []byte) (*message, error) {
	var m message
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&m); err != nil {
		return nil, fmt.Errorf("%w: control message: %w", ErrCorrupt, err)
	}
	var present bool
	switch m.Kind {
	case kindHello:
		present = m.Hello != nil
	case kindWelcome:
		present = m.Welcome != nil
	case kindStreams:
		present = m.Streams != nil
	case kindStored:
		present = m.Stored != nil
	case kindFinal:
		present = m.Final != nil
	case kindStarted:
		present = m.Started != nil
	case kindSign:
		present = m.Sign != nil
	case kindAbort:
		present = m.Abort != nil
	case kindReady:
		present = m.Ready != nil
	case kindAsk:
		present = m.Ask != nil
	case kindAnswer:
		present = m.Answer != nil
	case kindClock:
		present = m.Clock != nil
	case kindGo, kindAck, kindPrepare, kindReadied, kindAsked:
		present = true
	default:
		return nil, fmt.Errorf("%w: unknown control message %q", ErrCorrupt, m.Kind)
	}
	if !present {
		return nil, fmt.Errorf("%w: control message %q without contents", ErrCorrupt, m.Kind)
	}
	return &m, nil
}

// maxPeerText bounds a name that a peer sends for people, in bytes: that of a
// host may have so many.
const maxPeerText = 255

// peerText returns such a name as it may be printed.
func peerText(name string) string {
	name = name[:min(len(name), maxPeerText)]
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, name)
}
