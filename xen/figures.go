package xen

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/xenferry/xenferry/evtchn"
)

// Figures is what a program tells in shared memory of the guest that it works
// on, for other programs on this host. What is of a round is so far, of the
// current one.
type Figures struct {
	Updated     time.Time     `json:"updated"`
	Began       time.Time     `json:"began"`
	Phase       string        `json:"phase"`
	MemoryPages uint64        `json:"memory_pages"` // of the guest
	Round       uint64        `json:"round"`
	RoundTime   time.Duration `json:"round_time_ns"`
	Pages       uint64        `json:"pages"` // of the round, looked at
	OfPages     uint64        `json:"of_pages"`
	Zero        uint64        `json:"zero"`
	Copied      uint64        `json:"copied"`
	WireBytes   uint64        `json:"wire_bytes"`  // since the start
	BytesPerS   uint64        `json:"bytes_per_s"` // on the wire, over the last second
	Stages      StageTimes    `json:"stages"`      // of the round, all connections together
	Dirty       uint64        `json:"dirty"`       // pages written while the last whole round ran
	Connections uint64        `json:"connections"`
	Method      string        `json:"method"` // how pages are encoded at this moment
	// What is in force: as it was asked for, or changed since.
	Compress    string        `json:"compress"`
	RateBits    uint64        `json:"rate_limit_bits_per_s"` // 0: no limit
	MaxDowntime time.Duration `json:"max_downtime_ns"`       // 0: no limit
	Threads     uint64        `json:"threads"`               // connections that work at once
	Throttle    uint64        `json:"throttle_percent"`      // of its processor time that the guest has lost
	Changes     uint64        `json:"changes"`               // how many there were
	Tunable     bool          `json:"tunable"`               // this program takes changes
}

// The lengths of the texts, in words of 8 bytes.
const (
	phaseWords  = 4
	methodWords = 2
)

// layout is the record of figures, a word a line unless a length is given: the
// one place where it is written down. Times are nanoseconds, those of day
// since 1970; texts are UTF-8, filled up with zeros. A change of it is a new
// version of the page (evtchn.Page).
func (f *Figures) layout(w *words) {
	w.time(&f.Updated)               // 0
	w.time(&f.Began)                 // 1
	w.text(&f.Phase, phaseWords)     // 2-5
	w.number(&f.MemoryPages)         // 6
	w.number(&f.Round)               // 7
	w.duration(&f.RoundTime)         // 8
	w.number(&f.Pages)               // 9
	w.number(&f.OfPages)             // 10
	w.number(&f.Zero)                // 11
	w.number(&f.Copied)              // 12
	w.number(&f.WireBytes)           // 13
	w.number(&f.BytesPerS)           // 14
	w.duration(&f.Stages.Read)       // 15
	w.duration(&f.Stages.Compress)   // 16
	w.duration(&f.Stages.Write)      // 17
	w.duration(&f.Stages.Held)       // 18
	w.number(&f.Dirty)               // 19
	w.number(&f.Connections)         // 20
	w.text(&f.Method, methodWords)   // 21-22
	w.text(&f.Compress, methodWords) // 23-24
	w.number(&f.RateBits)            // 25
	w.duration(&f.MaxDowntime)       // 26
	w.number(&f.Threads)             // 27
	w.number(&f.Throttle)            // 28
	w.number(&f.Changes)             // 29
	w.flag(&f.Tunable)               // 30
}

// figuresWords is how many of them there are.
const figuresWords = 31

// words reads or writes fields of a shared record, one after the other.
type words struct {
	list    []uint64
	at      int
	reading bool
	err     error // of reading
}

func (w *words) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("%w: word %d of the record %s", evtchn.ErrBadPage, w.at, fmt.Sprintf(format, args...))
	}
}

func (w *words) number(v *uint64) {
	if w.reading {
		*v = w.list[w.at]
	} else {
		w.list[w.at] = *v
	}
	w.at++
}

func (w *words) duration(v *time.Duration) {
	n := uint64(*v)
	w.number(&n)
	if *v = time.Duration(n); *v < 0 {
		w.fail("is a negative time")
	}
}

func (w *words) time(v *time.Time) {
	n := uint64(v.UnixNano())
	w.number(&n)
	if w.reading {
		*v = time.Unix(0, int64(n))
	}
}

func (w *words) flag(v *bool) {
	n := uint64(0)
	if *v {
		n = 1
	}
	w.number(&n)
	if n > 1 {
		w.fail("is %d, neither 0 nor 1", n)
	}
	*v = n == 1
}

// text takes up to 8 bytes a word; what is longer is cut off.
func (w *words) text(v *string, length int) {
	if w.reading {
		*v = w.readText(length)
		return
	}
	for i := range length {
		word := uint64(0)
		for k := range 8 {
			if at := 8*i + k; at < len(*v) {
				word |= uint64((*v)[at]) << (8 * k)
			}
		}
		w.number(&word)
	}
}

func (w *words) readText(length int) string {
	b := make([]byte, 0, 8*length)
	for range length {
		word := uint64(0)
		w.number(&word)
		for k := range 8 {
			b = append(b, byte(word>>(8*k)))
		}
	}
	text := strings.TrimRight(string(b), "\x00")
	if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		w.fail("is no text")
		return ""
	}
	return text
}

// parseFigures reads a record.
func parseFigures(record []uint64) (Figures, error) {
	w := words{list: record, reading: true}
	var f Figures
	f.layout(&w)
	return f, w.err
}
