package main

import (
	"net"
	"net/netip"
	"time"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
)

// checkNet sends numbered packets, and hears the listener's answers, for as
// long as the guest runs.
func (g *guest) checkNet() {
	conn, err := openNet(g.params.address)
	if err != nil {
		g.net.bad.Add(1)
		g.console.bad("network: %v", err)
		return
	}
	go g.hear(conn)
	var buf []byte
	harmed := false
	var failing int64 // since when, 0 if it is not
	for range time.Tick(g.params.netEvery) {
		n := g.net.done.Load() + 1
		if !harmed && n > 10 && g.harmDue("net") {
			n -= 10 // as a second copy that is behind would send
			harmed = true
		}
		p := xfg.Packet{Kind: xfg.KindBeat, ID: g.id, N: n, Clock: bootNs(), Bad: g.totalBad()}
		buf = p.Append(buf[:0])
		if _, err := conn.WriteToUDPAddrPort(buf, g.params.to); err != nil {
			g.net.errs.Add(1)
			if failing == 0 {
				failing = bootNs()
				g.console.note("network: packet %d: %v: trying again", n, err)
			}
			continue
		}
		if failing != 0 {
			g.console.note("network is back after %d ms", (bootNs()-failing)/1e6)
			failing = 0
		}
		g.net.done.Store(max(n, g.net.done.Load()))
	}
}

func openNet(address netip.Prefix) (*net.UDPConn, error) {
	if err := waitFor("/sys/class/net/eth0"); err != nil {
		return nil, err
	}
	if err := setAddress("eth0", address); err != nil {
		return nil, err
	}
	return net.ListenUDP("udp4", &net.UDPAddr{Port: xfg.GuestPort})
}

// hear counts the listener's answers. One to a packet that this guest has not
// sent proves a second copy.
func (g *guest) hear(conn *net.UDPConn) {
	buf := make([]byte, 2*xfg.PacketSize)
	for {
		size, _, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		p, err := xfg.ParsePacket(buf[:size])
		if err != nil || p.ID != g.id {
			continue
		}
		if p.Kind == xfg.KindSweep {
			g.sweep()
		}
		if p.Kind != xfg.KindEcho {
			continue
		}
		g.net.heard.Add(1)
		// One more may be under way: it is counted only after it is sent.
		if sent := g.net.done.Load(); p.N > sent+1 {
			g.net.bad.Add(1)
			g.console.bad("network: an answer to packet %d, but this guest has only sent up to %d: a second copy of it sends", p.N, sent)
		}
	}
}

// totalBad is Beat.TotalBad at this moment.
func (g *guest) totalBad() uint64 {
	var b xfg.Beat
	g.count(&b)
	return b.TotalBad()
}
