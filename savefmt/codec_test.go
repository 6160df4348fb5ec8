package savefmt

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

// allMethods are a method of each codec that needs code, and their levels' ends.
var allMethods = []string{"s2", "zstd:1", "zstd:3", "zstd:6", "zlib:1", "zlib:9"}

// somePages returns n pages that compress well, badly, or not at all.
func somePages(n int, kind string) []byte {
	rnd := rand.New(rand.NewPCG(7, uint64(n)))
	b := make([]byte, n*4096)
	if kind == "text" {
		for at := 0; at < len(b); {
			at += copy(b[at:], words[rnd.IntN(len(words))])
		}
		return b
	}
	for i := range b {
		switch kind {
		case "random":
			b[i] = byte(rnd.Uint32())
		case "same":
			b[i] = 'x'
		}
	}
	return b
}

var words = strings.SplitAfter("the guest runs on where it was until the source has said that it is yours and a page of memory that was written meanwhile must come again ", " ")

// pieces cuts a buffer as guest memory is: in pages, some of them together.
func pieces(b []byte, pages ...int) [][]byte {
	var out [][]byte
	for _, n := range pages {
		out = append(out, b[:n*4096])
		b = b[n*4096:]
	}
	return append(out, b)
}

func encoderAndDecoder(t testing.TB, name string) (Encoder, Decoder) {
	t.Helper()
	m, err := ParseMethod(name)
	if err != nil {
		t.Fatal(err)
	}
	enc, err := NewEncoder(m, 1)
	if err != nil {
		t.Fatal(err)
	}
	dec, err := NewDecoder(m.Codec, 1)
	if err != nil {
		t.Fatal(err)
	}
	return enc, dec
}

func TestCodecRoundTrip(t *testing.T) {
	for _, name := range allMethods {
		t.Run(name, func(t *testing.T) {
			enc, dec := encoderAndDecoder(t, name)
			m, _ := ParseMethod(name)
			var payload []byte
			for i, kind := range []string{"text", "random", "same", "text"} {
				for _, n := range []int{1, 3, 256} {
					src := somePages(n, kind)
					var err error
					if payload, err = enc.Encode(payload[:0], src); err != nil {
						t.Fatal(err)
					}
					if len(payload) > MaxEncoded {
						t.Errorf("%s: %d bytes became %d", kind, len(src), len(payload))
					}
					got := make([]byte, len(src))
					into := [][]byte{got}
					if n > 1 {
						into = pieces(got, 1, 1)
					}
					if err := dec.Decode(into, payload, m.Whole() || i == 0 && n == 1); err != nil {
						t.Fatalf("%d pages of %s: %v", n, kind, err)
					}
					if !bytes.Equal(got, src) {
						t.Fatalf("%d pages of %s differ", n, kind)
					}
				}
			}
		})
	}
}

// TestZstdHistory: what a block says again costs nearly nothing, and a block
// cannot be read by one that has not read those before it.
func TestZstdHistory(t *testing.T) {
	enc, dec := encoderAndDecoder(t, "zstd:3")
	src := somePages(64, "random")
	first, err := enc.Encode(nil, src)
	if err != nil {
		t.Fatal(err)
	}
	again, err := enc.Encode(nil, src)
	if err != nil {
		t.Fatal(err)
	}
	if len(again) > len(src)/50 {
		t.Errorf("the same %d bytes again cost %d", len(src), len(again))
	}
	got := make([]byte, len(src))
	if err := dec.Decode([][]byte{got}, again, false); err == nil {
		t.Error("a block in the middle was read by a new decoder")
	}
	for i, block := range [][]byte{first, again} {
		if err := dec.Decode([][]byte{got}, block, i == 0); err != nil || !bytes.Equal(got, src) {
			t.Fatalf("block %d: %v", i, err)
		}
	}
	enc.Reset()
	fresh, err := enc.Encode(nil, src)
	if err != nil {
		t.Fatal(err)
	}
	if err := dec.Decode([][]byte{got}, fresh, true); err != nil || !bytes.Equal(got, src) {
		t.Fatalf("after a reset: %v", err)
	}
}

// TestDecodeIsBounded: a payload that holds more, or less, than the frame has
// pages for is refused, and so is one that is cut off. (Of zstd a rest within
// the last 128 KiB shows only in the next payload, whose checksums are wrong.)
func TestDecodeIsBounded(t *testing.T) {
	for _, name := range allMethods {
		t.Run(name, func(t *testing.T) {
			src := somePages(256, "same") // 1 MiB in a few bytes: a bomb for a frame of one page
			for _, room := range []int{4096, len(src) - 132<<10, len(src) + 4096} {
				enc, dec := encoderAndDecoder(t, name)
				payload, err := enc.Encode(nil, src)
				if err != nil {
					t.Fatal(err)
				}
				if err := dec.Decode([][]byte{make([]byte, room)}, payload, true); err == nil {
					t.Errorf("%d bytes were taken for %d", len(src), room)
				}
			}
			enc, dec := encoderAndDecoder(t, name)
			payload, err := enc.Encode(nil, src)
			if err != nil {
				t.Fatal(err)
			}
			if err := dec.Decode([][]byte{make([]byte, len(src))}, payload[:len(payload)-1], true); err == nil {
				t.Error("a payload without its last byte was taken")
			}
		})
	}
}

// TestDecodeShort: what is encoded ends too early. That is no end of the
// connection, as io.EOF would be.
func TestDecodeShort(t *testing.T) {
	data := somePages(4, "text")
	for _, name := range allMethods {
		enc, _ := encoderAndDecoder(t, name)
		whole, err := enc.Encode(nil, data)
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(whole); n += 1 + n/8 {
			_, dec := encoderAndDecoder(t, name)
			err := dec.Decode(pieces(make([]byte, len(data)), 1, 2), whole[:n], true)
			if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%s, %d of %d bytes: %v", name, n, len(whole), err)
			}
		}
	}
}

func TestParseMethod(t *testing.T) {
	for in, want := range map[string]string{"off": "off", "s2": "s2", "zstd": "zstd:1", "zstd:22": "zstd:22", "zlib": "zlib:1", "zlib:9": "zlib:9"} {
		if m, err := ParseMethod(in); err != nil || m.String() != want {
			t.Errorf("%s: %s, %v", in, m, err)
		}
	}
	for in, want := range map[string]string{"": "no compression", "lz4": "no compression", "zstd:23": "1 to 22", "zstd:0": "1 to 22", "zlib:x": "1 to 9", "s2:1": "no levels", "off:1": "no levels"} {
		if _, err := ParseMethod(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
	if _, err := NewDecoder(200, 1); err == nil {
		t.Error("a decoder for codec 200")
	}
}

func TestCopiesRoundTrip(t *testing.T) {
	entry := func(pfn uint64) PageEntry { return NewPageEntry(0, ContentData, pfn) }
	copies := []Copy{{entry(3), 90, 1}, {entry(4), 3, 2}, {entry(70), 0, 3}}
	frame := AppendCopies(nil, 5, FlagLive, copies)
	h, err := ParseHeader(frame)
	if err != nil || h.Type != FrameCopies || h.Round != 5 || int(h.Length) != len(frame)-HeaderSize {
		t.Fatalf("%+v, %v", h, err)
	}
	got, err := AppendParsedCopies(nil, frame[HeaderSize:], 100)
	if err != nil || len(got) != 3 || got[1] != copies[1] {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, bad := range map[string][]Copy{
		"beyond the guest":        {{entry(100), 1, 0}},
		"source beyond the guest": {{entry(1), 100, 0}},
		"of itself":               {{entry(1), 1, 0}},
		"out of order":            {{entry(2), 9, 0}, {entry(1), 9, 0}},
		"zero":                    {{NewPageEntry(0, ContentZero, 1), 2, 0}},
	} {
		if _, err := AppendParsedCopies(nil, AppendCopies(nil, 0, 0, bad)[HeaderSize:], 100); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := AppendParsedCopies(nil, frame[HeaderSize:len(frame)-1], 100); err == nil {
		t.Error("a list that is cut off was taken")
	}
}

func FuzzParseCopies(f *testing.F) {
	f.Add(AppendCopies(nil, 0, 0, []Copy{{NewPageEntry(0, ContentData, 3), 9, 1}})[HeaderSize:])
	f.Fuzz(func(t *testing.T, body []byte) {
		copies, err := AppendParsedCopies(nil, body, 1000)
		if err == nil && len(copies) != len(body)/copySize {
			t.Fatalf("%d copies in %d bytes", len(copies), len(body))
		}
	})
}

// TestLongWindowIsShared: all connections together stay within longMemory, as
// far as each has no less than other methods give it.
func TestLongWindowIsShared(t *testing.T) {
	for connections, want := range map[int]int{-1: 26, 0: 26, 1: 26, 2: 26, 3: 25, 4: 25, 5: 24, 8: 24, 9: 23, 16: 23, 17: 22, 64: 22} {
		if got := LongWindow(connections); got != want {
			t.Errorf("%d connections: 2^%d, want 2^%d", connections, got, want)
		}
	}
}

// fuzzDecoder feeds a decoder two payloads. It must not panic, and not write
// beyond its room.
func fuzzDecoder(f *testing.F, name string, newDecoder func(window int) (Decoder, error)) {
	for _, kind := range []string{"text", "random", "same"} {
		enc, _ := encoderAndDecoder(f, name)
		payload, err := enc.Encode(nil, somePages(2, kind))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload, uint8(2), true)
	}
	const guard = 64
	f.Fuzz(func(t *testing.T, payload []byte, pages uint8, fresh bool) {
		n := (int(pages)%4 + 1) * 4096
		room := bytes.Repeat([]byte{0xA5}, n+guard)
		dec, err := newDecoder(zstdWindowLog)
		if err != nil {
			t.Fatal(err)
		}
		_ = dec.Decode(pieces(room[:n:n], 1), payload, fresh)
		_ = dec.Decode([][]byte{room[:n:n]}, payload, false)
		if !bytes.Equal(room[n:], bytes.Repeat([]byte{0xA5}, guard)) {
			t.Fatal("written beyond the pages")
		}
	})
}

func FuzzDecodeS2(f *testing.F)   { fuzzDecoder(f, "s2", newS2Decoder) }
func FuzzDecodeZstd(f *testing.F) { fuzzDecoder(f, "zstd", newGoZstdDecoder) }
func FuzzDecodeZlib(f *testing.F) { fuzzDecoder(f, "zlib", newZlibDecoder) }

func BenchmarkEncode(b *testing.B) {
	src := somePages(MaxPages, "text")
	for _, name := range []string{"s2", "zstd:1", "zstd:3", "zlib:1"} {
		b.Run(name, func(b *testing.B) {
			enc, _ := encoderAndDecoder(b, name)
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			var out []byte
			for b.Loop() {
				enc.Reset() // or the block would be found in its own history
				out, _ = enc.Encode(out[:0], src)
			}
			b.ReportMetric(float64(len(src))/float64(len(out)), "ratio")
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	src := somePages(MaxPages, "text")
	for _, name := range []string{"s2", "zstd:1", "zlib:1"} {
		b.Run(name, func(b *testing.B) {
			enc, dec := encoderAndDecoder(b, name)
			payload, err := enc.Encode(nil, src)
			if err != nil {
				b.Fatal(err)
			}
			dst := [][]byte{make([]byte, len(src))}
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			for b.Loop() {
				if err := dec.Decode(dst, payload, true); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkFrameHead(b *testing.B) {
	entries := make([]PageEntry, MaxPages)
	sums := make([]uint32, MaxPages)
	for i := range entries {
		entries[i] = NewPageEntry(0, ContentData, uint64(i))
	}
	var table []byte
	var parsed []PageEntry
	var got []uint32
	b.ReportAllocs()
	for b.Loop() {
		table = AppendTable(table[:0], entries, sums)
		var err error
		if parsed, got, err = ParseTable(table, MaxPages, CodecRaw, MaxPages, parsed, got); err != nil {
			b.Fatal(err)
		}
	}
}
