package conformance

import (
	"bytes"
	"hash/maphash"
	"runtime/debug"
	"testing"
	"time"

	"github.com/xenferry/xenferry/xen"
)

// eachBatch calls f with all pages of the guest, mapped.
func eachBatch(t *testing.T, dom xen.Domain, f func(*xen.Batch)) {
	t.Helper()
	all := xen.NewBitmap(dom.Pages())
	all.SetAll(dom.Pages())
	eachBatchOf(t, dom, all, f)
}

// eachBatchOf calls f with the pages whose bits are set, mapped.
func eachBatchOf(t *testing.T, dom xen.Domain, which xen.Bitmap, f func(*xen.Batch)) {
	t.Helper()
	b := xen.NewBatch()
	for from := uint64(0); from < dom.Pages(); from += xen.BatchPages {
		b.Reset()
		b.PFNs = which.AppendRange(b.PFNs, from, min(from+xen.BatchPages, dom.Pages()))
		if len(b.PFNs) == 0 {
			continue
		}
		must(t, "map", dom.Map(b))
		f(b)
		must(t, "unmap", dom.Unmap(b))
	}
}

// lastData returns the pfn of the last page of the guest that has contents.
func lastData(t *testing.T, dom xen.Domain) (pfn uint64) {
	t.Helper()
	found := false
	eachBatch(t, dom, func(b *xen.Batch) {
		for i, typ := range b.Types {
			if typ.HasData() {
				pfn, found = b.PFNs[i], true
			}
		}
	})
	if !found {
		t.Fatal("no page has contents")
	}
	return pfn
}

func (s *suite) mapAll(t *testing.T) {
	_, dom := s.open(t)
	info := s.info(t, dom)
	populated := uint64(0)
	eachBatch(t, dom, func(b *xen.Batch) {
		if len(b.Types) != len(b.PFNs) || len(b.Pages) != len(b.PFNs) {
			t.Fatalf("%d pages, %d types, %d views", len(b.PFNs), len(b.Types), len(b.Pages))
		}
		for i, typ := range b.Types {
			if want := map[bool]int{true: xen.PageSize}[typ.HasData()]; len(b.Pages[i]) != want || typ > 0xF {
				t.Fatalf("pfn %#x of type %#x has a view of %d bytes", b.PFNs[i], typ, len(b.Pages[i]))
			}
			if typ.Populated() {
				populated++
			}
		}
	})
	// The guest may have a little more than shows: ROMs, rings.
	if got := populated * xen.PageSize / 1024; got > info.MemKiB || got < info.MemKiB*9/10 {
		t.Errorf("%d KiB are populated, the guest has %d KiB", got, info.MemKiB)
	}
}

func (s *suite) mapTwice(t *testing.T) {
	_, dom := s.open(t)
	must(t, "suspend", dom.Suspend(s.context(t)))
	defer dom.Resume(s.cleanupContext(t))
	pfn := lastData(t, dom)
	one, two := xen.NewBatch(), xen.NewBatch()
	one.PFNs = append(one.PFNs, pfn)
	two.PFNs = append(two.PFNs, 0, pfn)
	must(t, "map", dom.Map(one))
	must(t, "map again", dom.Map(two))
	if !bytes.Equal(one.Pages[0], two.Pages[1]) {
		t.Error("two views of a page differ")
	}
	page := bytes.Clone(one.Pages[0])
	must(t, "unmap the first", dom.Unmap(one))
	if !bytes.Equal(page, two.Pages[1]) {
		t.Error("the end of one view has changed the other")
	}
	must(t, "unmap the second", dom.Unmap(two))
	must(t, "resume", dom.Resume(s.context(t)))
}

// A view is read-only: a mistake of the sender cannot harm the guest.
func (s *suite) mapIsReadOnly(t *testing.T) {
	_, dom := s.open(t)
	b := xen.NewBatch()
	b.PFNs = append(b.PFNs, lastData(t, dom))
	must(t, "map", dom.Map(b))
	defer dom.Unmap(b)
	if b.Pages[0] == nil {
		t.Fatal("the page has gone")
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() == nil {
			t.Error("guest memory could be written")
		}
	}()
	b.Pages[0][0]++
}

func (s *suite) mapBeyondEnd(t *testing.T) {
	h, dom := s.open(t)
	for _, pfn := range []uint64{dom.Pages(), dom.Pages() + 1, 1 << 40, 1<<52 - 1, 1 << 63, ^uint64(0)} {
		b := xen.NewBatch()
		b.PFNs = append(b.PFNs, 0, pfn)
		if err := dom.Map(b); err == nil {
			t.Errorf("pfn %#x of %#x could be mapped", pfn, dom.Pages())
			dom.Unmap(b)
		}
	}
	s.RunCheck(t, h, s.domid)
}

// clean returns what was dirtied since the last time.
func (s *suite) clean(t *testing.T, dom xen.Domain, final bool) xen.Bitmap {
	t.Helper()
	bm := xen.NewBitmap(dom.Pages())
	bm.SetAll(dom.Pages()) // must be overwritten
	st, err := dom.CleanDirty(s.context(t), bm, final)
	must(t, "clean dirty", err)
	if n := bm.Count(); n != st.Dirty {
		t.Errorf("%d pages are said to be dirty, %d are", st.Dirty, n)
	}
	return bm
}

func (s *suite) logDirtyWhileSuspended(t *testing.T) {
	h, dom := s.open(t)
	must(t, "suspend", dom.Suspend(s.context(t)))
	defer dom.Resume(s.cleanupContext(t))
	must(t, "start log-dirty", dom.StartLogDirty(s.context(t)))
	if n := s.clean(t, dom, false).Count(); n > s.QuietPages {
		t.Errorf("%d pages are dirty that nobody wrote", n)
	}
	must(t, "resume", dom.Resume(s.context(t)))
	s.untilDirty(t, dom)
	must(t, "suspend again", dom.Suspend(s.context(t)))
	s.clean(t, dom, true)
	if n := s.clean(t, dom, false).Count(); n > s.QuietPages {
		t.Errorf("%d pages are dirty although they were just cleaned", n)
	}
	must(t, "stop log-dirty", dom.StopLogDirty(s.context(t)))
	must(t, "resume", dom.Resume(s.context(t)))
	s.RunCheck(t, h, s.domid)
}

// untilDirty waits until the guest has written more than Xen may have. The
// bits are cleaned.
func (s *suite) untilDirty(t *testing.T, dom xen.Domain) {
	t.Helper()
	dirty := uint64(0)
	for end := time.Now().Add(s.Limit); dirty <= s.QuietPages; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("a guest that writes has dirtied %d pages", dirty)
		}
		dirty += s.clean(t, dom, false).Count()
	}
}

// What the log says must be enough to follow every change of memory: hashes
// stand for the copy that a destination would have.
func (s *suite) logDirtyMissesNothing(t *testing.T) {
	h, dom := s.open(t)
	seed := maphash.MakeSeed()
	copied := make([]uint64, dom.Pages())
	hash := func(page []byte) uint64 { return maphash.Bytes(seed, page) }
	note := func(b *xen.Batch) {
		for i, pfn := range b.PFNs {
			copied[pfn] = hash(b.Pages[i])
		}
	}
	must(t, "start log-dirty", dom.StartLogDirty(s.context(t)))
	eachBatch(t, dom, note)
	for range 4 {
		s.untilDirtyThen(t, dom, note)
	}
	must(t, "suspend", dom.Suspend(s.context(t)))
	defer dom.Resume(s.cleanupContext(t))
	eachBatchOf(t, dom, s.clean(t, dom, true), note)
	missed := 0
	eachBatch(t, dom, func(b *xen.Batch) {
		for i, pfn := range b.PFNs {
			if copied[pfn] != hash(b.Pages[i]) {
				if missed++; missed < 10 {
					t.Logf("pfn %#x has changed, and was not reported", pfn)
				}
			}
		}
	})
	if missed > s.SharedPages {
		t.Errorf("%d changed pages were not reported, %d may be", missed, s.SharedPages)
	}
	must(t, "stop log-dirty", dom.StopLogDirty(s.context(t)))
	must(t, "resume", dom.Resume(s.context(t)))
	s.RunCheck(t, h, s.domid)
}

// untilDirtyThen waits until something is dirty, and calls f with it.
func (s *suite) untilDirtyThen(t *testing.T, dom xen.Domain, f func(*xen.Batch)) {
	t.Helper()
	for end := time.Now().Add(s.Limit); ; time.Sleep(5 * time.Millisecond) {
		bm := s.clean(t, dom, false)
		if bm.Count() > 0 {
			eachBatchOf(t, dom, bm, f)
			return
		}
		if time.Now().After(end) {
			t.Fatal("a guest that writes dirties nothing")
		}
	}
}

// A log-dirty mode that a crashed sender left on must not be in the way.
func (s *suite) logDirtyLeftover(t *testing.T) {
	h, dom := s.open(t)
	s.LeaveLogDirty(t, h, s.domid)
	s.RunCheck(t, h, s.domid) // it writes
	must(t, "suspend", dom.Suspend(s.context(t)))
	defer dom.Resume(s.cleanupContext(t))
	must(t, "start log-dirty", dom.StartLogDirty(s.context(t)))
	if n := s.clean(t, dom, false).Count(); n > s.QuietPages {
		t.Errorf("%d pages are dirty from before the start", n)
	}
	must(t, "stop log-dirty", dom.StopLogDirty(s.context(t)))
	must(t, "resume", dom.Resume(s.context(t)))
	s.RunCheck(t, h, s.domid)
}

func (s *suite) stopLogDirty(t *testing.T) {
	h, dom := s.open(t)
	must(t, "stop log-dirty that was never started", dom.StopLogDirty(s.context(t)))
	must(t, "start log-dirty", dom.StartLogDirty(s.context(t)))
	must(t, "stop log-dirty", dom.StopLogDirty(s.context(t)))
	must(t, "stop log-dirty again", dom.StopLogDirty(s.context(t)))
	s.RunCheck(t, h, s.domid)
}
