package xen

import (
	"bytes"
	"strings"
	"testing"
)

// TestBallooned: a page that comes while memory is copied arrives, though Xen's
// log has nothing of it.
func TestBallooned(t *testing.T) {
	m := newMove()
	m.dom.writes = 2 * StockTargetDirty // so that there are some rounds
	m.dom.clean = func(times int) {
		if times == 1 {
			m.dom.balloon(600)
			m.dom.writes = 0 // none that would send it by chance
		}
	}
	var notes []string
	m.opts.Observe = func(e Event) {
		if e.Kind == EventNote {
			notes = append(notes, e.Text)
		}
	}
	m.run(t.Context(), t)
	m.expectMoved(t)
	if m.dom.types[600] != PageNormal || bytes.Count(m.dst.in.mem[600*PageSize:][:PageSize], []byte{0xA5}) > PageSize/2 {
		t.Error("pfn 600 did not come")
	}
	want := "the guest's memory grew from 4000 to 4004 KiB while it was copied: all of it is sent again"
	if len(notes) != 1 || notes[0] != want {
		t.Errorf("notes: %q", notes)
	}
	whole := 0
	for _, r := range m.report.Rounds {
		if r.Pages == m.dom.Pages() {
			whole++
		}
	}
	if whole != 1 { // the first look is in two parts
		t.Errorf("%d rounds of all pages: %+v", whole, m.report.Rounds)
	}
}

// TestBalloonedLate: what came before the suspend, after the last look, cannot
// be known to be whole. The guest stays.
func TestBalloonedLate(t *testing.T) {
	m := newMove()
	m.dom.stop = func() { m.dom.balloon(600) }
	m.run(t.Context(), t)
	m.expectAtSource(t)
	if !strings.Contains(m.srcErr.Error(), "grew from 4000 to 4004 KiB while it was copied, just before it was suspended") {
		t.Error(m.srcErr)
	}
}

// TestBalloonedForEver: a guest that never rests is not copied for ever.
func TestBalloonedForEver(t *testing.T) {
	m := newMove()
	m.dom.writes = 2 * StockTargetDirty // so that there are some rounds
	m.dom.clean = func(int) { m.dom.balloon(600) }
	m.run(t.Context(), t)
	m.expectAtSource(t)
	if !strings.Contains(m.srcErr.Error(), "for the 6th time") || len(m.report.Rounds) > 10 {
		t.Errorf("%d rounds: %v", len(m.report.Rounds), m.srcErr)
	}
}

// TestSaveBallooned: the same, to a file.
func TestSaveBallooned(t *testing.T) {
	host, dom := newSaved(TypePVH)
	dom.writes = 2 * StockTargetDirty
	dom.clean = func(times int) {
		if times == 1 {
			dom.balloon(5)
			dom.writes = 0
		}
	}
	var file memoryTarget
	if _, err := Save(t.Context(), host, dom, &file, SaveOptions{Live: true}); err != nil || dom.types[5] != PageNormal {
		t.Fatal(err)
	}
	expectRestored(t, dom, file.Bytes())
}
