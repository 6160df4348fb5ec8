package evtchn

import "fmt"

// Board is the part of a page on which its owner shows a record of figures, as
// often as it likes. Nobody locks and nobody waits: there are two slots, the
// owner writes the one that is not shown, and then counts the number up, whose
// lowest bit says which slot counts. An owner that dies or is stopped while it
// writes leaves the record before to be read.
type Board struct {
	page *Page
}

// Board returns the page's board.
func (p *Page) Board() Board { return Board{p} }

func (b Board) slot(number uint64) record {
	return record{b.page, atSlots + int(number&1)*8*(1+RecordWords), RecordWords}
}

// Publish shows a record of up to RecordWords words. One goroutine of the owner
// at a time calls it.
func (b Board) Publish(words []uint64) {
	next := b.page.word(atNumber).Load() + 1
	b.slot(next).put(next, words)
	b.page.word(atNumber).Store(next)
}

// boardTries bounds how often Read looks again: the owner publishes ten times
// a second, and reading takes microseconds.
const boardTries = 100

// Read returns the record that was published last, and its number: 0 and zeros
// before the first. The error is ErrBadPage.
func (b Board) Read() (words [RecordWords]uint64, number uint64, err error) {
	for range boardTries {
		number = b.page.word(atNumber).Load()
		if number == 0 || b.slot(number).get(number, words[:]) {
			return words, number, nil
		}
	}
	return words, number, fmt.Errorf("%w: its record %d does not match its sum", ErrBadPage, number)
}
