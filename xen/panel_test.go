package xen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/xenferry/xenferry/evtchn"
	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/savefmt"
)

func someFigures() Figures {
	return Figures{
		Updated: time.Unix(1700000000, 5), Began: time.Unix(1600000000, 7), Phase: "destination ready", MemoryPages: 1 << 40,
		Round: 3, RoundTime: time.Minute, Pages: 4, OfPages: 5, Zero: 6, Copied: 7, WireBytes: 1 << 50, BytesPerS: 8,
		Stages: StageTimes{Read: 9, Compress: 10, Write: 11, Held: 19}, Dirty: 12, Connections: 13, Method: "zstd-long:22",
		Compress: "auto", RateBits: 14e6, MaxDowntime: 15, Threads: 17, Throttle: 18, Changes: 16, Tunable: true,
	}
}

// TestFiguresLayout: the record is as long as it says, fits, and is read as it
// was written.
func TestFiguresLayout(t *testing.T) {
	want := someFigures()
	var record [figuresWords]uint64
	w := words{list: record[:]}
	want.layout(&w)
	if w.at != figuresWords || figuresWords > evtchn.RecordWords {
		t.Errorf("%d words, not %d; there is room for %d", w.at, figuresWords, evtchn.RecordWords)
	}
	if got, err := parseFigures(record[:]); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if record[0] != 1700000000000000005 || record[7] != 3 || record[25] != 14e6 {
		t.Errorf("fields are not where the table says: %d", record)
	}
}

func TestFiguresHostile(t *testing.T) {
	tests := map[string]struct {
		word  int
		value uint64
	}{
		"negative time":     {8, 1 << 63},
		"text with escapes": {2, 0x1b},
		"no UTF-8":          {21, 0xff},
		"no flag":           {30, 2},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var record [evtchn.RecordWords]uint64
			f := someFigures()
			f.layout(&words{list: record[:]})
			record[tt.word] = tt.value
			if _, err := parseFigures(record[:]); !errors.Is(err, evtchn.ErrBadPage) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestChangeLayout(t *testing.T) {
	rate, none, pause := uint64(800e6), uint64(0), 300*time.Millisecond
	threads, throttle := uint64(3), uint64(MaxThrottle)
	strong := Compression{Fixed: true, Method: savefmt.Method{Codec: savefmt.CodecZstd, Level: 22}}
	for _, want := range []Change{
		{RateBits: &rate}, {RateBits: &none}, {MaxDowntime: &pause}, {Compress: &strong}, {Compress: &Compression{}},
		{Threads: &threads}, {Throttle: &throttle}, {Throttle: &none},
		{RateBits: &rate, Compress: &NoCompression, MaxDowntime: &pause},
	} {
		request := want.words()
		if got, err := parseChange(request[:]); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %s, %v", want, got, err)
		}
	}
	slow := uint64(1000)
	for name, request := range map[string][evtchn.RequestWords]uint64{
		"nothing": {}, "something unknown": {changeBits}, "too slow": Change{RateBits: &slow}.words(),
		"no compression": {changeCompress, 0, 0, 'x'}, "negative pause": {changeDowntime, 0, 1 << 63},
	} {
		if c, err := parseChange(request[:]); err == nil {
			t.Errorf("%s is accepted: %s", name, c)
		}
	}
}

func TestAnswers(t *testing.T) {
	for _, err := range []error{nil, errors.New("because"), errors.New(strings.Repeat("long ", 300))} {
		answer := answerTo(err)
		switch got := parseAnswer(answer[:]); {
		case err == nil && got != nil:
			t.Error(got)
		case err != nil && (!errors.Is(got, ErrChangeRefused) || !strings.HasPrefix("refused: "+err.Error(), got.Error())):
			t.Errorf("%q", got)
		}
	}
	if err := parseAnswer(make([]uint64, evtchn.AnswerWords)); !errors.Is(err, evtchn.ErrBadPage) {
		t.Error(err)
	}
}

// FuzzPanel reads records, requests and answers of any words.
func FuzzPanel(f *testing.F) {
	good := Change{Compress: &NoCompression}.words()
	seed := make([]byte, 0, 8*len(good))
	for _, w := range good {
		for k := range 8 {
			seed = append(seed, byte(w>>(8*k)))
		}
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		list := make([]uint64, evtchn.AnswerWords)
		for i, v := range b[:min(len(b), 8*len(list))] {
			list[i/8] |= uint64(v) << (i % 8 * 8)
		}
		_ = parseAnswer(list)
		if c, err := parseChange(list[:evtchn.RequestWords]); err == nil {
			again := c.words()
			if got, err := parseChange(again[:]); err != nil || !reflect.DeepEqual(got, c) {
				t.Errorf("%s was accepted, and then %s, %v", c, got, err)
			}
		}
		if figures, err := parseFigures(list); err == nil {
			again := make([]uint64, figuresWords)
			figures.layout(&words{list: again})
			if got, err := parseFigures(again); err != nil || !reflect.DeepEqual(got, figures) {
				t.Errorf("%+v was accepted, and then %+v, %v", figures, got, err)
			}
		}
	})
}

// TestCompressionChanges changes it in the middle of rounds, among others to
// methods that nobody thought of at the start: the other end must follow.
func TestCompressionChanges(t *testing.T) {
	host := &fakeHost{}
	dom := newFakeDomain(host, 1600)
	dom.types = nil
	dom.fillMixed()
	out := &bufferWriter{}
	s, err := newSender(dom, []frameWriter{out}, &PipeOptions{Compress: NoCompression})
	if err != nil {
		t.Fatal(err)
	}
	order := []string{"zstd:3", "zlib:1", "auto", "zstd:7", "zstd:7", "s2", "off", "zlib:9", "auto", "off", "zstd:3"}
	maps := 0
	host.onCall = func(method string) {
		if maps++; maps%2 == 0 && maps/2 <= len(order) {
			c, err := ParseCompression(order[maps/2-1])
			if err != nil {
				t.Fatal(err)
			}
			if err := encodeBy(s.tuner, c); err != nil {
				t.Error(err)
			}
		}
	}
	all := NewBitmap(dom.Pages())
	all.SetAll(dom.Pages())
	used := map[string]bool{}
	for round := range 4 {
		flags := savefmt.FlagLive
		if round == 3 {
			flags = savefmt.FlagLast
		}
		stats, err := s.send(t.Context(), round, all, flags, round == 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range stats.Methods {
			used[m.Method] = true
		}
	}
	for _, want := range []string{"off", "s2", "zstd:3", "zstd:7", "zlib:1", "zlib:9"} {
		if !used[want] {
			t.Errorf("%s was never used: %v", want, used)
		}
	}
	in := &fakeIncoming{h: &fakeHost{}, mem: make([]byte, len(dom.mem))}
	mem := newMemory(in, dom.Pages())
	if err := newPageReader(mem, newBarrier(t.Context(), 1)).serve(newFrameReader(&out.Buffer)); err != nil {
		t.Fatal(err)
	}
	if err := mem.settled(); err != nil || !bytes.Equal(in.mem, dom.mem) {
		t.Errorf("memory differs (%v)", err)
	}
}

// TestCompressionsRunOut: there is a bound on the encoders of a migration, and
// what is in use stays.
func TestCompressionsRunOut(t *testing.T) {
	tuner := newTuner(Compression{}, 1)
	var err error
	for level := 4; err == nil && level <= 22; level++ {
		err = encodeBy(tuner, Compression{Fixed: true, Method: savefmt.Method{Codec: savefmt.CodecZstd, Level: level}})
	}
	last := fmt.Sprintf("zstd:%d", 3+maxMethods-len(savefmt.AutoMethods))
	if err == nil || tuner.methodNow() != last || len(tuner.methods.all()) != maxMethods {
		t.Errorf("%v, now %s", err, tuner.methodNow())
	}
	if err := encodeBy(tuner, Compression{}); err != nil || tuner.methodNow() != "off" {
		t.Errorf("back to auto: %v, now %s", err, tuner.methodNow())
	}
}

// encodeBy is what xenferry tune --compress comes to.
func encodeBy(t *tuner, c Compression) error {
	p, err := t.planFor(c)
	if err == nil {
		t.set(p)
	}
	return err
}

// noProtection tells a test the migration's id.
type noProtection struct{}

func (noProtection) Append(fallback.Record, bool) error { return nil }
func (noProtection) Ready(context.Context) error        { return nil }
func (noProtection) Release(bool)                       {}

// TestPanel looks at a migration, and changes it, at three moments.
func TestPanel(t *testing.T) {
	rate, pause := uint64(900e6), 3*time.Second
	zstd := Compression{Fixed: true, Method: savefmt.Method{Codec: savefmt.CodecZstd, Level: 3}}
	full := Change{RateBits: &rate, Compress: &zstd, MaxDowntime: &pause}
	m := newMove()
	id := ""
	m.opts.Panel, m.opts.Pipe.Connections = true, 1
	m.opts.Protect = func(_ context.Context, begun fallback.Migration) (Protection, error) {
		id = begun.ID
		return noProtection{}, nil
	}
	var notes []string
	m.opts.Observe = func(e Event) {
		if e.Kind == EventNote {
			notes = append(notes, e.Text)
		}
	}
	at := map[string]func(v *PanelView) error{
		"StaticState": func(v *PanelView) error {
			if err := v.Change(t.Context(), full, time.Minute); !errors.Is(err, ErrChangeRefused) || !strings.Contains(err.Error(), "not open yet") {
				return fmt.Errorf("before there are connections: %w", err)
			}
			return expectFigures(v, func(f *Figures) bool { return f.Phase == "connect" && f.Changes == 0 && f.RateBits == 0 })
		},
		"Map": func(v *PanelView) error {
			if err := v.Change(t.Context(), full, time.Minute); err != nil {
				return err
			}
			return expectFigures(v, func(f *Figures) bool {
				return f.Phase == "copy" && f.Changes == 1 && f.RateBits == rate && f.Compress == "zstd:3" && f.MaxDowntime == pause &&
					f.Connections == 1 && f.MemoryPages == 1000 && f.Tunable
			})
		},
		"FinalState": func(v *PanelView) error {
			if err := v.Change(t.Context(), Change{MaxDowntime: &pause}, time.Minute); !errors.Is(err, ErrChangeRefused) {
				return fmt.Errorf("while the pause is counted: %w", err)
			}
			return expectFigures(v, func(f *Figures) bool { return f.Phase == "last pages" && f.Changes == 1 })
		},
	}
	var once sync.Mutex
	m.src.onCall = func(method string) {
		once.Lock()
		defer once.Unlock()
		look := at[method]
		delete(at, method)
		if look == nil {
			return
		}
		v, err := OpenPanel(id, fallback.SideSource, true)
		if err != nil {
			t.Error(method, err)
			return
		}
		defer v.Close()
		if err := look(v); err != nil {
			t.Error(method, err)
		}
	}
	m.run(t.Context(), t)
	m.expectMoved(t)
	if len(at) > 0 {
		t.Errorf("never came to %v", at)
	}
	if m.report.Compress != "auto, then zstd:3" || !strings.Contains(strings.Join(notes, "\n"), "bandwidth limit 900 Mbit/s, compression zstd:3, limit of the downtime 3s") {
		t.Errorf("compression %s, notes %q", m.report.Compress, notes)
	}
	if _, err := OpenPanel(id, fallback.SideSource, false); !errors.Is(err, evtchn.ErrNoPage) {
		t.Errorf("the panel is still there: %v", err)
	}
}

func expectFigures(v *PanelView, good func(*Figures) bool) error {
	f, err := v.Figures()
	if err == nil && !good(&f) {
		err = fmt.Errorf("figures %+v", f)
	}
	return err
}

// TestTunedDowntime: the limit that was set while it ran is the one that counts.
func TestTunedDowntime(t *testing.T) {
	m := newMove()
	id, tiny := "", time.Nanosecond
	m.opts.Panel = true
	m.opts.Protect = func(_ context.Context, begun fallback.Migration) (Protection, error) {
		id = begun.ID
		return noProtection{}, nil
	}
	m.src.onCall = func(method string) {
		if method != "StartLogDirty" {
			return
		}
		v, err := OpenPanel(id, fallback.SideSource, true)
		if err == nil {
			err = v.Change(t.Context(), Change{MaxDowntime: &tiny}, time.Minute)
			v.Close()
		}
		if err != nil {
			t.Error(err)
		}
	}
	m.run(t.Context(), t)
	m.expectAtSource(t)
	if !errors.Is(m.srcErr, ErrDowntime) {
		t.Error(m.srcErr)
	}
}

// TestPanelOfSave: a save can be looked at, and takes no changes.
func TestPanelOfSave(t *testing.T) {
	host, dom := newSaved(TypePVH)
	id, looked := "", false
	host.onCall = func(method string) {
		if method != "Suspend" {
			return
		}
		looked = true
		v, err := OpenPanel(id, fallback.SideSource, true)
		if err != nil {
			t.Error(err)
			return
		}
		defer v.Close()
		err = expectFigures(v, func(f *Figures) bool {
			return f.Phase == "suspend" && !f.Tunable && f.Compress == "zstd" && f.Dirty > 0 && f.MemoryPages == savedPages
		})
		if err != nil {
			t.Error(err)
		}
		if err := v.Change(t.Context(), Change{Compress: &NoCompression}, time.Minute); !errors.Is(err, ErrChangeRefused) {
			t.Error(err)
		}
	}
	zstd := savefmt.BlockZstd
	var file memoryTarget
	_, err := Save(t.Context(), host, dom, &file, SaveOptions{
		Live: true, Codec: &zstd, Panel: true,
		Protect: func(_ context.Context, begun fallback.Migration) (Protection, error) {
			id = begun.ID
			return noProtection{}, nil
		},
	})
	if err != nil || !looked {
		t.Errorf("looked at it: %v, %v", looked, err)
	}
	if _, err := OpenPanel(id, fallback.SideSource, false); !errors.Is(err, evtchn.ErrNoPage) {
		t.Errorf("the panel is still there: %v", err)
	}
}

// TestBottleneck: a cap is no fault of the link's.
func TestBottleneck(t *testing.T) {
	for want, stages := range map[string]StageTimes{
		BottleneckLink:     {Read: 1, Compress: 2, Write: 4},
		BottleneckLimit:    {Read: 1, Compress: 2, Write: 1, Held: 3},
		BottleneckCompress: {Read: 1, Compress: 5, Write: 2, Held: 3},
		BottleneckRead:     {Read: 6, Compress: 1, Held: 2},
	} {
		if got := stages.bottleneck(); got != want {
			t.Errorf("%+v: %s, not %s", stages, got, want)
		}
	}
}
