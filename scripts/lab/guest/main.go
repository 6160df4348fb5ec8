// Command guest is the only program of the lab's guest: process 1 of an
// initramfs. It watches itself: checked memory that it keeps writing, numbered
// blocks on its disk, numbered packets on its NIC, and a heartbeat on its
// console that carries the counters of all three (package xfg). So damage, a
// lost write, a device that does not come back, a second running copy and the
// length of a pause are all seen from outside.
//
// Linux starts the same program as /sbin/poweroff or /sbin/reboot when the
// toolstack asks the guest to stop.
package main

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
)

func main() {
	switch filepath.Base(os.Args[0]) {
	case "poweroff":
		stop(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case "reboot":
		stop(unix.LINUX_REBOOT_CMD_RESTART)
	}
	if err := quicken(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	g := &guest{console: newConsole(), started: bootNs()}
	if err := g.run(); err != nil {
		g.console.bad("the guest cannot start: %v", err)
	}
	select {} // process 1 must not end
}

// quicken starts this program again with Go's checksum instructions off: in
// an emulated machine they are ten times slower than plain code.
func quicken() error {
	const key, value = "GODEBUG", "cpu.sse42=off,cpu.pclmulqdq=off"
	if os.Getenv(key) == value {
		return nil
	}
	if err := os.Setenv(key, value); err != nil {
		return err
	}
	return unix.Exec("/init", os.Args, os.Environ())
}

// stop ends the machine. There is nothing to shut down in order.
func stop(how int) {
	err := unix.Reboot(how)
	fmt.Fprintln(os.Stderr, "reboot:", err)
	os.Exit(1)
}

// guest is the state of all checkers.
type guest struct {
	params  params
	id      uint64
	started int64 // bootNs
	console *console
	mem     *memory // nil without checked memory
	still   *still  // nil without memory from the disk
	disk    counters
	net     counters
}

// sweep has all memory verified at once.
func (g *guest) sweep() {
	if g.mem != nil {
		g.mem.worker.SweepNow()
	}
	if g.still != nil {
		g.still.sweep.Store(true)
	}
}

// counters are what one device's checker counts.
type counters struct {
	done, heard, errs, bad atomic.Uint64
	maxMs                  atomic.Int64
}

func (g *guest) run() error {
	if err := mountAll(); err != nil {
		return err
	}
	go g.console.write("/dev/hvc0")
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	if g.params, err = parseParams(string(cmdline)); err != nil {
		return err
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	var seed [8]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return err
	}
	g.id = binary.LittleEndian.Uint64(seed[:])
	if g.params.mem > 0 {
		if g.mem, err = newMemory(g); err != nil {
			return err
		}
	}
	if g.params.image > 0 {
		if g.still, err = newStill(g); err != nil {
			return err
		}
	}
	go g.beat()
	if g.params.disk != "" {
		go g.checkDisk()
	}
	if g.params.address.IsValid() {
		go g.checkNet()
	}
	return nil
}

// beat prints a heartbeat every params.beat.
func (g *guest) beat() {
	b := xfg.Beat{ID: xfg.FormatID(g.id), MemMB: uint64(g.params.mem >> 20), StillMB: uint64(g.params.image >> 20)}
	last := bootNs()
	for range time.Tick(g.params.beat) {
		now := bootNs()
		b.N++
		b.BootMs = now / 1e6
		b.MonoMs = clockNs(unix.CLOCK_MONOTONIC) / 1e6
		b.RealMs = clockNs(unix.CLOCK_REALTIME) / 1e6
		b.GapMs = (now - last) / 1e6
		b.MaxGapMs = max(b.MaxGapMs, b.GapMs)
		last = now
		g.count(&b)
		g.console.print(b.String())
	}
}

// count copies the checkers' counters into b.
func (g *guest) count(b *xfg.Beat) {
	if g.mem != nil {
		c := g.mem.worker.Counts()
		b.Writes, b.Verified, b.Sweeps, b.Bad = c.Writes, c.Verified, c.Sweeps, c.Bad
	}
	if g.still != nil {
		b.Still = g.still.verified.Load()
		b.Bad += g.still.bad.Load()
	}
	b.DiskWrites, b.DiskErrs, b.DiskBad = g.disk.done.Load(), g.disk.errs.Load(), g.disk.bad.Load()
	b.DiskMaxMs = g.disk.maxMs.Load()
	b.NetTx, b.NetRx, b.NetErrs, b.NetBad = g.net.done.Load(), g.net.heard.Load(), g.net.errs.Load(), g.net.bad.Load()
	b.Dropped = g.console.dropped.Load()
}

// harmDue tells whether a checker must now do the damage which a test asked
// for, to prove that the damage is seen. The checker does it once.
func (g *guest) harmDue(what string) bool {
	after, asked := g.params.harm[what]
	return asked && bootNs()-g.started >= int64(after)
}

// bootNs is CLOCK_BOOTTIME in ns: it goes on while the guest is suspended.
func bootNs() int64 { return clockNs(unix.CLOCK_BOOTTIME) }

func clockNs(clock int32) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0 // Linux knows all clocks that we ask for
	}
	return ts.Nano()
}
