//go:build xen

package xl

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// urgently runs f on a thread of its own, which dom0's kernel prefers to
// everything of normal priority. f is to wait for something and act on it: in a
// dom0 whose processors are all busy it would else stand in line with the rest
// while a guest is stopped.
func urgently(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its priority
		attr := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1, Flags: unix.SCHED_FLAG_RESET_ON_FORK}
		_ = unix.SchedSetAttr(0, attr, 0) // where that is not allowed it only takes longer
		done <- f()
	}()
	return <-done
}
