package savefmt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/iotest"
)

// innerGuest is a guest's libxc stream by itself.
func innerGuest(t testing.TB, pages int) []byte {
	g := hvmGuest("pvh", pages)
	g.head.Outer = LayerLibxc
	var out bytes.Buffer
	g.write(t, &out)
	return out.Bytes()
}

// TestInnerReaderStopsAtEnd reads a stream behind which something else comes.
func TestInnerReaderStopsAtEnd(t *testing.T) {
	stream, rest := innerGuest(t, 300), []byte("libxl's own record")
	for name, slow := range map[string]func(io.Reader) io.Reader{
		"as it comes": func(r io.Reader) io.Reader { return r },
		"halves":      iotest.HalfReader, "single bytes": iotest.OneByteReader,
	} {
		t.Run(name, func(t *testing.T) {
			src := bytes.NewReader(append(bytes.Clone(stream), rest...))
			r := NewReader(NewInnerReader(slow(src)))
			defer r.Close()
			if _, err := r.Open(); err != nil {
				t.Fatal(err)
			}
			for {
				_, err := r.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if left, _ := io.ReadAll(src); !bytes.Equal(left, rest) {
				t.Errorf("behind END %q is left, want %q", left, rest)
			}
		})
	}
}

// TestInnerReaderCut cuts a stream off everywhere near its records' borders.
func TestInnerReaderCut(t *testing.T) {
	stream := innerGuest(t, 2)
	for n := range len(stream) {
		got, err := io.ReadAll(NewInnerReader(bytes.NewReader(stream[:n])))
		if !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.Equal(got, stream[:n]) {
			t.Fatalf("of %d bytes %d were read: %v", n, len(got), err)
		}
	}
}

// pvRecords is a PV guest between its headers and END.
func pvRecords() (static, state []Record) {
	vcpu := u32s(0, 0, 1)
	return []Record{{RecPVInfo, []byte{8, 4, 0, 0, 0, 0, 0, 0}}},
		[]Record{testTSC(), {RecSharedInfo, make([]byte, pageSize)}, {RecPVVCPUBasic, vcpu}, {RecPVVCPUExt, vcpu}}
}

// TestCopyInner copies a PV guest out of a file, unchanged.
func TestCopyInner(t *testing.T) {
	g := testGuest{head: Head{Outer: LayerXL, Config: fmt.Appendf(nil, testConfig, "pv"), Kind: KindPV, XenMajor: 4, XenMinor: 17}}
	g.static, g.state = pvRecords()
	g.static = append(g.static, Record{RecStaticDataEnd, nil}, Record{RecPVP2MFrames, u32s(0, 9, 5, 0)})
	g.pages, g.perRec = 10, 4
	var file, copied bytes.Buffer
	g.write(t, &file)
	r := NewReader(bytes.NewReader(file.Bytes()))
	head, err := r.Open()
	if err != nil {
		t.Fatal(err)
	}
	w, pages := NewWriter(&copied), 0
	if err := errors.Join(w.Start(head), CopyInner(w, r, func(n int) { pages += n }), w.Finish(nil)); err != nil {
		t.Fatal(err)
	}
	if pages != 10 || !bytes.Equal(copied.Bytes(), file.Bytes()) {
		t.Errorf("%d pages, %d bytes; want 10 and the same %d bytes", pages, copied.Len(), file.Len())
	}
	if _, err := r.Next(); err != nil {
		t.Errorf("the libxl stream's END: %v", err)
	}
}

// TestCopyInnerMixed: streams that were converted from an older format have
// state before pages, and the same again later.
func TestCopyInnerMixed(t *testing.T) {
	static, state := pvRecords()
	p2m := Record{RecPVP2MFrames, u32s(0, 9, 5, 0)}
	page := Record{RecPageData, append(u32s(1, 0, 5, 0), make([]byte, pageSize)...)}
	tsc, last := testTSC(), Record{RecEnd, nil}
	tsc.Body = bytes.Clone(tsc.Body)
	tsc.Body[0] = 0
	old := rawStream(KindPV, 2, static[0], p2m, tsc, page, state[2], state[0], state[1], state[2], page, state[3], last)
	want := rawStream(KindPV, 3, static[0], Record{RecStaticDataEnd, nil}, p2m, page, page, state[0], state[2], state[1], state[3], last)
	for name, b := range map[string][]byte{"old": old, "new": want} {
		if _, err := Verify(bytes.NewReader(b)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := NewReader(bytes.NewReader(old))
	head, err := r.Open()
	if err != nil {
		t.Fatal(err)
	}
	var copied bytes.Buffer
	w := NewWriter(&copied)
	if err := errors.Join(w.Start(head), CopyInner(w, r, func(int) {}), w.Finish(nil)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(copied.Bytes(), want) {
		t.Errorf("%d bytes, want %d; %v", copied.Len(), len(want), err)
	}
}

// TestCopyInnerOld makes version 3 of a stream of version 2.
func TestCopyInnerOld(t *testing.T) {
	g := testGuest{head: Head{Outer: LayerLibxc, Kind: KindPV, XenMajor: 4, XenMinor: 11}}
	g.static, g.state = pvRecords()
	g.static = append(g.static, Record{RecStaticDataEnd, nil}, Record{RecPVP2MFrames, u32s(0, 9, 5, 0)})
	g.pages, g.perRec = 4, 4
	var want, old, copied bytes.Buffer
	g.write(t, &want)
	b := bytes.Clone(want.Bytes())
	b[15] = byte(libxcVersionOld)
	at := libxcImageSize + libxcDomainSize + recordHeaderSize + pvInfoSize
	old.Write(b[:at])
	old.Write(b[at+recordHeaderSize:])
	r := NewReader(&old)
	head, err := r.Open()
	if err != nil || head.Version != libxcVersionOld {
		t.Fatalf("version %d, %v", head.Version, err)
	}
	w := NewWriter(&copied)
	if err := errors.Join(w.Start(head), CopyInner(w, r, func(int) {}), w.Finish(nil)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(copied.Bytes(), want.Bytes()) {
		t.Errorf("%d bytes, want the %d of version 3", copied.Len(), want.Len())
	}
}
