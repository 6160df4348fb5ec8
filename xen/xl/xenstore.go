//go:build xen

package xl

// #cgo pkg-config: xenstore
// #include <errno.h>
// #include <stdlib.h>
// #include <xenstore.h>
import "C"

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"unsafe"
)

// maxTransactions is how often a transaction is tried: each failure means that
// another client has changed the same node in the meantime.
const maxTransactions = 50

// store is a connection to xenstored. Its methods may be called by several
// goroutines at once. A call waits for xenstored's answer, however long: there
// is no way to take a request back.
type store struct {
	mu sync.Mutex
	xs *C.struct_xs_handle // nil after close
}

func openStore() (*store, error) {
	xs, err := C.xs_open(0)
	if xs == nil {
		return nil, fmt.Errorf("xenstore: connect: %w: is xenstored running?", orEIO(err))
	}
	return &store{xs: xs}, nil
}

// close ends the connection. Idempotent.
func (s *store) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.xs != nil {
		C.xs_close(s.xs)
		s.xs = nil
	}
}

// read returns the value of a node, and whether it exists.
func (s *store) read(path string) (value string, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.readIn(C.XBT_NULL, path)
}

// write sets the value of a node, and makes it and its parents if need be.
func (s *store) write(path, value string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writeIn(C.XBT_NULL, path, value)
}

// remove removes a node, which need not exist.
func (s *store) remove(path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.xs == nil {
		return errStoreClosed(path)
	}
	cPath := C.CString(path)
	defer C.free(unsafe.Pointer(cPath))
	if ok, err := C.xs_rm(s.xs, C.XBT_NULL, cPath); !bool(ok) && !errors.Is(err, syscall.ENOENT) {
		return fmt.Errorf("xenstore: remove %s: %w", path, orEIO(err))
	}
	return nil
}

// update changes a node from what it is to what f makes of it, undisturbed by
// other clients; f may say that it stays. A node that does not exist is "".
func (s *store) update(path string, f func(old string) (value string, change bool)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range maxTransactions {
		if s.xs == nil {
			return errStoreClosed(path)
		}
		t, err := C.xs_transaction_start(s.xs)
		if t == C.XBT_NULL {
			return fmt.Errorf("xenstore: start a transaction: %w", orEIO(err))
		}
		old, _, err := s.readIn(t, path)
		change := false
		if err == nil {
			var value string
			if value, change = f(old); change {
				err = s.writeIn(t, path, value)
			}
		}
		abort := err != nil || !change
		ok, endErr := C.xs_transaction_end(s.xs, t, C.bool(abort))
		if abort {
			return err
		}
		if bool(ok) {
			return nil
		}
		if !errors.Is(endErr, syscall.EAGAIN) {
			return fmt.Errorf("xenstore: change %s: %w", path, orEIO(endErr))
		}
	}
	return fmt.Errorf("xenstore: change %s: other clients were in the way %d times: %w", path, maxTransactions, syscall.EAGAIN)
}

// readIn reads within a transaction. s.mu is held.
func (s *store) readIn(t C.xs_transaction_t, path string) (string, bool, error) {
	if s.xs == nil {
		return "", false, errStoreClosed(path)
	}
	cPath := C.CString(path)
	defer C.free(unsafe.Pointer(cPath))
	var n C.uint
	p, err := C.xs_read(s.xs, t, cPath, &n)
	if p == nil {
		if errors.Is(err, syscall.ENOENT) {
			return "", false, nil
		}
		return "", false, fmt.Errorf("xenstore: read %s: %w", path, orEIO(err))
	}
	defer C.free(p)
	return C.GoStringN((*C.char)(p), C.int(n)), true, nil
}

// writeIn writes within a transaction. s.mu is held.
func (s *store) writeIn(t C.xs_transaction_t, path, value string) error {
	if s.xs == nil {
		return errStoreClosed(path)
	}
	cPath, cValue := C.CString(path), C.CString(value)
	defer C.free(unsafe.Pointer(cPath))
	defer C.free(unsafe.Pointer(cValue))
	if ok, err := C.xs_write(s.xs, t, cPath, unsafe.Pointer(cValue), C.uint(len(value))); !bool(ok) {
		return fmt.Errorf("xenstore: write %s: %w", path, orEIO(err))
	}
	return nil
}

func errStoreClosed(path string) error {
	return fmt.Errorf("xenstore: %s: the connection is closed", path)
}

// orEIO is err, or EIO where the library has failed without an errno.
func orEIO(err error) error {
	if err == nil {
		return syscall.EIO
	}
	return err
}
