//go:build xen

package xl

/*
#include <libxl.h>
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// creation is one libxl_domain_create_restore, running in a goroutine and so
// on an OS thread of its own. It can be ended early by closing the other end
// of its stream while it reads that, and by abort at any time; it then
// destroys the domain.
type creation struct {
	c    *libxl // of this creation alone: its log is that of one guest
	cfg  *config
	done chan struct{} // closed when it has ended

	// Valid once done is closed.
	err   error
	domid uint32 // the guest's id, also after most failures; or noDomid
}

// noDomid is libxl's INVALID_DOMID.
const noDomid = math.MaxUint32

// useOwnHelper makes libxl start this binary as its save helper.
var useOwnHelper = sync.OnceValue(func() error {
	exe, err := os.Executable()
	if err == nil {
		_, err = os.Stat(exe)
	}
	if err != nil {
		return fmt.Errorf("find this program's own file, which libxl must start as its save helper: %w", err)
	}
	return os.Setenv("LIBXL_SAVE_HELPER", exe)
})

// startCreation starts to build a guest. It takes over c and cfg. The stream
// comes from the returned bridge.
func startCreation(c *libxl, cfg *config) (*creation, *bridge, error) {
	if err := useOwnHelper(); err != nil {
		return nil, nil, err
	}
	// libxl's end stays blocking and unknown to Go; libxl and the helper share
	// it. Only ours is non-blocking, so that deadlines work on it.
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the stream to libxl: %w", err)
	}
	ours, libxls := fds[0], fds[1]
	if err := unix.SetNonblock(ours, true); err != nil {
		unix.Close(ours)
		unix.Close(libxls)
		return nil, nil, fmt.Errorf("make the stream to libxl: %w", err)
	}
	cr := &creation{c: c, cfg: cfg, done: make(chan struct{}), domid: noDomid}
	go cr.run(libxls)
	return cr, &bridge{os.NewFile(uintptr(ours), "libxl stream")}, nil
}

func (cr *creation) run(stream int) {
	defer close(cr.done)
	// Whoever writes to or reads from the bridge then learns that libxl has
	// stopped.
	defer unix.Close(stream)
	var params C.libxl_domain_restore_params
	C.libxl_domain_restore_params_init(&params)
	defer C.libxl_domain_restore_params_dispose(&params)
	params.stream_version = 2 // its default is 1, the format before Xen 4.6
	domid := C.uint32_t(noDomid)
	cr.err = cr.c.call("build the guest", 0, func() C.int {
		const noSendBack = -1
		return C.libxl_domain_create_restore(cr.c.lx, cr.cfg.p, &domid, C.int(stream), noSendBack, &params, nil, nil)
	})
	cr.domid = uint32(domid)
}

// abort asks libxl to give up, wherever it is.
func (cr *creation) abort() {
	if cr.c.enter() != nil {
		return
	}
	defer cr.c.leave()
	C.libxl_ao_abort(cr.c.lx, nil)
}

var errCreationStuck = errors.New("libxl has not ended the creation of the guest in time")

// wait waits for the end, at most limit, and returns libxl's verdict.
func (cr *creation) wait(ctx context.Context, limit time.Duration) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-cr.done:
		return cr.err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return errCreationStuck
	}
}

// ended tells whether it has.
func (cr *creation) ended() bool {
	select {
	case <-cr.done:
		return true
	default:
		return false
	}
}

// free frees what libxl needed for it, which must have ended. Idempotent.
func (cr *creation) free() {
	cr.cfg.free()
	cr.c.close()
}
