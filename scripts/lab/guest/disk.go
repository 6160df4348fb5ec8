package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
)

// diskSlots is how many blocks the guest writes in turn: block n goes to slot
// n % diskSlots. 16 MiB.
const diskSlots = 4096

// diskChecker writes numbered blocks and reads them back, past all caches.
type diskChecker struct {
	g    *guest
	fd   int
	buf  []byte            // BlockSize, aligned as O_DIRECT wants
	n    uint64            // the newest block written
	sums [diskSlots]uint32 // checksum of what this guest wrote in each slot
}

// checkDisk checks the disk for as long as the guest runs.
func (g *guest) checkDisk() {
	d, err := openDisk(g)
	if err != nil {
		g.disk.bad.Add(1)
		g.console.bad("disk: %v", err)
		return
	}
	harmed := false
	for range time.Tick(g.params.diskEvery) {
		d.writeNext()
		d.checkOld()
		if !harmed && g.harmDue("disk") {
			d.harm()
			harmed = true
		}
	}
}

func openDisk(g *guest) (*diskChecker, error) {
	if err := waitFor(g.params.disk); err != nil {
		return nil, err
	}
	fd, err := unix.Open(g.params.disk, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", g.params.disk, err)
	}
	buf, err := unix.Mmap(-1, 0, xfg.BlockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("buffer: %w", err)
	}
	return &diskChecker{g: g, fd: fd, buf: buf}, nil
}

// writeNext writes the next block, reads it back and compares.
func (d *diskChecker) writeNext() {
	b := xfg.Block{ID: d.g.id, N: d.n + 1, Clock: bootNs()}
	sum := b.Put(d.buf)
	d.io("write", unix.Pwrite, b.N)
	d.n = b.N
	d.sums[b.N%diskSlots] = sum
	if d.check(b.N) {
		d.g.disk.done.Add(1)
	}
}

// checkOld reads one of the blocks written before.
func (d *diskChecker) checkOld() {
	oldest := uint64(1)
	if d.n > diskSlots {
		oldest = d.n - diskSlots + 1
	}
	d.check(oldest + rand.Uint64N(d.n-oldest+1))
}

// check reads block n and tells whether it is what this guest wrote. If not,
// that is counted and reported.
func (d *diskChecker) check(n uint64) bool {
	d.io("read", unix.Pread, n)
	b, sum, ok := xfg.GetBlock(d.buf)
	switch {
	case ok && sum == d.sums[n%diskSlots]:
		return true
	case !ok:
		d.bad("block %d is damaged: it begins with %x", n, d.buf[:32])
	case b.ID != d.g.id:
		d.bad("block %d was overwritten by another guest, %s, with its number %d", n, xfg.FormatID(b.ID), b.N)
	case b.N > d.n:
		d.bad("block %d is now number %d, but this guest has only written up to %d: a second copy of it writes", n, b.N, d.n)
	case b.N < n:
		d.bad("block %d is still number %d: a write was lost", n, b.N)
	default:
		d.bad("block %d was written a second time, at %d ms of the writer's clock: a second copy of this guest writes", n, b.Clock/1e6)
	}
	return false
}

func (d *diskChecker) bad(format string, args ...any) {
	d.g.disk.bad.Add(1)
	d.g.console.bad("disk: "+format, args...)
}

// io reads or writes block n, again and again until the disk does it.
func (d *diskChecker) io(what string, call func(int, []byte, int64) (int, error), n uint64) {
	at := d.g.params.diskAt + int64(n%diskSlots)*xfg.BlockSize
	start := bootNs()
	for errs := 0; ; errs++ {
		done, err := call(d.fd, d.buf, at)
		if err == nil && done == xfg.BlockSize {
			took := (bootNs() - start) / 1e6
			d.g.disk.maxMs.Store(max(d.g.disk.maxMs.Load(), took))
			if errs > 0 {
				d.g.console.note("disk is back after %d ms and %d errors", took, errs)
			}
			return
		}
		d.g.disk.errs.Add(1)
		if errs == 0 {
			d.g.console.note("disk: %s of block %d: %d bytes, %v: trying again", what, n, done, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// harm does what a second copy of this guest that runs ahead would do.
func (d *diskChecker) harm() {
	b := xfg.Block{ID: d.g.id, N: d.n + diskSlots, Clock: bootNs()}
	b.Put(d.buf)
	d.io("write", unix.Pwrite, b.N)
	d.check(d.n)
}
