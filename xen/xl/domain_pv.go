//go:build xen

package xl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xenctrl"
)

// pvDomain is a PV guest of this host. Xen's own library writes its stream;
// its suspend and resume are those of other guests.
type pvDomain struct{ *domain }

var _ xen.SelfSaver = (*pvDomain)(nil)

// asXen is the guest with the methods of its type.
func (d *domain) asXen() xen.Domain {
	if d.typ == xen.TypePV {
		return &pvDomain{d}
	}
	return d
}

// LiveErr tries log-dirty mode: of a PV guest it needs shadow paging, which
// not every hypervisor is built with.
func (d *pvDomain) LiveErr(context.Context) error {
	err := d.h.xc.EnableLogDirty(d.domid)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("this hypervisor has no shadow paging: %w", err)
	}
	if err != nil { // on still, from a migration that crashed?
		if off := d.h.xc.DisableLogDirty(d.domid); off != nil {
			return errors.Join(err, off)
		}
		err = d.h.xc.EnableLogDirty(d.domid)
	}
	if err != nil {
		return err
	}
	return d.h.xc.DisableLogDirty(d.domid)
}

// SelfSave starts the library.
func (d *pvDomain) SelfSave(_ context.Context, opts xen.SelfSaveOptions) (xen.SelfSaved, error) {
	r, w, err := libraryPipe()
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(r, true); err != nil { // so that Close ends a Read
		return nil, errors.Join(err, unix.Close(r), unix.Close(w))
	}
	s := &selfSaved{File: os.NewFile(uintptr(r), "stream of Xen's library"), ended: make(chan struct{})}
	go s.run(w, d.domid, opts)
	return s, nil
}

// selfSaved is the library at work. Only what run has left there before ended
// is closed is read after.
type selfSaved struct {
	*os.File
	closing sync.Once
	ended   chan struct{}
	err     error
}

func (s *selfSaved) run(w int, domid uint32, opts xen.SelfSaveOptions) {
	defer close(s.ended)
	var refused error
	err := xenctrl.SaveStream(w, domid, opts.Live, opts.Verify, &xenctrl.StreamCalls{
		Suspend: func() bool {
			refused = opts.Suspend()
			return refused == nil
		},
	})
	_ = unix.Close(w)
	if s.err = err; refused != nil {
		s.err = refused // the cause; the library knows only that it was so
	}
}

func (s *selfSaved) Close() error {
	s.closing.Do(func() { _ = s.File.Close() })
	<-s.ended
	return s.err
}

// StopLogDirty: the library ends what it has begun. What a dead one has left
// is ended here.
func (d *pvDomain) StopLogDirty(context.Context) error {
	if !d.leftover {
		return nil
	}
	err := d.h.xc.DisableLogDirty(d.domid)
	if errors.Is(err, unix.EOPNOTSUPP) || isGone(err) {
		err = nil
	}
	d.leftover = err != nil
	return err
}

func (d *pvDomain) StaticState(context.Context) ([]savefmt.Record, error) { return nil, xen.ErrSelf() }
func (d *pvDomain) FinalState(context.Context) ([]savefmt.Record, error)  { return nil, xen.ErrSelf() }
func (d *pvDomain) StartLogDirty(context.Context) error                   { return xen.ErrSelf() }
func (d *pvDomain) Map(*xen.Batch) error                                  { return xen.ErrSelf() }
func (d *pvDomain) CleanDirty(context.Context, xen.Bitmap, bool) (xen.DirtyStats, error) {
	return xen.DirtyStats{}, xen.ErrSelf()
}
