package xen

import (
	"context"
	"errors"
	"time"
)

// Errors that every Host wraps, for errors.Is. The wrapping error names the
// domain or the host, and what to do.
var (
	// ErrNoDomain: no domain of that name or id is here.
	ErrNoDomain = errors.New("no such domain")
	// ErrNameTaken: another domain here has the name that the guest needs.
	ErrNameTaken = errors.New("domain name already in use")
	// ErrNoMemory: the host has not enough free memory for the guest.
	ErrNoMemory = errors.New("not enough free memory")
	// ErrSuspendRefused: the guest did not suspend in time, and runs on.
	ErrSuspendRefused = errors.New("guest did not suspend")
	// ErrHasRun: the domain is no unused copy, it has run.
	ErrHasRun = errors.New("the domain has run")
	// ErrUnsupported: this host cannot do that with this guest.
	ErrUnsupported = errors.New("not supported")
)

// GuestType is the kind of a guest.
type GuestType string

// The guest types of Xen, and the one of the simulated host.
const (
	TypePV  GuestType = "pv"
	TypePVH GuestType = "pvh"
	TypeHVM GuestType = "hvm"
	TypeSim GuestType = "sim"
)

// RunState is what a domain is doing.
type RunState string

// The run states. Suspended is shut down with reason suspend: the state that
// a resume ends.
const (
	StateRunning   RunState = "running" // or blocked: it may run
	StatePaused    RunState = "paused"
	StateSuspended RunState = "suspended"
	StateShutdown  RunState = "shutdown" // any other reason
	StateCrashed   RunState = "crashed"
	StateDying     RunState = "dying"
)

// DomainInfo describes one domain at one moment.
type DomainInfo struct {
	Domid   uint32        `json:"domid"`
	Name    string        `json:"name"`
	UUID    string        `json:"uuid"`
	Type    GuestType     `json:"type"`
	State   RunState      `json:"state"`
	MemKiB  uint64        `json:"mem_kib"` // memory now allocated to it
	VCPUs   int           `json:"vcpus"`
	CPUTime time.Duration `json:"cpu_time_ns"`
}

// HostInfo describes a host at one moment.
type HostInfo struct {
	Name       string `json:"name"`
	Hypervisor string `json:"hypervisor"` // "Xen 4.17.5", "sim"
	TotalKiB   uint64 `json:"total_kib"`
	FreeKiB    uint64 `json:"free_kib"`
	Cores      int    `json:"cores"`
}

// Host is one machine that runs guests. Its methods may be called from
// several goroutines.
type Host interface {
	Info(ctx context.Context) (HostInfo, error)
	// List returns all domains, dom0 included where there is one, by domid.
	List(ctx context.Context) ([]DomainInfo, error)
	// Find returns the domain with that name, or else with that decimal
	// domid. The error wraps ErrNoDomain if there is none.
	Find(ctx context.Context, nameOrDomid string) (DomainInfo, error)
	// Open opens a guest for migration away from here. One that is open
	// already may be refused until that is closed.
	Open(ctx context.Context, domid uint32) (Domain, error)
	// Receive begins to build a guest that arrives here. It checks name and
	// memory first (ErrNameTaken, ErrNoMemory) and then creates the domain,
	// named spec.Name, paused, without memory contents.
	Receive(ctx context.Context, spec Spec) (Incoming, error)
	// Reopen opens a guest that a sender has left which is gone, in whatever
	// state it is. Its Resume takes back whatever that sender may have begun,
	// its StopLogDirty ends logging that this process has not started.
	Reopen(ctx context.Context, ref DomainRef) (Domain, error)
	// Start gives a copy that a receiver has completed its name, and unless
	// paused lets it run. Idempotent.
	Start(ctx context.Context, ref DomainRef, name string, paused bool) error
	// Unused returns nil if a copy that a receiver has completed is there and
	// has never run. The error wraps ErrHasRun if it has.
	Unused(ctx context.Context, ref DomainRef) error
	// Discard destroys a copy, however far it was built and whatever else of
	// it is gone already. Domid 0: its receiver has died before it knew the
	// id, so every domain of that UUID that has no memory yet; one that has
	// may be the guest itself, which another migration has left paused. It is
	// no error if there is none. A copy that has run is not touched: the error
	// wraps ErrHasRun.
	Discard(ctx context.Context, ref DomainRef) error
	// Close frees what the Host holds. Idempotent. Domains stay.
	Close() error
}

// DomainRef names a domain beyond doubt: ids are used again, and names change
// during a migration. A method that takes one touches no other domain; it
// returns an error that wraps ErrNoDomain if there is no such domain.
type DomainRef struct {
	Domid uint32
	UUID  string
}

// Spec is what a destination must know before it can build a guest.
type Spec struct {
	// Config is the guest's configuration in the form that Domain.Config
	// returned at the source: JSON, for Xen that of libxl_domain_config.
	Config []byte
	Name   string // the name to build it under, e.g. "db1--incoming"
	Type   GuestType
	// Pages is the size of the guest's physical address space in pages: pfns
	// are below it. 1 to MaxPages.
	Pages uint64
	// MemKiB is the memory that the guest has at the source.
	MemKiB uint64
	// UUID is what the domain must have, whatever the configuration says: a
	// guest that moves stays who it is. Empty: that of the configuration.
	UUID string
	// Domid is the id that the domain must get, 0 for any.
	Domid uint32
	// Early: Incoming.Prepare will be called, while the guest runs elsewhere.
	Early bool
}

// MaxPages bounds a guest's physical address space: 2^32 pages, 16 TiB, the
// most that Xen 4.17 gives a guest.
const MaxPages = 1 << 32
