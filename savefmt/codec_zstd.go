package savefmt

import (
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// The zstd codec sends one Zstandard frame, and flushes it after each block of
// pages; or, where a level gains nothing from the blocks before, a frame for each.
// There are two who do so, and read each other: the one in this file is in every
// build. The one in libzstd is in C and takes its place where the build has it
// (zstd_c.go, zstd_go.go).

// zstdWindowLog says how far back a page may refer: 4 MiB, across the blocks of
// its connection. Both ends keep that much.
const zstdWindowLog = 22

// zstdEncoder is the encoder in Go.
type zstdEncoder struct {
	enc *zstd.Encoder
	out appendWriter
}

// appendWriter is a slice that is written to.
type appendWriter struct{ b []byte }

func (w *appendWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

// newGoZstdEncoder maps zstd's levels to the four that the library has: 1-2,
// 3-5, 6-9 and 10-22.
func newGoZstdEncoder(level, _ int) (Encoder, error) {
	e := &zstdEncoder{}
	var err error
	e.enc, err = zstd.NewWriter(&e.out, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(1<<zstdWindowLog))
	if err != nil {
		return nil, fmt.Errorf("zstd level %d: %w", level, err)
	}
	return e, nil
}

func (e *zstdEncoder) Reset() { e.enc.Reset(&e.out) }

// Encode implements Encoder.
func (e *zstdEncoder) Encode(dst, src []byte) ([]byte, error) {
	e.out.b = dst
	_, err := e.enc.Write(src)
	if err == nil {
		err = e.enc.Flush()
	}
	if err != nil {
		return dst, fmt.Errorf("zstd: %w", err)
	}
	return e.out.b, nil
}

// zstdDecoder is the decoder in Go.
type zstdDecoder struct {
	dec   *zstd.Decoder
	in    blockReader
	fresh bool // a frame has begun
}

// blockReader gives the decoder one payload and then ends. It is a type of its
// own as the library takes a bytes.Reader for a whole file.
type blockReader struct{ r bytes.Reader }

func (b *blockReader) Read(p []byte) (int, error) { return b.r.Read(p) }

func newGoZstdDecoder(windowLog int) (Decoder, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(1<<windowLog), zstd.IgnoreChecksum(true))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return &zstdDecoder{dec: dec}, nil
}

// Decode implements Decoder. It stops reading when dst is full. If the last of
// the payload's blocks (of 128 KiB) holds more than that, the rest comes out of
// the next Decode: not what was sent, as the checksums of the pages tell.
func (d *zstdDecoder) Decode(dst [][]byte, src []byte, fresh bool) error {
	d.in.r.Reset(src)
	if fresh {
		if err := d.dec.Reset(&d.in); err != nil {
			return decodeError("zstd", err)
		}
		d.fresh = true
	}
	if !d.fresh {
		return fmt.Errorf("zstd: the first block on a connection is not marked as fresh")
	}
	for _, piece := range dst {
		if _, err := io.ReadFull(d.dec, piece); err != nil {
			d.fresh = false
			return decodeError("zstd", err)
		}
	}
	if d.in.r.Len() != 0 {
		return fmt.Errorf("zstd: %w", errLength)
	}
	return nil
}
