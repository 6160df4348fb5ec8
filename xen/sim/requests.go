package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/xenferry/xenferry/xen"
)

// The requests, by what they do.
const (
	opInfo     = "info"
	opList     = "list"
	opFind     = "find"
	opCreate   = "create"
	opReceive  = "receive"
	opShutdown = "shutdown"

	opOpen    = "open"
	opConfig  = "config"
	opRename  = "rename"
	opSuspend = "suspend"
	opResume  = "resume"
	opPause   = "pause"
	opFinal   = "final"
	opFinish  = "finish"
	opUnpause = "unpause"
	opDestroy = "destroy"
	opStatus  = "status"
	opVerify  = "verify"
	opDiscard = "discard"
	opUnused  = "unused"
)

// dom0Name is the name of the host itself in its list of domains, as on Xen.
const dom0Name = "Domain-0"

// dispatch answers a request.
func (s *server) dispatch(ctx context.Context, req *request) (*reply, error) {
	switch req.Op {
	case opInfo:
		return &reply{Host: s.info()}, nil
	case opList:
		return &reply{Domains: s.list()}, nil
	case opFind:
		return s.find(req.Name)
	case opCreate:
		return s.create(ctx, req.Guest)
	case opReceive:
		return s.receive(req.Spec)
	case opDiscard:
		return &reply{}, s.discard(req.Domid, req.UUID)
	case opUnused:
		return &reply{}, s.unused(req.Domid, req.UUID)
	case opShutdown:
		s.stop(errStopping)
		<-s.ended
		return &reply{}, nil
	}
	d, err := s.get(req.Domid, req.Serial)
	if err != nil {
		return nil, err
	}
	rep, err := s.onDomain(ctx, d, req)
	if rep == nil || err != nil {
		d.release()
		return &reply{}, err
	}
	rep.done = d.release // after its descriptors are sent
	return rep, nil
}

// onDomain answers a request about one domain. A nil reply is an empty one.
func (s *server) onDomain(ctx context.Context, d *hosted, req *request) (*reply, error) {
	switch req.Op {
	case opOpen:
		return s.opened(d), nil
	case opConfig:
		return &reply{Config: s.config(d)}, nil
	case opRename:
		return nil, s.rename(d, req.Name)
	case opSuspend:
		return nil, d.suspend(ctx)
	case opResume:
		return nil, d.resume(ctx)
	case opPause:
		return nil, d.pause(ctx)
	case opFinal:
		context, err := d.finalContext()
		return &reply{Records: finalRecords(context)}, err
	case opFinish:
		from, err := parseFinal(req.Records, &d.cfg)
		if err != nil {
			return nil, err
		}
		return nil, d.boot(ctx, from)
	case opUnpause:
		return nil, d.unpause(ctx)
	case opDestroy:
		s.destroy(d)
		return nil, nil
	case opStatus:
		s.mu.Lock()
		defer s.mu.Unlock()
		return &reply{Status: d.status()}, nil
	case opVerify:
		return nil, d.verifyAll(ctx)
	}
	return nil, fmt.Errorf("unknown request %.40q", req.Op)
}

func (s *server) info() *xen.HostInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &xen.HostInfo{
		Name:       s.opts.Name,
		Hypervisor: "sim",
		TotalKiB:   s.opts.MemoryKiB,
		FreeKiB:    s.freeKiB(),
		Cores:      runtime.NumCPU(),
	}
}

// freeKiB returns the memory that no domain has. The server is locked.
func (s *server) freeKiB() uint64 {
	free := s.opts.MemoryKiB
	for _, d := range s.domains {
		free -= d.cfg.memKiB()
	}
	return free
}

func (s *server) list() []xen.DomainInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []xen.DomainInfo{s.dom0()}
	for _, d := range s.domains {
		all = append(all, d.info())
	}
	slices.SortFunc(all, func(a, b xen.DomainInfo) int { return cmp.Compare(a.Domid, b.Domid) })
	return all
}

// dom0 describes the host itself. Guests' memory is not taken from it.
func (s *server) dom0() xen.DomainInfo {
	return xen.DomainInfo{
		Name:    dom0Name,
		UUID:    "00000000-0000-0000-0000-000000000000",
		Type:    xen.TypeSim,
		State:   xen.StateRunning,
		VCPUs:   runtime.NumCPU(),
		CPUTime: processTime(os.Getpid()),
	}
}

// find returns the domain of that name, or else of that domid.
func (s *server) find(nameOrDomid string) (*reply, error) {
	all := s.list()
	i := slices.IndexFunc(all, func(d xen.DomainInfo) bool { return d.Name == nameOrDomid })
	if domid, err := strconv.ParseUint(nameOrDomid, 10, 32); i < 0 && err == nil {
		i = slices.IndexFunc(all, func(d xen.DomainInfo) bool { return d.Domid == uint32(domid) })
	}
	if i < 0 {
		return nil, fmt.Errorf("%.80q: %w", nameOrDomid, xen.ErrNoDomain)
	}
	return &reply{Domains: all[i : i+1]}, nil
}

// get returns a domain for use. The caller releases it.
func (s *server) get(domid uint32, serial uint64) (*hosted, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if domid == 0 {
		return nil, fmt.Errorf("domain 0 is the host itself: %w", xen.ErrUnsupported)
	}
	d := s.domains[domid]
	if d == nil || serial != 0 && d.serial != serial {
		return nil, fmt.Errorf("domain %d: %w", domid, xen.ErrNoDomain)
	}
	d.retain()
	return d, nil
}

// add makes a domain, if there are a name, an id and memory for it. domid 0 is
// any. The caller releases it.
func (s *server) add(cfg GuestConfig, domid uint32) (*hosted, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch free := s.freeKiB(); {
	case s.closing:
		return nil, errStopping
	case s.nameTaken(cfg.Name, nil):
		return nil, fmt.Errorf("guest %q: %w", cfg.Name, xen.ErrNameTaken)
	case cfg.memKiB() > free:
		return nil, fmt.Errorf("guest %q needs %d KiB, %d of %d KiB are free: %w",
			cfg.Name, cfg.memKiB(), free, s.opts.MemoryKiB, xen.ErrNoMemory)
	case len(s.domains) >= maxDomains:
		return nil, fmt.Errorf("guest %q: there are %d domains already, the most that a host has", cfg.Name, maxDomains)
	case domid > maxDomid:
		return nil, fmt.Errorf("guest %q: domid %d is above %d", cfg.Name, domid, maxDomid)
	case domid != 0 && s.domains[domid] != nil:
		return nil, fmt.Errorf("guest %q: domain %d exists already", cfg.Name, domid)
	}
	if domid == 0 {
		domid = s.freeDomid()
	}
	d, err := newHosted(domid, s.nextTurn, cfg)
	if err != nil {
		return nil, fmt.Errorf("guest %q: %w", cfg.Name, err)
	}
	s.nextTurn++
	s.domains[domid] = d
	d.retain()
	return d, nil
}

// freeDomid counts up as Xen does, so that an id is not soon used again. The
// server is locked, and has fewer domains than ids.
func (s *server) freeDomid() uint32 {
	for {
		domid := s.next
		if s.next++; s.next > maxDomid {
			s.next = 1
		}
		if s.domains[domid] == nil {
			return domid
		}
	}
}

func (s *server) nameTaken(name string, by *hosted) bool {
	for _, d := range s.domains {
		if d != by && d.name == name {
			return true
		}
	}
	return name == dom0Name
}

func (s *server) opened(d *hosted) *reply {
	return &reply{
		Domain: &domainRef{Domid: d.domid, Serial: d.serial, Pages: d.cfg.pages()},
		files:  []*os.File{d.memory, d.area},
	}
}

func (s *server) config(d *hosted) *GuestConfig {
	s.mu.Lock()
	defer s.mu.Unlock()
	cfg := d.cfg
	cfg.Name = d.name
	return &cfg
}

func (s *server) rename(d *hosted, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := checkGuestName(name); err != nil {
		return err
	}
	if s.nameTaken(name, d) {
		return fmt.Errorf("%s cannot be renamed to %q: %w", d, name, xen.ErrNameTaken)
	}
	d.name = name
	return nil
}

// unused tells whether the copy is there and has never run.
func (s *server) unused(domid uint32, uuid string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.domains[domid]
	switch {
	case d == nil || d.cfg.UUID != uuid:
		return fmt.Errorf("domain %d with UUID %s: %w", domid, uuid, xen.ErrNoDomain)
	case !d.unused.Load():
		return fmt.Errorf("%s: %w", d, xen.ErrHasRun)
	}
	return nil
}

// discard destroys the copy of that UUID, if it has never run: domain domid, or
// whichever has no memory yet if that is 0.
func (s *server) discard(domid uint32, uuid string) error {
	s.mu.Lock()
	var copies []*hosted
	for _, d := range s.domains {
		if d.cfg.UUID == uuid && (d.domid == domid || domid == 0 && d.unused.Load() && d.empty()) {
			d.retain()
			copies = append(copies, d)
		}
	}
	s.mu.Unlock()
	var errs error
	for _, d := range copies {
		if !d.unused.Load() {
			errs = errors.Join(errs, fmt.Errorf("%s: %w", d, xen.ErrHasRun))
		} else {
			s.destroy(d)
		}
		d.release()
	}
	return errs
}

// destroy ends a domain. Whoever comes second waits for the first.
func (s *server) destroy(d *hosted) {
	d.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.domains[d.domid] == d {
		delete(s.domains, d.domid)
	}
}

// create makes a new guest and returns when it has filled its memory and runs.
// It is destroyed if that fails, or if nobody waits for it any more.
func (s *server) create(ctx context.Context, cfg *GuestConfig) (*reply, error) {
	if cfg == nil {
		return nil, errors.New("create: no guest configuration")
	}
	cfg.complete()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	d, err := s.add(*cfg, 0)
	if err != nil {
		return nil, err
	}
	defer d.release()
	limit := obeyLimit + time.Duration(cfg.MemMiB)*fillLimitPerMiB
	if err = d.boot(ctx, nil); err == nil {
		err = d.run(ctx, limit)
	}
	if err != nil {
		s.destroy(d)
		return nil, fmt.Errorf("guest %q: %w", cfg.Name, err)
	}
	return s.refer(d), nil
}

func (s *server) refer(d *hosted) *reply {
	rep := s.opened(d)
	rep.files = nil
	return rep
}

// receive makes a guest that arrives: paused, not complete.
func (s *server) receive(spec *xen.Spec) (*reply, error) {
	if spec == nil {
		return nil, errors.New("receive: no specification of the guest")
	}
	if spec.Type != xen.TypeSim {
		return nil, fmt.Errorf("guest of type %.20q: a simulated host takes only %q: %w",
			spec.Type, xen.TypeSim, xen.ErrUnsupported)
	}
	cfg, err := parseConfig(spec.Config)
	if err != nil {
		return nil, err
	}
	cfg.Name = spec.Name
	if spec.UUID != "" {
		cfg.UUID = spec.UUID
	}
	if err := checkGuestName(cfg.Name); err != nil {
		return nil, err
	}
	if spec.Pages != cfg.pages() {
		return nil, fmt.Errorf("guest %q: %d pages announced, its configuration has %d", cfg.Name, spec.Pages, cfg.pages())
	}
	d, err := s.add(cfg, spec.Domid)
	if err != nil {
		return nil, err
	}
	d.unused.Store(true)
	rep := s.opened(d)
	rep.done = d.release
	return rep, nil
}
