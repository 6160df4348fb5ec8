package evtchn

import (
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The operations of futex(2) for memory that processes share
// (linux/futex.h): without FUTEX_PRIVATE_FLAG.
const (
	futexWaitOp = 0
	futexWakeOp = 1
	futexAll    = 1<<31 - 1
)

// futexWait sleeps for at most limit while the word is as given. It may return
// for no reason at all: the caller looks again.
func futexWait(word *atomic.Uint32, is uint32, limit time.Duration) {
	timeout := unix.NsecToTimespec(int64(limit))
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWaitOp, uintptr(is),
		uintptr(unsafe.Pointer(&timeout)), 0, 0)
}

// futexWake wakes all that sleep on the word. One alone might be the one that
// was stopped or killed meanwhile, and the others would sleep on.
func futexWake(word *atomic.Uint32) {
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWakeOp, futexAll, 0, 0, 0)
}
