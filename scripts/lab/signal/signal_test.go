package signal

import (
	"strings"
	"testing"
	"time"
)

const ms = int64(time.Millisecond)

// samples makes n suspends that were known after from to from+n-1 ms, each with
// a doubt of 1 ms.
func samples(n int, from int64) []Sample {
	var out []Sample
	for i := range int64(n) {
		at := 1000 * ms
		out = append(out, Sample{Running: at, Stopped: at + ms, Known: at + (from+i)*ms})
	}
	return out
}

func TestSpread(t *testing.T) {
	for n, want := range map[int]Spread{
		0:   {},
		1:   {1, 1, 1, 1},
		2:   {2, 1, 2, 2},
		99:  {99, 50, 99, 99},
		100: {100, 50, 99, 100},
		200: {200, 100, 198, 200},
	} {
		var all []time.Duration
		for i := n; i > 0; i-- {
			all = append(all, time.Duration(i))
		}
		if got := spreadOf(all); got != want {
			t.Errorf("%d: %+v, want %+v", n, got, want)
		}
	}
}

func TestSample(t *testing.T) {
	s := Signals{Event: samples(3, 5), Watch: samples(3, 5)}
	if e, w := s.EventSpread(), s.WatchSpread(); e.Worst != 7*time.Millisecond || w.Worst != 6*time.Millisecond {
		t.Errorf("worst of the event %v, of the watch %v: the doubt must speak against the event", e.Worst, w.Worst)
	}
	if s.Doubt() != time.Millisecond {
		t.Errorf("doubt %v", s.Doubt())
	}
	s.Event[1].Told = s.Event[1].Known + 3*ms
	if told := s.ToldSpread(); told.Worst != 3*time.Millisecond {
		t.Errorf("told %v after it was known", told.Worst)
	}
	if quick := (Sample{Running: 1, Stopped: 9, Known: 5}); quick.AtLeast() != 0 || quick.AtMost() != 4 {
		t.Errorf("known before the poller: %v to %v", quick.AtLeast(), quick.AtMost())
	}
}

func TestBars(t *testing.T) {
	saves := func(tool string, n, failed int) (out []Save) {
		for i := range n {
			s := Save{Tool: tool, Took: time.Second}
			if i < failed {
				s.Error = "no"
			}
			out = append(out, s)
		}
		return out
	}
	for _, tc := range []struct {
		name   string
		doc    Document
		missed string // in the bar that is missed; "" for none
	}{
		{"all held", Document{
			Signals: []Signals{{Clients: 48, Event: samples(30, -27), Watch: samples(30, 100)}},
			Saves:   &Saves{Clients: 48, Saves: append(saves("xl", 20, 20), saves("xenferry", 20, 0)...)},
		}, ""},
		{"a slow event", Document{Signals: []Signals{{Clients: 12, Event: samples(30, -26), Watch: samples(30, 1000)}}}, "channel, p99 with 12"},
		{"a watch as quick", Document{Signals: []Signals{{Clients: 48, Event: samples(30, -27), Watch: samples(30, 2)}}}, "to watch"},
		{"only the heaviest is compared", Document{Signals: []Signals{
			{Clients: 48, Event: samples(30, -27), Watch: samples(30, 1000)},
			{Clients: 0, Event: samples(30, -27), Watch: samples(30, 2)},
		}}, ""},
		{"no watch", Document{Signals: []Signals{{Clients: 48, Event: samples(30, -27)}}}, "to watch"},
		{"a failed save", Document{Saves: &Saves{Saves: saves("xenferry", 20, 1)}}, "failed saves"},
		{"few saves", Document{Saves: &Saves{Saves: saves("xenferry", 19, 0)}}, "failed saves"},
	} {
		tc.doc.SetBars()
		var out strings.Builder
		missed := tc.doc.Print(&out)
		want := 0
		if tc.missed != "" {
			want = 1
		}
		if missed != want {
			t.Errorf("%s: %d missed, want %d\n%s", tc.name, missed, want, &out)
		}
		for _, b := range tc.doc.Bars {
			if b.Missed() != (tc.missed != "" && strings.Contains(b.Name, tc.missed)) {
				t.Errorf("%s: %v", tc.name, b)
			}
		}
	}
	few := Document{Signals: []Signals{{Clients: 48, Event: samples(29, -27), Watch: samples(29, 1000)}}}
	few.SetBars()
	for _, b := range few.Bars {
		if !b.Missed() {
			t.Errorf("29 suspends are enough for: %v", b)
		}
	}
}
