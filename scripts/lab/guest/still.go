package main

import (
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// still is memory that nobody writes: what was on the disk when the guest began
// (scripts/bench/image), as a server's programs, files and heaps lie there.
type still struct {
	g     *guest
	mem   []byte
	sums  []uint32    // CRC-32 of each stillPiece
	sweep atomic.Bool // all of it is to be verified at once

	verified atomic.Uint64 // pages
	bad      atomic.Uint64 // pieces
}

// stillPiece is read, and verified, in one go.
const stillPiece = 1 << 20

// newStill fills the memory, and begins to verify it.
func newStill(g *guest) (*still, error) {
	s := &still{g: g, sums: make([]uint32, g.params.image/stillPiece)}
	if err := waitFor(g.params.disk); err != nil {
		return nil, err
	}
	fd, err := unix.Open(g.params.disk, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", g.params.disk, err)
	}
	defer unix.Close(fd)
	if s.mem, err = lockedMemory(g.params.image); err != nil {
		return nil, err
	}
	for i := range s.sums {
		n, err := unix.Pread(fd, s.piece(i), g.params.imageAt+int64(i)*stillPiece)
		if err == nil && n != stillPiece {
			err = fmt.Errorf("only %d bytes", n)
		}
		if err != nil {
			return nil, fmt.Errorf("read the image from %s, MiB %d of it: %w", g.params.disk, i, err)
		}
		s.sums[i] = crc32.ChecksumIEEE(s.piece(i))
	}
	go s.work()
	return s, nil
}

func (s *still) piece(i int) []byte { return s.mem[i*stillPiece:][:stillPiece] }

// work verifies piece after piece, as many bytes a second as the other memory.
func (s *still) work() {
	pause := time.Duration(stillPiece * float64(time.Second) / float64(max(s.g.params.verify, 1)))
	harmed := false
	for i, hurry := 0, 0; ; i = (i + 1) % len(s.sums) {
		if !harmed && s.g.harmDue("still") {
			s.piece(i)[rand.IntN(stillPiece)] ^= 1
			harmed = true
		}
		if s.sweep.CompareAndSwap(true, false) {
			hurry = len(s.sums)
		}
		if hurry > 0 {
			hurry--
			runtime.Gosched() // to the heartbeat, the disk and the packets
		} else {
			time.Sleep(pause)
		}
		s.check(i)
	}
}

// check verifies a piece. What is damaged is so once.
func (s *still) check(i int) {
	const pages = stillPiece / 4096
	sum := crc32.ChecksumIEEE(s.piece(i))
	if sum == s.sums[i] {
		s.verified.Add(pages)
		return
	}
	s.bad.Add(1)
	s.g.console.bad("memory that nobody writes: MiB %d of it has CRC-32 %08x, and had %08x", i, sum, s.sums[i])
	s.sums[i] = sum
}

// lockedMemory returns memory that is there and stays.
func lockedMemory(size int64) ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("%d MiB of memory: %w", size>>20, err)
	}
	if err := unix.Mlock(mem); err != nil {
		return nil, fmt.Errorf("lock %d MiB of memory: %w", size>>20, err)
	}
	return mem, nil
}
