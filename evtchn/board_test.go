package evtchn

import (
	"errors"
	"testing"
)

// TestBoardIsWhole: readers beside a writer see whole records, in order.
func TestBoardIsWhole(t *testing.T) {
	owner, other := pair(t)
	const times = 20000
	written := make(chan struct{})
	go func() {
		defer close(written)
		words := make([]uint64, RecordWords)
		for n := range uint64(times) {
			for i := range words {
				words[i] = n * uint64(i+1)
			}
			owner.Board().Publish(words)
		}
	}()
	last, busy := uint64(0), 0
	for last < times {
		words, number, err := other.Board().Read()
		if err != nil { // only where it is published all the time, as here
			busy++
			continue
		}
		if number < last {
			t.Fatalf("record %d after %d", number, last)
		}
		last = number
		for i, w := range words {
			if number > 0 && w != (number-1)*uint64(i+1) {
				t.Fatalf("word %d of record %d is %d", i, number, w)
			}
		}
	}
	<-written
	t.Logf("%d of the reads met too many writes", busy)
}

// TestBoardDyingWriter: what a writer leaves half done is not shown.
func TestBoardDyingWriter(t *testing.T) {
	owner, other := pair(t)
	owner.Board().Publish([]uint64{1, 2, 3})
	owner.Board().slot(2).put(2, []uint64{4, 5, 6}) // and never counts up
	if words, number, err := other.Board().Read(); err != nil || number != 1 || words[0] != 1 {
		t.Errorf("record %d: %v, %v", number, words[:3], err)
	}
	owner.word(atSlots + 8*(1+RecordWords) + 16).Add(1) // damage
	if _, _, err := other.Board().Read(); !errors.Is(err, ErrBadPage) {
		t.Errorf("a damaged record: %v", err)
	}
}

func BenchmarkPublish(b *testing.B) {
	p, err := CreatePage("bench")
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	words := make([]uint64, RecordWords)
	b.ReportAllocs()
	for b.Loop() {
		p.Board().Publish(words)
	}
}
