package savefmt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestFrameRoundTrip(t *testing.T) {
	frame := AppendFrame(nil, FrameMessage, []byte(`{"kind":"x"}`))
	h, err := ParseHeader(frame)
	if err != nil {
		t.Fatal(err)
	}
	body := frame[HeaderSize:]
	if h.Type != FrameMessage || int(h.Length) != len(body) {
		t.Fatalf("header %+v for %d bytes", h, len(body))
	}
	if err := h.CheckBody(body); err != nil {
		t.Fatal(err)
	}
	body[3] ^= 1
	if h.CheckBody(body) == nil {
		t.Fatal("a flipped bit in the body went unseen")
	}
}

func TestEveryHeaderBitIsProtected(t *testing.T) {
	frame := AppendRoundEnd(nil, 7, FlagLast, 1234)
	for bit := range HeaderSize * 8 {
		broken := bytes.Clone(frame)
		broken[bit/8] ^= 1 << (bit % 8)
		if _, err := ParseHeader(broken); err == nil {
			t.Errorf("bit %d flipped, no error", bit)
		}
	}
}

func TestHeaderLimits(t *testing.T) {
	tests := []struct {
		name string
		h    Header
		want string
	}{
		{"message too long", Header{Type: FrameMessage, Length: MaxMessage + 1}, "message frame claims"},
		{"state too long", Header{Type: FrameState, Length: MaxState + 1}, "state frame claims"},
		{"state too short", Header{Type: FrameState, Length: 7}, "at least 8"},
		{"ping with a body", Header{Type: FramePing, Length: 1}, "ping frame claims"},
		{"no pages", Header{Type: FramePages}, "claims 0 pages"},
		{"too many pages", Header{Type: FramePages, Count: MaxPages + 1}, "claims 257 pages"},
		{"payload too long", Header{Type: FramePages, Count: 1, Table: 12, Length: MaxPayload + 1}, "pages frame claims"},
		{"no table", Header{Type: FramePages, Count: 1}, "a table of 0 bytes"},
		{"table too long", Header{Type: FramePages, Count: 2, Table: 25}, "a table of 25 bytes"},
		{"a ping's table", Header{Type: FramePing, Table: 8}, "reserved"},
		{"round end", Header{Type: FrameRoundEnd, Length: 4}, "want 8"},
		{"unknown type", Header{Type: 99}, "unknown frame type 99"},
		{"unknown flag", Header{Type: FramePing, Flags: 1 << 15}, "reserved bits"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := make([]byte, HeaderSize)
			tt.h.Put(b)
			if _, err := ParseHeader(b); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := ParseHeader([]byte("bash: xenferry: command not found...")); !errors.Is(err, ErrNotFrame) {
		t.Fatalf("text instead of a frame: %v", err)
	}
}

func TestStateRoundTrip(t *testing.T) {
	frame, err := AppendState(nil, Record{Type: RecHVMContext, Body: []byte("context")})
	if err != nil {
		t.Fatal(err)
	}
	rec, err := ParseState(frame[HeaderSize:])
	if err != nil || rec.Type != RecHVMContext || string(rec.Body) != "context" {
		t.Fatalf("%+v, %v", rec, err)
	}
	if _, err := AppendState(nil, Record{Body: make([]byte, MaxState)}); err == nil {
		t.Fatal("a record over the limit was accepted")
	}
}

func TestPageTable(t *testing.T) {
	full := make([]PageEntry, MaxPages)
	for i := range full {
		full[i] = NewPageEntry(0, ContentZero, uint64(i))
	}
	for _, tt := range []struct {
		entries []PageEntry
		size    int
	}{
		{[]PageEntry{NewPageEntry(0, ContentData, 9)}, 8 + 4},
		{[]PageEntry{NewPageEntry(0, ContentData, 5), NewPageEntry(0, ContentZero, 6), NewPageEntry(0xF, ContentNone, 9)}, 3*8 + 4},
		{[]PageEntry{NewPageEntry(0, ContentData, 3), NewPageEntry(0, ContentData, 4), NewPageEntry(0, ContentData, 6)}, 2*8 + 3*4},
		{[]PageEntry{NewPageEntry(0, ContentZero, 3), NewPageEntry(1, ContentZero, 4)}, 2 * 8},
		{full, 8},
	} {
		sums := []uint32{}
		for i, e := range tt.entries {
			if e.Content() == ContentData {
				sums = append(sums, uint32(0xABCD+i))
			}
		}
		table := AppendTable([]byte("before"), tt.entries, sums)[len("before"):]
		if len(table) != tt.size || len(table) > MaxTable(len(tt.entries)) {
			t.Errorf("%#x: a table of %d bytes, want %d", tt.entries, len(table), tt.size)
		}
		got, gotSums, err := ParseTable(table, len(tt.entries), CodecRaw, MaxPages, nil, nil)
		if err != nil || !slices.Equal(got, tt.entries) || !slices.Equal(gotSums, sums) {
			t.Errorf("%#x, %#x became %#x, %#x, %v", tt.entries, sums, got, gotSums, err)
		}
	}
}

// TestEncodedTable: an encoded frame has one checksum, which depends on each of
// its pages and on their order; without data it has none.
func TestEncodedTable(t *testing.T) {
	entries := []PageEntry{NewPageEntry(0, ContentData, 3), NewPageEntry(0, ContentZero, 4), NewPageEntry(0, ContentData, 5)}
	sum := SumOfSums([]uint32{1, 2})
	if others := []uint32{SumOfSums([]uint32{2, 1}), SumOfSums([]uint32{1}), SumOfSums([]uint32{1, 3}), SumOfSums(nil)}; slices.Contains(others, sum) {
		t.Errorf("%#x stands for others as well: %#x", sum, others)
	}
	table := AppendTable(nil, entries, []uint32{sum})
	got, sums, err := ParseTable(table, len(entries), CodecZstd, MaxPages, nil, nil)
	if err != nil || !slices.Equal(got, entries) || !slices.Equal(sums, []uint32{sum}) {
		t.Errorf("%#x, %#x, %v", got, sums, err)
	}
	if _, _, err := ParseTable(table, len(entries), CodecRaw, MaxPages, nil, nil); err == nil {
		t.Error("a raw frame of two pages was read with one checksum")
	}
	table = AppendTable(nil, entries[1:2], nil)
	if _, sums, err := ParseTable(table, 1, CodecZstd, MaxPages, nil, nil); err != nil || len(sums) != 0 {
		t.Errorf("without data: %#x, %v", sums, err)
	}
}

// TestPageTableRefuses gives tables of two pages that the guest, of 10, must not
// have.
func TestPageTableRefuses(t *testing.T) {
	const data, zero, none = ContentData, ContentZero, ContentNone
	run := func(e PageEntry, more uint64) uint64 { return uint64(e) | more<<runShift }
	tests := map[string]struct {
		runs []uint64
		sums int
		want string
	}{
		"nothing":         {nil, 0, "after 0 of 2 pages"},
		"one page":        {[]uint64{run(NewPageEntry(0, zero, 1), 0)}, 0, "after 1 of 2 pages"},
		"three pages":     {[]uint64{run(NewPageEntry(0, zero, 1), 2)}, 0, "more than the frame's"},
		"beyond the end":  {[]uint64{run(NewPageEntry(0, zero, 10), 1)}, 0, "beyond"},
		"half beyond":     {[]uint64{run(NewPageEntry(0, zero, 9), 1)}, 0, "beyond"},
		"far beyond":      {[]uint64{run(NewPageEntry(0, zero, 1<<runShift-1), 1)}, 0, "beyond"},
		"twice":           {[]uint64{run(NewPageEntry(0, zero, 5), 0), run(NewPageEntry(0, zero, 5), 0)}, 0, "out of order"},
		"back":            {[]uint64{run(NewPageEntry(0, zero, 5), 0), run(NewPageEntry(0, data, 4), 0)}, 1, "out of order"},
		"cut in two":      {[]uint64{run(NewPageEntry(0, zero, 5), 0), run(NewPageEntry(0, zero, 6), 0)}, 0, "goes on"},
		"reserved bits":   {[]uint64{1<<52 | run(NewPageEntry(0, zero, 1), 1)}, 0, "reserved"},
		"data for XTAB":   {[]uint64{run(NewPageEntry(0xF, data, 1), 1)}, 2, "content 0"},
		"none for normal": {[]uint64{run(NewPageEntry(0, none, 1), 1)}, 0, "content 2"},
		"unknown content": {[]uint64{run(NewPageEntry(0, 7, 1), 1)}, 0, "content 7"},
		"a sum too few":   {[]uint64{run(NewPageEntry(0, data, 1), 1)}, 1, "4 bytes of checksums, 8 are due"},
		"a sum too many":  {[]uint64{run(NewPageEntry(0, zero, 1), 1)}, 1, "4 bytes of checksums, 0 are due"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var table []byte
			for _, r := range tt.runs {
				table = binary.LittleEndian.AppendUint64(table, r)
			}
			table = append(table, make([]byte, 4*tt.sums)...)
			if _, _, err := ParseTable(table, 2, CodecRaw, 10, nil, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add(AppendFrame(nil, FrameMessage, []byte("{}")))
	f.Add(AppendRoundEnd(nil, 1, 0, 2))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err != nil {
			return
		}
		again := make([]byte, HeaderSize)
		h.Put(again)
		if !bytes.Equal(again, b[:HeaderSize]) {
			t.Fatalf("%x was read as %+v, which writes as %x", b[:HeaderSize], h, again)
		}
	})
}

func FuzzParseTable(f *testing.F) {
	f.Add(AppendTable([]byte{0}, []PageEntry{NewPageEntry(0, ContentData, 1)}, []uint32{7}))
	f.Add(AppendTable([]byte{1}, []PageEntry{NewPageEntry(0, ContentZero, 1), NewPageEntry(0, ContentZero, 2)}, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		count, codec := int(b[0])+1, Codec(len(b)&1)
		b = b[1:]
		entries, sums, err := ParseTable(b, count, codec, 1<<20, nil, nil)
		if err == nil && !bytes.Equal(AppendTable(nil, entries, sums), b) {
			t.Fatalf("%x does not write back", b)
		}
	})
}
