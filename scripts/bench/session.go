package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/xenferry/xenferry/xen"
)

// session is one run of the benchmark: everything that it has to clean up.
type session struct {
	opts    options
	dir     string // in a tmpfs
	net     *network
	img     *memoryImage
	ferry   *ferryPeer
	modes   []mode
	results []Result
	peaks   []Peak
	started time.Time
}

// mode is one of the things that are compared.
type mode struct {
	name string
	only string // the one link on which it is measured; "" is all
	run  func(context.Context) (Result, error)
}

// Result is one run of one mode. The JSON names have the units.
type Result struct {
	Link  string `json:"link"`
	Mode  string `json:"mode"`
	Round int    `json:"round"`
	// Total is what the program itself reports, see docs/testing.md.
	Total time.Duration `json:"total_ns"`
	// Wall is the time seen from outside: of QEMU from the command until both
	// ends say that it is done, of xenferry from the start of the program until
	// its end.
	Wall     time.Duration `json:"wall_ns"`
	Downtime time.Duration `json:"downtime_ns"`
	Wire     uint64        `json:"wire_bytes"` // both ways
	CPU      time.Duration `json:"cpu_ns"`     // of both ends
	// HostCPU is what the simulated hosts took besides: most of it goes into
	// freeing the guest's memory at the source, which a QEMU does when it ends.
	HostCPU time.Duration `json:"host_cpu_ns,omitempty"`
	// Phases are xenferry's, as its report has them.
	Phases []xen.PhaseTime `json:"phases,omitempty"`
}

// runLimit is for one run: it is reached only when something hangs.
const runLimit = 5 * time.Minute

// Where the image and the memory of QEMU's guests are.
const (
	tmpfs     = "/dev/shm"
	dirPrefix = "xenferry-bench-" // the process's number follows, and a random one
)

// removeLeftovers removes the folders in dir of benchmarks that were killed:
// they hold gigabytes of memory. What cannot be removed is in nobody's way.
func removeLeftovers(dir string) {
	found, _ := filepath.Glob(filepath.Join(dir, dirPrefix+"*-*"))
	for _, path := range found {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), dirPrefix), "-")
		if n, err := strconv.Atoi(pid); err == nil && errors.Is(syscall.Kill(n, 0), syscall.ESRCH) {
			_ = os.RemoveAll(path)
		}
	}
}

// newSession makes the network and the image, and starts the simulated hosts.
func newSession(ctx context.Context, o options) (*session, error) {
	s := &session{opts: o, started: time.Now()}
	fail := func(err error) (*session, error) { return nil, errors.Join(err, s.close()) }
	var err error
	removeLeftovers(tmpfs)
	if s.dir, err = os.MkdirTemp(tmpfs, fmt.Sprintf("%s%d-", dirPrefix, os.Getpid())); err != nil {
		return nil, err
	}
	if s.net, err = newNetwork(ctx); err != nil {
		return fail(err)
	}
	if s.img, err = newImage(s.dir, o.qemuTree, o.mib); err != nil {
		return fail(err)
	}
	fmt.Fprintf(os.Stderr, "image of %d MiB: %s\n", o.mib, s.img.made)
	if s.ferry, err = startFerry(ctx, s.dir, o.program, s.net, s.img); err != nil {
		return fail(err)
	}
	if err := s.chooseModes(); err != nil {
		return fail(err)
	}
	return s, nil
}

// chooseModes makes the list of modes, those of the two programs in turn.
func (s *session) chooseModes() error {
	ours, err := offered(s.opts.program)
	if err != nil {
		return err
	}
	var theirs []mode
	peer := &qemuPeer{tree: s.opts.qemuTree, dir: s.dir, net: s.net, img: s.img}
	for _, m := range qemuModes {
		theirs = append(theirs, mode{name: m.name, run: func(ctx context.Context) (Result, error) { return peer.run(ctx, m) }})
	}
	var all []mode
	for i := range max(len(ours), len(theirs)) {
		if i < len(ours) {
			m := ours[i]
			all = append(all, mode{m.name, m.only, func(ctx context.Context) (Result, error) { return s.ferry.run(ctx, m, "idle") }})
		}
		if i < len(theirs) {
			all = append(all, theirs[i])
		}
	}
	var names []string
	for _, m := range all {
		names = append(names, m.name)
		if len(s.opts.modes) == 0 || slices.Contains(s.opts.modes, m.name) {
			s.modes = append(s.modes, m)
		}
	}
	for _, name := range s.opts.modes {
		if name != peakMode && !slices.Contains(names, name) {
			return fmt.Errorf("MODES: there is no %s; there are %s", name, strings.Join(names, ", "))
		}
	}
	return nil
}

// measureAll measures. In each round every mode has its turn, so that what
// else happens on the machine hits all alike.
func (s *session) measureAll(ctx context.Context) error {
	for _, l := range s.opts.links {
		if err := s.net.shape(ctx, l); err != nil {
			return err
		}
		for round := 1; round <= s.opts.rounds; round++ {
			for _, m := range s.modes {
				if m.only != "" && m.only != l.Name {
					continue
				}
				if err := s.measure(ctx, l, m, round); err != nil {
					return fmt.Errorf("%s, %s, round %d: %w", l.Text, m.name, round, err)
				}
			}
		}
	}
	return nil
}

func (s *session) measure(ctx context.Context, l link, m mode, round int) error {
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	r, err := m.run(ctx)
	if err != nil {
		return err
	}
	r.Link, r.Mode, r.Round = l.Name, m.name, round
	s.results = append(s.results, r)
	fmt.Fprintf(os.Stderr, "%s, round %d, %s: %.3f s (%.3f s from outside), %.1f MB, %.2f s of CPU\n",
		l.Text, round, m.name, r.Total.Seconds(), r.Wall.Seconds(), float64(r.Wire)/1e6, r.CPU.Seconds())
	return nil
}

// close ends everything and removes all files.
func (s *session) close() error {
	if s.ferry != nil {
		s.ferry.close()
	}
	if s.net != nil {
		s.net.close()
	}
	return os.RemoveAll(filepath.Clean(s.dir))
}
