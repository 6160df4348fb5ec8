package image

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func sources(t *testing.T) Sources {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, body []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.bin", append([]byte("\x7fELF"), bytes.Repeat([]byte("code"), 3000)...))
	write("b.go", bytes.Repeat([]byte("package b\n"), 1000))
	write("c", nil)
	write("d.txt", []byte("neither"))
	return Sources{Binary: []string{dir}, Text: []string{dir}}
}

func TestFill(t *testing.T) {
	const pages = 4096
	mem := make([]byte, pages*pageSize)
	made, err := Fill(mem, sources(t))
	if err != nil {
		t.Fatal(err)
	}
	seen, zero, double := map[string]bool{}, 0, 0
	for at := 0; at < len(mem); at += pageSize {
		page := mem[at : at+pageSize]
		switch {
		case bytes.Equal(page, make([]byte, pageSize)):
			zero++
		case seen[string(page)]:
			double++
		default:
			seen[string(page)] = true
		}
	}
	total := 0
	for _, n := range made.Pages {
		total += n
	}
	if total != pages {
		t.Errorf("the kinds have %d pages together, want %d: %v", total, pages, made)
	}
	if share := zero * 100 / pages; share < 38 || share > 42 {
		t.Errorf("%d%% of the pages are zero, want 40%%", share)
	}
	if double != made.Pages[Copy] || double < pages*3/100 {
		t.Errorf("%d pages are copies, want %d", double, made.Pages[Copy])
	}
	if made.Pages[Binary] != 3 || made.Pages[Text] != 3 {
		t.Errorf("files of 3 and 3 pages became %d and %d", made.Pages[Binary], made.Pages[Text])
	}
}

func TestFillIsReproducible(t *testing.T) {
	from := sources(t)
	first, err := Fill(make([]byte, 1<<20), from)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Fill(make([]byte, 1<<20), from)
	if err != nil || first != second {
		t.Errorf("made %v, then %v: %v", first, second, err)
	}
}

func TestFillRefuses(t *testing.T) {
	if _, err := Fill(make([]byte, pageSize+1), Sources{}); err == nil {
		t.Error("an image of a page and a byte was made")
	}
	if _, err := Fill(make([]byte, pageSize), Sources{Text: []string{"/does/not/exist"}}); err == nil {
		t.Error("a folder that is not there was read")
	}
}
