package memcheck

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Kind is what the body of a page looks like.
type Kind uint8

// The kinds. Their mix is roughly that of a server's memory.
const (
	KindZero   Kind = iota // all zeros, no header
	KindText               // words, lines, numbers: compresses well
	KindHeap               // pointers, small integers, zeros: compresses
	KindRandom             // compressed or encrypted data
	kinds
)

// String returns the kind's name.
func (k Kind) String() string {
	names := [kinds]string{"zero", "text", "heap", "random"}
	if k < kinds {
		return names[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// kindFor chooses the kind of a version of data page i. A fresh area has the
// share of zero pages that it was asked for. A page that is written later
// seldom becomes zero: it does when memory is freed and cleared.
func (a *Area) kindFor(i int, version uint64) Kind {
	h := mix(a.seed ^ mix(uint64(i)<<20^version))
	zeroBelow := a.zeroBelow
	if version > 1 {
		zeroBelow /= 16
	}
	if uint32(h) < zeroBelow {
		return KindZero
	}
	switch p := h >> 32 % 100; {
	case p < 25:
		return KindText
	case p < 80:
		return KindHeap
	default:
		return KindRandom
	}
}

// rand is splitmix64: one word of state, 64 good bits in about a nanosecond.
type rand uint64

func newRand(seed uint64, i int, version uint64) rand {
	return rand(mix(seed ^ mix(uint64(i)^mix(version))))
}

func (r *rand) next() uint64 {
	*r += 0x9E3779B97F4A7C15
	return mix(uint64(*r))
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

// fillBody fills b, of a multiple of 8 bytes, with contents of one kind.
func fillBody(b []byte, kind Kind, rng rand) {
	switch kind {
	case KindText:
		fillText(b, rng)
	case KindHeap:
		fillHeap(b, rng)
	default:
		fillRandom(b, rng)
	}
}

func fillRandom(b []byte, rng rand) {
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, rng.next())
	}
}

// fillText writes words one after the other, each with two stores of 8 bytes
// of which the next word overwrites the rest.
func fillText(b []byte, rng rand) {
	for len(b) >= 4*wordSize {
		r := rng.next()
		for range 4 {
			// The lower of two bytes: the first words are the frequent ones.
			w := &words[min(r&0xFF, r>>8&0xFF)]
			binary.LittleEndian.PutUint64(b, w.lo)
			binary.LittleEndian.PutUint64(b[8:], w.hi)
			b = b[w.len:]
			r >>= 16
		}
	}
	clear(b)
}

// fillHeap writes 64-bit words of the forms that live on a heap, in an order
// that repeats like the fields of records.
func fillHeap(b []byte, rng rand) {
	base := 0x00007F0000000000 | rng.next()&0xFFFFFFF000
	record := rng.next()
	for n := uint(0); len(b) >= 8; n++ {
		r := rng.next()
		form := &heapForms[(record>>(n%8*4)^r>>62)%uint64(len(heapForms))]
		binary.LittleEndian.PutUint64(b, base&form.base|r&form.mask)
		b = b[8:]
	}
}

// heapForms: which bits of a word come from the page's base address, and which
// are its own.
var heapForms = [8]struct{ base, mask uint64 }{
	{0, 0},                // nil, padding
	{^uint64(0), 0xFFFF0}, // pointer nearby
	{0, 0xFF},             // small number, flag
	{0, 0},                // zero
	{^uint64(0), 0xFFF8},  // pointer very near
	{0, 0xFFFF},           // length, counter
	{0, 0x0000000F0000000F},
	{0, 0x00000000FFFFFFFF}, // hash
}

const wordSize = 16

// words are 256 pieces of text of up to wordSize bytes.
var words = makeWords()

type word struct {
	lo, hi uint64
	len    int
}

func makeWords() (ws [256]word) {
	stems := strings.Fields(`the of and to in is that for it as was with be by on not he his
		but at are this have from or had an they which one you were all her she there would
		their we him been has when who will no more if out so up said what its about than into
		them can only other time new some could these two may first then do any like my now over
		such our man me even most made after also did many off before must well back through
		error warning info request response server client timeout connection user session
		value name type size count index`)
	ends := []string{" ", " ", " ", ", ", ". ", "\n", "=", "\": \""}
	for i := range ws {
		var buf [wordSize]byte
		n := copy(buf[:], stems[i%len(stems)])
		n += copy(buf[n:], ends[i*5%len(ends)])
		ws[i] = word{
			lo:  binary.LittleEndian.Uint64(buf[:]),
			hi:  binary.LittleEndian.Uint64(buf[8:]),
			len: n,
		}
	}
	return ws
}
