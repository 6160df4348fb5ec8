// Package image makes a memory image to measure with: what the memory of a
// server looks like, from files that every machine with the benchmark has.
//
// # Recipe
//
// Memory is cut into extents of 1 to 512 pages, as an allocator that has run
// for a while leaves it. Each extent is of one kind, drawn by chance in
// proportion to what is left of the kinds:
//
//	zero      40 %  free memory and memory that was never written
//	binary    12 %  programs and libraries: Go's tools, then QEMU and its libraries
//	text       5 %  Go's own sources
//	heap      32 %  records with pointers, small numbers, strings (heap.go)
//	packed     7 %  what is compressed or encrypted: random bytes
//	copy       4 %  pages that are copies of other pages: 7 % of the non-zero ones
//
// Files are laid out as in a page cache: in the order of their names, each on
// pages of its own, with zeros behind its end. Where the files come to an end,
// heap takes their place, and [Summary] tells.
//
// The numbers come from one seeded generator (PCG, whose output Go promises),
// so the same files make the same image. Another release of Go, or of Debian's
// QEMU, changes the files and with them what compression yields by some
// percent: compare figures of one machine and one run.
package image

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
)

const pageSize = 4096

// Kind is what an extent holds.
type Kind int

// The kinds of extents.
const (
	Zero Kind = iota
	Binary
	Text
	Heap
	Packed
	Copy
	kinds
)

// String returns the kind's name.
func (k Kind) String() string {
	return [kinds]string{"zero", "binary", "text", "heap", "packed", "copy"}[k]
}

// shares of the kinds, in percent of memory.
var shares = [kinds]int{Zero: 40, Binary: 12, Text: 5, Heap: 32, Packed: 7, Copy: 4}

// Sources are the folders whose files make up a part of the image.
type Sources struct {
	Binary []string // programs and libraries: files that begin as ELF does, and Go's archives
	Text   []string // files whose names end in .go
}

// GoSources returns the folders of the Go that is installed.
func GoSources() (Sources, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return Sources{}, fmt.Errorf("asking go for its folder: %w", err)
	}
	root := strings.TrimSpace(string(out))
	return Sources{
		Binary: []string{filepath.Join(root, "bin"), filepath.Join(root, "pkg")},
		Text:   []string{filepath.Join(root, "src")},
	}, nil
}

// Summary tells what an image is made of.
type Summary struct {
	Pages [kinds]int
	SHA   string // SHA-256, hexadecimal
}

// String lists the kinds with their pages.
func (s Summary) String() string {
	text := ""
	for k, n := range s.Pages {
		text += fmt.Sprintf("%s %d MiB, ", Kind(k), n*pageSize>>20)
	}
	return text + "sha256 " + s.SHA[:16]
}

// Fill makes the image in mem, which must be zero and of whole pages.
func Fill(mem []byte, from Sources) (Summary, error) {
	if len(mem) == 0 || len(mem)%pageSize != 0 {
		return Summary{}, fmt.Errorf("an image of %d bytes: it has whole pages of %d bytes", len(mem), pageSize)
	}
	binaries, err := listFiles(from.Binary, isProgram)
	if err != nil {
		return Summary{}, err
	}
	texts, err := listFiles(from.Text, isGoSource)
	if err != nil {
		return Summary{}, err
	}
	m := &maker{
		mem:   mem,
		rng:   rand.New(rand.NewPCG(2, 2026)),
		files: map[Kind]*fileReader{Binary: {paths: binaries}, Text: {paths: texts}},
	}
	if err := m.fill(); err != nil {
		return Summary{}, err
	}
	sum := sha256.Sum256(mem)
	m.made.SHA = hex.EncodeToString(sum[:])
	return m.made, nil
}

// maker makes one image.
type maker struct {
	mem   []byte
	rng   *rand.Rand
	files map[Kind]*fileReader
	heap  heap
	made  Summary

	left   [kinds]int // pages of each kind still to be placed
	copies []int      // pages that will be copies
	solid  []int      // pages that are neither zero nor copies
}

func (m *maker) fill() error {
	pages := len(m.mem) / pageSize
	rest := pages
	for k := range m.left {
		m.left[k] = pages * shares[k] / 100
		rest -= m.left[k]
	}
	m.left[Zero] += rest
	for at := 0; at < pages; {
		kind := m.draw(pages - at)
		n := min(m.extent(), m.left[kind])
		m.left[kind] -= n
		if err := m.put(kind, at, n); err != nil {
			return err
		}
		at += n
	}
	for _, at := range m.copies {
		if len(m.solid) > 0 {
			copy(m.page(at), m.page(m.solid[m.rng.IntN(len(m.solid))]))
		}
	}
	return nil
}

// draw chooses the kind of the next extent; total pages are left.
func (m *maker) draw(total int) Kind {
	at := m.rng.IntN(total)
	for k, n := range m.left {
		if at < n {
			return Kind(k)
		}
		at -= n
	}
	return Zero // not reached: total is the sum of left
}

// extent returns a length of 1 to 512 pages, 2 MiB; short ones are frequent.
func (m *maker) extent() int { return 1 + m.rng.IntN(1<<m.rng.IntN(10)) }

func (m *maker) page(at int) []byte { return m.mem[at*pageSize : (at+1)*pageSize] }

// put fills n pages from page at on.
func (m *maker) put(kind Kind, at, n int) error {
	extent := m.mem[at*pageSize : (at+n)*pageSize]
	for i := range n {
		switch kind {
		case Zero:
		case Copy:
			m.copies = append(m.copies, at+i)
		default:
			m.solid = append(m.solid, at+i)
		}
	}
	m.made.Pages[kind] += n
	switch kind {
	case Binary, Text:
		got, err := m.files[kind].read(extent)
		if err != nil {
			return err
		}
		short := (len(extent) - got) / pageSize
		m.made.Pages[kind] -= short
		m.made.Pages[Heap] += short
		m.heap.fill(extent[got:], m.rng)
	case Heap:
		m.heap.fill(extent, m.rng)
	case Packed:
		fillRandom(extent, m.rng)
	}
	return nil
}
