package evtchn

import "hash/crc64"

// record is a number of words in a page, behind the sum of them. Each word is
// read and written as one, so that no reader sees half of it; the sum tells
// whether all of them are of the same writing.
type record struct {
	page  *Page
	at    int // of the sum
	words int
}

var sumTable = crc64.MakeTable(crc64.ECMA)

// sum is the CRC-64 (ECMA-182) of a number and of words.
func sum(number uint64, words []uint64) uint64 {
	s := sumWord(0, number)
	for _, w := range words {
		s = sumWord(s, w)
	}
	return s
}

func sumWord(s, w uint64) uint64 {
	var b [8]byte
	for i := range b {
		b[i] = byte(w >> (8 * i))
	}
	return crc64.Update(s, sumTable, b[:])
}

// put stores what has this number. Words beyond those given are zero.
func (r record) put(number uint64, words []uint64) {
	s := sumWord(0, number)
	for i := range r.words {
		w := uint64(0)
		if i < len(words) {
			w = words[i]
		}
		s = sumWord(s, w)
		r.page.word(r.at + 8 + 8*i).Store(w)
	}
	r.page.word(r.at).Store(s)
}

// get reads it, and tells whether it is whole and has this number. to has room
// for all words.
func (r record) get(number uint64, to []uint64) bool {
	for i := range r.words {
		to[i] = r.page.word(r.at + 8 + 8*i).Load()
	}
	return r.page.word(r.at).Load() == sum(number, to[:r.words])
}
