package xenctrl

import "fmt"

// NoDomid is the Domid of an Error that concerns no particular domain.
const NoDomid = ^uint32(0)

// Error is a call that failed. errors.Is sees the errno through it, as in
// errors.Is(err, unix.ENOMEM).
type Error struct {
	Op    string // what was tried, e.g. "enable log-dirty mode"
	Domid uint32 // the domain that it was tried on, or NoDomid
	Err   error  // the errno, wrapped where there is more to say
}

func (e *Error) Error() string {
	if e.Domid == NoDomid {
		return fmt.Sprintf("xenctrl: %s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("xenctrl: domain %d: %s: %v", e.Domid, e.Op, e.Err)
}

// Unwrap returns the errno, or what wraps it.
func (e *Error) Unwrap() error { return e.Err }
