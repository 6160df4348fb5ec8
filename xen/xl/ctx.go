//go:build xen

package xl

/*
#cgo pkg-config: xenlight xentoollog
#include <stdlib.h>
#include <libxl.h>
#include <libxl_event.h>
#include <libxl_utils.h>
#include "logger.h"

// libxl's other modes install a signal handler of their own, which must not
// happen in a Go process.
static const libxl_childproc_hooks xf_hooks = {
	.chldowner = libxl_sigchld_owner_mainloop,
};

static void xf_own_sigchld(libxl_ctx *ctx)
{
	libxl_childproc_setmode(ctx, &xf_hooks, NULL);
}
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// libxl is a context of libxl. Its methods may be called by several goroutines
// at once. Each blocks in one cgo call, and so on an OS thread of its own, for
// as long as libxl takes: libxl gives every step that waits for someone else
// (QEMU, a backend, a hotplug script) a time limit of 10 to 60 seconds itself.
// Only the creation of a guest can be aborted from outside (incoming.go).
//
// A create has a context of its own, so that the texts kept by the logger are its.
type libxl struct {
	lx *C.libxl_ctx
	lg *C.struct_xf_logger
	xs *store // for the one thing that libxl knows and does not tell: domctl.go

	sigchld chan os.Signal
	reaped  sync.WaitGroup // the goroutine reapChildren

	mu     sync.Mutex
	closed bool
	calls  sync.WaitGroup // calls into libxl that have not returned
}

var errClosed = errors.New("libxl: the context is closed")

// openLibxl opens it, which needs a dom0, root, and a running xenstored.
func openLibxl(opts Options) (*libxl, error) {
	level := min(max(opts.LogLevel, 0), int(C.XTL_CRITICAL))
	lg := C.xf_logger_new(C.xentoollog_level(level))
	if lg == nil {
		return nil, errors.New("libxl: no memory for a logger")
	}
	c := &libxl{lg: lg, sigchld: make(chan os.Signal, 1)}
	if rc := C.libxl_ctx_alloc(&c.lx, C.LIBXL_VERSION, 0, C.xf_logger_xtl(lg)); rc != 0 {
		err := c.failed("open", 0, rc)
		C.xf_logger_free(lg)
		return nil, fmt.Errorf("%w: is this a Xen dom0 with xenstored running, and are you root?", err)
	}
	var err error
	if c.xs, err = openStore(); err != nil {
		C.libxl_ctx_free(c.lx)
		C.xf_logger_free(lg)
		return nil, err
	}
	C.xf_own_sigchld(c.lx)
	signal.Notify(c.sigchld, syscall.SIGCHLD)
	c.reaped.Go(c.reapChildren)
	return c, nil
}

// close frees the context after the calls under way have returned. Idempotent.
func (c *libxl) close() {
	c.mu.Lock()
	done := c.closed
	c.closed = true
	c.mu.Unlock()
	if done {
		return
	}
	c.calls.Wait()
	signal.Stop(c.sigchld)
	close(c.sigchld)
	c.reaped.Wait()
	c.xs.close()
	C.libxl_ctx_free(c.lx)
	C.xf_logger_free(c.lg)
}

// reapChildren tells libxl of each SIGCHLD. It looks at its own children only
// (the helper, hotplug scripts, QEMU), never at those of os/exec.
func (c *libxl) reapChildren() {
	for range c.sigchld {
		C.libxl_childproc_sigchld_occurred(c.lx)
	}
}

// enter begins a call into libxl; the caller must leave.
func (c *libxl) enter() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errClosed
	}
	c.calls.Add(1)
	return nil
}

func (c *libxl) leave() { c.calls.Done() }

// call runs one call of libxl that returns 0 or an ERROR_* code.
func (c *libxl) call(op string, domid uint32, f func() C.int) error {
	if err := c.enter(); err != nil {
		return err
	}
	defer c.leave()
	c.takeLog() // what earlier calls complained of, and went on
	if rc := f(); rc != 0 {
		return c.failed(op, domid, rc)
	}
	return nil
}

// failed makes the error of a call that returned rc, with what libxl has
// logged. Calls that run at the same moment in two goroutines may find each
// other's words.
func (c *libxl) failed(op string, domid uint32, rc C.int) *Error {
	return &Error{Op: op, Domid: domid, Code: int(rc), Detail: tidyLog(c.takeLog())}
}

// takeLog returns the errors that libxl has logged since the last takeLog.
func (c *libxl) takeLog() string {
	var buf [4096]C.char
	C.xf_logger_take(c.lg, &buf[0], C.size_t(len(buf)))
	return C.GoString(&buf[0])
}
