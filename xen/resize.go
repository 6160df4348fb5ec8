package xen

import "fmt"

// sizeWatch notices that a guest gets memory while it is copied (its balloon gives
// some back). Xen enters a page that comes as writable, whatever is logged
// (p2m_add_page in xen/arch/x86/mm/p2m.c): what is written to it is not in the log
// until that was read and cleared once more. And a pfn that had no page when it was
// looked at would not be looked at again. So when the guest grows all is sent
// anew, with a log that is cleared after that. Pages that go are in the log. A guest
// that between two looks gets no more than it gives is not noticed: a balloon moves
// in one direction at a time.
type sizeWatch struct {
	kib   uint64 // at the last look
	times int    // that it grew
}

// mostResizes is how often a guest may grow during one copy: one that never stops
// would be copied for ever.
const mostResizes = 5

// grown takes the guest's size at a look, after which the log was read and cleared,
// and says how it has grown since the one before, if it has.
func (w *sizeWatch) grown(kib uint64) (what string, err error) {
	before := w.kib
	if w.kib = kib; w.kib <= before {
		return "", nil
	}
	what = fmt.Sprintf("the guest's memory grew from %d to %d KiB while it was copied", before, w.kib)
	if w.times++; w.times > mostResizes {
		return "", fmt.Errorf("%s, for the %dth time: try again when it is given no more", what, w.times)
	}
	return what, nil
}

// settled is the last look, at a suspended guest: what came since the look before
// is perhaps not in the log, and all memory is too much for a pause.
func (w *sizeWatch) settled(kib uint64) error {
	what, err := w.grown(kib)
	if err == nil && what != "" {
		err = fmt.Errorf("%s, just before it was suspended: try again when it is given no more", what)
	}
	return err
}
