package main

import (
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/xenferry/xenferry/xen/memcheck"
)

// memory is the checked memory and the one worker that writes and verifies it.
type memory struct {
	g      *guest
	mem    []byte
	area   *memcheck.Area
	worker *memcheck.Worker
}

// newMemory takes the memory, fills it and starts to work on it.
func newMemory(g *guest) (*memory, error) {
	load, err := memcheck.ParseWorkload(g.params.workload)
	if err != nil {
		return nil, err
	}
	mem, err := lockedMemory(g.params.mem)
	if err != nil {
		return nil, err
	}
	area, err := memcheck.New(mem, memcheck.Options{Seed: g.id, ZeroShare: memcheck.DefaultZeroShare})
	if err != nil {
		return nil, err
	}
	worker, err := memcheck.NewWorker(area, memcheck.WorkerOptions{
		Workers: 1, Workload: load, VerifyBytesPerSec: g.params.verify,
		OnBad: func(err error) { g.console.bad("memory: %v", err) },
	})
	if err != nil {
		return nil, err
	}
	m := &memory{g: g, mem: mem, area: area, worker: worker}
	go m.work()
	return m, nil
}

// work is the busiest part of the guest. A step is short; after each the
// heartbeat, the disk and the packets have their turn.
func (m *memory) work() {
	harmed, start := false, time.Now()
	for {
		wait := m.worker.Step(time.Since(start))
		if !harmed && m.g.harmDue("mem") {
			m.harm()
			harmed = true
		}
		if wait > 0 {
			time.Sleep(wait)
		} else {
			runtime.Gosched()
		}
	}
}

// harm damages one bit of one page, as a page that arrived wrong would be.
func (m *memory) harm() {
	at := m.area.PageOf(rand.IntN(m.area.Pages()))*memcheck.PageSize + rand.IntN(memcheck.PageSize)
	m.mem[at] ^= 1
	m.worker.SweepNow()
}
