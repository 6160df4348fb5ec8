package xen

import (
	"slices"
	"time"
)

// Report is what a migration did, for people and for --json.
type Report struct {
	ID      string     `json:"id"`
	Guest   DomainInfo `json:"guest"`
	From    string     `json:"from"`
	To      string     `json:"to"`
	Outcome Outcome    `json:"outcome"`
	Error   string     `json:"error,omitempty"`
	Code    Code       `json:"code,omitempty"`
	// FailedIn is the phase that failed.
	FailedIn string `json:"failed_in,omitempty"`
	// Data tells how the pages travelled, e.g. "tls 192.0.2.7:40123".
	Data   string        `json:"data"`
	Rounds []RoundStats  `json:"rounds"`
	Phases []PhaseTime   `json:"phases"`
	Total  time.Duration `json:"total_ns"`
	// Downtime is from the moment that the guest was known to have stopped
	// here until the destination's word that it runs came in: 0 unless moved.
	Downtime time.Duration `json:"downtime_ns"`
	// SuspendWait is from the request until the guest had stopped. Part of it
	// the guest still ran.
	SuspendWait time.Duration `json:"suspend_wait_ns"`
	// Created is how long the destination's host took to make the domain, before
	// any page could be sent.
	Created time.Duration `json:"created_ns"`
	// Devices is how long the last live round had to wait until the
	// destination had built the devices: the guest ran meanwhile.
	Devices time.Duration `json:"devices_ns"`
	// Build and Start are the destination's parts of the downtime: from the
	// source's last word until the guest was whole there, and from GO until it
	// was let run.
	Build time.Duration `json:"build_ns"`
	Start time.Duration `json:"start_ns"`
	// Budget is where the downtime went, by the time at which each part began.
	Budget []BudgetItem `json:"budget,omitempty"`
	// ClockAhead is by how much the destination's clock is ahead of the
	// source's, ClockUncertain by how much that may be wrong.
	ClockAhead     time.Duration `json:"clock_ahead_ns,omitempty"`
	ClockUncertain time.Duration `json:"clock_uncertain_ns,omitempty"`
	// ResumedAfter is, for a guest that was suspended and runs on at the
	// source, the time from the moment that the failure was seen until then.
	ResumedAfter time.Duration `json:"resumed_after_ns,omitempty"`
	// Paused is how long such a guest was suspended in all.
	Paused      time.Duration `json:"paused_ns,omitempty"`
	WireBytes   uint64        `json:"wire_bytes"`
	PagesSent   uint64        `json:"pages_sent"` // with contents
	PagesZero   uint64        `json:"pages_zero"`
	PagesCopied uint64        `json:"pages_copied"` // sent as a reference to another page
	// Compress is what was asked for, Methods what was done with the pages
	// that travelled, over all rounds.
	Compress string        `json:"compress"`
	Methods  []MethodStats `json:"methods,omitempty"`
	// Ratio is the bytes of all pages that were not zero to those on the wire.
	Ratio float64 `json:"ratio"`
	// CopyTime is the time of all rounds together, Stages and Receiver what
	// either end did in it, Bottleneck what the rest waited for.
	CopyTime   time.Duration `json:"copy_ns"`
	Stages     StageTimes    `json:"stages"`
	Receiver   ReceiverStats `json:"receiver"`
	Lanes      int           `json:"lanes"`
	Bottleneck string        `json:"bottleneck,omitempty"`
	// CPU is the CPU time of this end; that of the other is in Receiver.
	CPU time.Duration `json:"cpu_ns"`
	// Differing is the number of pages that the verify round found different.
	Differing  uint64 `json:"differing,omitempty"`
	MemoryHash string `json:"memory_hash,omitempty"`
}

// PhaseTime is how long one phase took.
type PhaseTime struct {
	Name string        `json:"name"`
	Time time.Duration `json:"time_ns"`
}

func (r *Report) addRound(s RoundStats) {
	r.Rounds = append(r.Rounds, s)
	r.WireBytes += s.WireBytes
	r.PagesZero += s.Zero
	r.PagesSent += s.Pages - s.Zero - s.Empty - s.Copied
	r.PagesCopied += s.Copied
	r.CopyTime += s.Time
	r.Lanes = s.Lanes
	r.Stages.add(s.Stages)
	r.Bottleneck = r.Stages.bottleneck()
	for _, m := range s.Methods {
		r.addMethod(m)
	}
	if r.WireBytes > 0 {
		r.Ratio = float64((r.PagesSent+r.PagesCopied)*PageSize) / float64(r.WireBytes)
	}
}

func (r *Report) addMethod(m MethodStats) {
	i := slices.IndexFunc(r.Methods, func(o MethodStats) bool { return o.Method == m.Method })
	if i < 0 {
		r.Methods = append(r.Methods, m)
		return
	}
	r.Methods[i].Pages += m.Pages
	r.Methods[i].WireBytes += m.WireBytes
	r.Methods[i].Time += m.Time
}

// Busy returns which part of the copying d, a time of all lanes together, was.
func (r *Report) Busy(d time.Duration) float64 {
	if r.CopyTime <= 0 || r.Lanes == 0 {
		return 0
	}
	return min(float64(d)/float64(r.CopyTime)/float64(r.Lanes), 1)
}
