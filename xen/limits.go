package xen

import "time"

// Limits bounds every wait of a migration. A zero field means its default.
type Limits struct {
	Connect   time.Duration // the other program's first word (ssh may ask for a password before); the data connections
	Handshake time.Duration // hello to welcome: the destination creates the domain
	Silence   time.Duration // nothing at all came from the other end
	Suspend   time.Duration // the guest's answer to the suspend request
	Ready     time.Duration // the last page to READY: the destination builds devices; a live round written to its being stored
	Commit    time.Duration // GO to STARTED
	Doubt     time.Duration // how long a source without an answer asks before it leaves that to its guardian
	Retry     time.Duration // the longest pause between two attempts of a guardian
	Undo      time.Duration // to put everything back after a failure
}

// DefaultLimits suit a loaded host; libxl alone may take 60 s for a device model.
var DefaultLimits = Limits{
	Connect:   120 * time.Second,
	Handshake: 120 * time.Second,
	Silence:   20 * time.Second,
	Suspend:   10 * time.Second,
	Ready:     120 * time.Second,
	Commit:    60 * time.Second,
	Doubt:     30 * time.Second,
	Retry:     30 * time.Second,
	Undo:      60 * time.Second,
}

// WithDefaults returns the limits with a default in place of each zero.
func (l Limits) WithDefaults() Limits {
	fill := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	fill(&l.Connect, DefaultLimits.Connect)
	fill(&l.Handshake, DefaultLimits.Handshake)
	fill(&l.Silence, DefaultLimits.Silence)
	fill(&l.Suspend, DefaultLimits.Suspend)
	fill(&l.Ready, DefaultLimits.Ready)
	fill(&l.Commit, DefaultLimits.Commit)
	fill(&l.Doubt, DefaultLimits.Doubt)
	fill(&l.Retry, DefaultLimits.Retry)
	fill(&l.Undo, DefaultLimits.Undo)
	return l
}
