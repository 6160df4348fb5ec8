package xen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"runtime/metrics"
	"slices"
	"testing"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// fillMixed gives the guest's memory text, noise, copies and zeros, as a real
// guest's has.
func (d *fakeDomain) fillMixed() {
	rnd := rand.New(rand.NewPCG(3, 4))
	for pfn := range d.Pages() {
		page := d.mem[pfn*PageSize:][:PageSize]
		switch rnd.IntN(4) {
		case 0:
			clear(page)
		case 1:
			for i := range page {
				page[i] = "lorem ipsum dolor"[rnd.IntN(17)]
			}
		case 2:
			for i := range page {
				page[i] = byte(rnd.Uint32())
			}
		case 3:
			copy(page, bytes.Repeat([]byte{byte(rnd.IntN(5)) + 1}, PageSize))
		}
	}
}

func TestMovesCompressed(t *testing.T) {
	for _, name := range []string{"auto", "off", "s2", "zstd", "zstd:3", "zlib"} {
		for _, n := range []int{1, 3} {
			for _, mode := range []DataMode{DataPlain, DataControl} {
				t.Run(fmt.Sprintf("%s/%d/%s", name, n, mode), func(t *testing.T) {
					m := newMove()
					m.dom.fillMixed()
					m.opts.Data, m.opts.Pipe.Connections, m.opts.Verify, m.opts.MemoryHash = mode, n, true, true
					var err error
					if m.opts.Pipe.Compress, err = ParseCompression(name); err != nil {
						t.Fatal(err)
					}
					m.run(t.Context(), t)
					m.expectMoved(t)
					m.checkStatistics(t, name)
				})
			}
		}
	}
}

func (m *move) checkStatistics(t *testing.T, name string) {
	t.Helper()
	r := m.report
	if r.Differing != 0 {
		t.Errorf("%d pages differ", r.Differing)
	}
	for _, round := range r.Rounds {
		sum := round.Zero + round.Empty + round.Copied
		for _, method := range round.Methods {
			sum += method.Pages
		}
		if sum != round.Pages {
			t.Errorf("round %d: %d pages, of which %d are told of: %+v", round.Round, round.Pages, sum, round)
		}
	}
	if r.CopyTime <= 0 || r.Bottleneck == "" || r.Compress != m.opts.Pipe.Compress.String() || r.CPU <= 0 || r.Receiver.CPU <= 0 {
		t.Errorf("report %+v", r)
	}
	if name == "auto" || name == "off" {
		return
	}
	// How many copies are found, and so what is left to compress, is chance: s2 was seen to come to 1.2.
	if r.PagesCopied == 0 || r.Ratio < 1.1 {
		t.Errorf("%d copies, %.2f:1", r.PagesCopied, r.Ratio)
	}
}

// TestDataAddress: the source goes where it is told, from where it is told.
func TestDataAddress(t *testing.T) {
	m := newMove()
	m.opts.Pipe.Bind, m.opts.Pipe.Address = net.IPv4(127, 0, 0, 1), net.IPv4(127, 0, 0, 1)
	m.run(t.Context(), t)
	m.expectMoved(t)
	p := PipeOptions{Address: net.ParseIP("2001:db8::7")}
	if got := p.targets([]string{"10.0.0.1:55", "[::1]:55"}); len(got) != 1 || got[0] != "[2001:db8::7]:55" {
		t.Errorf("targets %q", got)
	}
}

func TestDedup(t *testing.T) {
	d := newDedup(maxDedupSlots) // in a small one these two pages may have one slot
	a, b := bytes.Repeat([]byte{1}, PageSize), bytes.Repeat([]byte{2}, PageSize)
	d.begin(0)
	for i, step := range []struct {
		page   []byte
		pfn    uint64
		source uint64
		found  bool
	}{{a, 0, 0, false}, {b, 1, 0, false}, {a, 2, 0, true}, {b, 3, 1, true}, {a, 0, 0, false}} {
		if source, found := d.find(step.page, savefmt.PageSum(step.page), step.pfn); found != step.found || source != step.source {
			t.Errorf("step %d: %d, %v", i, source, found)
		}
	}
	d.begin(1)
	if source, found := d.find(a, savefmt.PageSum(a), 9); found {
		t.Errorf("a page of the round before is taken for the source: %#x", source)
	}
}

// frames gives a reader its frames at once, and then ends.
func frames(parts ...[]byte) *frameReader {
	return newFrameReader(bytes.NewReader(bytes.Join(parts, nil)))
}

// TestCopiesAtOnce: in the first round a copy is made as soon as its source is
// there, and otherwise at the round's end; in a later one always then, as the
// page that is there may be that of the round before.
func TestCopiesAtOnce(t *testing.T) {
	page := bytes.Repeat([]byte{7}, PageSize)
	sum := savefmt.PageSum(page)
	entry := func(pfn uint64) savefmt.PageEntry { return savefmt.NewPageEntry(0, savefmt.ContentData, pfn) }
	data := func(round uint32) []byte {
		table := savefmt.AppendTable(nil, []savefmt.PageEntry{entry(5)}, []uint32{sum})
		h := savefmt.Header{
			Type: savefmt.FramePages, Round: round, Count: 1, Length: PageSize,
			BodyCRC: savefmt.Checksum(table), Table: uint32(len(table)),
		}
		frame := make([]byte, savefmt.HeaderSize)
		h.Put(frame)
		return slices.Concat(frame, table, page)
	}
	list := func(round uint32) []byte {
		return savefmt.AppendCopies(nil, round, 0, []savefmt.Copy{{Entry: entry(3), Source: 5, Sum: sum}, {Entry: entry(4), Source: 5, Sum: sum}})
	}
	end := func(round uint32, pages uint64) []byte { return savefmt.AppendRoundEnd(nil, round, 0, pages) }
	for name, tt := range map[string]struct {
		parts [][]byte
		made  bool
	}{
		"source first":              {[][]byte{data(0), list(0)}, true},
		"list first":                {[][]byte{list(0), data(0)}, false},
		"list first, and the end":   {[][]byte{list(0), data(0), end(0, 3)}, true},
		"in round 1":                {[][]byte{data(0), end(0, 1), data(1), list(1)}, false},
		"in round 1, and the end":   {[][]byte{data(0), end(0, 1), data(1), list(1), end(1, 3)}, true},
		"made at once, and the end": {[][]byte{data(0), list(0), end(0, 3)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			in := &fakeIncoming{h: &fakeHost{}, mem: make([]byte, 100*PageSize)}
			err := newPageReader(newMemory(in, 100), newBarrier(t.Context(), 1)).serve(frames(tt.parts...))
			if !errors.Is(err, ErrPeerLost) { // the end of what it was given
				t.Fatal(err)
			}
			for _, pfn := range []int{3, 4} {
				if made := bytes.Equal(in.mem[pfn*PageSize:][:PageSize], page); made != tt.made {
					t.Errorf("the copy at pfn %d is there: %v", pfn, made)
				}
			}
		})
	}
}

// TestHostileCopies: lists of copies that no honest source sends.
func TestHostileCopies(t *testing.T) {
	entry := func(pfn uint64) savefmt.PageEntry { return savefmt.NewPageEntry(0, savefmt.ContentData, pfn) }
	end := savefmt.AppendRoundEnd(nil, 0, savefmt.FlagLast, 1)
	tests := map[string][][]byte{
		"source never came":  {savefmt.AppendCopies(nil, 0, 0, []savefmt.Copy{{Entry: entry(3), Source: 5}}), end},
		"in a verify round":  {savefmt.AppendCopies(nil, 0, savefmt.FlagVerify, []savefmt.Copy{{Entry: entry(3), Source: 5}})},
		"in another round":   {savefmt.AppendCopies(nil, 1, 0, []savefmt.Copy{{Entry: entry(3), Source: 5}})},
		"out of order":       {savefmt.AppendCopies(nil, 0, 0, []savefmt.Copy{{Entry: entry(9), Source: 5}}), savefmt.AppendCopies(nil, 0, 0, []savefmt.Copy{{Entry: entry(3), Source: 5}})},
		"not counted at end": {savefmt.AppendRoundEnd(nil, 0, savefmt.FlagLast, 1)},
	}
	for name, parts := range tests {
		t.Run(name, func(t *testing.T) {
			in := &fakeIncoming{h: &fakeHost{}, mem: make([]byte, 100*PageSize)}
			err := newPageReader(newMemory(in, 100), newBarrier(t.Context(), 1)).serve(frames(parts...))
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestShortPayload: a payload that is shorter than its pages is damage, and not
// the end of the connection, after which both ends would try again.
func TestShortPayload(t *testing.T) {
	for _, method := range []string{"s2", "zstd", "zlib"} {
		t.Run(method, func(t *testing.T) {
			m, err := savefmt.ParseMethod(method)
			if err != nil {
				t.Fatal(err)
			}
			enc, err := savefmt.NewEncoder(m, 1)
			if err != nil {
				t.Fatal(err)
			}
			payload, err := enc.Encode(nil, bytes.Repeat([]byte("a page"), PageSize)[:PageSize])
			if err != nil {
				t.Fatal(err)
			}
			payload = payload[:len(payload)/2]
			table := savefmt.AppendTable(nil, []savefmt.PageEntry{savefmt.NewPageEntry(0, savefmt.ContentData, 3)}, []uint32{0})
			h := savefmt.Header{
				Type: savefmt.FramePages, Codec: m.Codec, Flags: savefmt.FlagFresh,
				Count: 1, Length: uint32(len(payload)), BodyCRC: savefmt.Checksum(table), Table: uint32(len(table)),
			}
			head := make([]byte, savefmt.HeaderSize)
			h.Put(head)
			in := &fakeIncoming{h: &fakeHost{}, mem: make([]byte, 100*PageSize)}
			err = newPageReader(newMemory(in, 100), newBarrier(t.Context(), 1)).serve(frames(head, table, payload))
			if !errors.Is(err, ErrCorrupt) || errors.Is(err, ErrPeerLost) {
				t.Errorf("%v", err)
			}
		})
	}
}

// nullWriter is a connection that takes everything.
type nullWriter struct{}

func (nullWriter) writeFrame(b *net.Buffers) error { _, err := b.WriteTo(io.Discard); return err }
func (nullWriter) unsent() int                     { return 0 }
func (nullWriter) arrived() uint64                 { return 0 }

// benchDomain is a guest whose memory is all alike, mapped at no cost.
func benchDomain(pages int) *fakeDomain {
	d := newFakeDomain(&fakeHost{}, pages)
	d.types = nil
	d.fillMixed()
	return d
}

// mutexWait returns for how many seconds goroutines of this process have
// waited for locks, all together.
func mutexWait() float64 {
	sample := []metrics.Sample{{Name: "/sync/mutex/wait/total:seconds"}}
	metrics.Read(sample)
	return sample[0].Value.Float64()
}

// BenchmarkPipeline sends a guest of 64 MiB to nowhere. "lock-ns" is how long
// its goroutines waited for locks for each MiB of the guest.
func BenchmarkPipeline(b *testing.B) {
	for _, name := range []string{"off", "s2", "zstd", "auto"} {
		b.Run(name, func(b *testing.B) {
			dom := benchDomain(16384)
			c, err := ParseCompression(name)
			if err != nil {
				b.Fatal(err)
			}
			s, err := newSender(dom, []frameWriter{nullWriter{}, nullWriter{}}, &PipeOptions{Compress: c})
			if err != nil {
				b.Fatal(err)
			}
			all := NewBitmap(dom.Pages())
			all.SetAll(dom.Pages())
			b.SetBytes(int64(len(dom.mem)))
			b.ReportAllocs()
			before := mutexWait()
			for round := 0; b.Loop(); round++ {
				if _, err := s.send(context.Background(), round, all, savefmt.FlagLive, round == 0); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((mutexWait()-before)*1e9/float64(b.N*len(dom.mem)>>20), "lock-ns")
		})
	}
}

// BenchmarkClassify prepares raw batches of a guest that no cache holds.
func BenchmarkClassify(b *testing.B) {
	mem := bytes.Repeat([]byte{7}, 1<<30)
	j := &job{batch: NewBatch()}
	b.SetBytes(BatchPages * PageSize)
	b.ReportAllocs()
	at := 0
	for b.Loop() {
		j.reset()
		for i := range uint64(BatchPages) {
			j.batch.PFNs, j.batch.Types = append(j.batch.PFNs, i), append(j.batch.Types, PageNormal)
			j.batch.Pages = append(j.batch.Pages, mem[at:at+PageSize])
			at = (at + PageSize) % len(mem)
		}
		j.classify(true)
	}
}

// BenchmarkHandOver is what a lane costs besides the work: empty jobs go
// through both hand-overs.
func BenchmarkHandOver(b *testing.B) {
	l := &lane{s: &sender{}, out: nullWriter{}, free: make(chan *job, jobsPerLane)}
	for range jobsPerLane {
		l.free <- &job{batch: NewBatch()}
	}
	ready := make(chan *job, 1)
	done := make(chan error)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go func() { done <- l.writeJobs(ctx, cancel, ready) }()
	b.ReportAllocs()
	for b.Loop() {
		j := <-l.free
		j.reset()
		ready <- j
	}
	close(ready)
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

func BenchmarkZeroScan(b *testing.B) {
	page := make([]byte, PageSize)
	b.SetBytes(PageSize)
	for b.Loop() {
		if !isZero(page) {
			b.Fatal("not zero")
		}
	}
}

func BenchmarkPageSum(b *testing.B) {
	page := bytes.Repeat([]byte{7}, PageSize)
	b.SetBytes(PageSize)
	for b.Loop() {
		savefmt.PageSum(page)
	}
}

// BenchmarkCopyOut is what the pages of a batch cost before they are encoded:
// copied, summed, and looked for among those that were sent.
func BenchmarkCopyOut(b *testing.B) {
	const pages = 16384
	dom := newFakeDomain(&fakeHost{}, pages)
	rnd := rand.NewChaCha8([32]byte{1})
	_, _ = rnd.Read(dom.mem)
	l := &lane{s: &sender{dedup: newDedup(pages)}}
	j := &job{batch: NewBatch()}
	b.SetBytes(BatchPages * PageSize)
	b.ReportAllocs()
	for n := uint64(0); b.Loop(); n++ {
		if n%(pages/BatchPages) == 0 {
			l.s.dedup.begin(int(n))
		}
		j.reset()
		j.batch.Grow()
		for i := range uint64(BatchPages) {
			pfn := (n*BatchPages + i) % pages
			j.batch.PFNs = append(j.batch.PFNs, pfn)
			j.batch.Pages = append(j.batch.Pages, dom.mem[pfn*PageSize:][:PageSize])
			j.batch.Types = append(j.batch.Types, PageNormal)
		}
		l.copyOut(j, &savefmt.Header{})
	}
}

// bufferWriter is a connection that keeps what is written.
type bufferWriter struct{ bytes.Buffer }

func (w *bufferWriter) writeFrame(b *net.Buffers) error { _, err := b.WriteTo(&w.Buffer); return err }
func (w *bufferWriter) unsent() int                     { return 0 }
func (w *bufferWriter) arrived() uint64                 { return 0 }

// TestMethodsChange changes the method from round to round, as the controller
// may from batch to batch: the other end must follow.
func TestMethodsChange(t *testing.T) {
	dom := benchDomain(1000)
	out := &bufferWriter{}
	s, err := newSender(dom, []frameWriter{out}, &PipeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.tuner.link.begun = time.Now().Add(time.Hour) // it decides nothing by itself
	all := NewBitmap(dom.Pages())
	all.SetAll(dom.Pages())
	order := []int{2, 3, 2, 2, 1, 0, 3, 3, 0, 2}
	for round, method := range order {
		s.tuner.current = method
		flags := savefmt.FlagLive
		if round == len(order)-1 {
			flags = savefmt.FlagLast
		}
		if _, err := s.send(t.Context(), round, all, flags, round == 0); err != nil {
			t.Fatal(err)
		}
	}
	in := &fakeIncoming{h: &fakeHost{}, mem: make([]byte, len(dom.mem))}
	mem := newMemory(in, dom.Pages())
	if err := newPageReader(mem, newBarrier(t.Context(), 1)).serve(newFrameReader(&out.Buffer)); err != nil {
		t.Fatal(err)
	}
	if err := mem.settled(); err != nil || !bytes.Equal(in.mem, dom.mem) {
		t.Errorf("memory differs (%v)", err)
	}
}

// TestSenderMemory holds docs/operations.md to its word: what a connection
// costs the source, with all its encoders in use.
func TestSenderMemory(t *testing.T) {
	const lanes, most = 4, 25 << 20
	dom := benchDomain(4096)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s, err := newSender(dom, slices.Repeat([]frameWriter{nullWriter{}}, lanes), &PipeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.tuner.link.begun = time.Now().Add(time.Hour)
	all := NewBitmap(dom.Pages())
	all.SetAll(dom.Pages())
	for round := range 8 {
		s.tuner.current = round % len(savefmt.AutoMethods)
		if _, err := s.send(t.Context(), round, all, savefmt.FlagVerify, round == 0); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / lanes; each > most {
		t.Errorf("%d KiB for each connection, the promise is %d", each>>10, most>>10)
	} else {
		t.Logf("%d KiB for each connection", each>>10)
	}
	runtime.KeepAlive(s)
}

// A short round is shared out evenly, in batches that are worth their frame.
func TestBatchSize(t *testing.T) {
	s := &sender{lanes: make([]*lane, 2)}
	for _, tt := range []struct {
		pages uint64
		first bool
		want  int
	}{
		{0, false, leastBatch}, {1, false, leastBatch}, {337, false, 85}, {1000, false, 250},
		{4 * BatchPages, false, BatchPages}, {1 << 20, false, BatchPages}, {337, true, BatchPages},
	} {
		if got := s.batchSize(tt.pages, tt.first); got != tt.want {
			t.Errorf("%d pages, first %v: batches of %d, want %d", tt.pages, tt.first, got, tt.want)
		}
	}
}
