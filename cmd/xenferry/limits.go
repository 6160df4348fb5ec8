package main

import (
	"time"

	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/xen"
)

// limitFlag is a flag that sets one limit of a migration.
type limitFlag struct {
	name  string
	usage string
	of    func(*xen.Limits) *time.Duration
}

var limitFlags = []limitFlag{
	{"connect-timeout", "how long <host> may take to say its first word (ssh may ask for a password), and its data connections to be there", func(l *xen.Limits) *time.Duration { return &l.Connect }},
	{"handshake-timeout", "how long <host> may take to make a domain for the guest", func(l *xen.Limits) *time.Duration { return &l.Handshake }},
	{"silence-timeout", "give up when nothing at all comes from the other end, or it takes nothing of what is sent, for so long; a sender or receiver that hangs for so long is killed by its guardian", func(l *xen.Limits) *time.Duration { return &l.Silence }},
	{"suspend-timeout", "how long the guest may take to answer the suspend request; one that has then gets 25s more", func(l *xen.Limits) *time.Duration { return &l.Suspend }},
	{"ready-timeout", "how long <host> may take for devices, after the last page, and to store a round of pages", func(l *xen.Limits) *time.Duration { return &l.Ready }},
	{"commit-timeout", "how long <host> may take to let the guest run, before it is asked over a new connection", func(l *xen.Limits) *time.Duration { return &l.Commit }},
	{"doubt-timeout", "how long to ask <host>, before the guardian goes on with that in the background", func(l *xen.Limits) *time.Duration { return &l.Doubt }},
	{"doubt-retry", "the longest pause of the guardian between two questions", func(l *xen.Limits) *time.Duration { return &l.Retry }},
}

// cliLimitFlags returns the flags, with the defaults.
func cliLimitFlags() []cli.Flag {
	defaults := xen.DefaultLimits
	var flags []cli.Flag
	for _, f := range limitFlags {
		flags = append(flags, &cli.DurationFlag{Name: f.name, Value: *f.of(&defaults), Usage: f.usage})
	}
	return append(flags,
		&cli.DurationFlag{Name: "deadline", Usage: "give up when the guest is not handed over after so long; 0: never"},
		&cli.DurationFlag{Name: "max-downtime", Usage: "let the guest run on here when it would be suspended for longer before it is handed over; 0: whatever the other limits allow"},
	)
}

// limitsOf reads the flags.
func limitsOf(c *cli.Context) (xen.Limits, error) {
	var limits xen.Limits
	for _, f := range limitFlags {
		d := c.Duration(f.name)
		if d < time.Second {
			return limits, usagef("--%s %s: it must be one second or more", f.name, d)
		}
		*f.of(&limits) = d
	}
	for _, name := range []string{"deadline", "max-downtime"} {
		if d := c.Duration(name); d < 0 {
			return limits, usagef("--%s %s: it cannot be negative", name, d)
		}
	}
	return limits, nil
}
