package savefmt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
)

// The configuration of a guest, as short as libxl would take it.
const testConfig = `{"c_info":{"type":"%s","name":"db1","uuid":"01234567-89ab-cdef-0123-456789abcdef"},"b_info":{"max_vcpus":2,"max_memkb":65536,"target_memkb":32768}}`

func u32s(v ...uint32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}

// testContext is an HVM save blob with that many processors.
func testContext(vcpus int) []byte {
	b := u32s(hvmTypeHead, 24, hvmMagic, hvmVersion, 0, 0, 0, 0)
	for i := range vcpus {
		b = append(b, u32s(hvmTypeCPU|uint32(i)<<16, 3)...)
		b = append(b, 1, 2, 3)
	}
	return append(b, u32s(hvmTypeEnd, 0)...)
}

func testTSC() Record    { return Record{RecTSCInfo, u32s(1, 2, 3, 4, 5, 0)} }
func testParams() Record { return Record{RecHVMParams, u32s(1, 0, 1, 0, 2, 0)} }

// testGuest is how the tests' guest is written.
type testGuest struct {
	head   Head
	pages  int
	perRec int
	model  []byte
	static []Record
	state  []Record
}

func hvmGuest(typ string, pages int) testGuest {
	g := testGuest{
		head: Head{
			Outer: LayerXL, Config: fmt.Appendf(nil, testConfig, typ), Kind: KindHVM, XenMajor: 4, XenMinor: 17,
		},
		pages: pages, perRec: 256,
		static: []Record{{RecCPUIDPolicy, make([]byte, 48)}, {RecMSRPolicy, make([]byte, 16)}, {RecStaticDataEnd, nil}},
		state:  []Record{testTSC(), testParams(), {RecHVMContext, testContext(2)}},
	}
	if typ == "hvm" {
		g.model = []byte("QEMU's state")
	}
	return g
}

func testPage(pfn int) []byte {
	return bytes.Repeat([]byte{byte(pfn), byte(pfn >> 8), 0, 7}, pageSize/4)
}

func (g testGuest) write(t testing.TB, out io.Writer) {
	t.Helper()
	w := NewWriter(out)
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	check(w.Start(g.head))
	for _, r := range g.static {
		check(w.Record(r))
	}
	for at := 0; at < g.pages; {
		var entries []StockPage
		var run []byte
		for ; at < g.pages && len(entries) < g.perRec; at++ {
			typ := uint8(0)
			if at%50 == 49 {
				typ = 15
			} else {
				run = append(run, testPage(at)...)
			}
			entries = append(entries, NewStockPage(typ, uint64(at)))
		}
		check(w.Pages(entries, [][]byte{run[:pageSize], run[pageSize:]}))
	}
	for _, r := range g.state {
		check(w.Record(r))
	}
	check(w.Finish(g.model))
}

func (g testGuest) bytes(t testing.TB) []byte {
	var b bytes.Buffer
	g.write(t, &b)
	return b.Bytes()
}

func pvGuest() testGuest {
	vcpu := func(n int) []byte { return append(u32s(1, 0), make([]byte, n)...) }
	return testGuest{
		head:  Head{Outer: LayerLibxl, Kind: KindPV, XenMajor: 4, XenMinor: 17},
		pages: 10, perRec: 4,
		static: []Record{
			{RecPVInfo, []byte{8, 4, 0, 0, 0, 0, 0, 0}}, {RecStaticDataEnd, nil},
			{RecPVP2MFrames, u32s(0, 511, 3, 0)},
		},
		state: []Record{
			testTSC(), {RecSharedInfo, make([]byte, pageSize)},
			{RecPVVCPUBasic, vcpu(16)}, {RecPVVCPUExt, vcpu(8)}, {RecPVVCPUXSave, vcpu(0)}, {RecPVVCPUMSRs, vcpu(0)},
		},
	}
}

func TestVerifySummary(t *testing.T) {
	tests := []struct {
		guest testGuest
		want  string // guest, name, Xen, vCPUs, KiB
	}{
		{hvmGuest("hvm", 1000), "hvm db1 4.17 2 3920"},
		{hvmGuest("pvh", 1000), "pvh db1 4.17 2 3920"},
		{pvGuest(), "pv  4.17 1 40"},
	}
	for _, tt := range tests {
		s, err := Verify(bytes.NewReader(tt.guest.bytes(t)))
		if err != nil {
			t.Fatalf("%s: %v", tt.want, err)
		}
		if got := fmt.Sprintf("%s %s %s %d %d", s.Guest, s.Name, s.Xen, s.VCPUs, s.MemKiB); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
		if uint64(tt.guest.pages) != s.Pages["NOTAB"]+s.Pages["XTAB"] || s.Records["PAGE_DATA"] == 0 || s.Repeated != 0 {
			t.Errorf("%s: %+v", tt.want, s)
		}
	}
}

func TestReaderGivesBackWhatWasWritten(t *testing.T) {
	g := hvmGuest("hvm", 300)
	r := NewReader(bytes.NewReader(g.bytes(t)))
	head, err := r.Open()
	if err != nil || head.Version != 3 || !bytes.Equal(head.Config, g.head.Config) {
		t.Fatalf("%+v, %v", head, err)
	}
	want := append(append([]Record{}, g.static...), g.state...)
	pages, model := 0, ""
	for {
		item, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case item.Layer == LayerLibxl && item.Type == LibxlEmulatorContext:
			state, err := DeviceModelState(item)
			if err != nil {
				t.Fatal(err)
			}
			model = string(state)
		case item.Layer == LayerLibxl || item.Type == RecEnd:
		case item.Type == RecPageData:
			for i, p := range item.Pages {
				page := make([]byte, pageSize)
				if i == 3 {
					break // the rest of the record must be skipped
				}
				if err := r.ReadPages([][]byte{page[:100], page[100:]}); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(page, testPage(int(p.PFN()))) {
					t.Fatalf("pfn %#x has other contents", p.PFN())
				}
				pages++
			}
		default:
			if item.Type != want[0].Type || !bytes.Equal(item.Body, want[0].Body) {
				t.Errorf("record %+v, want %+v", item, want[0])
			}
			want = want[1:]
		}
	}
	if len(want) != 0 || pages != 6 || model != "QEMU's state" {
		t.Errorf("%d records missing, %d pages, model %q", len(want), pages, model)
	}
}

// TestEveryCut cuts a file at many places: each is an error that says so.
func TestEveryCut(t *testing.T) {
	whole := hvmGuest("hvm", 3).bytes(t)
	for n := range len(whole) {
		if n > 600 && n < len(whole)-600 && n%97 != 0 {
			continue
		}
		_, err := Verify(bytes.NewReader(whole[:n]))
		var where *FormatError
		if !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrNotSaved) {
			t.Fatalf("cut at %d: %v", n, err)
		}
		if n >= xlHeaderSize && !errors.As(err, &where) {
			t.Fatalf("cut at %d: %v names no place", n, err)
		}
	}
}

// rawStream is a libxc stream of any records, also wrong ones.
func rawStream(kind GuestKind, version uint32, recs ...Record) []byte {
	b := binary.BigEndian.AppendUint64(nil, libxcMarker)
	b = binary.BigEndian.AppendUint32(b, libxcIdent)
	b = binary.BigEndian.AppendUint32(b, version)
	b = binary.BigEndian.AppendUint64(b, 0)
	b = append(b, u32s(uint32(kind), 12, 4, 17)...)
	for _, r := range recs {
		b = pad(append(appendRecordHeader(b, r.Type, len(r.Body)), r.Body...))
	}
	return b
}

func TestStrict(t *testing.T) {
	end := Record{RecEnd, nil}
	static := Record{RecStaticDataEnd, nil}
	page := Record{RecPageData, append(u32s(1, 0, 5, 0), make([]byte, pageSize)...)}
	hvm := Record{RecHVMContext, testContext(1)}
	optional := Record{RecOptional | 77, []byte{1}}
	good := []Record{static, page, testTSC(), testParams(), hvm, end}
	with := func(at int, r ...Record) []Record {
		return append(append(append([]Record{}, good[:at]...), r...), good[at:]...)
	}
	without := func(at int) []Record { return append(append([]Record{}, good[:at]...), good[at+1:]...) }
	entry := func(e uint64) Record {
		return Record{RecPageData, binary.LittleEndian.AppendUint64(u32s(1, 0), e)}
	}
	tests := []struct {
		name string
		recs []Record
		want string // "": accepted
	}{
		{"as it should be", good, ""},
		{"optional, unknown", with(1, optional), ""},
		{"no static end", without(0), "no STATIC_DATA_END record before it"},
		{"static end twice", with(1, static), "there twice"},
		{"policy after static end", with(1, Record{RecMSRPolicy, make([]byte, 16)}), "follows STATIC_DATA_END"},
		{"pages after the state", with(3, page), "follows the guest's state"},
		{"no pages", without(1), "ends without a PAGE_DATA record"},
		{"no TSC", without(2), "ends without a X86_TSC_INFO record"},
		{"no params", without(3), "ends without a HVM_PARAMS record"},
		{"no context", without(4), "ends without a HVM_CONTEXT record"},
		{"no end", good[:5], "incomplete"},
		{"after the end", with(6, end), "follows the end"},
		{"context twice", with(4, hvm), "there twice"},
		{"PV record", with(2, Record{RecSharedInfo, make([]byte, pageSize)}), "no HVM guest has such"},
		{"simulated", with(3, Record{RecSimContext, []byte{1}}), "no HVM guest has such"},
		{"unknown", with(3, Record{0x13, nil}), "mandatory record of an unknown type"},
		{"checkpoint", with(5, Record{RecCheckpoint, nil}), "Remus"},
		{"toolstack", with(3, Record{RecToolstack, nil}), "deprecated"},
		{"end with a body", []Record{static, page, testTSC(), testParams(), hvm, {RecEnd, []byte{1}}}, "has 1 bytes, want 0"},
		{"verify before pages", with(1, Record{RecVerify, nil}), "no PAGE_DATA record before it"},
		{"verify and pages again", with(2, Record{RecVerify, nil}, page), ""},
		{"verify and no pages", with(2, Record{RecVerify, nil}), "no PAGE_DATA record follows VERIFY"},
		{"TSC too short", []Record{static, page, {RecTSCInfo, u32s(1)}}, "has 4 bytes, want 24"},
		{"TSC reserved", []Record{static, page, {RecTSCInfo, u32s(1, 2, 3, 4, 5, 6)}}, "reserved fields"},
		{"params count", []Record{static, page, {RecHVMParams, u32s(2, 0, 1, 0, 2, 0)}}, "2 params in 24 bytes"},
		{"policy size", []Record{{RecCPUIDPolicy, make([]byte, 25)}}, "no multiple of 24"},
		{"context without end", []Record{static, page, {RecHVMContext, testContext(1)[:40]}}, "HVM save blob"},
		{"context of something else", []Record{static, page, {RecHVMContext, make([]byte, 64)}}, "no HVM save blob"},
		{"no page", []Record{static, {RecPageData, u32s(0, 0)}}, "claims 0 pages"},
		{"too many pages", []Record{static, {RecPageData, u32s(1<<20, 0)}}, "claims 1048576 pages"},
		{"table longer than the record", []Record{static, {RecPageData, u32s(2, 0, 1, 0)}}, "claims 2 pages in 16 bytes"},
		{"page missing", []Record{static, {RecPageData, u32s(1, 0, 5, 0)}}, "need 4112"},
		{"page too many", []Record{static, {RecPageData, append(u32s(1, 0, 5, 15<<28), make([]byte, pageSize)...)}}, "need 16"},
		{"bad page type", []Record{static, entry(5 << 60)}, "no page type 5"},
		{"reserved bits of a page", []Record{static, entry(15<<60 | 1<<52)}, "reserved bits"},
		{"pfn beyond all memory", []Record{static, entry(15<<60 | 1<<33)}, "pfn is above"},
		{"page table of an HVM guest", []Record{static, entry(1 << 60)}, "PV guests only"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Verify(bytes.NewReader(rawStream(KindHVM, 3, tt.recs...)))
			expect(t, err, tt.want)
		})
	}
}

// TestP2MFrames: as many frames as Xen's own reader wants, which depends on the
// width of the guest.
func TestP2MFrames(t *testing.T) {
	_, state := pvRecords()
	page := Record{RecPageData, append(u32s(1, 0, 5, 0), make([]byte, pageSize)...)}
	for _, tt := range []struct {
		width       byte
		first, last uint32
		frames      int
		want        string
	}{
		{8, 0, 511, 1, ""},
		{8, 0, 512, 2, ""},
		{8, 511, 512, 2, ""},
		{4, 0, 1023, 1, ""},
		{8, 0, 1023, 1, "it has 1 frames for the pfns 0x0 to 0x3ff, want 2"},
		{4, 0, 1023, 2, "want 1"},
		{8, 0, 1<<32 - 1, 1, "want 8388608"},
	} {
		p2m := Record{RecPVP2MFrames, append(u32s(tt.first, tt.last), make([]byte, 8*tt.frames)...)}
		_, err := Verify(bytes.NewReader(rawStream(KindPV, 3, Record{RecPVInfo, []byte{tt.width, 4, 0, 0, 0, 0, 0, 0}},
			Record{RecStaticDataEnd, nil}, p2m, page, state[0], state[1], state[2], Record{RecEnd, nil})))
		expect(t, err, tt.want)
	}
}

// TestSimContext: JSON, as it says.
func TestSimContext(t *testing.T) {
	page := Record{RecPageData, append(u32s(1, 0, 5, 0), make([]byte, pageSize)...)}
	for context, want := range map[string]string{`{"a":1}`: "", `{"a":1`: "no JSON", "\x01": "no JSON"} {
		_, err := Verify(bytes.NewReader(rawStream(KindSim, 3, Record{RecStaticDataEnd, nil}, page,
			Record{RecSimContext, []byte(context)}, Record{RecEnd, nil})))
		expect(t, err, want)
	}
}

func expect(t *testing.T, err error, want string) {
	t.Helper()
	var where *FormatError
	switch {
	case want == "" && err != nil:
		t.Fatal(err)
	case want == "":
	case err == nil || !strings.Contains(err.Error(), want):
		t.Fatalf("got %v, want %q", err, want)
	case !errors.As(err, &where) || where.Record == "":
		t.Fatalf("%v names no record", err)
	}
}

func TestVersion2(t *testing.T) {
	page := Record{RecPageData, append(u32s(1, 0, 5, 0), make([]byte, pageSize)...)}
	hvm := Record{RecHVMContext, testContext(1)}
	end := Record{RecEnd, nil}
	_, err := Verify(bytes.NewReader(rawStream(KindHVM, 2, page, testTSC(), hvm, testParams(), page, end)))
	expect(t, err, "")
	many := func(first uint64) Record {
		var values []uint64
		for i := range uint64(600) {
			values = append(values, first+i, 0)
		}
		return params(values...)
	}
	_, err = Verify(bytes.NewReader(rawStream(KindHVM, 2, page, testTSC(), hvm, many(0), many(400), end)))
	expect(t, err, "")
	_, err = Verify(bytes.NewReader(rawStream(KindHVM, 2, page, testTSC(), hvm, many(0), many(600), end)))
	expect(t, err, "with those before it, it has 19208 bytes")
	_, err = Verify(bytes.NewReader(rawStream(KindHVM, 2, Record{RecStaticDataEnd, nil})))
	expect(t, err, "no such record in version 2")
	_, err = Verify(bytes.NewReader(rawStream(KindHVM, 4)))
	expect(t, err, "version 4")
	_, err = Verify(bytes.NewReader(rawStream(9, 3)))
	expect(t, err, "unknown type of guest")
}

// TestHeaders flips each byte of the headers: what is not noticed is listed.
func TestHeaders(t *testing.T) {
	g := hvmGuest("hvm", 3)
	whole := g.bytes(t)
	libxl := xlHeaderSize + 4 + len(g.head.Config) + 1
	// Nobody checks the optional flags, the low byte of optional data's length
	// grows it, Xen's release is for people, and so are strings.
	free := map[int]bool{40: true, 41: true, 42: true, 43: true}
	for i := range 8 {
		free[libxl+libxlHeaderSize+recordHeaderSize+libxcImageSize+8+i] = true
	}
	for i := range libxl + libxlHeaderSize + recordHeaderSize + libxcImageSize + libxcDomainSize {
		if i >= xlHeaderSize+4 && i < libxl || free[i] || i == libxl+15 { // bit 1 of libxl's options is "converted"
			continue
		}
		broken := bytes.Clone(whole)
		broken[i] ^= 0x41
		if _, err := Verify(bytes.NewReader(broken)); err == nil {
			t.Errorf("byte %d changed from %#x, no error", i, whole[i])
		}
	}
}

func TestLibxlOrder(t *testing.T) {
	inner := hvmGuest("hvm", 3)
	inner.head.Outer = LayerLibxc
	libxc := inner.bytes(t)
	var head bytes.Buffer
	_ = NewLibxlWriter(&head).Start()
	qemu := Record{LibxlEmulatorContext, append(u32s(2, 0), 1, 2, 3)}
	store := Record{LibxlEmulatorXenstore, append(u32s(2, 0), "physmap/0\x00x\x00"...)}
	end := Record{LibxlEnd, nil}
	tests := []struct {
		name string
		recs []Record
		want string
	}{
		{"with QEMU", []Record{store, qemu, end}, ""},
		{"without", []Record{end}, ""},
		{"no end", []Record{qemu}, "incomplete"},
		{"twice", []Record{qemu, qemu, end}, "follows the emulator's context"},
		{"wrong order", []Record{qemu, store, end}, "follows the emulator's context"},
		{"odd strings", []Record{{LibxlEmulatorXenstore, append(u32s(2, 0), "a\x00"...)}}, "not pairs"},
		{"unknown emulator", []Record{{LibxlEmulatorContext, append(u32s(3, 0), 1)}}, "unknown emulator 3"},
		{"optional", []Record{{RecOptional | 9, nil}}, "allows none"},
		{"checkpoint", []Record{{LibxlCheckpointEnd, nil}}, "Remus"},
		{"context twice", []Record{{LibxlLibxcContext, nil}}, "there twice"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := append(bytes.Clone(head.Bytes()), libxc...)
			for _, r := range tt.recs {
				b = pad(append(appendRecordHeader(b, r.Type, len(r.Body)), r.Body...))
			}
			_, err := Verify(bytes.NewReader(b))
			expect(t, err, tt.want)
		})
	}
}

func TestConfigMustFit(t *testing.T) {
	g := hvmGuest("pvh", 3)
	g.model = []byte("QEMU")
	_, err := Verify(bytes.NewReader(g.bytes(t)))
	expect(t, err, "which libxl refuses")
	g = hvmGuest("hvm", 3)
	g.model = nil
	_, err = Verify(bytes.NewReader(g.bytes(t)))
	expect(t, err, "without an EMULATOR_CONTEXT")
	_, err = Verify(bytes.NewReader(hvmGuest("pv", 3).bytes(t)))
	expect(t, err, `of type "pv"`)
	g = hvmGuest("pvh", 3)
	g.head.Config = bytes.Replace(g.head.Config, []byte("db1"), nil, 1)
	_, err = Verify(bytes.NewReader(g.bytes(t)))
	expect(t, err, "the guest has no name")
}

// TestLyingLength: a length that is a lie must not cost its memory.
func TestLyingLength(t *testing.T) {
	b := rawStream(KindHVM, 3, Record{RecStaticDataEnd, nil}, Record{RecPageData, append(u32s(1, 0, 5, 0), make([]byte, pageSize)...)})
	b = appendRecordHeader(b, RecHVMContext, maxHVMContext)
	allocated := allocatedBy(func() {
		if _, err := Verify(bytes.NewReader(b)); !errors.Is(err, ErrTruncated) {
			t.Error(err)
		}
	})
	if allocated > 4<<20 {
		t.Errorf("%d bytes were allocated for a record that is not there", allocated)
	}
}

// allocatedBy returns the bytes that f has allocated, and whatever else ran.
func allocatedBy(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestWriterRefuses(t *testing.T) {
	start := func(t *testing.T) *Writer {
		w := NewWriter(io.Discard)
		if err := w.Start(Head{Outer: LayerLibxc, Kind: KindHVM}); err != nil {
			t.Fatal(err)
		}
		return w
	}
	w := start(t)
	if err := w.Pages([]StockPage{NewStockPage(0, 1)}, [][]byte{make([]byte, pageSize)}); err == nil {
		t.Error("pages before STATIC_DATA_END were written")
	}
	if err := w.Record(Record{RecStaticDataEnd, nil}); err == nil {
		t.Error("the error of a Writer is not sticky")
	}
	w = start(t)
	_ = w.Record(Record{RecStaticDataEnd, nil})
	if err := w.Pages([]StockPage{NewStockPage(0, 1)}, nil); err == nil {
		t.Error("a page without contents was written")
	}
	if err := NewWriter(io.Discard).Record(testTSC()); err == nil {
		t.Error("a record before Start was written")
	}
	if err := NewWriter(io.Discard).Start(Head{Outer: LayerXL, Kind: KindHVM}); err == nil {
		t.Error("an xl file without a configuration was written")
	}
	broken := NewWriter(&brokenWriter{})
	if err := broken.Start(hvmGuest("pvh", 1).head); !errors.Is(err, errBroken) {
		t.Errorf("Start on a broken writer: %v", err)
	}
}

// stockFile writes a large save file, and returns its name.
func stockFile(b *testing.B, mib int) (string, int64) {
	b.Helper()
	f, err := os.CreateTemp(b.TempDir(), "")
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	g := hvmGuest("hvm", mib*256)
	g.perRec = 1024
	g.write(b, f)
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		b.Fatal(err)
	}
	return f.Name(), size
}

// BenchmarkVerify reads a file of 512 MiB from the page cache.
func BenchmarkVerify(b *testing.B) {
	name, size := stockFile(b, 512)
	b.SetBytes(size)
	b.ResetTimer()
	for range b.N {
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Verify(f); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

// BenchmarkReader reads the same into memory, as a restore does.
func BenchmarkReader(b *testing.B) {
	name, size := stockFile(b, 512)
	memory := make([]byte, 4<<20)
	b.SetBytes(size)
	b.ResetTimer()
	for range b.N {
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		r := NewReader(f)
		_, err = r.Open()
		for err == nil {
			var item Item
			if item, err = r.Next(); err == nil && item.Type == RecPageData {
				err = r.ReadPages([][]byte{memory[:r.left]})
			}
		}
		if err != io.EOF {
			b.Fatal(err)
		}
		f.Close()
	}
}
