package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/xenferry/xenferry/xen/sim"
)

// Peak is the most memory that a program of ours had, besides the guest's,
// while it moved a large guest.
type Peak struct {
	Program string `json:"program"`
	Bytes   uint64 `json:"peak_bytes"`
}

// peakMode is its name among the modes.
const peakMode = "memory"

// The guest for which memory is measured: large, with a share of contents that
// this machine has room for twice, and busy, so that there are several rounds.
const (
	largeMiB      = 8192
	largeZero     = 0.8
	largeWorkload = "uniform:50MB/s,set=64MiB"
	peakMost      = 256 << 20 // the promise, for each program
)

// hungriest is the setting that takes most memory: with libzstd its long windows.
func hungriest(program string) ferryMode {
	method := "zstd"
	if hasLibzstd(program) {
		method = "zstd-long"
	}
	return ferryMode{flags: []string{"--data=tls", "--compress=" + method}}
}

// measurePeaks moves the large guest and samples the memory of sender and
// receiver.
func (p *ferryPeer) measurePeaks(ctx context.Context) (peaks []Peak, err error) {
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	domid, err := p.a.Create(ctx, sim.GuestConfig{Name: ferryGuest, MemMiB: largeMiB, ZeroShare: largeZero, Workload: largeWorkload, VerifyRate: -1})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.destroyAll(domid)) }()
	cmd, _, errs := p.command(ctx, hungriest(p.program))
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	sender, receiver := Peak{Program: "sender"}, Peak{Program: "receiver"}
	for tick := time.Tick(10 * time.Millisecond); ; <-tick {
		select {
		case err := <-ended:
			if err != nil {
				return nil, fmt.Errorf("xenferry migrate: %w: %s", err, strings.TrimSpace(errs.String()))
			}
			if receiver.Bytes == 0 {
				return nil, errors.New("the receiver's memory was never seen")
			}
			return []Peak{sender, receiver}, nil
		default:
			sender.see(cmd.Process.Pid)
			receiver.see(receiverOf(cmd.Process.Pid))
		}
	}
}

// see looks at the memory of a process, if it is there.
func (p *Peak) see(pid int) { p.Bytes = max(p.Bytes, ownMemory(pid)) }

// ownMemory returns how many bytes of memory a process has besides mapped
// memory files, which are the guest's; 0 if there is no such process.
func ownMemory(pid int) uint64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	sum := uint64(0)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if name == "RssAnon" || name == "RssFile" {
			kib, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			sum += kib << 10
		}
	}
	return sum
}

// receiverOf returns the process that the sender has started as the receiver,
// 0 if there is none yet.
func receiverOf(sender int) int {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", sender)) // of each thread
	for _, list := range lists {
		pids, _ := os.ReadFile(list)
		for _, pid := range bytes.Fields(pids) {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%s/cmdline", pid))
			if bytes.Contains(line, []byte("\x00migrate-receive\x00")) {
				n, _ := strconv.Atoi(string(pid))
				return n
			}
		}
	}
	return 0
}
