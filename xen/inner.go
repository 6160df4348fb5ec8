package xen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// The libxc stream by itself: what libxl wants of its save helper. libxl sees
// to all else, that the guest runs on after a failure among it.

// InnerSaveOptions says how SaveInner writes.
type InnerSaveOptions struct {
	Live bool // copy in rounds while the guest runs
	// Verify sends all memory once more at the end, behind a VERIFY record:
	// the receiver compares it with what it has.
	Verify  bool
	Suspend time.Duration // the most that Domain.Suspend may take
	Observe Observer
}

// SaveInner writes the libxc stream of dom to w, from its header to its END.
// On success the guest is suspended, on failure it is as it was or suspended;
// in any case its pages are no longer logged.
func SaveInner(ctx context.Context, host Host, dom Domain, w io.Writer, opts InnerSaveOptions) (err error) {
	s := newSave(host, dom, nil, SaveOptions{Live: opts.Live, Verify: opts.Verify, Observe: opts.Observe, Limits: Limits{Suspend: opts.Suspend}})
	s.writer = savefmt.NewWriter(w)
	defer func() { err = errors.Join(err, s.endLog()) }()
	phases := []phase{{PhaseHello, s.innerHello}}
	return s.runAll(ctx, append(phases, s.memoryPhases()...))
}

// endLog ends log-dirty mode, whatever has become of ctx.
func (s *save) endLog() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.Limits.Undo)
	defer cancel()
	return s.dom.StopLogDirty(ctx)
}

// innerHello writes the header.
func (s *save) innerHello(ctx context.Context) error {
	var err error
	if s.report.Guest, err = s.dom.Info(ctx); err != nil {
		return err
	}
	head, err := s.innerHead(ctx)
	if err != nil {
		return err
	}
	head.Outer = savefmt.LayerLibxc
	return s.writer.Start(head)
}

// InnerLoadOptions says how LoadInner reads.
type InnerLoadOptions struct {
	// Pages bounds the pfns of the guest.
	Pages uint64
	// Differs is told of each page that is not as it must be by the stream's
	// own second copy of it, behind a VERIFY record.
	Differs func(pfn uint64, t PageType)
}

// LoadInner fills a guest from its libxc stream, from the header to END, and
// finishes it. r may be read ahead: see savefmt.InnerReader.
func LoadInner(ctx context.Context, r io.Reader, into Incoming, opts InnerLoadOptions) error {
	l := newRestore(nil, r, RestoreOptions{})
	l.incoming, l.pages, l.differs = into, opts.Pages, opts.Differs
	defer l.in.Close()
	head, err := l.in.Open()
	if err == nil && head.Kind != savefmt.KindHVM {
		err = fmt.Errorf("%w: pages of a %s guest, loaded as those of an HVM or PVH guest", ErrUnsupported, head.Kind)
	}
	if err == nil {
		err = l.load(ctx)
	}
	if err != nil {
		return err
	}
	return into.Finish(ctx, l.state.Records())
}

// comparePages reads the second copy of pages, and compares them with what is
// there.
func (r *restore) comparePages(pages []savefmt.StockPage) error {
	for len(pages) > 0 {
		n, err := r.fillBatch(pages)
		if err == nil {
			err = r.compareBatch()
		}
		if err != nil {
			return err
		}
		pages = pages[n:]
	}
	return nil
}

func (r *restore) compareBatch() error {
	if err := r.incoming.Map(r.batch); err != nil {
		return err
	}
	var err error
	if r.second == nil {
		r.second = make([]byte, PageSize)
	}
	for i, page := range r.batch.Pages {
		if page == nil {
			continue
		}
		if err = r.in.ReadPages([][]byte{r.second}); err != nil {
			break
		}
		if string(page) != string(r.second) {
			r.differs(r.batch.PFNs[i], r.batch.Types[i])
		}
	}
	return errors.Join(err, r.incoming.Unmap(r.batch))
}
