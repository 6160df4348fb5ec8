//go:build libzstd && cgo

package libzstd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
)

const testWindow = 22

// block returns n bytes of which about half say something new.
func block(n int, seed uint64) []byte {
	rnd := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, rnd.Uint64()>>32)
	}
	return b[:n]
}

func pair(t testing.TB, level int) (*Encoder, *Decoder) {
	t.Helper()
	e, err := NewEncoder(level, testWindow)
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDecoder(testWindow)
	if err != nil {
		t.Fatal(err)
	}
	return e, d
}

func encode(t testing.TB, e *Encoder, src []byte) []byte {
	t.Helper()
	out, err := e.Encode(nil, src)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestLevels: every level's blocks come back, and what is decoded stays
// readable behind the end of the window.
func TestLevels(t *testing.T) {
	for level := FastestLevel; level <= 22; level++ {
		if level == 0 { // would be the library's default
			continue
		}
		e, d := pair(t, level)
		n := 1 << 20
		if level > 12 {
			n = 64 << 10 // they take their time
		}
		for i := range 6 {
			src := block(n+i, uint64(i/2))
			got := make([]byte, len(src))
			if err := d.Decode([][]byte{got[:100], got[100:]}, encode(t, e, src), i == 0 || Whole(level)); err != nil || !bytes.Equal(got, src) {
				t.Fatalf("level %d, block %d: %v", level, i, err)
			}
		}
	}
	for _, log := range []int{0, 60} {
		if _, err := NewDecoder(log); err == nil && log != 0 {
			t.Errorf("a decoder with a window of 2^%d", log)
		}
		if _, err := NewEncoder(2, log); err == nil && log != 0 {
			t.Errorf("an encoder with a window of 2^%d", log)
		}
	}
}

// maxMemory bounds either end.
const maxMemory = 16 << 20

// TestMemory: what the library takes stays small, whatever the level.
func TestMemory(t *testing.T) {
	for _, level := range []int{1, 3, 7, 8, 12, 15, 19, 22} {
		e, d := pair(t, level)
		src := block(256<<10, 1)
		if err := d.Decode([][]byte{src}, encode(t, e, src), true); err != nil {
			t.Fatal(err)
		}
		if n := e.memory(); n > maxMemory {
			t.Errorf("level %d: an encoder has %d KiB", level, n>>10)
		}
		if n := d.memory(); n > maxMemory {
			t.Errorf("level %d: a decoder has %d KiB", level, n>>10)
		}
	}
}

// frame returns a frame's beginning: a window, and blocks that follow.
func frame(windowLog int, blocks ...byte) []byte {
	return append([]byte{0x28, 0xB5, 0x2F, 0xFD, 0, byte(windowLog-10) << 3}, blocks...)
}

// blockHead is that of one block of a frame, of type raw 0, repeated 1 or
// compressed 2.
func blockHead(last bool, kind, size int) []byte {
	v := size<<3 | kind<<1
	if last {
		v |= 1
	}
	return []byte{byte(v), byte(v >> 8), byte(v >> 16)}
}

func TestHostile(t *testing.T) {
	e, _ := pair(t, 2)
	good := encode(t, e, block(8192, 1))
	wide, err := NewEncoder(2, testWindow+1)
	if err != nil {
		t.Fatal(err)
	}
	repeated := append(blockHead(false, 1, 8192), 'x')
	tests := map[string]struct {
		payload []byte
		want    error // nil: any
	}{
		"nothing":              {nil, errMagic},
		"no frame":             {[]byte("hello, world"), errMagic},
		"to be skipped":        {[]byte{0x50, 0x2A, 0x4D, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, errMagic},
		"zstd 0.7":             {append([]byte{0x27, 0xB5, 0x2F, 0xFD}, good[4:]...), errMagic},
		"window too large":     {encode(t, wide, block(8192, 1)), nil},
		"largest window":       {frame(41, repeated...), nil},
		"a dictionary":         {append([]byte{0x28, 0xB5, 0x2F, 0xFD, 1, 12 << 3, 7}, repeated...), nil},
		"cut off":              {good[:len(good)-1], errLength},
		"header alone":         {good[:6], errLength},
		"more pages":           {encode(t, e, block(8192, 2)), errMagic},
		"larger than claimed":  {frame(22, append(blockHead(false, 1, 8193), 'x')...), errLength},
		"smaller than claimed": {frame(22, append(blockHead(false, 1, 8191), 'x')...), errLength},
		"a bomb":               {frame(22, append(blockHead(false, 1, 128<<10), 'x')...), errLength},
		"more blocks":          {frame(22, append(repeated, repeated...)...), errLength},
		"block too large":      {frame(22, append(blockHead(false, 1, 129<<10), 'x')...), nil},
		"reserved block":       {frame(22, blockHead(false, 3, 0)...), nil},
		"ends too early":       {frame(22, append(blockHead(true, 1, 4096), 'x')...), errEnd},
		"and another frame":    {append(frame(22, append(blockHead(true, 1, 4096), 'x')...), good...), errEnd},
		"ends within a piece":  {frame(22, append(blockHead(true, 1, 4095), 'x')...), errLength},
		"another frame":        {append(frame(22, append(blockHead(true, 1, 8192), 'x')...), good...), errLength},
		"and another empty":    {append(frame(22, append(repeated, blockHead(true, 0, 0)...)...), good...), errLength},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			_, d := pair(t, 1)
			room := bytes.Repeat([]byte{0xA5}, 8192+64)
			err := d.Decode([][]byte{room[:4096], room[4096:8192]}, c.payload, true)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if !bytes.Equal(room[8192:], bytes.Repeat([]byte{0xA5}, 64)) {
				t.Error("written beyond the pages")
			}
			if err := d.Decode([][]byte{room[:8192]}, good, false); !errors.Is(err, errFresh) {
				t.Errorf("then it goes on: %v", err)
			}
			if err := d.Decode([][]byte{room[:8192]}, good, true); err != nil {
				t.Errorf("a fresh frame afterwards: %v", err)
			}
			if n := d.memory(); n > maxMemory {
				t.Errorf("it has taken %d KiB", n>>10)
			}
		})
	}
}

// TestFrameEnds: a frame may end with its pages, and another must begin then.
func TestFrameEnds(t *testing.T) {
	repeated := append(blockHead(false, 1, 8192), 'x')
	e, _ := pair(t, 1)
	for name, payload := range map[string][]byte{
		"in the last block":   frame(22, append(blockHead(true, 1, 8192), 'x')...),
		"in an empty block":   frame(22, append(repeated, blockHead(true, 0, 0)...)...),
		"as level 1 makes it": encode(t, e, bytes.Repeat([]byte{'x'}, 8192)),
	} {
		_, d := pair(t, 1)
		for range 2 {
			got := make([]byte, 8192)
			if err := d.Decode([][]byte{got[:4096], got[4096:]}, payload, true); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{'x'}, 8192)) {
				t.Errorf("%s: %v", name, err)
			}
			if err := d.Decode([][]byte{got}, payload, false); !errors.Is(err, errFresh) {
				t.Errorf("%s, then it goes on: %v", name, err)
			}
		}
	}
}

// TestAllocatesNothing: neither end allocates for a block.
func TestAllocatesNothing(t *testing.T) {
	e, d := pair(t, 1)
	src := block(1<<20, 1)
	out := make([]byte, 0, bound(len(src)))
	pieces := [][]byte{make([]byte, 4096), make([]byte, len(src)-4096)}
	fresh := true
	if n := testing.AllocsPerRun(20, func() {
		var err error
		if out, err = e.Encode(out[:0], src); err != nil {
			t.Fatal(err)
		}
		if err = d.Decode(pieces, out, fresh); err != nil {
			t.Fatal(err)
		}
		fresh = Whole(1)
	}); n != 0 {
		t.Errorf("%v allocations for a block", n)
	}
}
