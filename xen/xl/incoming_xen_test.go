//go:build xen

package xl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xenctrl"
)

// live is a running guest on this host, opened, with what a destination must
// know about it.
type live struct {
	h      xen.Host
	d      xen.Domain
	info   xen.DomainInfo
	spec   xen.Spec
	static []savefmt.Record
}

func openLive(t *testing.T) *live {
	t.Helper()
	name := liveGuest(t)
	handles, mappings, files := xenctrl.OpenHandles(), xenctrl.LiveMappings(), openFiles(t)
	logLevel, _ := strconv.Atoi(os.Getenv("XENFERRY_XL_LOG"))
	h, err := Open(Options{LogLevel: logLevel})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if n := xenctrl.OpenHandles() - handles; n != 0 {
			t.Errorf("%d hypervisor handles are left open", n)
		}
		if n := openFiles(t) - files; n != 0 {
			t.Errorf("%d descriptors are left open", n)
		}
		if n := xenctrl.LiveMappings() - mappings; n != 0 {
			t.Errorf("%d mappings are left", n)
		}
	})
	l := &live{h: h}
	if l.info, err = h.Find(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if l.d, err = h.Open(t.Context(), l.info.Domid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.d.Close() })
	if l.static, err = l.d.StaticState(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.spec = xen.Spec{Name: name + "--incoming", Type: l.info.Type, Pages: l.d.Pages(), MemKiB: l.info.MemKiB}
	if l.spec.Config, err = l.d.Config(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}

// openFiles counts this process's descriptors. Go's poller, which keeps its
// own, is up by then.
func openFiles(t *testing.T) int {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// copyPages copies all memory of the guest to the incoming one, in several
// goroutines, as the engine does.
func (l *live) copyPages(t *testing.T, in xen.Incoming) {
	t.Helper()
	const workers = 3
	errs := make(chan error, workers)
	var next atomic.Uint64
	for range workers {
		go func() {
			src, dst := xen.NewBatch(), xen.NewBatch()
			for {
				from := next.Add(xen.BatchPages) - xen.BatchPages
				if from >= l.spec.Pages {
					errs <- nil
					return
				}
				if err := l.copyBatch(in, src, dst, from); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	for range workers {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
}

// copyBatch copies the pages from pfn from on.
func (l *live) copyBatch(in xen.Incoming, src, dst *xen.Batch, from uint64) error {
	src.Reset()
	dst.Reset()
	for pfn := from; pfn < min(from+xen.BatchPages, l.spec.Pages); pfn++ {
		src.PFNs = append(src.PFNs, pfn)
	}
	if err := l.d.Map(src); err != nil {
		return err
	}
	dst.PFNs = append(dst.PFNs, src.PFNs...)
	dst.Types = append(dst.Types, src.Types...)
	if err := in.Map(dst); err != nil {
		return err
	}
	for i, page := range src.Pages {
		if (page == nil) != (dst.Pages[i] == nil) {
			return fmt.Errorf("pfn %#x of type %#x is mapped on one side only", src.PFNs[i], src.Types[i])
		}
		copy(dst.Pages[i], page)
	}
	return errors.Join(l.d.Unmap(src), in.Unmap(dst))
}

// gone fails unless the host has no domain of that name.
func (l *live) gone(t *testing.T, name string) {
	t.Helper()
	if d, err := l.h.Find(t.Context(), name); !errors.Is(err, xen.ErrNoDomain) {
		t.Errorf("domain %q is still here: %+v, %v", name, d, err)
	}
}

var tickLine = regexp.MustCompile(`(?:tick | n=)(\d+) `)

// tickAbove waits until the guest has printed a tick above min on its console,
// and returns it. It ticks once a second, on an emulated host more slowly.
func tickAbove(t *testing.T, name string, min int) int {
	t.Helper()
	var out []byte
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		out, _ = exec.CommandContext(ctx, "xl", "console", "-t", "pv", name).Output() // ends by its time
		cancel()
		if all := tickLine.FindAllStringSubmatch(string(out), -1); len(all) > 0 {
			if n, _ := strconv.Atoi(all[len(all)-1][1]); n > min {
				return n
			}
		}
	}
	t.Fatalf("no tick above %d on the console of %s, the last that it said is %q", min, name, out)
	return 0
}

// checkSize fails the test unless the new domain has as much memory as the old
// one, most of it in superpages.
func (l *live) checkSize(t *testing.T, in *incoming) {
	t.Helper()
	old, err := l.h.(*host).xc.Domain(l.info.Domid)
	if err != nil {
		t.Fatal(err)
	}
	now, err := l.h.(*host).xc.Domain(in.Domid())
	if err != nil {
		t.Fatal(err)
	}
	// libxl adds a few pages of its own to some types of guests.
	if now.TotPages < old.TotPages || now.TotPages > old.TotPages+16 {
		t.Errorf("the new domain has %d pages, the old one %d", now.TotPages, old.TotPages)
	}
	if in.supers.made.Load()*superPages < old.TotPages/2 {
		t.Errorf("%d superpages for %d pages", in.supers.made.Load(), old.TotPages)
	}
}

// TestLiveReceive moves the guest to a new domain on the same host, and back
// to its name. The new one must go on where the old one stopped.
func TestLiveReceive(t *testing.T) {
	l := openLive(t)
	name, ctx := l.info.Name, t.Context()
	before := tickAbove(t, name, 0)
	in, err := l.h.Receive(ctx, l.spec)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := in.LoadStatic(ctx, l.static); err != nil {
		t.Fatal(err)
	}
	if err := l.d.Suspend(ctx); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	moved := false
	defer func() {
		if !moved {
			in.Close()
			if err := l.d.Resume(context.Background()); err != nil {
				t.Error(err)
			}
		}
	}()
	l.copyPages(t, in)
	copied := time.Now()
	recs, err := l.d.FinalState(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Finish(ctx, recs); err != nil {
		t.Fatal(err)
	}
	t.Logf("copy %v, finish %v, %d superpages", copied.Sub(started), time.Since(copied), in.(*incoming).supers.made.Load())
	l.checkSize(t, in.(*incoming))
	moved = true
	if err := errors.Join(l.d.Destroy(ctx), in.Rename(ctx, name), in.Unpause(ctx), in.Close()); err != nil {
		t.Fatal(err)
	}
	if d, err := l.h.Find(ctx, name); err != nil || d.Domid != in.Domid() || d.Type != l.info.Type {
		t.Errorf("%s is now %+v, %v; want domain %d", name, d, err, in.Domid())
	}
	tickAbove(t, name, before)
}

// TestLiveAbandon gives up a guest at each stage. Nothing may stay, and the
// source, which was only looked at, must run on.
func TestLiveAbandon(t *testing.T) {
	l := openLive(t)
	ctx := t.Context()
	for _, c := range []struct {
		name string
		do   func(t *testing.T, in xen.Incoming)
	}{
		{"at once", func(*testing.T, xen.Incoming) {}},
		{"after the static state", func(t *testing.T, in xen.Incoming) {
			if err := in.LoadStatic(ctx, l.static); err != nil {
				t.Error(err)
			}
		}},
		{"with memory", func(t *testing.T, in xen.Incoming) {
			if err := in.LoadStatic(ctx, l.static); err != nil {
				t.Error(err)
			}
			l.copyPages(t, in)
		}},
		{"by a final state that is none", func(t *testing.T, in xen.Incoming) {
			if err := in.Finish(ctx, nil); err == nil {
				t.Error("Finish without records succeeded")
			}
		}},
		{"by a CPU policy that is none", func(t *testing.T, in xen.Incoming) {
			bad := make([]byte, 48)
			for i := range bad {
				bad[i] = 0xEE
			}
			err := in.LoadStatic(ctx, []savefmt.Record{{Type: savefmt.RecCPUIDPolicy, Body: bad}})
			if err == nil {
				t.Error("a CPU policy of garbage was accepted")
			}
			t.Log(err)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in, err := l.h.Receive(ctx, l.spec)
			if err != nil {
				t.Fatal(err)
			}
			c.do(t, in)
			started := time.Now()
			if err := errors.Join(in.Close(), in.Close(), in.Destroy(ctx)); err != nil {
				t.Error(err)
			}
			t.Logf("closed in %v", time.Since(started))
			l.gone(t, l.spec.Name)
		})
	}
	if d, err := l.h.Find(ctx, l.info.Name); err != nil || d.Domid != l.info.Domid || d.State != xen.StateRunning {
		t.Errorf("the source is now %+v, %v", d, err)
	}
}

// TestLiveFinishFails: state that Xen refuses, state that is not there, and a
// device that this host cannot give. The error says why, nothing stays, and
// the source runs on.
func TestLiveFinishFails(t *testing.T) {
	l := openLive(t)
	ctx := t.Context()
	before := tickAbove(t, l.info.Name, 0)
	if err := l.d.Suspend(ctx); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.d.Resume(context.Background()); err != nil {
			t.Fatal(err)
		}
		tickAbove(t, l.info.Name, before)
	}()
	good, err := l.d.FinalState(ctx)
	if err != nil {
		t.Fatal(err)
	}
	with := func(typ uint32, body []byte) []savefmt.Record {
		recs := slices.Clone(good)
		for i, r := range recs {
			if r.Type == typ {
				recs[i].Body = body
			}
		}
		return recs
	}
	noBridge := strings.Replace(string(l.spec.Config), `"xenbr0"`, `"nobr9"`, 1)
	if noBridge == string(l.spec.Config) {
		t.Fatal("the guest has no NIC on the bridge xenbr0, which this test needs")
	}
	for _, c := range []struct {
		name   string
		config string
		pages  bool
		recs   []savefmt.Record
		text   string
	}{
		{"no pages", string(l.spec.Config), false, good, "which the guest does not have"},
		{"HVM context of garbage", string(l.spec.Config), true, with(savefmt.RecHVMContext, make([]byte, 4096)), "set the HVM context"},
		{"no such bridge", noBridge, true, good, "nobr9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := l.spec
			spec.Config = []byte(c.config)
			in, err := l.h.Receive(ctx, spec)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			if err := in.LoadStatic(ctx, l.static); err != nil {
				t.Fatal(err)
			}
			if c.pages {
				l.copyPages(t, in)
			}
			err = in.Finish(ctx, c.recs)
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %v, want %q in it", err, c.text)
			}
			t.Log(err)
			if err := in.Unpause(ctx); err == nil {
				t.Error("a guest that is not complete was unpaused")
			}
			if err := in.Close(); err != nil {
				t.Error(err)
			}
			l.gone(t, spec.Name)
		})
	}
}

// TestLiveReceiveRefusals: what cannot be built is refused, clearly, and
// leaves nothing behind.
func TestLiveReceiveRefusals(t *testing.T) {
	l := openLive(t)
	for _, c := range []struct {
		name   string
		change func(s *xen.Spec)
		is     error
		text   string
	}{
		{"name taken", func(s *xen.Spec) { s.Name = l.info.Name }, xen.ErrNameTaken, l.info.Name},
		{"no memory", func(s *xen.Spec) { s.MemKiB = 1 << 30 }, xen.ErrNoMemory, "MiB free"},
		{"PV", func(s *xen.Spec) { s.Type = xen.TypePV }, nil, "is for type"},
		{"another type", func(s *xen.Spec) { s.Type = otherType(s.Type) }, nil, "is for type"},
		{"no pages", func(s *xen.Spec) { s.Pages = 0 }, nil, "0 pages"},
		{"too many pages", func(s *xen.Spec) { s.Pages = xen.MaxPages + 1 }, nil, "must have 1 to"},
		{"empty name", func(s *xen.Spec) { s.Name = "" }, nil, "guest name"},
		{"path as name", func(s *xen.Spec) { s.Name = "../x" }, nil, "guest name"},
		{"reserved id", func(s *xen.Spec) { s.Domid = 0x7FF0 }, nil, "domain id"},
		{"id in use", func(s *xen.Spec) { s.Domid = l.info.Domid }, nil, "is in use"},
		{"no configuration", func(s *xen.Spec) { s.Config = nil }, nil, "configuration of 0 bytes"},
		{"cut configuration", func(s *xen.Spec) { s.Config = s.Config[:len(s.Config)/2] }, nil, "configuration"},
		{"configuration with a NUL", func(s *xen.Spec) { s.Config = []byte("{\x00}") }, nil, "NUL"},
		{"huge configuration", func(s *xen.Spec) { s.Config = make([]byte, 2<<20) }, nil, "1 to"},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := l.spec
			c.change(&spec)
			in, err := l.h.Receive(t.Context(), spec)
			if err == nil {
				in.Close()
				t.Fatal("it was received")
			}
			t.Log(err)
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("error %v is not %v", err, c.is)
			}
			if !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %v, want %q in it", err, c.text)
			}
			if spec.Name != l.info.Name {
				l.gone(t, spec.Name)
			}
		})
	}
}

func otherType(t xen.GuestType) xen.GuestType {
	if t == xen.TypeHVM {
		return xen.TypePVH
	}
	return xen.TypeHVM
}

// TestLiveMapRefusals: a batch that claims what the guest does not have.
func TestLiveMapRefusals(t *testing.T) {
	l := openLive(t)
	in, err := l.h.Receive(t.Context(), l.spec)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := in.LoadStatic(t.Context(), l.static); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		pfns  []uint64
		types []xen.PageType
		text  string
	}{
		{"beyond the guest", []uint64{l.spec.Pages}, []xen.PageType{0}, "beyond"},
		{"far beyond", []uint64{1 << 63}, []xen.PageType{0}, "beyond"},
		{"twice", []uint64{5, 5}, []xen.PageType{0, 0}, "not above"},
		{"page table", []uint64{5}, []xen.PageType{1}, "page type 0x1"},
		{"no type", []uint64{5}, []xen.PageType{0x33}, "page type 0x33"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := xen.NewBatch()
			b.PFNs = append(b.PFNs, c.pfns...)
			b.Types = append(b.Types, c.types...)
			if err := in.Map(b); err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %v, want %q in it", err, c.text)
			}
			if err := in.Unmap(b); err != nil {
				t.Error(err)
			}
		})
	}
}
