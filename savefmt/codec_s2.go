package savefmt

import (
	"fmt"

	"github.com/klauspost/compress/s2"
)

// s2Codec is S2: each frame one block, without history.
type s2Codec struct {
	scratch []byte // one payload, where the pages are not one piece
}

func newS2Encoder(_, _ int) (Encoder, error) { return &s2Codec{}, nil }
func newS2Decoder(int) (Decoder, error)      { return &s2Codec{}, nil }

func (*s2Codec) Reset() {}

// Encode implements Encoder. It allocates nothing where dst has room.
func (*s2Codec) Encode(dst, src []byte) ([]byte, error) {
	most := s2.MaxEncodedLen(len(src))
	n := len(dst)
	if cap(dst)-n < most {
		dst = append(dst, make([]byte, most)...)
	}
	return dst[:n+len(s2.Encode(dst[n:n+most], src))], nil
}

// Decode implements Decoder.
func (c *s2Codec) Decode(dst [][]byte, src []byte, _ bool) error {
	want := totalLen(dst)
	n, err := s2.DecodedLen(src)
	if err != nil {
		return decodeError("s2", err)
	}
	if n != want {
		return fmt.Errorf("s2: %w: %d bytes, want %d", errLength, n, want)
	}
	if len(dst) == 1 {
		_, err = s2.Decode(dst[0], src)
	} else {
		if cap(c.scratch) < want {
			c.scratch = make([]byte, max(want, MaxPayload))
		}
		var out []byte
		if out, err = s2.Decode(c.scratch[:want], src); err == nil {
			scatter(dst, out)
		}
	}
	if err != nil {
		return decodeError("s2", err)
	}
	return nil
}
