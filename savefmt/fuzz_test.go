package savefmt

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// The fuzz targets of the decoders of saved guests: no panic, memory bounded
// by what was given, exactly one of a result and an error, and what was
// accepted is written back the same. Frames and page tables have theirs in
// frame_test.go.

// small guests, so that the fuzzer has few bytes to change.
func fuzzSeeds(f *testing.F) [][]byte {
	pv, pvh, hvm := pvGuest(), hvmGuest("pvh", 2), hvmGuest("hvm", 1)
	pv.pages, pv.perRec = 2, 1
	sim := testGuest{
		head:   Head{Outer: LayerLibxc, Kind: KindSim},
		pages:  1,
		perRec: 1,
		static: []Record{{RecStaticDataEnd, nil}},
		state:  []Record{{RecSimContext, []byte("{}")}},
	}
	var seeds [][]byte
	for _, g := range []testGuest{pv, pvh, hvm, sim} {
		seeds = append(seeds, g.bytes(f))
	}
	old := []Record{
		{RecPageData, append(u32s(1, 0, 5, 0), make([]byte, pageSize)...)}, testTSC(), {RecHVMContext, testContext(1)}, testParams(), {RecEnd, nil},
	}
	return append(seeds, rawStream(KindHVM, 2, old...))
}

// allowance is what a decoder may allocate for n bytes, with room for what the
// fuzzer itself allocates at the same time.
func allowance(n int) uint64 { return 32<<20 + 16*uint64(n) }

// FuzzReader reads a saved guest, and writes again what is in it.
func FuzzReader(f *testing.F) {
	for _, seed := range fuzzSeeds(f) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var sum *Summary
		var err error
		if got := allocatedBy(func() { sum, err = Verify(bytes.NewReader(b)) }); got > allowance(len(b)) {
			t.Fatalf("%d bytes were allocated for %d bytes", got, len(b))
		}
		if sum == nil {
			t.Fatal("no summary")
		}
		if err == nil && sum.Container == nil {
			rewrite(t, b)
		}
	})
}

// rewrite copies an accepted guest record by record. The copy must be accepted
// and hold the same, where the Writer can write it: version 3, no records that
// are unknown.
func rewrite(t *testing.T, b []byte) {
	r := NewReader(bytes.NewReader(b))
	defer r.Close()
	head, err := r.Open()
	if err != nil || head.Version != libxcVersion {
		return
	}
	var out bytes.Buffer
	w := NewWriter(&out)
	if err := w.Start(head); err != nil {
		t.Fatal(err)
	}
	same := head.Outer == LayerLibxc
	var model []byte
	for {
		item, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case item.Type == RecEnd && item.Layer == LayerLibxc:
		case item.Layer == LayerLibxl:
			if item.Type == LibxlEmulatorContext {
				model, _ = DeviceModelState(item)
			}
		case item.Type&RecOptional != 0:
			same = false
		case item.Type == RecPageData:
			pages := make([]byte, r.left)
			if err := r.ReadPages([][]byte{pages}); err != nil {
				t.Fatal(err)
			}
			err = w.Pages(item.Pages, [][]byte{pages})
		default:
			err = w.Record(Record{item.Type, item.Body})
		}
		if err != nil {
			t.Fatalf("%s: accepted, but not written: %v", RecordName(item.Layer, item.Type), err)
		}
	}
	if err := w.Finish(model); err != nil {
		t.Fatal(err)
	}
	if same && !bytes.Equal(out.Bytes(), b) {
		t.Fatalf("%x was accepted, and written back as %x", b, out.Bytes())
	}
}

// FuzzUnpack reads a container, and packs again what is in it.
func FuzzUnpack(f *testing.F) {
	for codec := range blockCodecs {
		f.Add(packAll(f, BlockCodec(codec), []byte("a guest, a guest, a guest, a guest, a guest, a guest")))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var out []byte
		var u *Unpacker
		var err error
		if got := allocatedBy(func() { out, u, err = unpackAll(b) }); got > allowance(len(b))+4*MaxBlock {
			t.Fatalf("%d bytes were allocated for %d bytes", got, len(b))
		}
		if err != nil || u == nil {
			return
		}
		again, _, err := unpackAll(packAll(t, BlockS2, out))
		if err != nil || !bytes.Equal(again, out) {
			t.Fatalf("%d bytes, packed again, came back as %d: %v", len(out), len(again), err)
		}
	})
}

// FuzzUnpackBlock decodes a block's bytes past the checksums that protect them.
func FuzzUnpackBlock(f *testing.F) {
	for codec := range blockCodecs {
		stored, err := packBlock(BlockCodec(codec), nil, testData(5000))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(codec), uint32(5000), stored)
	}
	f.Fuzz(func(t *testing.T, codec uint8, size uint32, stored []byte) {
		dst := make([]byte, size%MaxBlock+1)
		if err := unpackBlock(BlockCodec(codec), dst, stored); err != nil {
			return
		}
		packed, err := packBlock(BlockCodec(codec), nil, dst)
		again := make([]byte, len(dst))
		if err == nil {
			err = unpackBlock(BlockCodec(codec), again, packed)
		}
		if err != nil || !bytes.Equal(again, dst) {
			t.Fatalf("decoded bytes do not survive their own codec: %v", err)
		}
	})
}

// FuzzCraftedBlock puts a block with any stored bytes behind a guest, in a
// container whose checksums are right. It is handed out if it can be decoded,
// and named if it cannot, and never ends a container that has no end mark.
func FuzzCraftedBlock(f *testing.F) {
	for codec := range blockCodecs {
		stored, err := packBlock(BlockCodec(codec), nil, testData(5000))
		if err != nil {
			f.Fatal(err)
		}
		for _, n := range []int{len(stored), len(stored) / 2, 2} {
			f.Add(uint8(codec), uint32(4999), stored[:n])
		}
		if nothing, _ := packBlock(BlockCodec(codec), nil, nil); len(nothing) > 0 {
			f.Add(uint8(codec), uint32(4999), nothing)
		}
	}
	guest := hvmGuest("hvm", 1).bytes(f)
	f.Fuzz(func(t *testing.T, codec uint8, size uint32, stored []byte) {
		raw := make([]byte, size%MaxBlock+1)
		if len(stored) == 0 || len(stored) > len(raw) || len(raw) > DefaultBlock || !BlockCodec(codec).known() {
			return // refused before it is decoded
		}
		good := unpackBlock(BlockCodec(codec), raw, stored) == nil
		blocks := []crafted{{BlockRaw, guest, guest}, {BlockCodec(codec), raw, stored}}
		if !good {
			expectBadBlock(t, craft(false, blocks...))
			expectBadBlock(t, craft(true, blocks...))
			return
		}
		out, _, err := unpackAll(craft(true, blocks...))
		if err != nil || !bytes.Equal(out, append(bytes.Clone(guest), raw...)) {
			t.Fatalf("of a block that can be decoded %d bytes came: %v", len(out), err)
		}
		cut := craft(false, blocks...)
		if _, _, err := unpackAll(cut); !errors.Is(err, ErrTruncated) || copyOut(cut) == nil {
			t.Fatalf("without an end mark: %v", err)
		}
		if _, err := Verify(bytes.NewReader(craft(true, blocks...))); err == nil {
			t.Fatal("what follows the guest was accepted")
		}
	})
}

// FuzzGuestConfig reads a guest's configuration.
func FuzzGuestConfig(f *testing.F) {
	f.Add(uint32(KindHVM), hvmGuest("hvm", 1).head.Config)
	f.Add(uint32(KindSim), []byte(`{"name":"a","mem_mib":64,"vcpus":1}`))
	f.Fuzz(func(t *testing.T, kind uint32, text []byte) {
		g, err := ParseGuestConfig(GuestKind(kind), text)
		if err == nil && g.Type == "" {
			t.Fatal("neither a type nor an error")
		}
	})
}

// FuzzParseState reads a state record of the wire, and writes it again.
func FuzzParseState(f *testing.F) {
	f.Add([]byte{9, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := ParseState(b)
		if err != nil {
			return
		}
		frame, err := AppendState(nil, rec)
		if err == nil && !bytes.Equal(frame[HeaderSize:], b) {
			t.Fatalf("%x was read as type %#x, which writes as %x", b, rec.Type, frame[HeaderSize:])
		}
	})
}

// FuzzInnerReader passes a libxc stream on, and takes from its source the bytes
// up to the END and none behind it.
func FuzzInnerReader(f *testing.F) {
	for _, seed := range fuzzInner(f) {
		f.Add(seed, uint16(100))
		f.Add(append(bytes.Clone(seed), "libxl's own"...), uint16(4096))
	}
	f.Fuzz(func(t *testing.T, b []byte, piece uint16) {
		src := bytes.NewReader(b)
		got, err := readPieces(NewInnerReader(src), int(piece)+1)
		taken := len(b) - src.Len()
		if !bytes.Equal(got, b[:taken]) {
			t.Fatalf("of %d bytes %d were taken and %d others passed on", len(b), taken, len(got))
		}
		if err != nil && taken != len(b) {
			t.Fatalf("%d bytes are left, and it says that they are missing: %v", src.Len(), err)
		}
		if err == nil && (taken < recordHeaderSize || string(b[taken-recordHeaderSize:][:4]) != "\x00\x00\x00\x00") {
			t.Fatalf("it ends at %d, where no END is", taken)
		}
		if sum, err := Verify(bytes.NewReader(b[:taken])); err == nil && sum.Format == LayerLibxc && sum.Bytes != int64(taken) {
			t.Fatalf("it ends at %d, and the Reader at %d", taken, sum.Bytes)
		}
	})
}

// readPieces reads all of r, n bytes at a time.
func readPieces(r io.Reader, n int) (all []byte, err error) {
	b := make([]byte, n)
	for {
		n, err := r.Read(b)
		all = append(all, b[:n]...)
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
	}
}

// fuzzInner is libxc streams, of both versions.
func fuzzInner(f *testing.F) [][]byte {
	static, state := pvRecords()
	p2m := Record{RecPVP2MFrames, u32s(0, 9, 5, 0)}
	page := Record{RecPageData, append(u32s(1, 0, 5, 0), make([]byte, pageSize)...)}
	end := Record{RecEnd, nil}
	return [][]byte{
		rawStream(KindPV, 2, static[0], p2m, state[0], page, state[2], state[1], state[2], end),
		rawStream(KindPV, 3, static[0], Record{RecStaticDataEnd, nil}, p2m, page, state[0], state[1], state[2], end),
		rawStream(KindHVM, 2, page, testTSC(), testParams(), Record{RecHVMContext, testContext(1)}, testParams(), end),
	}
}

// FuzzCopyInner writes a libxc stream again, in version 3. What is verified can
// be written, and what is written is verified, with the same pages.
func FuzzCopyInner(f *testing.F) {
	for _, seed := range fuzzInner(f) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before, verifyErr := Verify(bytes.NewReader(b))
		r := NewReader(bytes.NewReader(b))
		defer r.Close()
		head, err := r.Open()
		if err != nil || head.Outer != LayerLibxc || before.Container != nil {
			return
		}
		var out bytes.Buffer
		w := NewWriter(&out)
		if err = w.Start(head); err == nil {
			err = CopyInner(w, r, func(int) {})
		}
		if err == nil {
			err = w.Finish(nil)
		}
		if err != nil {
			if verifyErr == nil {
				t.Fatalf("verified, and cannot be written: %v", err)
			}
			return
		}
		after, err := Verify(bytes.NewReader(out.Bytes()))
		if verifyErr == nil && (err != nil || after.MemKiB != before.MemKiB || after.VCPUs != before.VCPUs) {
			t.Fatalf("%+v became %+v: %v", before, after, err)
		}
	})
}
