//go:build libzstd && cgo

package savefmt

import (
	"bytes"
	"fmt"
	"testing"
)

func TestParseFastLevels(t *testing.T) {
	if m, err := ParseMethod("zstd:-3"); err != nil || m != FastMethod || m.String() != "zstd:-3" {
		t.Errorf("%v, %v", m, err)
	}
	if m, err := ParseMethod("zstd:-8"); err == nil {
		t.Errorf("level -8: %v", m)
	}
}

// TestZstdsReadEachOther: blocks of pages, with the history of those before
// them, a reset between, and pages in pieces, from each encoder to each decoder.
func TestZstdsReadEachOther(t *testing.T) {
	encoders := map[string]func(level, window int) (Encoder, error){"Go": newGoZstdEncoder, "C": newZstdEncoder}
	decoders := map[string]func(window int) (Decoder, error){"Go": newGoZstdDecoder, "C": newZstdDecoder}
	for from, newEncoder := range encoders {
		for to, newDecoder := range decoders {
			for _, level := range []int{1, 3, 9, FastMethod.Level} {
				if from == "Go" && level < 1 {
					continue
				}
				t.Run(fmt.Sprintf("%s-%s-%d", from, to, level), func(t *testing.T) {
					enc, err := newEncoder(level, zstdWindowLog)
					if err != nil {
						t.Fatal(err)
					}
					dec, err := newDecoder(zstdWindowLog)
					if err != nil {
						t.Fatal(err)
					}
					sendBlocks(t, enc, dec, from == "C" && wholeZstd(level))
				})
			}
		}
	}
}

// TestLongWindow: what was sent long ago is found, both decoders follow, and
// neither takes a window that is larger than its share.
func TestLongWindow(t *testing.T) {
	const connections = 8
	window := LongWindow(connections)
	old := somePages(MaxPages, "random")
	for name, newDecoder := range map[string]func(window int) (Decoder, error){"Go": newGoZstdDecoder, "C": newZstdLongDecoder} {
		t.Run(name, func(t *testing.T) {
			enc, err := NewEncoder(Method{Codec: CodecZstdLong, Level: 1}, connections)
			if err != nil {
				t.Fatal(err)
			}
			dec, err := newDecoder(window)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(old))
			var payload []byte
			send := func(pages []byte, fresh bool) int {
				if payload, err = enc.Encode(payload[:0], pages); err != nil {
					t.Fatal(err)
				}
				if err := dec.Decode(pieces(got[:len(pages):len(pages)], 1), payload, fresh); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got[:len(pages)], pages) {
					t.Fatal("decoded to something else")
				}
				return len(payload)
			}
			send(old, true)
			for i := range (1<<window)/MaxPayload - 3 { // beyond any other window
				send(somePages(MaxPages-i-1, "random"), false)
			}
			if n := send(old, false); n > len(old)/20 {
				t.Errorf("%d bytes for %d that were sent before", n, len(old))
			}

			enc.Reset()
			narrow, err := newDecoder(window - 1)
			if err != nil {
				t.Fatal(err)
			}
			if payload, err = enc.Encode(payload[:0], old); err != nil {
				t.Fatal(err)
			}
			if err := narrow.Decode([][]byte{got}, payload, true); err == nil {
				t.Error("a window that is larger than the decoder's share was taken")
			}
		})
	}
}

// sendBlocks sends more than a window holds, some of it for the second time. whole:
// each block is a frame of its own.
func sendBlocks(t *testing.T, enc Encoder, dec Decoder, whole bool) {
	t.Helper()
	fresh := true
	for i, kind := range []string{"text", "random", "text", "same", "random", "text", "random", "text"} {
		if i == 5 {
			enc.Reset()
			fresh = true
		}
		src := somePages(256-i, kind)
		payload, err := enc.Encode([]byte("before"), src)
		if err != nil {
			t.Fatal(err)
		}
		payload = payload[len("before"):]
		if len(payload) > MaxEncoded {
			t.Errorf("block %d: %d bytes became %d", i, len(src), len(payload))
		}
		got := make([]byte, len(src))
		if err := dec.Decode(pieces(got, 1, 7, 100), payload, fresh); err != nil || !bytes.Equal(got, src) {
			t.Fatalf("block %d: %v", i, err)
		}
		fresh = whole
	}
}

func FuzzDecodeLibzstd(f *testing.F) { fuzzDecoder(f, "zstd", newZstdDecoder) }
