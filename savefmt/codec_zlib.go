package savefmt

import (
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/zlib"
)

// zlibEncoder writes one zlib stream a frame.
type zlibEncoder struct {
	w   *zlib.Writer
	out appendWriter
}

func newZlibEncoder(level, _ int) (Encoder, error) {
	e := &zlibEncoder{}
	var err error
	if e.w, err = zlib.NewWriterLevel(&e.out, level); err != nil {
		return nil, fmt.Errorf("zlib level %d: %w", level, err)
	}
	return e, nil
}

func (e *zlibEncoder) Reset() {}

// Encode implements Encoder.
func (e *zlibEncoder) Encode(dst, src []byte) ([]byte, error) {
	e.out.b = dst
	e.w.Reset(&e.out)
	_, err := e.w.Write(src)
	if err == nil {
		err = e.w.Close()
	}
	if err != nil {
		return dst, fmt.Errorf("zlib: %w", err)
	}
	return e.out.b, nil
}

// zlibDecoder reads what a zlibEncoder writes.
type zlibDecoder struct {
	in bytes.Reader
	r  io.ReadCloser
}

func newZlibDecoder(int) (Decoder, error) { return &zlibDecoder{}, nil }

// Decode implements Decoder.
func (d *zlibDecoder) Decode(dst [][]byte, src []byte, _ bool) error {
	d.in.Reset(src)
	var err error
	if d.r == nil {
		d.r, err = zlib.NewReader(&d.in)
	} else {
		err = d.r.(zlib.Resetter).Reset(&d.in, nil)
	}
	for i := 0; err == nil && i < len(dst); i++ {
		_, err = io.ReadFull(d.r, dst[i])
	}
	if err != nil {
		d.r = nil
		return decodeError("zlib", err)
	}
	var past [1]byte
	if n, err := d.r.Read(past[:]); n != 0 || err != io.EOF || d.in.Len() != 0 {
		d.r = nil
		return fmt.Errorf("zlib: %w", errLength)
	}
	return nil
}
