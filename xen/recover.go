package xen

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/xenferry/xenferry/fallback"
)

// How often a guest is looked at that may follow a request to suspend late:
// most do at once, and each look costs a host with few processors something.
const (
	firstLatePoll = 20 * time.Millisecond
	lastLatePoll  = 250 * time.Millisecond
)

// recoveryHost lets package fallback act on the guests of a Host.
type recoveryHost struct {
	host   Host
	limits Limits
}

// NewRecovery returns what finishes the migrations of a store on a host. peer
// asks the destination of a migration that went from here; nil: none can be
// asked.
func NewRecovery(host Host, store *fallback.Store, peer fallback.Peer, limits Limits) *fallback.Recovery {
	return &fallback.Recovery{Store: store, Host: recoveryHost{host, limits.WithDefaults()}, Peer: peer}
}

func refOf(j *fallback.Journal) DomainRef {
	return DomainRef{Domid: j.Domid(), UUID: j.Migration.UUID}
}

// missing turns ErrNoDomain into the word that package fallback knows.
func missing(err error) error {
	if errors.Is(err, ErrNoDomain) {
		return fmt.Errorf("%w: %w", fallback.ErrMissing, err)
	}
	return err
}

// Resume implements fallback.Host.
func (r recoveryHost) Resume(ctx context.Context, j *fallback.Journal) error {
	ctx, cancel := context.WithTimeout(ctx, r.limits.Undo)
	defer cancel()
	dom, err := r.host.Reopen(ctx, refOf(j))
	if err != nil {
		return missing(err)
	}
	err = dom.Resume(ctx)
	if err == nil && maySuspendLate(j) {
		err = resumeLate(ctx, dom, r.limits.Suspend)
	}
	if err == nil {
		err = errors.Join(dom.StopLogDirty(ctx), restoreName(ctx, dom, j.Migration.Guest))
	}
	return missing(errors.Join(err, dom.Close()))
}

// maySuspendLate tells whether the sender died while the guest's answer to the
// suspend request was due.
func maySuspendLate(j *fallback.Journal) bool {
	for i := len(j.Steps) - 1; i >= 0; i-- {
		if s := j.Steps[i].State; s != fallback.SourceResuming {
			return s == fallback.SourceSuspending
		}
	}
	return false
}

// resumeLate resumes a guest once more if it suspends within limit: it may have
// taken the request just before that was taken back.
func resumeLate(ctx context.Context, dom Domain, limit time.Duration) error {
	pause := firstLatePoll
	for end := time.Now().Add(limit); time.Now().Before(end); pause = min(2*pause, lastLatePoll) {
		info, err := dom.Info(ctx)
		if err != nil {
			return err
		}
		if info.State == StateSuspended {
			return dom.Resume(ctx)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// restoreName gives a guest back the name that it had, if a migration has
// changed it.
func restoreName(ctx context.Context, dom Domain, name string) error {
	info, err := dom.Info(ctx)
	if err != nil || info.Name != name+suffixAway {
		return err
	}
	return dom.Rename(ctx, name)
}

// Destroy implements fallback.Host.
func (r recoveryHost) Destroy(ctx context.Context, j *fallback.Journal) error {
	ctx, cancel := context.WithTimeout(ctx, r.limits.Undo)
	defer cancel()
	dom, err := r.host.Reopen(ctx, refOf(j))
	if err != nil {
		return missing(err)
	}
	err = suspended(ctx, dom)
	if err == nil {
		err = dom.Destroy(ctx)
	}
	return missing(errors.Join(err, dom.Close()))
}

// Suspended implements fallback.Host.
func (r recoveryHost) Suspended(ctx context.Context, j *fallback.Journal) error {
	ctx, cancel := context.WithTimeout(ctx, r.limits.Undo)
	defer cancel()
	dom, err := r.host.Reopen(ctx, refOf(j))
	if err != nil {
		return missing(err)
	}
	return missing(errors.Join(suspended(ctx, dom), dom.Close()))
}

// suspended returns nil unless the guest runs or is paused: then somebody has
// let it go on, and it is no leftover.
func suspended(ctx context.Context, dom Domain) error {
	info, err := dom.Info(ctx)
	if err == nil && (info.State == StateRunning || info.State == StatePaused) {
		err = fmt.Errorf("%w: domain %d (%s) is %s, not the suspended copy of a guest that has moved, and is not destroyed; "+
			"if it belongs here, say so with xenferry resolve --resume; if it must go, destroy it yourself and try again",
			fallback.ErrRuns, info.Domid, info.Name, info.State)
	}
	return err
}

// Start implements fallback.Host.
func (r recoveryHost) Start(ctx context.Context, j *fallback.Journal) error {
	ctx, cancel := context.WithTimeout(ctx, r.limits.Undo)
	defer cancel()
	return missing(r.host.Start(ctx, refOf(j), j.Migration.Guest, j.Migration.LeavePaused))
}

// Unused implements fallback.Host.
func (r recoveryHost) Unused(ctx context.Context, j *fallback.Journal) error {
	ctx, cancel := context.WithTimeout(ctx, r.limits.Undo)
	defer cancel()
	return copyError(r.host.Unused(ctx, refOf(j)))
}

// Discard implements fallback.Host.
func (r recoveryHost) Discard(ctx context.Context, j *fallback.Journal) error {
	ctx, cancel := context.WithTimeout(ctx, r.limits.Undo)
	defer cancel()
	return discard(ctx, r.host, refOf(j))
}

func discard(ctx context.Context, host Host, ref DomainRef) error {
	return copyError(host.Discard(ctx, ref))
}

// copyError says what an error of Unused or Discard means to a journal.
func copyError(err error) error {
	if errors.Is(err, ErrHasRun) {
		return fmt.Errorf("%w: %w", fallback.ErrHasRun, err)
	}
	return missing(err)
}

// Here implements fallback.Host.
func (r recoveryHost) Here(ctx context.Context, uuid string, except uint32) (bool, error) {
	all, err := r.host.List(ctx)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(all, func(d DomainInfo) bool {
		return strings.EqualFold(d.UUID, uuid) && d.Domid != except
	}), nil
}
