package xen

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/savefmt"
)

// counters is what a lane has done since the start. Its goroutines add to it
// once a batch, the observer reads it at any time.
type counters struct {
	pages, zero, empty, copied, wire atomic.Uint64
	read, encode, write, held        atomic.Int64 // ns at work; held: waiting for the bandwidth limit
	methods                          [maxMethods]methodCounters
}

type methodCounters struct {
	pages, wire atomic.Uint64
	took        atomic.Int64
}

func (m *methodCounters) add(raw, encoded int, took time.Duration) {
	m.pages.Add(uint64(raw / PageSize))
	m.wire.Add(uint64(encoded))
	m.took.Add(int64(took))
}

// traffic is counters at one moment, or between two of them.
type traffic struct {
	pages, zero, empty, copied, wire uint64
	stages                           StageTimes
	methods                          [maxMethods]MethodStats
}

// MethodStats is what one way to encode pages has done.
type MethodStats struct {
	Method string `json:"method"` // as for --compress; off: as they are
	Pages  uint64 `json:"pages"`
	// WireBytes is what the pages' contents became.
	WireBytes uint64        `json:"wire_bytes"`
	Time      time.Duration `json:"time_ns"` // of compressing
}

// StageTimes is how long the stages of the source were at work, all
// connections together.
type StageTimes struct {
	Read     time.Duration `json:"read_ns"`     // mapping, finding zeros, checksums, copies
	Compress time.Duration `json:"compress_ns"` // encoders
	Write    time.Duration `json:"write_ns"`    // writing to the connections, and waiting for them
	Held     time.Duration `json:"held_ns"`     // not writing, because of the bandwidth limit
}

// traffic sums what the lanes have done since the start.
func (s *sender) traffic() traffic {
	var t traffic
	for _, l := range s.lanes {
		t.pages += l.n.pages.Load()
		t.zero += l.n.zero.Load()
		t.empty += l.n.empty.Load()
		t.copied += l.n.copied.Load()
		t.wire += l.n.wire.Load()
		t.stages.add(StageTimes{
			Read: time.Duration(l.n.read.Load()), Compress: time.Duration(l.n.encode.Load()), Write: time.Duration(l.n.write.Load()),
			Held: time.Duration(l.n.held.Load()),
		})
		for i := range l.n.methods {
			t.methods[i].Pages += l.n.methods[i].pages.Load()
			t.methods[i].WireBytes += l.n.methods[i].wire.Load()
			t.methods[i].Time += time.Duration(l.n.methods[i].took.Load())
		}
	}
	return t
}

func (t *StageTimes) add(o StageTimes) {
	t.Read, t.Compress, t.Write, t.Held = t.Read+o.Read, t.Compress+o.Compress, t.Write+o.Write, t.Held+o.Held
}

// since returns what was done after before.
func (t traffic) since(before *traffic) traffic {
	t.pages, t.zero, t.empty = t.pages-before.pages, t.zero-before.zero, t.empty-before.empty
	t.copied, t.wire = t.copied-before.copied, t.wire-before.wire
	t.stages.Read -= before.stages.Read
	t.stages.Compress -= before.stages.Compress
	t.stages.Write -= before.stages.Write
	t.stages.Held -= before.stages.Held
	for i := range t.methods {
		t.methods[i].Pages -= before.methods[i].Pages
		t.methods[i].WireBytes -= before.methods[i].WireBytes
		t.methods[i].Time -= before.methods[i].Time
	}
	return t
}

// named returns the methods that were used, with their names.
func (t *traffic) named(methods []savefmt.Method) []MethodStats {
	var out []MethodStats
	for i, m := range methods {
		if s := t.methods[i]; s.Pages > 0 {
			s.Method = m.String()
			out = append(out, s)
		}
	}
	return out
}

// ReceiverStats is what taking the pages cost the destination. Times are of all
// connections together.
type ReceiverStats struct {
	Read       time.Duration `json:"read_ns"`       // reading pages, and waiting for them
	Decompress time.Duration `json:"decompress_ns"` // decoders
	Store      time.Duration `json:"store_ns"`      // mapping, checksums, zeroing
	CPU        time.Duration `json:"cpu_ns"`        // of the program, its helpers included, until the guest was whole
}

// processCPU returns the CPU time of this process and of those it has waited for.
func processCPU() time.Duration {
	var total time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			total += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	return total
}

// Bottlenecks of a round.
const (
	BottleneckLink     = "link"            // writing waited for the network or the other end
	BottleneckLimit    = "bandwidth limit" // writing waited for the cap that the user has set
	BottleneckCompress = "compress"        // the encoders
	BottleneckRead     = "read"            // reading guest memory
)

// bottleneck names the stage that was at work most of the time.
func (t StageTimes) bottleneck() string {
	prepare := t.Read + t.Compress
	switch {
	case t.Write+t.Held >= prepare && t.Held > t.Write:
		return BottleneckLimit
	case t.Write+t.Held >= prepare:
		return BottleneckLink
	case t.Compress >= t.Read:
		return BottleneckCompress
	}
	return BottleneckRead
}

// stats turns the traffic of one round into what is told of it.
func (t traffic) stats(round int, took time.Duration, lanes int, methods []savefmt.Method) RoundStats {
	return RoundStats{
		Round: round, Pages: t.pages, Zero: t.zero, Empty: t.empty, Copied: t.copied, WireBytes: t.wire, Time: took,
		Methods: t.named(methods), Lanes: lanes, Stages: t.stages, Bottleneck: t.stages.bottleneck(),
	}
}
