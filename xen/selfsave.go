package xen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// A PV guest's page tables hold frame numbers of its host, and Xen's own
// library alone knows how to turn them into the guest's. So that library
// writes and reads its libxc stream. The stream still passes through our hands
// record by record: it is checked, counted, compressed and limited like any
// other.

// SelfSaver is a Domain whose libxc stream its host's own library writes. Its
// Map, StaticState and FinalState are not used.
type SelfSaver interface {
	Domain
	// LiveErr returns nil if the guest can be saved while it runs, and else
	// why not.
	LiveErr(ctx context.Context) error
	// SelfSave begins to write the stream.
	SelfSave(ctx context.Context, opts SelfSaveOptions) (SelfSaved, error)
}

// SelfSaveOptions says how a SelfSaver writes.
type SelfSaveOptions struct {
	Live, Verify bool
	// Suspend is called, from another goroutine, when the guest is to be
	// suspended. It returns once it has.
	Suspend func() error
}

// SelfSaved is a libxc stream under way. Read gives it, from its header to its
// END. Close, which may come at any time, waits for the end of the library's
// work; its error says how that ended.
type SelfSaved io.ReadCloser

// SelfLoader is an Incoming whose libxc stream its host's own library reads.
// Its LoadStatic and Map are not used.
type SelfLoader interface {
	Incoming
	// SelfLoad hands the library what write writes: the libxc stream of the
	// guest, from its header to its END.
	SelfLoad(ctx context.Context, write func(io.Writer) error) error
}

// copySelf writes the stream of a SelfSaver.
func (s *save) copySelf(ctx context.Context) error {
	dom := s.dom.(SelfSaver)
	if s.opts.Live {
		if err := dom.LiveErr(ctx); err != nil {
			s.opts.Live = false
			s.emit(Event{Kind: EventNote, Phase: s.current, Text: fmt.Sprintf(
				"%s cannot be copied while it runs: it is suspended for as long as the copying of all its memory takes (%v)", s.report.Guest.Name, err)})
		}
	}
	if s.opts.Live { // else s.suspend waits for the guardian
		if err := s.ready(ctx); err != nil {
			return err
		}
	}
	s.touched = true
	stream, err := dom.SelfSave(ctx, SelfSaveOptions{
		Live: s.opts.Live, Verify: s.opts.Verify,
		Suspend: func() error { return s.suspend(ctx) },
	})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = stream.Close() })
	defer stop()
	copyErr := s.copyRecords(stream)
	err = stream.Close()
	if copyErr == nil || err != nil && errors.Is(copyErr, savefmt.ErrTruncated) {
		return err // the library's own words say more than a stream that ends too early
	}
	return copyErr
}

// copyRecords takes the stream as one round.
func (s *save) copyRecords(stream io.Reader) error {
	r := savefmt.NewReader(stream)
	defer r.Close()
	if _, err := r.Open(); err != nil {
		return err
	}
	begun, before := time.Now(), s.writer.Written()
	stats := RoundStats{}
	total := s.report.Guest.MemKiB / (PageSize / 1024)
	err := savefmt.CopyInner(s.writer, r, func(pages int) {
		stats.Pages += uint64(pages)
		s.progress(&stats, max(total, stats.Pages), begun)
	})
	if err != nil {
		return err
	}
	stats.Time, stats.WireBytes = time.Since(begun), uint64(s.writer.Written()-before)
	s.endRound(stats)
	return s.writer.Finish(nil)
}

// loadSelf hands the stream to a SelfLoader.
func (r *restore) loadSelf(ctx context.Context, into SelfLoader) error {
	return into.SelfLoad(ctx, func(out io.Writer) error {
		w := savefmt.NewWriter(out)
		head := r.head
		head.Outer = savefmt.LayerLibxc
		err := w.Start(head)
		if err == nil {
			err = savefmt.CopyInner(w, r.in, func(pages int) { r.report.Pages += uint64(pages) })
		}
		if err == nil {
			err = w.Finish(nil)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	})
}

var errSelf = errors.New("a PV guest's pages are read and written by Xen's own library only")

// ErrSelf says, of a method of a SelfSaver or SelfLoader, that it is not used.
func ErrSelf() error { return fmt.Errorf("%w: %w", ErrUnsupported, errSelf) }
