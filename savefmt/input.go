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

// Device marks a source that goes on behind the saved guest, as a block device
// does: what stands there was there before, and is not looked at.
type Device struct{ io.Reader }

// input reads a stream in order, and knows where it is.
type input struct {
	r      *bufio.Reader
	at     int64
	goesOn bool      // something may follow the saved guest
	copy   io.Writer // gets what is read, and nothing that is only read ahead; nil: nobody does
}

func newInput(r io.Reader) *input {
	device, goesOn := r.(Device)
	if goesOn {
		r = device.Reader
	}
	return &input{r: bufio.NewReaderSize(r, readAhead), goesOn: goesOn}
}

// passed notes what has been read.
func (in *input) passed(b []byte, err error) error {
	in.at += int64(len(b))
	if in.copy != nil {
		if _, writeErr := in.copy.Write(b); writeErr != nil {
			return &outsideError{writeErr}
		}
	}
	switch err {
	case nil:
		return nil
	case io.EOF, io.ErrUnexpectedEOF: // themselves: inside another error they say something else
		return ErrTruncated
	}
	return &outsideError{err}
}

// endHolder passes on what an input reads, but for the last record header,
// which it holds until the next piece comes. A saved guest ends with the header
// of END: without it its copy is visibly cut off.
type endHolder struct {
	w    io.Writer
	held []byte
}

func (e *endHolder) Write(b []byte) (int, error) {
	if len(b) == 0 { // the body of END
		return 0, nil
	}
	if err := e.release(); err != nil {
		return 0, err
	}
	if len(b) <= recordHeaderSize {
		e.held = append(e.held, b...)
		return len(b), nil
	}
	return e.w.Write(b)
}

// release passes on what is held: the guest is whole.
func (e *endHolder) release() error {
	if len(e.held) == 0 {
		return nil
	}
	_, err := e.w.Write(e.held)
	e.held = e.held[:0]
	return err
}

// outsideError is what the source of a saved guest, or the target of its copy,
// has said: the guest itself is not to blame.
type outsideError struct{ err error }

func (e *outsideError) Error() string { return e.err.Error() }
func (e *outsideError) Unwrap() error { return e.err }

// full fills b. What ends before that is ErrTruncated. A large b is read into
// without a copy.
func (in *input) full(b []byte) error {
	n, err := io.ReadFull(in.r, b)
	return in.passed(b[:n], err)
}

// skip passes over n bytes, and copies them, if at all, out of the buffer.
func (in *input) skip(n int) error {
	if in.copy == nil {
		done, err := in.r.Discard(n)
		in.at += int64(done)
		return in.passed(nil, err)
	}
	for n > 0 {
		_, err := in.r.Peek(1) // fills an empty buffer
		b, _ := in.r.Peek(min(n, in.r.Buffered()))
		if err := in.passed(b, err); err != nil {
			return err
		}
		n -= len(b)
		_, _ = in.r.Discard(len(b)) // it is in the buffer
	}
	return nil
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
	_, err := io.CopyN(&b, in.r, int64(n))
	return b.Bytes(), in.passed(b.Bytes(), err)
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

// atEnd returns nil if nothing more comes, or if it may.
func (in *input) atEnd() error {
	if in.goesOn {
		return nil
	}
	_, err := in.r.ReadByte()
	switch err {
	case io.EOF:
		return nil
	case nil:
		return errors.New("something follows the end of the saved guest")
	}
	return &outsideError{err}
}
