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
	encoders := map[string]func(int) (Encoder, error){"Go": newGoZstdEncoder, "C": newZstdEncoder}
	decoders := map[string]func() (Decoder, error){"Go": newGoZstdDecoder, "C": newZstdDecoder}
	for from, newEncoder := range encoders {
		for to, newDecoder := range decoders {
			for _, level := range []int{1, 3, 9, FastMethod.Level} {
				if from == "Go" && level < 1 {
					continue
				}
				t.Run(fmt.Sprintf("%s-%s-%d", from, to, level), func(t *testing.T) {
					enc, err := newEncoder(level)
					if err != nil {
						t.Fatal(err)
					}
					dec, err := newDecoder()
					if err != nil {
						t.Fatal(err)
					}
					sendBlocks(t, enc, dec)
				})
			}
		}
	}
}

// sendBlocks sends more than a window holds, some of it for the second time.
func sendBlocks(t *testing.T, enc Encoder, dec Decoder) {
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
		fresh = false
	}
}

func FuzzDecodeLibzstd(f *testing.F) { fuzzDecoder(f, "zstd", newZstdDecoder) }
