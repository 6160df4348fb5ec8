//go:build xen

package xl

import (
	"context"

	"github.com/xenferry/xenferry/xen"
)

var _ xen.ConfigChecker = (*domain)(nil)

// CheckConfig implements xen.ConfigChecker: libxl must be able to read it, as
// it will when the guest is restored.
func (d *domain) CheckConfig(_ context.Context, text []byte) error {
	config, err := d.h.ctx.parseConfig(text)
	if err != nil {
		return err
	}
	config.free()
	return nil
}
