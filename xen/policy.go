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

// StockPolicy stops as stock Xen does: fewer than 50 pages were dirtied, or 5
// rounds are done.
func StockPolicy(rounds []RoundStats) bool {
	return rounds[len(rounds)-1].Dirty < StockTargetDirty || len(rounds) >= StockMaxRounds
}
