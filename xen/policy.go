package xen

import "time"

// RoundStats is one round of copying.
type RoundStats struct {
	Round     int           `json:"round"`
	Pages     uint64        `json:"pages"`      // looked at in this round
	Zero      uint64        `json:"zero"`       // of them all zero: found and not sent
	Empty     uint64        `json:"empty"`      // of them without contents
	Copied    uint64        `json:"copied"`     // of them like another of this round: only that was told
	WireBytes uint64        `json:"wire_bytes"` // frames and contents
	Time      time.Duration `json:"time_ns"`
	// Dirty is the number of pages written while the round ran: what the
	// next one has to send.
	Dirty uint64 `json:"dirty"`
	// Part: the next round has other pages, which were not looked at before;
	// what was written meanwhile is counted after that.
	Part bool `json:"part,omitempty"`
	// Methods are the ways in which the other pages were encoded.
	Methods []MethodStats `json:"methods,omitempty"`
	// Lanes is how many connections worked, Stages how long at what.
	Lanes  int        `json:"lanes"`
	Stages StageTimes `json:"stages"`
	// Bottleneck is the stage that the others waited for.
	Bottleneck string `json:"bottleneck"`
}

// Policy decides after each live round whether the guest is now suspended and
// the rest sent, or another live round is run. rounds is never empty.
type Policy func(rounds []RoundStats) (stop bool)

// The numbers of stock Xen's simple_precopy_policy (tools/libs/guest/xg_sr_save.c).
const (
	StockTargetDirty = 50
	StockMaxRounds   = 5
)

// Numbers of DefaultPolicy.
const (
	// mostRounds bounds what a guest can cost whose dirty pages grow fewer by
	// little for a long time.
	mostRounds = 30
	// worthwhile is the share of a round's pages that may have been dirtied
	// meanwhile for another to be worth it, in percent. At 75 the downtime
	// that it saves is a quarter of a round.
	worthwhile = 75
)

// DefaultPolicy stops where stock Xen does, at fewer than 50 dirty pages or
// after 5 rounds, but goes on beyond these as long as the rounds converge: each
// costs less than the one before, and all that it saves is downtime.
func DefaultPolicy(rounds []RoundStats) bool {
	last := rounds[len(rounds)-1]
	switch {
	case last.Dirty < StockTargetDirty || len(rounds) >= mostRounds:
		return true
	case len(rounds) < StockMaxRounds:
		return false
	}
	return last.Dirty*100 > last.Pages*worthwhile
}
