package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a host.
const (
	DefaultMemoryKiB = 4 << 20
	maxDomains       = 1000
	maxDomid         = 0x7FEF // DOMID_FIRST_RESERVED - 1 (xen/include/public/xen.h)
	maxConnections   = 256
	requestLimit     = 5 * time.Second // to read a request, or to write a reply
)

// Options describe a host.
type Options struct {
	Name      string // 1 to 63 letters, digits, dots, dashes, underscores
	MemoryKiB uint64 // for guests; 0 is DefaultMemoryKiB
	Dir       string // run directory; "" is Dir()
	// Ready, if not nil, is called once the host can be reached.
	Ready func()
}

// server is a host.
type server struct {
	opts  Options
	ctx   context.Context // ends, with a cause, when the host is to stop
	stop  context.CancelCauseFunc
	ended chan struct{} // closed when all guests are gone

	mu       sync.Mutex
	closing  bool
	domains  map[uint32]*hosted
	next     uint32 // next domid to try
	nextTurn uint64 // next serial
}

// Serve runs a host until ctx ends or somebody asks it to stop. Its guests end
// with it. The error says why it could not start.
func Serve(ctx context.Context, opts Options) error {
	s, listener, unlock, err := openServer(ctx, opts)
	if err != nil {
		return fmt.Errorf("simulated host %q: %w", opts.Name, err)
	}
	var handlers sync.WaitGroup
	handlers.Go(func() { s.accept(listener, &handlers) })
	if opts.Ready != nil {
		opts.Ready()
	}
	<-s.ctx.Done()
	listener.Close() // and removes the socket
	s.endGuests()
	unlock()
	close(s.ended)
	handlers.Wait()
	return nil
}

func openServer(ctx context.Context, opts Options) (*server, *net.UnixListener, func(), error) {
	var err error
	if opts.Dir == "" {
		opts.Dir, err = Dir()
	} else {
		err = prepareDir(opts.Dir)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	if opts.MemoryKiB == 0 {
		opts.MemoryKiB = DefaultMemoryKiB
	}
	path, err := socketPath(opts.Dir, opts.Name)
	if err != nil {
		return nil, nil, nil, err
	}
	unlock, err := lockName(opts.Dir, opts.Name)
	if err != nil {
		return nil, nil, nil, err
	}
	os.Remove(path) // of a host that was killed: the lock is ours
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		unlock()
		return nil, nil, nil, err
	}
	s := &server{opts: opts, ended: make(chan struct{}), domains: map[uint32]*hosted{}, next: 1, nextTurn: 1}
	s.ctx, s.stop = context.WithCancelCause(ctx)
	return s, listener, unlock, nil
}

// accept serves connections until the listener is closed.
func (s *server) accept(listener *net.UnixListener, handlers *sync.WaitGroup) {
	room := make(chan struct{}, maxConnections)
	for {
		room <- struct{}{}
		conn, err := listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many open files, or the like: it may pass
			<-room
			time.Sleep(100 * time.Millisecond)
			continue
		}
		handlers.Go(func() {
			defer func() { <-room }()
			defer conn.Close()
			s.handle(conn)
		})
	}
}

// handle serves one connection: one request, one reply. An error here means
// that the client cannot be told of it.
func (s *server) handle(conn *net.UnixConn) {
	if !samePeer(conn) {
		return
	}
	req, err := readRequest(conn)
	rep := &reply{}
	if err == nil {
		ctx, cancel := context.WithCancelCause(s.ctx)
		defer cancel(nil)
		go watch(conn, cancel)
		rep, err = s.dispatch(ctx, req)
	}
	if err != nil {
		rep = &reply{Failure: newFailure(fmt.Errorf("simulated host %q: %w", s.opts.Name, err))}
	}
	if rep.done != nil {
		defer rep.done()
	}
	sendFrame(conn, rep, rep.files, requestLimit)
}

// samePeer tells whether the client is of the host's own user.
func samePeer(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	same := false
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		same = err == nil && int(cred.Uid) == os.Getuid()
	})
	return err == nil && same
}

func readRequest(conn *net.UnixConn) (*request, error) {
	if err := conn.SetReadDeadline(time.Now().Add(requestLimit)); err != nil {
		return nil, err
	}
	req := &request{}
	files, err := receiveFrame(conn, req)
	closeFiles(files) // no request has any
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	if req.Version != protocolVersion {
		return nil, fmt.Errorf("request of protocol version %d, this host knows %d: restart the older side",
			req.Version, protocolVersion)
	}
	return req, conn.SetReadDeadline(time.Time{})
}

// watch ends a request whose client takes it back, or is gone.
func watch(conn *net.UnixConn, cancel context.CancelCauseFunc) {
	var b [1]byte
	if _, err := conn.Read(b[:]); err == nil && b[0] == cancelByte {
		cancel(errTakenBack)
	} else {
		cancel(errGone)
	}
}

// endGuests destroys all domains and lets no new ones come.
func (s *server) endGuests() {
	s.mu.Lock()
	s.closing = true
	var all []*hosted
	for _, d := range s.domains {
		d.retain()
		all = append(all, d)
	}
	s.mu.Unlock()
	for _, d := range all {
		s.destroy(d)
		d.release()
	}
}
