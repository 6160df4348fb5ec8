package sim

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/memcheck"
)

// A guest with an image has the file's pages at the same pfns, but for the hole
// and for the checked area, which starts at areaStart and is as large as what
// the workload writes. The rest is never written: its sum, taken when the guest
// is made, travels with the guest, and each full verification compares it.

// idleAreaPages is the area of a guest that writes nothing.
const idleAreaPages = 256

// areaEnd is the pfn behind the last page of the checked area.
func (c *GuestConfig) areaEnd() uint64 {
	if c.Image == "" {
		return c.pages()
	}
	load, err := memcheck.ParseWorkload(c.Workload)
	if err != nil || load.Set == 0 {
		return areaStart + idleAreaPages
	}
	data := load.Set / xen.PageSize
	return areaStart + 2 + data + data/(xen.PageSize/8) // with header and table
}

// checkArea tells whether a guest with an image has room for its workload.
func (c *GuestConfig) checkArea() error {
	if c.Image == "" {
		return nil
	}
	load, err := memcheck.ParseWorkload(c.Workload)
	switch {
	case err != nil:
		return err
	case load.Pattern != memcheck.PatternIdle && load.Set == 0:
		return fmt.Errorf("workload %s on an image: say how much of memory it writes: uniform:100MB/s,set=256MiB", c.Workload)
	case c.areaEnd() > c.pages():
		return fmt.Errorf("workload %s writes more memory than the guest's %d MiB", c.Workload, c.MemMiB)
	}
	return nil
}

// imageParts are the pieces of memory that come from the image.
func (g *guest) imageParts() [][]byte {
	part := func(from, to uint64) []byte { return g.mem[from*xen.PageSize : to*xen.PageSize] }
	return [][]byte{part(0, holeStart), part(holeEnd, areaStart), part(g.cfg.areaEnd(), g.cfg.pages())}
}

// loadImage fills memory from the image, if the guest has one. Every page is
// written, zeros too: a guest that has run for a while has all its memory.
func (g *guest) loadImage() error {
	if g.cfg.Image == "" {
		return nil
	}
	f, err := os.Open(g.cfg.Image)
	if err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	defer f.Close()
	_, err = io.ReadFull(f, g.mem[:holeStart*xen.PageSize])
	if err == nil {
		_, err = f.ReadAt(g.mem[holeEnd*xen.PageSize:], holeEnd*xen.PageSize)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("memory: image %s is smaller than the guest's %d MiB", g.cfg.Image, g.cfg.MemMiB)
	}
	if err != nil {
		return fmt.Errorf("memory: image: %w", err)
	}
	g.imageSum = g.sumImage()
	return nil
}

func (g *guest) sumImage() string {
	h := sha256.New()
	for _, part := range g.imageParts() {
		h.Write(part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// verifyImage compares the memory that came from an image with its sum, and
// counts one bad page, worker w's, if they differ.
func (g *guest) verifyImage(w *memcheck.Worker) {
	if g.imageSum == "" {
		return
	}
	if sum := g.sumImage(); sum != g.imageSum {
		w.Damaged(fmt.Errorf("memory from the image has the sum %s, not %s", sum, g.imageSum))
	}
}
