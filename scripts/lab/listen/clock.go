package main

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
)

// clockTries is how often the other clock is asked; the quickest answer counts.
const clockTries = 20

// compareClock prints how far another host's CLOCK_REALTIME is ahead of ours.
// With set, ours is set to it, twice, since the first step is often large.
func compareClock(host string, set bool) error {
	ahead, err := clockAhead(host)
	for range 2 {
		if err != nil || !set {
			break
		}
		ts := unix.NsecToTimespec(time.Now().UnixNano() + int64(ahead))
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
			return fmt.Errorf("set the clock: %w", err)
		}
		ahead, err = clockAhead(host)
	}
	if err != nil {
		return err
	}
	fmt.Println(int64(ahead))
	return nil
}

// clockAhead asks the listener of another host for its time.
func clockAhead(host string) (time.Duration, error) {
	conn, err := net.Dial("udp4", net.JoinHostPort(host, strconv.Itoa(xfg.ListenPort)))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	var best, ahead time.Duration
	for n := range uint64(clockTries) {
		sent := time.Now()
		theirs, err := askClock(conn, n)
		took := time.Since(sent)
		if err == nil && (best == 0 || took < best) {
			best, ahead = took, theirs.Sub(sent.Add(took/2))
		}
	}
	if best == 0 {
		return 0, fmt.Errorf("%s: no answer from its listener", host)
	}
	return ahead, nil
}

func askClock(conn net.Conn, n uint64) (time.Time, error) {
	p := xfg.Packet{Kind: xfg.KindClock, N: n}
	if _, err := conn.Write(p.Append(nil)); err != nil {
		return time.Time{}, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return time.Time{}, err
	}
	buf := make([]byte, 2*xfg.PacketSize)
	for {
		size, err := conn.Read(buf)
		if err != nil {
			return time.Time{}, err
		}
		// An older answer may come late.
		if p, err := xfg.ParsePacket(buf[:size]); err == nil && p.Kind == xfg.KindClocks && p.N == n {
			return time.Unix(0, p.Clock), nil
		}
	}
}
