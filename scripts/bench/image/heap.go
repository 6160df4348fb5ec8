package image

import (
	"encoding/binary"
	"math/rand/v2"
)

// heap makes memory as programs have it on their heaps: spans of records of one
// size, each with the same fields in the same order.
type heap struct {
	next uint64 // address of the next span
}

// field is what one word of a record holds.
type field int

const (
	fieldZero   field = iota // nil, padding, not used yet
	fieldNear                // pointer into this span
	fieldFar                 // pointer to another span of the same program
	fieldType                // pointer to a type or a table, one of few
	fieldSmall               // flag, length, small counter
	fieldCount               // growing number: an id, a time
	fieldString              // text, eight bytes of it
	fieldHash                // 64 bits that say nothing
	fields
)

// weights say how frequent the fields are, in percent.
var weights = [fields]int{
	fieldZero: 30, fieldNear: 10, fieldFar: 12, fieldType: 10,
	fieldSmall: 20, fieldCount: 5, fieldString: 9, fieldHash: 4,
}

func drawField(rng *rand.Rand) field {
	at := rng.IntN(100)
	for f, w := range weights {
		if at < w {
			return field(f)
		}
		at -= w
	}
	return fieldZero
}

// spanPages is the size of a span: records of one kind fill so many pages.
const spanPages = 8

// fill fills b, of whole pages.
func (h *heap) fill(b []byte, rng *rand.Rand) {
	for len(b) > 0 {
		n := min(len(b), spanPages*pageSize)
		h.span(b[:n], rng)
		b = b[n:]
	}
}

// span fills b with records of 2 to 33 words. Some of them are free, and only
// linked to the next free one.
func (h *heap) span(b []byte, rng *rand.Rand) {
	const base = 0x00007F3A_00000000
	layout := make([]field, 2+rng.IntN(32))
	for i := range layout {
		layout[i] = drawField(rng)
	}
	here := base + h.next
	h.next = (h.next + uint64(len(b))) & 0x3FFFFFFF
	count, used := rng.Uint64N(1<<40), 40+rng.IntN(61)
	for len(b) >= 8*len(layout) {
		record := b[:8*len(layout)]
		b = b[8*len(layout):]
		if rng.IntN(100) >= used {
			binary.LittleEndian.PutUint64(record, here+rng.Uint64N(spanPages*pageSize)&^15)
			continue
		}
		for i, f := range layout {
			binary.LittleEndian.PutUint64(record[8*i:], word(f, here, &count, rng))
		}
	}
}

// word returns the contents of one field, in a span at the address here.
func word(f field, here uint64, count *uint64, rng *rand.Rand) uint64 {
	const far, types = 0x00007F3A_00000000, 0x00005581_2C400000
	switch f {
	case fieldNear:
		return here + rng.Uint64N(spanPages*pageSize)&^15
	case fieldFar:
		return far + rng.Uint64N(256<<20)&^15
	case fieldType:
		return types + rng.Uint64N(32)*0x140
	case fieldSmall:
		return rng.Uint64N(1 + 1<<rng.IntN(10))
	case fieldCount:
		*count += 1 + rng.Uint64N(1<<10)
		return *count
	case fieldString:
		return letters(rng)
	case fieldHash:
		return rng.Uint64()
	}
	return 0
}

// letters returns eight bytes of text in which some letters are frequent.
func letters(rng *rand.Rand) uint64 {
	const frequent = "etaoinshrdlucmfw eeettaaooiinn ss-_/.:0123456789ABCDEFgpybvkxjqz"
	bits, text := rng.Uint64(), uint64(0)
	for range 8 {
		text = text<<8 | uint64(frequent[bits&63])
		bits >>= 6
	}
	return text
}

// fillRandom fills b, of whole pages, with bytes that nothing compresses.
func fillRandom(b []byte, rng *rand.Rand) {
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, rng.Uint64())
	}
}
