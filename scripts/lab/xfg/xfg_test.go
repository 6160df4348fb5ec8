package xfg

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// filled returns a beat in which every field has a value of its own.
func filled(t *testing.T) Beat {
	t.Helper()
	var b Beat
	v := reflect.ValueOf(&b).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString("00c0ffee00c0ffee")
		case reflect.Int64:
			f.SetInt(int64(-i))
		case reflect.Uint64:
			f.SetUint(uint64(1000 + i))
		default:
			t.Fatalf("a field of kind %v cannot stand in a line", f.Kind())
		}
	}
	return b
}

func TestBeatLine(t *testing.T) {
	b := filled(t)
	line := b.String()
	for _, tt := range []struct {
		name, line string
		ok         bool
	}{
		{"plain", line, true},
		{"carriage return", line + "\r", true},
		{"after a piece of another line", "[  1.5] random: " + line, true},
		{"torn at the end", line[:len(line)-1], false},
		{"torn in the middle", line[:40] + line[50:], false},
		{"a digit changed", strings.Replace(line, "n=1001", "n=1002", 1), false},
		{"no checksum", strings.Split(line, " crc=")[0], false},
		{"a bad line", BadWord + " disk: block 1", false},
		{"empty", "", false},
	} {
		got, ok := ParseBeat(tt.line)
		if ok != tt.ok || ok && got != b {
			t.Errorf("%s: got %v, %v; want %v", tt.name, &got, ok, tt.ok)
		}
	}
}

func TestPacket(t *testing.T) {
	p := Packet{Kind: KindEcho, ID: 1<<63 + 5, N: 7, Clock: -1, Bad: 3}
	b := p.Append([]byte("x"))[1:]
	if len(b) != PacketSize {
		t.Fatalf("%d bytes, want %d", len(b), PacketSize)
	}
	if got, err := ParsePacket(b); err != nil || got != p {
		t.Errorf("got %+v, %v; want %+v", got, err, p)
	}
	for i := range b {
		b[i] ^= 0x10
		if got, err := ParsePacket(b); err == nil {
			t.Errorf("byte %d changed: taken for %+v", i, got)
		}
		b[i] ^= 0x10
	}
	for _, n := range []int{0, 1, PacketSize - 1, PacketSize + 1} {
		if _, err := ParsePacket(make([]byte, n)); err == nil {
			t.Errorf("%d bytes are taken for a packet", n)
		}
	}
}

func TestBlock(t *testing.T) {
	b := Block{ID: 1, N: 2, Clock: 3}
	buf := make([]byte, BlockSize)
	sum := b.Put(buf)
	if got, s, ok := GetBlock(buf); !ok || got != b || s != sum {
		t.Errorf("got %+v, %x, %v; want %+v, %x", got, s, ok, b, sum)
	}
	later := b
	later.Clock++
	if later.Put(make([]byte, BlockSize)) == sum {
		t.Error("two writes of one number at different times have the same checksum")
	}
	for _, at := range []int{0, 5, 9, 20, 30, 32, 2000, BlockSize - 1} {
		buf[at] ^= 1
		if _, _, ok := GetBlock(buf); ok {
			t.Errorf("byte %d changed: taken for whole", at)
		}
		buf[at] ^= 1
	}
	if _, _, ok := GetBlock(make([]byte, BlockSize)); ok {
		t.Error("zeros are taken for a block")
	}
}

// heard is one packet: number, and when it came, in ms.
type heard struct {
	n  uint64
	ms int64
}

func TestFlow(t *testing.T) {
	for _, tt := range []struct {
		name          string
		in            []heard
		missing, back uint64
		gap           float64
		gaps          int
	}{
		{"one", []heard{{5, 0}}, 0, 0, 0, 0},
		{"in order", []heard{{5, 0}, {6, 10}, {7, 20}}, 0, 0, 10, 0},
		{"a pause", []heard{{1, 0}, {2, 10}, {3, 700}, {4, 710}}, 0, 0, 690, 1},
		{"lost", []heard{{1, 0}, {2, 10}, {10, 20}}, 7, 0, 10, 0},
		{"twice", []heard{{1, 0}, {2, 10}, {2, 11}, {3, 20}}, 0, 1, 10, 0},
		{"a copy behind", []heard{{50, 0}, {40, 5}, {51, 10}, {41, 15}}, 0, 2, 5, 0},
	} {
		var f Flow
		for _, h := range tt.in {
			f.Add(&Packet{ID: 1, N: h.n}, "192.168.77.101", time.UnixMilli(1e9+h.ms))
		}
		if f.Missing != tt.missing || f.Back != tt.back || f.MaxGap.Ms != tt.gap || len(f.Gaps) != tt.gaps {
			t.Errorf("%s: missing %d, back %d, gap %v, %d gaps; want %d, %d, %v, %d", tt.name,
				f.Missing, f.Back, f.MaxGap.Ms, len(f.Gaps), tt.missing, tt.back, tt.gap, tt.gaps)
		}
		if f.Count != uint64(len(tt.in)) {
			t.Errorf("%s: counted %d packets of %d", tt.name, f.Count, len(tt.in))
		}
	}
}

// A pause that begins before a mark, and a copy that is behind it, are seen.
func TestFlowNext(t *testing.T) {
	var f Flow
	start := time.UnixMilli(1e9)
	f.Add(&Packet{ID: 1, N: 10}, "a", start)
	f.Add(&Packet{ID: 1, N: 20}, "a", start.Add(time.Second))
	next := f.Next()
	if next.Count != 0 || next.Missing != 0 || next.MaxGap.Ms != 0 || len(next.Gaps) != 0 {
		t.Errorf("begins with %+v", next)
	}
	next.Add(&Packet{ID: 1, N: 21}, "a", start.Add(3*time.Second))
	next.Add(&Packet{ID: 1, N: 19}, "a", start.Add(3*time.Second))
	if next.MaxGap.Ms != 2000 || next.MaxGap.After != 20 || next.Missing != 0 || next.Back != 1 || next.BackAt != 19 || next.Count != 2 {
		t.Errorf("got %+v", next)
	}
}

func TestGapsAreBounded(t *testing.T) {
	var f Flow
	for i := range 3 * MaxGaps {
		f.Add(&Packet{ID: 1, N: uint64(i)}, "a", time.UnixMilli(int64(i)*100))
	}
	if len(f.Gaps) != MaxGaps || f.Gaps[MaxGaps-1].After != 3*MaxGaps-2 {
		t.Errorf("%d gaps kept, the last after %d", len(f.Gaps), f.Gaps[len(f.Gaps)-1].After)
	}
}
