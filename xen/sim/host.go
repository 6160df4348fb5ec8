package sim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/xenferry/xenferry/xen"
)

// Limits of a client's patience with a host.
const (
	callLimit = 30 * time.Second // a call that does not wait for a guest
	// takeBackLimit is for the answer to a request that was taken back.
	takeBackLimit = obeyLimit + requestLimit
)

var _ xen.Host = (*Host)(nil)

// Host is a simulated host as its clients see it.
type Host struct {
	path string // of its socket
}

// Dial returns the host at addr: the path of its socket, or a bare name that
// is looked up in the run directory (see Dir). It fails if none answers.
func Dial(ctx context.Context, addr string) (*Host, error) {
	path, err := resolve(addr)
	if err != nil {
		return nil, err
	}
	h := &Host{path: path}
	_, err = h.Info(ctx)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("no simulated host runs at %s; start one with: xenferry sim start NAME: %w", path, err)
	}
	if err != nil {
		return nil, err
	}
	return h, nil
}

// Info implements xen.Host.
func (h *Host) Info(ctx context.Context) (xen.HostInfo, error) {
	rep, err := h.call(ctx, &request{Op: opInfo})
	if err != nil {
		return xen.HostInfo{}, err
	}
	if rep.Host == nil {
		return xen.HostInfo{}, h.emptyReply()
	}
	return *rep.Host, nil
}

// List implements xen.Host.
func (h *Host) List(ctx context.Context) ([]xen.DomainInfo, error) {
	rep, err := h.call(ctx, &request{Op: opList})
	return rep.Domains, err
}

// Find implements xen.Host.
func (h *Host) Find(ctx context.Context, nameOrDomid string) (xen.DomainInfo, error) {
	rep, err := h.call(ctx, &request{Op: opFind, Name: nameOrDomid})
	if err != nil {
		return xen.DomainInfo{}, err
	}
	if len(rep.Domains) != 1 {
		return xen.DomainInfo{}, h.emptyReply()
	}
	return rep.Domains[0], nil
}

// Open implements xen.Host. Every guest can be opened, in whatever state, so
// that it can be destroyed; a domain 0 cannot.
func (h *Host) Open(ctx context.Context, domid uint32) (xen.Domain, error) {
	rep, err := h.call(ctx, &request{Op: opOpen, Domid: domid})
	if err != nil {
		return nil, err
	}
	defer closeFiles(rep.files)
	return h.newDomain(rep)
}

// Receive implements xen.Host.
func (h *Host) Receive(ctx context.Context, spec xen.Spec) (xen.Incoming, error) {
	rep, err := h.call(ctx, &request{Op: opReceive, Spec: &spec})
	if err != nil {
		return nil, err
	}
	defer closeFiles(rep.files)
	return h.newIncoming(rep)
}

// Close implements xen.Host. A Host holds nothing between calls.
func (h *Host) Close() error { return nil }

// Create starts a new guest, and returns its domid when it has filled its
// memory and runs. If ctx ends before that, there is no guest.
func (h *Host) Create(ctx context.Context, cfg GuestConfig) (domid uint32, err error) {
	rep, err := h.callSlow(ctx, &request{Op: opCreate, Guest: &cfg})
	if err != nil {
		return 0, err
	}
	if rep.Domain == nil {
		return 0, h.emptyReply()
	}
	return rep.Domain.Domid, nil
}

// Status returns what a guest and its checker say.
func (h *Host) Status(ctx context.Context, domid uint32) (GuestStatus, error) {
	rep, err := h.call(ctx, &request{Op: opStatus, Domid: domid})
	if err != nil {
		return GuestStatus{}, err
	}
	if rep.Status == nil {
		return GuestStatus{}, h.emptyReply()
	}
	return *rep.Status, nil
}

// Verify has a running guest verify all its memory once, at full speed, while
// it goes on working. The error tells that this could not be done; what was
// found is in the status that it returns.
func (h *Host) Verify(ctx context.Context, domid uint32) (GuestStatus, error) {
	if _, err := h.callSlow(ctx, &request{Op: opVerify, Domid: domid}); err != nil {
		return GuestStatus{}, err
	}
	return h.Status(ctx, domid)
}

// Destroy ends a domain, in whatever state.
func (h *Host) Destroy(ctx context.Context, domid uint32) error {
	_, err := h.call(ctx, &request{Op: opDestroy, Domid: domid})
	return err
}

// Shutdown ends the host with all its guests, and returns when it is gone.
func (h *Host) Shutdown(ctx context.Context) error {
	_, err := h.call(ctx, &request{Op: opShutdown})
	return err
}

func (h *Host) emptyReply() error {
	return fmt.Errorf("simulated host at %s: the reply lacks its contents", h.path)
}

// call makes a request that the host answers soon.
func (h *Host) call(ctx context.Context, req *request) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return h.callSlow(ctx, req)
}

// callSlow makes a request whose only limit is ctx. When that ends the request
// is taken back, which the host confirms with an error: so that nothing goes
// on after the return. The reply is never nil.
func (h *Host) callSlow(ctx context.Context, req *request) (*reply, error) {
	req.Version = protocolVersion
	fail := func(err error) (*reply, error) {
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = context.DeadlineExceeded // the dialer's clock was before the context's
		}
		return &reply{}, fmt.Errorf("simulated host at %s: %s: %w", h.path, req.Op, err)
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unix", h.path)
	if err != nil {
		return fail(err)
	}
	conn := c.(*net.UnixConn)
	defer conn.Close()
	if err := sendFrame(conn, req, nil, requestLimit); err != nil {
		return fail(err)
	}
	stop := context.AfterFunc(ctx, func() {
		conn.SetReadDeadline(time.Now().Add(takeBackLimit))
		conn.Write([]byte{cancelByte}) // an error shows at the reply
	})
	defer stop()
	rep := &reply{}
	files, err := receiveFrame(conn, rep)
	if err != nil {
		return fail(err)
	}
	rep.files = files
	if rep.Failure == nil {
		return rep, nil
	}
	closeFiles(files)
	err = rep.Failure.err()
	if ctx.Err() != nil && errors.Unwrap(err) == nil {
		err = errors.Join(ctx.Err(), err)
	}
	return &reply{}, err
}
