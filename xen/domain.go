package xen

import (
	"context"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// Domain is a guest that runs here and may be moved away. Its methods are
// called by one goroutine at a time, but Map and Unmap may be called by
// several at once, each with a Batch of its own.
type Domain interface {
	Info(ctx context.Context) (DomainInfo, error)
	// Config returns the configuration to build the guest from elsewhere.
	Config(ctx context.Context) ([]byte, error)
	// Pages returns the size of the physical address space in pages (highest
	// mapped pfn + 1). It stays the same until Close.
	Pages() uint64
	// StaticState returns the records that must arrive before any page (CPU
	// policy). The guest may be running.
	StaticState(ctx context.Context) ([]savefmt.Record, error)

	// Preparable returns nil if a destination may build the guest's devices
	// while the guest still runs here, and an error that wraps ErrUnsupported
	// and names the device if not: two hosts would have open at once what one
	// of them has cached.
	Preparable(ctx context.Context) error
	// EarlyState returns the records for Incoming.Prepare. The guest may be
	// running, and goes on changing what they say.
	EarlyState(ctx context.Context) ([]savefmt.Record, error)
	// Likely returns where the guest's pages probably are: all that
	// Incoming.Prepare needs, and most others. It is nil where there is no
	// point in looking at these first, as they are most of Pages().
	Likely(ctx context.Context) (Bitmap, error)

	// StartLogDirty starts to record which pages the guest and its devices
	// write. It marks nothing: the first round is all pages. A leftover of a
	// crashed migration is cleared first.
	StartLogDirty(ctx context.Context) error
	// CleanDirty stores the pages written since the last CleanDirty in bm
	// (of Pages() bits) and forgets them. final is set for the call after
	// Suspend: pages which the hypervisor itself may be writing are included.
	CleanDirty(ctx context.Context, bm Bitmap, final bool) (DirtyStats, error)
	// StopLogDirty ends it. Idempotent; harmless when not started.
	StopLogDirty(ctx context.Context) error

	// Map fills b.Types and b.Pages for b.PFNs: a read-only view of each page
	// whose type has contents, valid until Unmap.
	Map(b *Batch) error
	Unmap(b *Batch) error

	// Suspend asks the guest to suspend, waits until it has, and stops its
	// device model: after it nothing writes guest memory. When ctx ends
	// before that, the request is taken back and the error wraps
	// ErrSuspendRefused; the guest then runs on, as for any other error.
	Suspend(ctx context.Context) error
	// StoppedAt returns when the guest was known to have stopped, in the last
	// Suspend: its device model was to be stopped yet.
	StoppedAt() time.Time
	// FinalState returns the records that must arrive after all pages (TSC,
	// HVM context and params, device model). The guest is suspended, and the
	// last CleanDirty done; Map and Unmap may be called meanwhile. On return
	// nothing more of the guest's state changes.
	FinalState(ctx context.Context) ([]savefmt.Record, error)
	// Resume makes the guest run on here, with its devices, in whatever
	// state Suspend or a failure of it has left it. Idempotent: harmless on
	// a guest that runs.
	Resume(ctx context.Context) error

	// Rename gives it another name. The error wraps ErrNameTaken if another
	// domain has that.
	Rename(ctx context.Context, name string) error
	// Destroy ends the guest here. Idempotent.
	Destroy(ctx context.Context) error
	// Close frees what the Domain holds. Idempotent. The guest stays as it is,
	// but for what would harm a later stock save: log-dirty mode and the
	// suspend subscription are taken back.
	Close() error
}

// Incoming is a guest that is being built here. Its methods are called by one
// goroutine at a time, but Map and Unmap may be called by several at once,
// each with a Batch of its own. A pfn is in two of them only when it was mapped
// before, and is then only read.
type Incoming interface {
	Domid() uint32
	// LoadStatic applies the records of Domain.StaticState. Called once,
	// before the first Map.
	LoadStatic(ctx context.Context, recs []savefmt.Record) error
	// Map makes present the pages b.PFNs whose b.Types say that they exist
	// (PageType.Populated), and fills b.Pages with a writable view of each
	// whose type has contents (PageType.HasData); the others are nil. The view
	// of a new page may show anything: all of it must be written before Unmap,
	// which makes it the guest's.
	Map(b *Batch) error
	Unmap(b *Batch) error
	// NewPagesZero tells whether a page that was only ever made present, as
	// a PageXAlloc, holds zeros.
	NewPagesZero() bool
	// Prepare builds the guest's devices from the records of Domain.EarlyState,
	// so that Finish need not: seconds that are not part of the downtime. It is
	// called at most once, when the pages of Domain.Likely are present, and
	// only if Spec.Early was set; Map and Unmap may be called meanwhile and
	// afterwards.
	Prepare(ctx context.Context, recs []savefmt.Record) error
	// Finish applies the records of Domain.FinalState and completes the
	// guest, with its devices if Prepare has not built them. On return it is
	// whole, paused, and has never run here.
	Finish(ctx context.Context, recs []savefmt.Record) error
	// Whole returns an error if the finished guest has lost what it cannot run
	// without, such as its device model. It is asked while the guest is
	// suspended, so it takes microseconds.
	Whole(ctx context.Context) error
	Rename(ctx context.Context, name string) error
	// Unpause lets the guest run: the last step, after the commit.
	// It fails if the guest is not whole any more.
	Unpause(ctx context.Context) error
	// Destroy ends the guest here, however far it was built. Idempotent.
	Destroy(ctx context.Context) error
	// Close frees what the Incoming holds. Idempotent. A guest on which
	// Finish has not succeeded is destroyed; a finished one stays as it is.
	Close() error
}

// DirtyStats is what one CleanDirty found.
type DirtyStats struct {
	Dirty uint64 // pages in the bitmap
	// MemKiB is the memory that the guest had just before; 0 where it has always
	// the same.
	MemKiB uint64
}
