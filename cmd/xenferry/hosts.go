package main

import (
	"context"
	"strings"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/sim"
	"github.com/xenferry/xenferry/xen/xl"
)

// What --connect can name.
const (
	xenURI    = "xen"
	simPrefix = "sim:"
)

// openHost opens the host that --connect names.
func openHost(ctx context.Context, uri string) (xen.Host, error) {
	if name, ok := strings.CutPrefix(uri, simPrefix); ok {
		return sim.Dial(ctx, name)
	}
	if uri != xenURI {
		return nil, usagef("--connect %q: it is xen, or sim:NAME", uri)
	}
	return xl.Open(xl.Options{})
}
