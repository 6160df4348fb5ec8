package xen

import "time"

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
	// Build and Start are the destination's parts of the downtime: from the
	// source's last word until the guest was whole there, and from GO until it
	// was let run.
	Build time.Duration `json:"build_ns"`
	Start time.Duration `json:"start_ns"`
	// ResumedAfter is, for a guest that was suspended and runs on at the
	// source, the time from the moment that the failure was seen until then.
	ResumedAfter time.Duration `json:"resumed_after_ns,omitempty"`
	WireBytes    uint64        `json:"wire_bytes"`
	PagesSent    uint64        `json:"pages_sent"` // with contents
	PagesZero    uint64        `json:"pages_zero"`
	PagesCopied  uint64        `json:"pages_copied"` // sent as a reference to another page
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
}
