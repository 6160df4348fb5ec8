package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/xen"
)

// What ward and guardian say to each other, a byte each.
const (
	sayReady = 'r' // guardian: I could act now
	sayBeat  = 'b' // ward: I am alive
	sayDone  = 'd' // ward: nothing is left to do
)

const (
	beatEvery     = time.Second
	guardianLimit = 20 * time.Second // for its start: libxl may be slow
	guardianLog   = "guardian.log"
	maxLog        = 1 << 20 // bytes, after which it begins anew
)

// shield is what outlives this process: a journal that it holds, and a
// guardian that watches it. It implements xen.Protection.
type shield struct {
	journal *fallback.Journal
	socket  *os.File
	ended   chan struct{} // closed by Release
	once    sync.Once
}

// protect returns what begins the journal of a migration on this host and
// starts its guardian.
func protect(c *cli.Context, limits xen.Limits) xen.Protect {
	return func(ctx context.Context, m fallback.Migration) (xen.Protection, error) {
		store, dir, err := openStore(c)
		if err != nil {
			return nil, err
		}
		// The guardian first: there is never a journal that nobody looks
		// after. One whose ward dies before it has a journal has nothing to do.
		s := &shield{ended: make(chan struct{})}
		if s.socket, err = startGuardian(c, dir, m, limits); err != nil {
			return nil, err
		}
		go s.beat()
		if s.journal, err = begin(ctx, store, dir, m); err != nil {
			close(s.ended)
			s.dismiss()
			return nil, err
		}
		return s, nil
	}
}

// begin makes the journal. It refuses a guest of which an earlier migration
// from here is not at its end: that may be in doubt, or under way. It waits for
// one that is about to end.
func begin(ctx context.Context, store *fallback.Store, dir string, m fallback.Migration) (*fallback.Journal, error) {
	for {
		journal, other, err := beginAlone(ctx, store, dir, m)
		if journal != nil || err != nil {
			return journal, err
		}
		if other, err = awaitEnd(ctx, store, other); err != nil {
			return nil, err
		}
		if !other.Finished {
			return nil, fmt.Errorf("migration %s of this guest has not come to its end, it is %q: see xenferry status, and use xenferry recover", other.ID, other.State)
		}
	}
}

// beginAlone makes the journal, or returns the migration that stands in its
// way. Of two programs that do this at a time the second sees what the first
// has made.
func beginAlone(ctx context.Context, store *fallback.Store, dir string, m fallback.Migration) (*fallback.Journal, fallback.Summary, error) {
	unlock, err := fallback.LockDir(ctx, dir)
	if err != nil {
		return nil, fallback.Summary{}, err
	}
	defer unlock()
	// A journal that cannot be read may be one of this guest's migrations from
	// here. It says nothing about a guest that comes.
	all, err := store.Prune(time.Now())
	if m.Side == fallback.SideSource {
		if err != nil {
			return nil, fallback.Summary{}, err
		}
		for _, other := range all {
			if other.Side == m.Side && !other.Finished && other.UUID == m.UUID && other.Domid == m.Domid {
				return nil, other, nil
			}
		}
	}
	journal, err := store.Begin(m)
	return journal, fallback.Summary{}, err
}

// Who tries again at once finds the guest running, and its guardian still
// waiting whether it suspends late, or writing that down: it has endLimit for
// that.
const (
	endLimit = 30 * time.Second
	endRetry = 20 * time.Millisecond
)

// awaitEnd waits while the guest of a migration is being let run on.
func awaitEnd(ctx context.Context, store *fallback.Store, sum fallback.Summary) (fallback.Summary, error) {
	var err error
	for limit := time.Now().Add(endLimit); err == nil && sum.State == fallback.SourceResuming && time.Now().Before(limit); {
		select {
		case <-time.After(endRetry):
			sum, err = store.Read(sum.ID, sum.Side)
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	return sum, err
}

// startGuardian starts the guardian of this process, in a session of its own.
func startGuardian(c *cli.Context, dir string, m fallback.Migration, limits xen.Limits) (*os.File, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	limitsText, err := json.Marshal(limits)
	if err != nil {
		return nil, err
	}
	log, err := openLog(filepath.Join(dir, guardianLog))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	me, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("a handle on this process for its guardian: %w", err)
	}
	pidfd := os.NewFile(uintptr(me), "pidfd")
	defer pidfd.Close()
	cmd := exec.Command(self, "--connect", c.String("connect"), "--state-dir", dir,
		"guardian", "--limits", string(limitsText), string(m.Side), m.ID)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{theirs, pidfd} // descriptors guardianSocket and guardianPidfd
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("starting the guardian: %w", err)
	}
	go cmd.Wait() // only so that no zombie stays
	return ours, nil
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "guardian"), os.NewFile(uintptr(fds[1]), "ward"), nil
}

func openLog(path string) (*os.File, error) {
	flags := os.O_CREATE | os.O_APPEND | os.O_WRONLY
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(path, flags, 0o600)
}

// Append implements xen.Protection.
func (s *shield) Append(r fallback.Record, durable bool) error { return s.journal.Append(r, durable) }

// Ready implements xen.Protection.
func (s *shield) Ready(ctx context.Context) error {
	_ = s.socket.SetReadDeadline(time.Now().Add(guardianLimit))
	defer context.AfterFunc(ctx, func() { _ = s.socket.SetReadDeadline(time.Unix(1, 0)) })()
	var b [1]byte
	_, err := s.socket.Read(b[:])
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("the guardian of this migration has not started, see %s in the folder of the journals: %w", guardianLog, err)
	}
	return nil
}

// beat tells the guardian that this process does not hang.
func (s *shield) beat() {
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for {
		select {
		case <-s.ended:
			return
		case <-ticker.C:
			_, _ = s.socket.Write([]byte{sayBeat})
		}
	}
}

// Release implements xen.Protection. A guardian that is left the rest learns so
// from the end of this process, and from nothing before.
func (s *shield) Release(finished bool) {
	if !finished {
		return
	}
	s.once.Do(func() {
		close(s.ended)
		_ = s.journal.Close()
		s.dismiss()
	})
}

// dismiss tells the guardian that nothing is left to do.
func (s *shield) dismiss() {
	_, _ = s.socket.Write([]byte{sayDone})
	_ = s.socket.Close()
}
