package xen

import (
	"context"
	"fmt"
)

// sizeWatch notices that a guest gets memory, or gives some back, while it is
// copied (ballooning). Xen enters a page that comes as writable, whatever is
// logged (p2m_add_page in xen/arch/x86/mm/p2m.c): what is written to it is not in
// the log until that was read and cleared once more. And a pfn that had no page
// when it was looked at would not be looked at again. So when the size changes all
// is sent anew, with a log that is cleared after the change.
type sizeWatch struct {
	dom   Domain
	kib   uint64
	times int // that it changed
}

// mostResizes is how often a guest may change its size during one copy: one that
// never stops would be copied for ever.
const mostResizes = 5

// watchSize begins, before the guest's writes are logged.
func watchSize(ctx context.Context, dom Domain) (*sizeWatch, error) {
	info, err := dom.Info(ctx)
	return &sizeWatch{dom: dom, kib: info.MemKiB}, err
}

// changed looks, and says what has changed, if anything, since it last did. The
// log must be read and cleared after that.
func (w *sizeWatch) changed(ctx context.Context) (what string, err error) {
	info, err := w.dom.Info(ctx)
	if err != nil || info.MemKiB == w.kib {
		return "", err
	}
	what = fmt.Sprintf("the guest's memory went from %d to %d KiB while it was copied", w.kib, info.MemKiB)
	w.kib = info.MemKiB
	if w.times++; w.times > mostResizes {
		return "", fmt.Errorf("%s, which is change number %d: it cannot be copied while it is ballooned", what, w.times)
	}
	return what, nil
}

// unchanged is the last look, at a suspended guest: what came since the look
// before is perhaps not in the log, and all memory is too much for a pause.
func (w *sizeWatch) unchanged(ctx context.Context) error {
	what, err := w.changed(ctx)
	if err == nil && what != "" {
		err = fmt.Errorf("%s, just before it was suspended: try again when its balloon is at rest", what)
	}
	return err
}
