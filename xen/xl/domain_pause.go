//go:build xen

package xl

import (
	"context"
	"errors"
	"fmt"

	"github.com/xenferry/xenferry/xen"
)

var _ xen.Pauser = (*domain)(nil)

// ResumePaused pauses the guest before it ends its suspension, as xl does, so
// that it does not run in between.
func (d *domain) ResumePaused(ctx context.Context) error {
	if err := d.h.ctx.pause(d.domid); err != nil {
		return fmt.Errorf("domain %d: leave it paused: %w", d.domid, err)
	}
	if err := d.Resume(ctx); err != nil {
		return errors.Join(err, d.h.ctx.unpause(d.domid))
	}
	return nil
}
