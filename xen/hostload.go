package xen

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"time"
)

// hostLoad tells whether this host has cores to spare.
type hostLoad struct {
	read        func() ([]byte, error) // /proc/stat
	last        time.Time
	idle, total uint64 // ticks of all cores since boot, at last
	idleShare   float64
	least       float64 // idle share below which it has none
}

// A host has a core to spare if one is idle, on a host with few of them half of
// them, on one with many idleLeast of them: less is what those that send leave
// idle while they wait for each other. Its clock ticks are too coarse to look
// more often than each loadWindow.
const (
	idleLeast  = 0.1
	idleMost   = 0.5
	loadWindow = 200 * time.Millisecond
)

func leastIdle(cores int) float64 { return min(max(1/float64(cores), idleLeast), idleMost) }

func newHostLoad() *hostLoad {
	return &hostLoad{
		read:  func() ([]byte, error) { return os.ReadFile("/proc/stat") },
		least: leastIdle(runtime.NumCPU()),
	}
}

// busy tells whether it has none, as far as that is known.
func (h *hostLoad) busy(now time.Time) bool {
	if now.Sub(h.last) >= loadWindow {
		if text, err := h.read(); err == nil {
			h.sample(now, text)
		}
	}
	return h.idleShare < h.least
}

// sample takes the first line of /proc/stat: "cpu" and ticks of user, nice,
// system, idle, waiting for disks, and others.
func (h *hostLoad) sample(now time.Time, text []byte) {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	var idle, total uint64
	for i, field := range bytes.Fields(line) {
		ticks, err := strconv.ParseUint(string(field), 10, 64)
		if err != nil {
			continue // "cpu"
		}
		total += ticks
		if i == 4 || i == 5 {
			idle += ticks
		}
	}
	if !h.last.IsZero() && total > h.total && idle >= h.idle {
		h.idleShare = float64(idle-h.idle) / float64(total-h.total)
	}
	h.last, h.idle, h.total = now, idle, total
}
