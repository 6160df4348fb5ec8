package savefmt

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// readAhead is the size of the buffer in front of a stream: large enough for
// few calls, small enough to stay in a core's own cache.
const readAhead = 256 << 10

// input reads a stream in order, and knows where it is.
type input struct {
	r  *bufio.Reader
	at int64
}

func newInput(r io.Reader) *input { return &input{r: bufio.NewReaderSize(r, readAhead)} }

// full fills b. What ends before that is ErrTruncated. A large b is read into
// without a copy.
func (in *input) full(b []byte) error {
	n, err := io.ReadFull(in.r, b)
	in.at += int64(n)
	return truncated(err)
}

// skip passes over n bytes.
func (in *input) skip(n int) error {
	done, err := in.r.Discard(n)
	in.at += int64(done)
	return truncated(err)
}

func truncated(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrTruncated
	}
	return err
}

// firstBody is how much is allocated for a body before any of it has come.
const firstBody = 64 << 10

// body reads n bytes, which the caller has checked against a limit. Memory
// grows with what arrives: a length that is a lie costs next to nothing.
func (in *input) body(n uint32) ([]byte, error) {
	if n <= firstBody {
		b := make([]byte, n)
		return b, in.full(b)
	}
	var b bytes.Buffer
	b.Grow(firstBody)
	got, err := io.CopyN(&b, in.r, int64(n))
	in.at += got
	return b.Bytes(), truncated(err)
}

var errPadding = errors.New("the padding behind it is not zero")

// padding reads the zeros that bring n bytes up to the alignment of records.
func (in *input) padding(n uint32) error {
	var b [recordAlign]byte
	pad := b[:-n&(recordAlign-1)]
	if err := in.full(pad); err != nil {
		return err
	}
	for _, c := range pad {
		if c != 0 {
			return errPadding
		}
	}
	return nil
}

// atEnd returns nil if nothing more comes.
func (in *input) atEnd() error {
	_, err := in.r.ReadByte()
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	}
	return errors.New("something follows the end of the saved guest")
}
