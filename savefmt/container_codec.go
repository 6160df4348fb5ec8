package savefmt

import (
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// BlockCodec is how the bytes of a container's block are encoded. The numbers
// are on disk: new ones are added, old ones never change.
type BlockCodec uint8

// The codecs of blocks.
const (
	BlockRaw  BlockCodec = 0
	BlockS2   BlockCodec = 1
	BlockZstd BlockCodec = 2
	BlockZlib BlockCodec = 3
)

var blockCodecs = []string{BlockRaw: "raw", BlockS2: "s2", BlockZstd: "zstd", BlockZlib: "zlib"}

// ParseBlockCodec returns the codec of that name.
func ParseBlockCodec(name string) (BlockCodec, error) {
	for i, n := range blockCodecs {
		if n == name {
			return BlockCodec(i), nil
		}
	}
	return 0, fmt.Errorf("unknown codec %q: it is one of %v", name, blockCodecs)
}

func (c BlockCodec) known() bool { return int(c) < len(blockCodecs) }

func (c BlockCodec) String() string {
	if c.known() {
		return blockCodecs[c]
	}
	return fmt.Sprintf("codec %d", uint8(c))
}

// The zstd coders are shared: EncodeAll and DecodeAll may be called from
// several goroutines, each of which works alone.
var (
	blockZstdEncoder = sync.OnceValue(func() *zstd.Encoder {
		e, _ := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false)) // options that are valid
		return e
	})
	blockZstdDecoder = sync.OnceValue(func() *zstd.Decoder {
		d, _ := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxBlock)) // options that are valid
		return d
	})
)

// packBlock returns src encoded, in dst's memory where that is enough. What it
// returns may be longer than src: then the block is better stored raw.
func packBlock(c BlockCodec, dst, src []byte) ([]byte, error) {
	switch c {
	case BlockZstd: // independent blocks, unlike those of a connection
		return blockZstdEncoder().EncodeAll(src, dst[:0]), nil
	case BlockRaw:
		return append(dst[:0], src...), nil
	}
	m := Method{Codec: Codec(c), Level: 1}
	enc, err := NewEncoder(m, 1)
	if err != nil {
		return nil, err
	}
	return enc.Encode(dst[:0], src)
}

var errBlockSize = errors.New("it has another size when decoded than it claims")

// unpackBlock decodes src, which may be anything, into dst, all of which it
// must fill. It allocates no more than dst's size over again.
func unpackBlock(c BlockCodec, dst, src []byte) error {
	err := decodeBlock(c, dst, src)
	if errors.Is(err, errLength) { // which is about frames
		return errBlockSize
	}
	return err
}

func decodeBlock(c BlockCodec, dst, src []byte) error {
	switch c {
	case BlockRaw:
		if copy(dst, src) != len(dst) || len(src) != len(dst) {
			return errLength
		}
		return nil
	case BlockZstd:
		out, err := blockZstdDecoder().DecodeAll(src, dst[:0:len(dst)])
		if err == nil && (len(out) != len(dst) || &out[0] != &dst[0]) {
			err = errLength
		}
		if err != nil {
			return decodeError("zstd", err)
		}
		return nil
	}
	dec, err := NewDecoder(Codec(c), 1)
	if err != nil {
		return err
	}
	const fresh = true
	return dec.Decode([][]byte{dst}, src, fresh)
}

// blockBuffers holds the memory of encoded blocks between its uses.
var blockBuffers = sync.Pool{New: func() any { return new([]byte) }}

// getBuffer returns a buffer of n bytes, whatever is in them.
func getBuffer(n int) []byte {
	b := *blockBuffers.Get().(*[]byte)
	if cap(b) < n {
		b = make([]byte, n)
	}
	return b[:n]
}

func putBuffer(b []byte) { blockBuffers.Put(&b) }
