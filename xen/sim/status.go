package sim

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/xen"
)

// GuestStatus is what a guest and its own checker say of it at one moment.
type GuestStatus struct {
	xen.DomainInfo
	Workload string `json:"workload"`
	LogDirty bool   `json:"log_dirty"` // somebody records its writes
	Throttle uint32 `json:"throttle"`  // percent of its processor time that it has lost

	Writes       uint64 `json:"writes"` // pages written
	BytesWritten uint64 `json:"bytes_written"`
	Verified     uint64 `json:"verified"` // pages
	Sweeps       uint64 `json:"sweeps"`   // times that all memory was verified
	// BadPages is how often a page was found damaged, Errors tells of the
	// first few, in order.
	BadPages uint64   `json:"bad_pages"`
	Errors   []string `json:"errors,omitempty"`
	// Failure is why the guest crashed, if it did and could tell.
	Failure string `json:"failure,omitempty"`

	Arrivals uint64 `json:"arrivals"` // how often it was migrated
	// Instance is of this run: two guests with one UUID and two instances are
	// two copies.
	Instance string `json:"instance"`

	// The heartbeat: one in about a millisecond.
	Beats  int64         `json:"beats"`
	MaxGap time.Duration `json:"max_gap_ns"` // largest between two beats, ever
	// MaxGapHere is the largest since the guest came here, ArrivalGap the one
	// over its last migration: the downtime that the guest saw. 0 before.
	MaxGapHere time.Duration `json:"max_gap_here_ns"`
	ArrivalGap time.Duration `json:"arrival_gap_ns"`
}

// info describes the domain. The server is locked.
func (d *hosted) info() xen.DomainInfo {
	return xen.DomainInfo{
		Domid:   d.domid,
		Name:    d.name,
		UUID:    d.cfg.UUID,
		Type:    xen.TypeSim,
		State:   d.runState(),
		MemKiB:  d.cfg.memKiB(),
		VCPUs:   d.cfg.VCPUs,
		CPUTime: d.cpuTime(),
	}
}

func (d *hosted) cpuTime() time.Duration {
	select {
	case <-d.exited:
		return d.process.ProcessState.UserTime() + d.process.ProcessState.SystemTime()
	default:
	}
	return processTime(d.process.Process.Pid)
}

// processTime reads a process's CPU clock, 0 if it has just ended. The kernel
// numbers such clocks after the process (clock_getcpuclockid(3)).
func processTime(pid int) time.Duration {
	const schedClock = 2 // run time of all threads
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|schedClock, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// status describes the guest. The server is locked.
func (d *hosted) status() *GuestStatus {
	n := d.ctl.counts(d.cfg.VCPUs)
	heart := &d.ctl.heart
	return &GuestStatus{
		DomainInfo:   d.info(),
		Workload:     d.cfg.Workload,
		LogDirty:     d.ctl.logDirty.Load() != 0,
		Throttle:     d.ctl.throttle.Load(),
		Writes:       n.Writes,
		BytesWritten: n.Writes * xen.PageSize,
		Verified:     n.Verified,
		Sweeps:       n.Sweeps,
		BadPages:     n.Bad,
		Errors:       d.ctl.errorList(),
		Failure:      d.ctl.failure.get(),
		Arrivals:     d.ctl.arrivals.Load(),
		Instance:     fmt.Sprintf("%016x", d.ctl.instance.Load()),
		Beats:        heart.beats.Load(),
		MaxGap:       time.Duration(heart.maxGap.Load()),
		MaxGapHere:   time.Duration(heart.maxGapHere.Load()),
		ArrivalGap:   time.Duration(heart.arrivalGap.Load()),
	}
}
