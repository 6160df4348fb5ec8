package xen

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/xenferry/xenferry/evtchn"
)

// Change is what a running migration is asked to change. What is nil stays.
type Change struct {
	RateBits    *uint64        // as RateLimit.Set
	Compress    *Compression   // from the next batches on
	MaxDowntime *time.Duration // 0: no limit
	Threads     *uint64        // how many connections work at once, 1 to all of them
	Throttle    *uint64        // percent of its processor time that the guest loses, 0 to MaxThrottle
}

// Bits of the first word of a request: what it asks for.
const (
	changeRate = 1 << iota
	changeCompress
	changeDowntime
	changeThreads
	changeThrottle
	changeBits
)

// layout is the words of a request: what, a rate in bits a second, a pause in
// nanoseconds, a number of connections, a percentage, and a text of 16 bytes for
// the compression.
func (c *Change) layout(w *words) {
	var what, rate, threads, throttle uint64
	var pause time.Duration
	var compress string
	if c.RateBits != nil {
		what, rate = what|changeRate, *c.RateBits
	}
	if c.MaxDowntime != nil {
		what, pause = what|changeDowntime, *c.MaxDowntime
	}
	if c.Compress != nil {
		what, compress = what|changeCompress, c.Compress.String()
	}
	if c.Threads != nil {
		what, threads = what|changeThreads, *c.Threads
	}
	if c.Throttle != nil {
		what, throttle = what|changeThrottle, *c.Throttle
	}
	w.number(&what)
	w.number(&rate)
	w.duration(&pause)
	w.number(&threads)
	w.number(&throttle)
	w.text(&compress, methodWords)
	if !w.reading {
		return
	}
	*c = Change{}
	if what == 0 || what >= changeBits {
		w.fail("asks for %#x", what)
	}
	if what&changeRate != 0 {
		c.RateBits = &rate
	}
	if what&changeDowntime != 0 {
		c.MaxDowntime = &pause
	}
	if what&changeThreads != 0 {
		c.Threads = &threads
	}
	if what&changeThrottle != 0 {
		c.Throttle = &throttle
	}
	if what&changeCompress != 0 {
		parsed, err := ParseCompression(compress)
		if err != nil {
			w.fail("is no compression: %v", err)
		}
		c.Compress = &parsed
	}
}

func (c Change) words() (request [evtchn.RequestWords]uint64) {
	c.layout(&words{list: request[:]})
	return request
}

// parseChange reads a request.
func parseChange(request []uint64) (Change, error) {
	w := words{list: request, reading: true}
	var c Change
	c.layout(&w)
	if w.err == nil && c.RateBits != nil {
		w.err = checkRate(*c.RateBits)
	}
	if w.err == nil && c.Throttle != nil {
		w.err = checkThrottle(*c.Throttle)
	}
	return c, w.err
}

// String says what is to change, for people.
func (c Change) String() string {
	var parts []string
	if c.RateBits != nil {
		parts = append(parts, "bandwidth limit "+RateText(*c.RateBits))
	}
	if c.Compress != nil {
		parts = append(parts, "compression "+c.Compress.String())
	}
	if c.MaxDowntime != nil {
		limit := "none"
		if *c.MaxDowntime > 0 {
			limit = c.MaxDowntime.String()
		}
		parts = append(parts, "limit of the downtime "+limit)
	}
	if c.Threads != nil {
		parts = append(parts, fmt.Sprintf("%d connections at work", *c.Threads))
	}
	if c.Throttle != nil {
		parts = append(parts, fmt.Sprintf("guest throttled by %d %%", *c.Throttle))
	}
	return strings.Join(parts, ", ")
}

// RateText writes bits a second for people.
func RateText(bits uint64) string {
	switch {
	case bits == 0:
		return "none"
	case bits >= 1e9:
		return fmt.Sprintf("%g Gbit/s", math.Round(float64(bits)/1e7)/100)
	}
	return fmt.Sprintf("%g Mbit/s", math.Round(float64(bits)/1e4)/100)
}

// What the first word of an answer can be.
const (
	answerApplied = 1
	answerRefused = 2
)

// answerText is how long the text of an answer can be, in words.
const answerText = evtchn.AnswerWords - 1

// ErrChangeRefused: the migration goes on as before.
var ErrChangeRefused = errors.New("refused")

// answerTo turns what became of a request into words.
func answerTo(err error) (answer [evtchn.AnswerWords]uint64) {
	verdict, text := uint64(answerApplied), ""
	if err != nil {
		verdict, text = answerRefused, err.Error()
	}
	w := words{list: answer[:]}
	w.number(&verdict)
	w.text(&text, answerText)
	return answer
}

// parseAnswer is the way back.
func parseAnswer(answer []uint64) error {
	w := words{list: answer, reading: true}
	var verdict uint64
	var text string
	w.number(&verdict)
	w.text(&text, answerText)
	switch {
	case w.err != nil:
		return w.err
	case verdict == answerApplied:
		return nil
	case verdict == answerRefused:
		return fmt.Errorf("%w: %s", ErrChangeRefused, text)
	}
	return fmt.Errorf("%w: the answer is %d", evtchn.ErrBadPage, verdict)
}
