package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// meter measures one run from outside: time, CPU seconds of processes that
// live throughout, bytes at the interface.
type meter struct {
	net   *network
	pids  []int
	start time.Time
	cpu   time.Duration
	wire  uint64
}

func startMeter(n *network, img *memoryImage, pids ...int) (*meter, error) {
	if err := img.warmUp(); err != nil {
		return nil, err
	}
	m := &meter{net: n, pids: pids, cpu: cpuTime(pids)}
	var err error
	m.wire, err = n.bytes()
	m.start = time.Now()
	return m, err
}

// stop stores what was measured since the start.
func (m *meter) stop(r *Result) error {
	r.Wall = time.Since(m.start)
	r.CPU = cpuTime(m.pids) - m.cpu
	wire, err := m.net.bytes()
	r.Wire = wire - m.wire
	return err
}

// cpuTime sums the CPU clocks of processes, with all their threads. The kernel
// numbers such clocks after the process (clock_getcpuclockid(3)).
func cpuTime(pids []int) (sum time.Duration) {
	const schedClock = 2
	for _, pid := range pids {
		var ts unix.Timespec
		if unix.ClockGettime(int32(^pid)<<3|schedClock, &ts) == nil {
			sum += time.Duration(ts.Nano())
		}
	}
	return sum
}
