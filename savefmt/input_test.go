package savefmt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// TestDevice: what follows a saved guest on a block device is neither minded
// nor copied, whatever it is, and wherever buffers end.
func TestDevice(t *testing.T) {
	stock := hvmGuest("hvm", 300).bytes(t)
	rest := bytes.Repeat([]byte("what was there before"), 100_000)
	for name, saved := range map[string][]byte{"stock": stock, "container": packAll(t, BlockS2, stock)} {
		t.Run(name, func(t *testing.T) {
			device := append(bytes.Clone(saved), rest...)
			if _, err := Verify(bytes.NewReader(device)); err == nil || !strings.Contains(err.Error(), "something follows the end") {
				t.Errorf("a file: %v", err)
			}
			for _, slow := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.HalfReader} {
				var copied bytes.Buffer
				sum, err := VerifyCopy(Device{slow(bytes.NewReader(device))}, &copied)
				if err != nil || sum.Bytes != int64(len(stock)) || !bytes.Equal(copied.Bytes(), stock) {
					t.Errorf("%+v, %d bytes copied, %v", sum, copied.Len(), err)
				}
			}
			plain, box, err := Unpack(Device{bytes.NewReader(device)})
			if err != nil {
				t.Fatal(err)
			}
			if box != nil {
				defer box.Close()
			}
			if _, err := Verify(plain); err != nil {
				t.Errorf("unpacked before: %v", err)
			}
		})
	}
}

// TestNothingWholeOfBadInput: where the end of the input shows that it is bad,
// its copy has no end.
func TestNothingWholeOfBadInput(t *testing.T) {
	odd := hvmGuest("hvm", 3)
	odd.model = nil
	inner := hvmGuest("hvm", 3)
	inner.head.Outer = LayerLibxc
	good := hvmGuest("hvm", 3).bytes(t)
	for name, bad := range map[string][]byte{
		"without a device model": odd.bytes(t),
		"something follows":      append(bytes.Clone(good), 0),
		"something follows END":  append(inner.bytes(t), 0),
		"container without end":  craft(false, crafted{BlockRaw, good, good}),
		"block behind the guest": craft(true, crafted{BlockRaw, good, good}, crafted{BlockRaw, []byte{0}, []byte{0}}),
	} {
		for _, slow := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader} {
			var copied bytes.Buffer
			if _, err := VerifyCopy(slow(bytes.NewReader(bad)), &copied); err == nil {
				t.Fatalf("%s: accepted", name)
			}
			if _, err := Verify(&copied); !errors.Is(err, ErrTruncated) {
				t.Errorf("%s: the copy is not cut off: %v", name, err)
			}
		}
	}
	var copied bytes.Buffer
	if _, err := VerifyCopy(bytes.NewReader(good), &copied); err != nil || !bytes.Equal(copied.Bytes(), good) {
		t.Errorf("of %d good bytes %d were copied: %v", len(good), copied.Len(), err)
	}
}

// TestOutsideErrors: that a source cannot be read, or a copy not be written, is
// not called damage of the guest.
func TestOutsideErrors(t *testing.T) {
	stock := hvmGuest("hvm", 300).bytes(t)
	for name, saved := range map[string][]byte{"stock": stock, "container": packAll(t, BlockRaw, stock)} {
		for n := 8; n < len(saved); n += 1 + n/3 {
			source := io.MultiReader(bytes.NewReader(saved[:n]), iotest.ErrReader(errBroken))
			var copied bytes.Buffer
			_, err := VerifyCopy(source, &copied)
			expectOutside(t, name, err)
			if !bytes.HasPrefix(stock, copied.Bytes()) {
				t.Errorf("%s: copied something else", name)
			}
			_, err = VerifyCopy(bytes.NewReader(saved), &failAfter{n})
			if len(saved) == len(stock) {
				expectOutside(t, name+", written", err)
			}
		}
	}
}

// TestOutsideEOF: an error of the source that has io.EOF in it is none of the
// ends that a saved guest may have.
func TestOutsideEOF(t *testing.T) {
	stock := hvmGuest("hvm", 3).bytes(t)
	lost := fmt.Errorf("%w: %w", errBroken, io.EOF)
	for name, saved := range map[string][]byte{"stock": stock, "container": packAll(t, BlockS2, stock)} {
		for _, n := range []int{100, len(saved)} {
			_, err := Verify(io.MultiReader(bytes.NewReader(saved[:n]), iotest.ErrReader(lost)))
			expectOutside(t, name, err)
		}
	}
}

func expectOutside(t *testing.T, name string, err error) {
	t.Helper()
	var format *FormatError
	var container *ContainerError
	if !errors.Is(err, errBroken) || errors.As(err, &format) || errors.As(err, &container) {
		t.Errorf("%s: %v", name, err)
	}
}
