//go:build lab

package labtest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/xenferry/xenferry/scripts/bench/image"
)

// imageAtMiB is where on the disk an image is: behind the blocks that guests write.
const imageAtMiB = 128

// putImage writes so many MiB of what a server's memory looks like to the disk
// that the hosts share, and returns the arguments of a guest that takes it into
// its memory. It is the recipe of make bench-peers, without QEMU's files.
func (l *Lab) putImage(t testing.TB, mib int) []string {
	t.Helper()
	from, err := image.GoSources()
	if err != nil {
		t.Fatal(err)
	}
	mem := make([]byte, mib<<20)
	made, err := image.Fill(mem, from)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(os.Getenv("XENFERRY_LAB_RUN"), "san.img"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(mem, imageAtMiB<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil { // the hosts' QEMUs read past the page cache
		t.Fatal(err)
	}
	t.Logf("image: %s", made)
	return []string{fmt.Sprintf("xfg.image=%d", mib), fmt.Sprintf("xfg.image_at=%d", imageAtMiB)}
}
