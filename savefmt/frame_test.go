package savefmt

import (
	"bytes"
	"errors"
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
		{"payload too long", Header{Type: FramePages, Count: 1, Length: MaxPayload + 1}, "pages frame claims"},
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
	entries := []PageEntry{
		NewPageEntry(0, ContentData, 5), NewPageEntry(0, ContentZero, 6), NewPageEntry(0xF, ContentNone, 9),
	}
	table := AppendTable(nil, entries, []uint32{0xABCD, 0, 0})
	if len(table) != TableSize(3) {
		t.Fatalf("table of %d bytes, want %d", len(table), TableSize(3))
	}
	got, sums, err := ParseTable(table, 10, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range entries {
		if got[i] != e {
			t.Errorf("entry %d is %#x, want %#x", i, got[i], e)
		}
	}
	if sums[0] != 0xABCD {
		t.Errorf("checksum %#x", sums[0])
	}
}

func TestPageTableRefuses(t *testing.T) {
	tests := map[string][]PageEntry{
		"beyond the end":  {NewPageEntry(0, ContentData, 10)},
		"out of order":    {NewPageEntry(0, ContentData, 5), NewPageEntry(0, ContentData, 5)},
		"reserved bits":   {PageEntry(1 << 52)},
		"data for XTAB":   {NewPageEntry(0xF, ContentData, 1)},
		"none for normal": {NewPageEntry(0, ContentNone, 1)},
		"unknown content": {NewPageEntry(0, 7, 1)},
	}
	for name, entries := range tests {
		t.Run(name, func(t *testing.T) {
			table := AppendTable(nil, entries, make([]uint32, len(entries)))
			if _, _, err := ParseTable(table, 10, nil, nil); err == nil {
				t.Fatal("accepted")
			}
		})
	}
	if _, _, err := ParseTable(make([]byte, 13), 10, nil, nil); err == nil {
		t.Fatal("a table of 13 bytes was accepted")
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
	f.Add(AppendTable(nil, []PageEntry{NewPageEntry(0, ContentData, 1)}, []uint32{7}))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, sums, err := ParseTable(b, 1<<20, nil, nil)
		if err == nil && !bytes.Equal(AppendTable(nil, entries, sums), b) {
			t.Fatalf("%x does not write back", b)
		}
	})
}
