package memcheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
)

func newArea(t testing.TB, pages int, opts Options) (*Area, []byte) {
	t.Helper()
	mem := make([]byte, pages*PageSize)
	a, err := New(mem, opts)
	if err != nil {
		t.Fatal(err)
	}
	return a, mem
}

func mustBeClean(t *testing.T, a *Area) {
	t.Helper()
	if bad, first := a.VerifyAll(); bad != 0 {
		t.Fatalf("%d bad pages: %v", bad, first)
	}
}

func TestFreshAreaIsClean(t *testing.T) {
	for _, pages := range []int{MinPages, 4, 513, 514, 515, 1027, 2000} {
		a, mem := newArea(t, pages, Options{Seed: 7, ZeroShare: 0.4, Workers: 3})
		mustBeClean(t, a)
		if got := a.PageOf(a.Pages()); got != pages {
			t.Errorf("%d pages: the last data page is %d", pages, got-1)
		}
		b, err := Attach(mem, Options{Seed: 7})
		if err != nil {
			t.Fatal(err)
		}
		mustBeClean(t, b)
	}
}

func TestSameSeedSameContents(t *testing.T) {
	_, m1 := newArea(t, 100, Options{Seed: 1, ZeroShare: 0.3})
	_, m2 := newArea(t, 100, Options{Seed: 1, ZeroShare: 0.3, Workers: 4})
	_, m3 := newArea(t, 100, Options{Seed: 2, ZeroShare: 0.3})
	if !bytes.Equal(m1, m2) {
		t.Error("the number of workers changes the contents")
	}
	if bytes.Equal(m1, m3) {
		t.Error("the seed does not change the contents")
	}
}

func TestZeroShare(t *testing.T) {
	for _, share := range []float64{0, 0.4, 1} {
		a, _ := newArea(t, 4000, Options{Seed: 3, ZeroShare: share})
		zero := 0
		for i := range a.Pages() {
			if bytes.Equal(a.page(i), zeroPage[:]) {
				zero++
			}
		}
		got := float64(zero) / float64(a.Pages())
		if got < share-0.03 || got > share+0.03 {
			t.Errorf("share %g: %g of the pages are zero", share, got)
		}
	}
}

func TestBadOptions(t *testing.T) {
	for _, c := range []struct {
		size  int
		share float64
	}{
		{0, 0}, {2 * PageSize, 0}, {3*PageSize + 1, 0}, {8 * PageSize, -0.1}, {8 * PageSize, 1.1},
	} {
		if _, err := New(make([]byte, c.size), Options{ZeroShare: c.share}); err == nil {
			t.Errorf("New(%d bytes, share %g) succeeded", c.size, c.share)
		}
	}
}

// findKind returns a data page of that kind.
func findKind(t *testing.T, a *Area, kind Kind) int {
	t.Helper()
	for i := range a.Pages() {
		if a.entry(i).kind() == kind {
			return i
		}
	}
	t.Fatalf("no %s page", kind)
	return 0
}

// writeTo gives data page i a version of a kind.
func writeTo(a *Area, i int, kind Kind) {
	a.put(i, a.Version(i)+1, kind)
}

func TestDamageIsFound(t *testing.T) {
	cases := []struct {
		name   string
		want   error
		bad    int
		damage func(t *testing.T, a *Area, mem []byte)
	}{
		{"bit flip in a body", ErrCorrupt, 1, func(t *testing.T, a *Area, _ []byte) {
			a.page(findKind(t, a, KindHeap))[4000] ^= 0x10
		}},
		{"bit flip in a header", ErrCorrupt, 1, func(t *testing.T, a *Area, _ []byte) {
			a.page(findKind(t, a, KindText))[offPVersion] ^= 1
		}},
		{"bit flip in the last byte", ErrCorrupt, 1, func(t *testing.T, a *Area, _ []byte) {
			a.page(findKind(t, a, KindRandom))[PageSize-1] ^= 0x80
		}},
		{"zero page not zero", ErrCorrupt, 1, func(t *testing.T, a *Area, _ []byte) {
			a.page(findKind(t, a, KindZero))[77] = 1
		}},
		{"page lost, zeros instead", ErrStale, 1, func(t *testing.T, a *Area, _ []byte) {
			clear(a.page(findKind(t, a, KindHeap)))
		}},
		{"stale page", ErrStale, 1, func(t *testing.T, a *Area, _ []byte) {
			writeTo(a, 9, KindText)
			old := bytes.Clone(a.page(9))
			writeTo(a, 9, KindHeap)
			copy(a.page(9), old)
		}},
		{"stale page where zeros were written", ErrStale, 1, func(t *testing.T, a *Area, _ []byte) {
			i := findKind(t, a, KindHeap)
			old := bytes.Clone(a.page(i))
			writeTo(a, i, KindZero)
			copy(a.page(i), old)
		}},
		{"stale after a small write", ErrStale, 1, func(t *testing.T, a *Area, _ []byte) {
			i := findKind(t, a, KindHeap)
			old := bytes.Clone(a.page(i))
			if err := a.WriteSmall(i); err != nil {
				t.Fatal(err)
			}
			copy(a.page(i), old)
		}},
		{"swapped pages", ErrMisplaced, 2, func(t *testing.T, a *Area, _ []byte) {
			i, j := findKind(t, a, KindHeap), findKind(t, a, KindText)
			old := bytes.Clone(a.page(i))
			copy(a.page(i), a.page(j))
			copy(a.page(j), old)
		}},
		{"page of another guest", ErrMisplaced, 1, func(t *testing.T, a *Area, _ []byte) {
			b, _ := newArea(t, 600, Options{Seed: 12})
			copy(a.page(5), b.page(5))
		}},
		{"stale table page", ErrTable, 1, func(t *testing.T, a *Area, mem []byte) {
			old := bytes.Clone(mem[PageSize : 2*PageSize])
			writeTo(a, 3, KindText)
			copy(mem[PageSize:], old)
		}},
		{"bit flip in the table", ErrTable, 1, func(_ *testing.T, _ *Area, mem []byte) {
			mem[PageSize+8*17+5] ^= 2
		}},
		{"table page lost", ErrTable, 512, func(_ *testing.T, _ *Area, mem []byte) {
			clear(mem[PageSize : 2*PageSize])
		}},
		{"header damaged", ErrCorrupt, 1, func(_ *testing.T, _ *Area, mem []byte) {
			mem[offPages] ^= 1
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a, mem := newArea(t, 600, Options{Seed: 11, ZeroShare: 0.3})
			c.damage(t, a, mem)
			bad, first := a.VerifyAll()
			if bad != c.bad {
				t.Fatalf("%d bad pages, want %d: %v", bad, c.bad, first)
			}
			if !errors.Is(first[0], c.want) {
				t.Errorf("error %q, want one of kind %q", first[0], c.want)
			}
		})
	}
}

func TestAttachRefusesOtherArea(t *testing.T) {
	_, mem := newArea(t, 20, Options{Seed: 1})
	if _, err := Attach(mem, Options{Seed: 2}); !errors.Is(err, ErrMisplaced) {
		t.Errorf("other seed: %v", err)
	}
	if _, err := Attach(mem[:19*PageSize], Options{Seed: 1}); err == nil {
		t.Error("a shorter area was attached")
	}
	if _, err := Attach(make([]byte, 20*PageSize), Options{Seed: 1}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("empty memory: %v", err)
	}
	binary.LittleEndian.PutUint32(mem[offLayout:], 9)
	if _, err := Attach(mem, Options{Seed: 1}); err == nil {
		t.Error("an area of another layout was attached")
	}
}

func TestWritesKeepAreaClean(t *testing.T) {
	a, _ := newArea(t, 300, Options{Seed: 5, ZeroShare: 0.5})
	rng := rand(1)
	for n := range 5000 {
		i := int(rng.next() % uint64(a.Pages()))
		write := a.Write
		if n%2 == 0 {
			write = a.WriteSmall
		}
		if err := write(i); err != nil {
			t.Fatal(err)
		}
	}
	mustBeClean(t, a)
}

func TestWriteReportsAndRepairs(t *testing.T) {
	for _, write := range []string{"whole", "small"} {
		a, mem := newArea(t, 50, Options{Seed: 5})
		f := a.Write
		if write == "small" {
			f = a.WriteSmall
		}
		a.page(7)[100] ^= 1
		mem[PageSize+8*9] ^= 1
		if err := f(7); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s write over a corrupt page: %v", write, err)
		}
		if err := f(9); !errors.Is(err, ErrTable) {
			t.Errorf("%s write over a corrupt entry: %v", write, err)
		}
		mustBeClean(t, a)
	}
}

// Every page that a write changes must be touched after its change.
func TestTouchedAfterEveryChange(t *testing.T) {
	const pages = 1100
	mem := make([]byte, pages*PageSize)
	shadow := make([]byte, pages*PageSize)
	opts := Options{Seed: 8, ZeroShare: 0.2, Touched: func(p int) {
		copy(shadow[p*PageSize:(p+1)*PageSize], mem[p*PageSize:])
	}}
	a, err := New(mem, opts)
	if err != nil {
		t.Fatal(err)
	}
	for i := range a.Pages() {
		if err := errors.Join(a.Write(i), a.WriteSmall(i)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(mem, shadow) {
		t.Error("a page was changed after it was touched, or never touched")
	}
}

func TestKindsDiffer(t *testing.T) {
	names := map[string]bool{}
	for k := KindZero; k <= kinds; k++ {
		names[k.String()] = true
	}
	if len(names) != int(kinds)+1 {
		t.Errorf("names of kinds: %v", names)
	}
}

func BenchmarkFill(b *testing.B) {
	mem := make([]byte, 64<<20)
	clear(mem)
	for _, share := range []float64{0, DefaultZeroShare} {
		b.Run(fmt.Sprintf("zero=%g", share), func(b *testing.B) {
			b.SetBytes(int64(len(mem)))
			for b.Loop() {
				if _, err := New(mem, Options{ZeroShare: share}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkWrite(b *testing.B) {
	a, _ := newArea(b, 16384, Options{ZeroShare: DefaultZeroShare})
	for name, f := range map[string]func(int) error{"whole": a.Write, "small": a.WriteSmall, "verify": a.Verify} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(PageSize)
			i := 0
			for b.Loop() {
				if err := f(i * 7919 % a.Pages()); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}
