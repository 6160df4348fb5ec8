package xen

import (
	"context"
	"fmt"
)

// sizeWatch notices that a guest gets memory while it is copied (its balloon gives
// some back). Xen enters a page that comes as writable, whatever is logged
// (p2m_add_page in xen/arch/x86/mm/p2m.c): what is written to it is not in the log
// until that was read and cleared once more. And a pfn that had no page when it was
// looked at would not be looked at again. So when the guest grows all is sent
// anew, with a log that is cleared after that. Pages that go are in the log.
type sizeWatch struct {
	dom   Domain
	kib   uint64
	times int // that it grew
}

// mostResizes is how often a guest may grow during one copy: one that never stops
// would be copied for ever.
const mostResizes = 5

// watchSize begins, before the guest's writes are logged.
func watchSize(ctx context.Context, dom Domain) (*sizeWatch, error) {
	info, err := dom.Info(ctx)
	return &sizeWatch{dom: dom, kib: info.MemKiB}, err
}

// grown looks, and says how the guest has grown since it last did, if it has. The
// log must be read and cleared after that.
func (w *sizeWatch) grown(ctx context.Context) (what string, err error) {
	info, err := w.dom.Info(ctx)
	if err != nil {
		return "", err
	}
	before := w.kib
	if w.kib = info.MemKiB; w.kib <= before {
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
func (w *sizeWatch) settled(ctx context.Context) error {
	what, err := w.grown(ctx)
	if err == nil && what != "" {
		err = fmt.Errorf("%s, just before it was suspended: try again when it is given no more", what)
	}
	return err
}
