package xen

import (
	"math"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// threeMethods are those that every build has.
var threeMethods = savefmt.AutoMethods[:3]

// simLink is a link, and what each of threeMethods does at this host.
type simLink struct {
	busy  bool // no idle core
	lanes int
	link  float64 // bytes a second
	rates []methodRate
}

// run lets the controller choose until it stays, and returns its choice and
// the best one. It measures only what it uses.
func (s simLink) run(t *testing.T) (got, want int) {
	withLink(s.link, s.rates)
	known := make([]methodRate, len(s.rates))
	link := math.Inf(1) // nothing is known
	last := -1
	for step := 0; got != last; step++ {
		if step > 10 {
			t.Fatal("it does not settle")
		}
		known[got] = s.rates[got]
		known[got].measured = true
		rates := slices.Clone(known)
		withLink(link, rates)
		complete(threeMethods, s.lanes, rates)
		last, got = got, bestMethod(rates, got, s.busy)
		if math.IsInf(link, 1) {
			link, last = s.link, -1 // known as soon as something was sent
		}
	}
	for i, r := range s.rates {
		if r.throughput() > s.rates[want].throughput() {
			want = i
		}
	}
	return got, want
}

// withLink sets the speed of the link for all methods.
func withLink(link float64, rates []methodRate) []methodRate {
	for i := range rates {
		rates[i].link = link
	}
	return rates
}

func TestControllerSettles(t *testing.T) {
	rates := func(scale float64, ratios ...float64) []methodRate {
		speeds := []float64{8e9, 1.1e9, 500e6}
		var out []methodRate
		for i := range speeds {
			out = append(out, methodRate{speed: speeds[i] * scale, ratio: ratios[i]})
		}
		out[0].speed = speeds[0]
		return out
	}
	tests := []struct {
		name string
		sim  simLink
		want string // "" : any that is as good as the best
	}{
		{"100 Mbit/s", simLink{false, 2, 12e6, rates(1, 1, 2.3, 3.2)}, "zstd:1"},
		{"1 Gbit/s", simLink{false, 2, 118e6, rates(1, 1, 2.3, 3.2)}, ""},
		{"2.5 Gbit/s", simLink{false, 2, 295e6, rates(1, 1, 2.3, 3.2)}, savefmt.FastMethod.String()},
		{"10 Gbit/s", simLink{false, 2, 1180e6, rates(1, 1, 2.3, 3.2)}, "off"},
		{"10 Gbit/s, many cores", simLink{false, 8, 1180e6, rates(4, 1, 2.3, 3.2)}, savefmt.FastMethod.String()},
		{"loopback", simLink{false, 2, 2500e6, rates(1, 1, 2.3, 3.2)}, "off"},
		{"1 Gbit/s, slow cores", simLink{false, 2, 118e6, rates(0.1, 1, 2.3, 3.2)}, "off"},
		{"1 Gbit/s, incompressible", simLink{false, 2, 118e6, rates(1, 1, 1, 1.01)}, "off"},
		{"1 Gbit/s, busy host", simLink{true, 2, 118e6, rates(0.6, 1, 2.3, 3.2)}, ""},
		{"slow receiver", simLink{false, 2, 60e6, rates(1, 1, 2.3, 3.2)}, "zstd:1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, best := tt.sim.run(t)
			reached := tt.sim.rates[got].throughput()
			if most := tt.sim.rates[best].throughput(); reached < most/1.03 {
				t.Errorf("settled on %s with %.0f MB/s, %s has %.0f", threeMethods[got], reached/1e6, threeMethods[best], most/1e6)
			}
			if tt.want != "" && threeMethods[got].String() != tt.want {
				t.Errorf("settled on %s, want %s", threeMethods[got], tt.want)
			}
		})
	}
}

// TestControllerKeeps: a gain that is within what figures waver is none.
func TestControllerKeeps(t *testing.T) {
	rates := []methodRate{{speed: 8e9, ratio: 1}, {speed: 500e6, ratio: 2}, {speed: 240e6, ratio: 2.05}}
	if got := bestMethod(withLink(118e6, rates), 1, false); got != 1 {
		t.Errorf("changed from s2 to %s for 2%%", threeMethods[got])
	}
	if got := bestMethod(withLink(math.Inf(1), rates), 2, false); got != 0 {
		t.Errorf("nothing is known of the link, and %s was chosen", threeMethods[got])
	}
}

func TestCompleteScales(t *testing.T) {
	rates := make([]methodRate, len(threeMethods))
	zstd := prior(threeMethods[2])
	rates[2] = methodRate{speed: zstd.speed, ratio: 1 + (zstd.ratio-1)/2, measured: true} // two lanes, each half as fast
	complete(threeMethods, 2, rates)
	s2 := prior(threeMethods[1])
	if got, want := rates[1].speed, s2.speed; math.Abs(got/want-1) > 0.01 {
		t.Errorf("s2: %.0f MB/s, want %.0f", got/1e6, want/1e6)
	}
	if got, want := rates[1].ratio, 1+(s2.ratio-1)/2; math.Abs(got-want) > 0.01 {
		t.Errorf("s2: ratio %.2f, want %.2f", got, want)
	}
	if rates[0].ratio != 1 || rates[0].speed < 7e9 {
		t.Errorf("raw: %+v", rates[0])
	}
}

func TestShift(t *testing.T) {
	for _, tt := range []struct {
		chosen int
		b      backlog
		want   int
	}{
		{0, backlogQueued, 0}, {0, backlogNone, 0},
		{1, backlogNone, 0}, {1, backlogSome, 1}, {1, backlogQueued, 2},
		{2, backlogNone, 1}, {2, backlogSome, 2}, {2, backlogQueued, 2},
	} {
		if got := shift(tt.chosen, len(threeMethods), tt.b); got != tt.want {
			t.Errorf("from %d with backlog %d: %d, want %d", tt.chosen, tt.b, got, tt.want)
		}
	}
}

func TestLocality(t *testing.T) {
	l := locality{rule: DefaultSkip}
	const mib = 1 << 20
	l.saw(mib, mib)
	if l.skip(mib) {
		t.Error("one bad batch, and the next is not tried")
	}
	for _, want := range []int{1, 2, 4, 4} {
		l.saw(mib, mib)
		skipped := 0
		for l.skip(mib) {
			skipped++
		}
		if skipped != want {
			t.Errorf("skipped %d MiB, want %d", skipped, want)
		}
	}
	l.saw(mib, mib/2)
	l.saw(mib, mib)
	if l.skip(mib) {
		t.Error("a good batch was forgotten")
	}
}

func TestCompressionText(t *testing.T) {
	for _, s := range []string{"auto", "off", "s2", "zstd:1", "zlib:6"} {
		if c, err := ParseCompression(s); err != nil || c.String() != s {
			t.Errorf("%s: %s, %v", s, c, err)
		}
	}
	if c, _ := ParseCompression("off"); c != NoCompression {
		t.Errorf("off is %+v", c)
	}
	if _, err := ParseCompression("rar"); err == nil {
		t.Error("rar was taken")
	}
	for _, m := range savefmt.AutoMethods[1:] {
		if _, err := savefmt.NewEncoder(m, 1); err != nil {
			t.Error(err)
		}
	}
}

// TestControllerBusy: a link that looks slow on a host without an idle core is
// not taken at its word, where little would be gained.
func TestControllerBusy(t *testing.T) {
	rates := []methodRate{{speed: 8e9, ratio: 1}, {speed: 550e6, ratio: 2.3}, {speed: 300e6, ratio: 3.2}}
	for _, tt := range []struct {
		current int
		busy    bool
		want    int
	}{{0, true, 0}, {0, false, 1}, {1, true, 0}, {1, false, 1}} {
		if got := bestMethod(withLink(400e6, rates), tt.current, tt.busy); got != tt.want {
			t.Errorf("from %s, busy %v: %s", threeMethods[tt.current], tt.busy, threeMethods[got])
		}
	}
}

func TestHostLoad(t *testing.T) {
	now := time.Unix(1000, 0)
	for cores, want := range map[int]float64{1: 0.5, 2: 0.5, 4: 0.25, 10: 0.1, 64: 0.1} {
		if got := leastIdle(cores); got != want {
			t.Errorf("of %d cores %v must be idle, not %v", cores, got, want)
		}
	}
	h := &hostLoad{least: idleLeast}
	for _, tt := range []struct {
		stat string
		busy bool
	}{
		{"cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1 1 1 1\n", true}, // nothing is known yet
		{"cpu  110 0 110 880 0 0 0 0 0 0\n", false},
		{"cpu  200 0 120 882 0 0 0 0 0 0\n", true},
		{"nonsense", true},
	} {
		h.read = func() ([]byte, error) { return []byte(tt.stat), nil }
		if got := h.busy(now); got != tt.busy {
			t.Errorf("%q: busy %v", tt.stat, got)
		}
		now = now.Add(loadWindow)
	}
}

// TestTrust: a method that was tried in vain is trusted to be so for longer
// each time.
func TestTrust(t *testing.T) {
	r := laneRate{last: time.Unix(1000, 0)}
	for _, want := range []time.Duration{rateStale, 2 * rateStale, 4 * rateStale} {
		if r.stale(r.last.Add(want)) || !r.stale(r.last.Add(want+1)) {
			t.Errorf("trusted for something else than %v", want)
		}
		r.left(false)
	}
	for range 10 {
		r.left(false)
	}
	if !r.stale(r.last.Add(rateStalest + 1)) {
		t.Error("trusted for ever")
	}
}

// TestTooSlow: a processor that encodes slowly finds that out in a short time,
// goes back to pages as they are, and does not try again soon.
func TestTooSlow(t *testing.T) {
	const (
		link = 15e6 // bytes a second
		slow = 8e6
	)
	tuner := newTuner(Compression{}, 1)
	tuner.load.read = func() ([]byte, error) { return nil, os.ErrNotExist }
	now := time.Now()
	tuner.link.speeds[0] = linkSpeed{best: link, known: true, at: now}
	tuner.decide(now, tuner.plan.Load())
	tried := tuner.current
	if tried == 0 {
		t.Fatal("compressing is not tried")
	}
	for took := time.Duration(0); took < rateLong; took += 50 * time.Millisecond {
		tuner.decide(now, tuner.plan.Load())
		if tuner.current != tried {
			t.Fatalf("given up after %v", took)
		}
		tuner.prepared(tried, slow/20, slow/40, 50*time.Millisecond)
	}
	tuner.decide(now, tuner.plan.Load())
	if tuner.current != 0 {
		t.Errorf("goes on with method %d", tuner.current)
	}
	if r := &tuner.rates[tried]; r.stale(r.last.Add(rateStaleSlow)) || !r.stale(r.last.Add(rateStaleSlow+1)) {
		t.Errorf("trusted for %v, want %v", r.trust, rateStaleSlow)
	}
}

// A lane that has little to send does not mean that the link has room.
func TestLinkFull(t *testing.T) {
	const link = 100e6 // bytes a second
	var m linkMeter
	now := time.Unix(0, 0)
	window := func(rate float64, unsent int) bool {
		m.due(now, 0, 0)
		now = now.Add(linkWindow)
		size := int(rate * linkWindow.Seconds())
		m.due(now, size, 0)
		m.sample(now, unsent, 2, 1)
		return m.full(1, now)
	}
	if window(link/2, 0) {
		t.Error("full before it is known what it takes")
	}
	for range 20 {
		window(link, backlogBytes)
	}
	if !window(link, 0) {
		t.Error("not full at what it takes")
	}
	for range 5 {
		window(link*0.7, 0)
	}
	if m.full(1, now) {
		t.Error("full at seven tenths of what it takes")
	}
	if m.full(1, now.Add(linkStale*2)) {
		t.Error("full by figures that are stale")
	}
}

// TestLinkStoodStill: an end that stood still at the start looks like a slow link.
// That is believed for a moment where nothing else says so, and for longer the
// longer it was seen; and a link that all wait for stays slow.
func TestLinkStoodStill(t *testing.T) {
	const slow, fast = 100e6, 2e9 // bytes a second
	var m linkMeter
	now := time.Unix(0, 0)
	window := func(method int, rate float64, unsent int) {
		m.due(now, 0, 0)
		now = now.Add(linkWindow)
		size := int(rate * linkWindow.Seconds())
		m.due(now, size+unsent, 0)
		m.sample(now, unsent, 2, method)
		m.written -= unsent
	}
	pass := func(took time.Duration, method int, rate float64, unsent int) {
		for end := now.Add(took); now.Before(end); {
			window(method, rate, unsent)
		}
	}
	expect := func(when string, known bool) {
		t.Helper()
		if got := m.speed(0, now); math.IsInf(got, 1) == known {
			t.Errorf("%s, the link is taken for one of %.0f MB/s", when, got/1e6)
		}
	}
	pass(3*linkWindow, 0, slow, backlogBytes)
	expect("after a moment that was slow", true)
	pass(linkTrust-linkWindow, 1, slow, 0)
	expect("soon after", true)
	pass(2*linkTrust, 1, slow, 0)
	expect("when nothing has waited for it since", false)
	window(0, fast, backlogBytes)
	if got := m.speed(0, now); got < fast/2 {
		t.Errorf("seen to be fast, it is taken for one of %.0f MB/s: half of that is from before", got/1e6)
	}

	m = linkMeter{}
	pass(3*linkWindow, 0, slow, backlogBytes)
	pass(linkStale-5*linkWindow, 1, slow, backlogBytes)
	expect("as long as all wait for it", true)

	m = linkMeter{}
	pass(linkTrust, 0, slow, backlogBytes)
	pass(4*linkTrust, 1, slow, 0)
	expect("having been slow for longer", true)
}
