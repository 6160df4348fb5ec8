package savefmt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zlib"
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

// packBlock appends src to dst, encoded. What it appends may be longer than
// src: then the block is better stored raw.
func packBlock(c BlockCodec, dst, src []byte) ([]byte, error) {
	switch c {
	case BlockS2:
		n := s2.MaxEncodedLen(len(src))
		if cap(dst) < n {
			dst = make([]byte, n)
		}
		return s2.Encode(dst[:cap(dst)], src), nil
	case BlockZstd:
		return blockZstdEncoder().EncodeAll(src, dst[:0]), nil
	case BlockZlib:
		b := bytes.NewBuffer(dst[:0])
		w, err := zlib.NewWriterLevel(b, zlib.BestSpeed)
		if err == nil {
			_, err = w.Write(src)
		}
		if err == nil {
			err = w.Close()
		}
		return b.Bytes(), err
	}
	return append(dst[:0], src...), nil
}

var errBlockSize = errors.New("it has another size when decoded than it claims")

// unpackBlock decodes src, which may be anything, into dst, all of which it
// must fill. It allocates no more than dst's size over again.
func unpackBlock(c BlockCodec, dst, src []byte) error {
	switch c {
	case BlockRaw:
		if copy(dst, src) != len(dst) || len(src) != len(dst) {
			return errBlockSize
		}
		return nil
	case BlockS2:
		if n, err := s2.DecodedLen(src); err != nil || n != len(dst) {
			return errors.Join(errBlockSize, err)
		}
		_, err := s2.Decode(dst, src)
		return err
	case BlockZstd:
		out, err := blockZstdDecoder().DecodeAll(src, dst[:0:len(dst)])
		if err == nil && (len(out) != len(dst) || &out[0] != &dst[0]) {
			err = errBlockSize
		}
		return err
	case BlockZlib:
		r, err := zlib.NewReader(bytes.NewReader(src))
		if err != nil {
			return err
		}
		if _, err := io.ReadFull(r, dst); err != nil {
			return err
		}
		var more [1]byte
		if n, err := r.Read(more[:]); n != 0 || err != io.EOF {
			return errors.Join(errBlockSize, err)
		}
		return nil
	}
	return fmt.Errorf("unknown codec %d", c)
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
