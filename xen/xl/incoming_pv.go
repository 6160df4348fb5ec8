//go:build xen

package xl

import (
	"context"
	"errors"
	"io"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
)

// pvIncoming is a PV guest that libxl builds here. Its helper hands the stream
// that it is given to Xen's own library.
type pvIncoming struct{ *incoming }

var _ xen.SelfLoader = (*pvIncoming)(nil)

// asXen is the guest with the methods of its type.
func (in *incoming) asXen() xen.Incoming {
	if in.spec.Type == xen.TypePV {
		return &pvIncoming{in}
	}
	return in
}

func (in *pvIncoming) SelfLoad(ctx context.Context, write func(io.Writer) error) error {
	defer in.bridge.limit(ctx)()
	err := in.bridge.write(opStream)
	if err == nil {
		err = write(in.bridge.f)
	}
	return in.explain(ctx, cause(ctx, err))
}

// Finish ends libxl's stream, and lets it add the devices.
func (in *pvIncoming) Finish(ctx context.Context, recs []savefmt.Record) error {
	if len(recs) > 0 {
		return xen.ErrSelf()
	}
	in.handedOver = true
	undo := in.bridge.limit(ctx)
	err := savefmt.NewLibxlWriter(in.bridge.f).End()
	undo()
	if err != nil {
		return in.explain(ctx, cause(ctx, err))
	}
	if err := in.create.wait(ctx, devicesLimit); err != nil {
		return err
	}
	in.finished = true
	in.bridge.close()
	model, err := in.h.deviceModel(in.hello.domid)
	in.model = model
	return errors.Join(err, in.h.xc.Claim(in.hello.domid, 0))
}

func (in *pvIncoming) LoadStatic(context.Context, []savefmt.Record) error { return xen.ErrSelf() }
func (in *pvIncoming) Map(*xen.Batch) error                               { return xen.ErrSelf() }
