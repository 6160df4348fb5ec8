package savefmt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// testData is n bytes, some of which compress.
func testData(n int) []byte {
	b := make([]byte, n)
	src := rand.New(rand.NewPCG(1, uint64(n)))
	for at := 0; at < n; at += pageSize {
		page := b[at:min(n, at+pageSize)]
		for i := range page {
			if at/pageSize%3 == 0 {
				page[i] = byte(src.Uint32())
			} else {
				page[i] = byte(i / 64)
			}
		}
	}
	return b
}

func packAll(t testing.TB, codec BlockCodec, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	p := NewPacker(&out, codec)
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 300_001)
		if _, err := p.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if p.Written() != int64(out.Len()) {
		t.Errorf("Written says %d, %d were written", p.Written(), out.Len())
	}
	return out.Bytes()
}

func unpackAll(b []byte) ([]byte, *Unpacker, error) {
	r, u, err := Unpack(bytes.NewReader(b))
	if err != nil {
		return nil, nil, err
	}
	if u != nil {
		defer u.Close()
	}
	out, err := io.ReadAll(r)
	return out, u, err
}

func TestContainerRoundTrip(t *testing.T) {
	for codec := range blockCodecs {
		for _, size := range []int{0, 1, 100, DefaultBlock, 3*DefaultBlock + 17} {
			data := testData(size)
			packed := packAll(t, BlockCodec(codec), data)
			got, u, err := unpackAll(packed)
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%v, %d bytes: %d came back, %v", BlockCodec(codec), size, len(got), err)
			}
			info := u.Info()
			if info.Bytes != int64(len(packed)) || info.Blocks != uint64((size+DefaultBlock-1)/DefaultBlock) {
				t.Errorf("%v, %d bytes: %+v", BlockCodec(codec), size, info)
			}
			if codec != int(BlockRaw) && size > DefaultBlock && len(packed) > size/2 {
				t.Errorf("%v packed %d bytes into %d", BlockCodec(codec), size, len(packed))
			}
			if err := CheckContainerEnd(bytes.NewReader(packed), int64(len(packed))); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestWhatIsNoContainer(t *testing.T) {
	for _, text := range []string{"", "x", "Xen saved domain, and so on"} {
		got, u, err := unpackAll([]byte(text))
		if err != nil || u != nil || string(got) != text {
			t.Errorf("%q came back as %q, %v", text, got, err)
		}
		if err := CheckContainerEnd(strings.NewReader(text), int64(len(text))); err != nil {
			t.Error(err)
		}
	}
}

// TestContainerDamage flips a bit in each byte of headers and end mark, and in
// some of the contents: nothing gets through.
func TestContainerDamage(t *testing.T) {
	data := testData(2*DefaultBlock + 5)
	packed := packAll(t, BlockS2, data)
	for at := 8; at < len(packed); at++ {
		if at > 200 && at < len(packed)-100 && at%4099 != 0 {
			continue
		}
		broken := bytes.Clone(packed)
		broken[at] ^= 1 << (at % 8)
		got, _, err := unpackAll(broken)
		var where *ContainerError
		if !errors.As(err, &where) {
			t.Fatalf("byte %d: %v", at, err)
		}
		if !bytes.HasPrefix(data, got) {
			t.Fatalf("byte %d: damaged bytes were handed out", at)
		}
	}
}

func TestContainerCuts(t *testing.T) {
	packed := packAll(t, BlockZstd, testData(DefaultBlock+5))
	for n := 8; n < len(packed); n += 1 + n/50 {
		if _, _, err := unpackAll(packed[:n]); !errors.Is(err, ErrTruncated) {
			t.Fatalf("cut at %d: %v", n, err)
		}
		if err := CheckContainerEnd(bytes.NewReader(packed[:n]), int64(n)); n >= containerHead && !errors.Is(err, errNoEndMark) {
			t.Fatalf("cut at %d: the end is found: %v", n, err)
		}
	}
	if _, _, err := unpackAll(append(packed, 0)); err == nil {
		t.Error("a byte behind the end mark was accepted")
	}
}

// TestContainerEndTells: what is wrong at the end is not called a cut, and what
// is wrong at the beginning is left to the reader.
func TestContainerEndTells(t *testing.T) {
	packed := packAll(t, BlockS2, testData(5000))
	check := func(b []byte) string { return fmt.Sprint(CheckContainerEnd(bytes.NewReader(b), int64(len(b)))) }
	flipped := bytes.Clone(packed)
	flipped[len(flipped)-1] ^= 1
	for name, b := range map[string][]byte{"a byte behind it": append(bytes.Clone(packed), 0), "a flipped bit": flipped} {
		if got := check(b); !strings.Contains(got, "cut off, or something follows") {
			t.Errorf("%s: %s", name, got)
		}
	}
	newer := bytes.Clone(packed[:len(packed)-1])
	newer[8] = 2
	binary.LittleEndian.PutUint32(newer[20:], Checksum(newer[:20]))
	if got := check(newer); got != "<nil>" {
		t.Errorf("a newer version: %s", got)
	}
	if _, _, err := unpackAll(newer); err == nil || !strings.Contains(err.Error(), "version 2, this program reads 1") {
		t.Errorf("a newer version: %v", err)
	}
}

// TestContainerInside: one layer is unpacked, by whoever reads.
func TestContainerInside(t *testing.T) {
	twice := packAll(t, BlockRaw, packAll(t, BlockRaw, hvmGuest("hvm", 3).bytes(t)))
	plain, u, err := Unpack(bytes.NewReader(twice))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	for name, r := range map[string]io.Reader{"at once": bytes.NewReader(twice), "unpacked before": plain} {
		if _, err := Verify(r); !errors.Is(err, ErrNotSaved) || !strings.Contains(err.Error(), "container inside a container") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestContainerBlockMissing takes out a whole block, and swaps two.
func TestContainerBlockMissing(t *testing.T) {
	packed := packAll(t, BlockRaw, testData(3*DefaultBlock))
	const size = blockHead + DefaultBlock
	head, blocks, end := packed[:containerHead], packed[containerHead:containerHead+3*size], packed[containerHead+3*size:]
	join := func(parts ...[]byte) []byte { return bytes.Join(append(append([][]byte{head}, parts...), end), nil) }
	for name, b := range map[string][]byte{
		"first missing": join(blocks[size:]),
		"last missing":  join(blocks[:2*size]),
		"swapped":       join(blocks[size:2*size], blocks[:size], blocks[2*size:]),
	} {
		if _, _, err := unpackAll(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// crafted is a block whose checksums are right, whatever its stored bytes are.
type crafted struct {
	codec       BlockCodec
	raw, stored []byte
}

// craft makes a container of blocks, with an end mark that is right for them
// if it is to have one.
func craft(ended bool, blocks ...crafted) []byte {
	b, end := putContainerHead(), containerEnd{}
	for i, c := range blocks {
		h := block{
			codec: c.codec, index: uint32(i), raw: uint32(len(c.raw)), stored: uint32(len(c.stored)),
			rawCRC: Checksum(c.raw), storedCRC: Checksum(c.stored),
		}
		var head [blockHead]byte
		h.put(head[:])
		b = append(append(b, head[:]...), c.stored...)
		end.bytes, end.blocks, end.chain = end.bytes+uint64(len(c.raw)), end.blocks+1, extendChecksum(end.chain, head[:])
	}
	if ended {
		b = append(b, end.put()...)
	}
	return b
}

// expectBadBlock reads a container in every way: each must name block 1.
func expectBadBlock(t *testing.T, b []byte) {
	t.Helper()
	_, _, read := unpackAll(b)
	_, verified := Verify(bytes.NewReader(b))
	for name, err := range map[string]error{"Read": read, "WriteTo": copyOut(b), "Verify": verified} {
		var where *ContainerError
		if !errors.As(err, &where) || where.Part != "block 1" || errors.Is(err, ErrTruncated) {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

// copyOut reads a container block by block.
func copyOut(b []byte) error {
	r, u, err := Unpack(bytes.NewReader(b))
	if err != nil {
		return err
	}
	defer u.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

// TestContainerShortBlock: a block whose encoding ends too early is no end of
// the container, neither behind a whole guest nor in the middle of one.
func TestContainerShortBlock(t *testing.T) {
	guest := hvmGuest("hvm", 3).bytes(t)
	data := testData(5000)
	for codec := BlockS2; codec.known(); codec++ {
		whole, err := packBlock(codec, nil, data)
		if err != nil {
			t.Fatal(err)
		}
		nothing, _ := packBlock(codec, nil, nil)
		if len(nothing) == 0 { // zstd
			nothing = whole[:1]
		}
		for n := 0; n < len(whole); n += 1 + n/8 {
			bad := crafted{codec, data, whole[:n]}
			if n == 0 {
				bad.stored = nothing
			}
			for _, first := range [][]byte{guest, guest[:len(guest)/2]} {
				before := crafted{BlockRaw, first, first}
				expectBadBlock(t, craft(false, before, bad))
				expectBadBlock(t, craft(true, before, bad, before))
			}
		}
	}
}

// failAfter fails when that many bytes have been written.
type failAfter struct{ left int }

func (w *failAfter) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		return 0, errBroken
	}
	return len(b), nil
}

func TestPackerErrors(t *testing.T) {
	for _, room := range []int{0, containerHead, DefaultBlock, 3 * DefaultBlock} {
		p := NewPacker(&failAfter{room}, BlockRaw)
		var err error
		for i := 0; i < 100 && err == nil; i++ {
			_, err = p.Write(make([]byte, DefaultBlock))
		}
		if closeErr := p.Close(); !errors.Is(err, errBroken) || !errors.Is(closeErr, errBroken) {
			t.Errorf("room for %d: Write %v, Close %v", room, err, closeErr)
		}
	}
	var out bytes.Buffer
	p := NewPacker(&out, BlockS2)
	_, _ = p.Write(testData(5 * DefaultBlock))
	p.Abort()
	p.Abort()
	if _, err := p.Write([]byte{1}); err == nil || p.Close() == nil {
		t.Error("a Packer that was given up still takes bytes")
	}
	if _, _, err := unpackAll(out.Bytes()); !errors.Is(err, ErrTruncated) {
		t.Errorf("what was given up is read: %v", err)
	}
}

// TestUnpackerClose: closing in the middle ends all goroutines.
func TestUnpackerClose(t *testing.T) {
	r, u, err := Unpack(bytes.NewReader(packAll(t, BlockS2, testData(40*DefaultBlock))))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { u.Close(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("Close hangs")
	}
}

// TestUnpackBomb: a block that decodes to more than it claims is refused, and
// its memory is not allocated.
func TestUnpackBomb(t *testing.T) {
	bomb := make([]byte, 64<<20)
	for codec := BlockS2; codec.known(); codec++ {
		stored, err := packBlock(codec, nil, bomb)
		if err != nil {
			t.Fatal(err)
		}
		allocated := allocatedBy(func() {
			if unpackBlock(codec, make([]byte, 1000), stored) == nil {
				t.Errorf("%v: a bomb was accepted", codec)
			}
		})
		if allocated > 12<<20 {
			t.Errorf("%v: %d bytes were allocated for a bomb", codec, allocated)
		}
	}
}

func TestVerifyContainer(t *testing.T) {
	plain := hvmGuest("hvm", 1000).bytes(t)
	s, err := Verify(bytes.NewReader(packAll(t, BlockS2, plain)))
	if err != nil || s.Bytes != int64(len(plain)) || s.Container == nil || s.Container.Codecs["s2"] == 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	cut := packAll(t, BlockS2, plain[:len(plain)-8])
	var where *FormatError
	if _, err := Verify(bytes.NewReader(cut)); !errors.As(err, &where) || !errors.Is(err, ErrTruncated) {
		t.Errorf("a whole container of half a guest: %v", err)
	}
}

func benchmarkData() []byte { return testData(64 << 20) }

func BenchmarkPack(b *testing.B) {
	data := benchmarkData()
	for codec := range blockCodecs {
		b.Run(BlockCodec(codec).String(), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for range b.N {
				p := NewPacker(io.Discard, BlockCodec(codec))
				_, _ = p.Write(data)
				if err := p.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkUnpack(b *testing.B) {
	data := benchmarkData()
	for codec := range blockCodecs {
		packed := packAll(b, BlockCodec(codec), data)
		b.Run(BlockCodec(codec).String(), func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for range b.N {
				r, u, err := Unpack(bytes.NewReader(packed))
				if err == nil {
					_, err = io.Copy(io.Discard, r)
				}
				if err != nil {
					b.Fatal(err)
				}
				u.Close()
			}
		})
	}
}
