//go:build lab

package labtest

import (
	"fmt"
	"os"
	"testing"
)

// Link is a rate for what goes from one host to the other, as tc writes it, or
// "off" for none.
type Link string

// usualLink is the link of the measurements. The hosts' processors are emulated,
// and do in a second about a hundredth of what real ones do; the wire between
// them is a socket of the machine, which nothing slows down. Left alone it is to
// those processors what 10 Gbit/s are to real ones, and 10 Mbit/s is to them what
// 1 Gbit/s is to real ones.
const usualLink Link = "10mbit"

// linkRate returns what XENFERRY_LAB_LINK says, or usualLink.
func linkRate() Link {
	if rate := os.Getenv("XENFERRY_LAB_LINK"); rate != "" {
		return Link(rate)
	}
	return usualLink
}

// limit limits TCP between the hosts, each way, until the test ends. What guests
// send passes by: their packets tell how long they were silent, and must not wait
// behind a migration.
func (r Link) limit(t testing.TB, l *Lab) {
	t.Helper()
	if r == "off" {
		return
	}
	const free = "tc qdisc del dev eth1 root 2> /dev/null || true"
	t.Cleanup(func() { mustAll(t, free, l.Hosts()...) })
	mustAll(t, fmt.Sprintf(`%s
set -e
tc qdisc add dev eth1 root handle 1: prio bands 2 priomap 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
tc qdisc add dev eth1 parent 1:2 tbf rate %s burst 32kb latency 200ms
tc filter add dev eth1 parent 1: protocol ip u32 match ip protocol 6 0xff flowid 1:2`, free, r), l.Hosts()...)
}
