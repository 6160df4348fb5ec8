package sim

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xenferry/xenferry/xen"
)

// writeImage makes an image whose pages all differ, and returns its path.
func writeImage(t *testing.T, mib int) (path string, image []byte) {
	t.Helper()
	image = make([]byte, mib<<20)
	for at := 0; at < len(image); at += 8 {
		image[at], image[at+1], image[at+2] = byte(at>>3), byte(at>>11), byte(at>>19)
	}
	path = filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, image
}

func TestImageGuest(t *testing.T) {
	shortDir(t)
	a, b := startHost(t, "a"), startHost(t, "b")
	path, image := writeImage(t, 8)
	for _, load := range []string{"idle", "uniform:20MB/s,set=2MiB"} {
		t.Run(load, func(t *testing.T) {
			domid := a.create(t, GuestConfig{Name: "img", Workload: load, Image: path})
			checkGuest(t, a.Host, domid)
			domid = moveGuest(t, a.Host, b.Host, domid, nil)
			checkGuest(t, b.Host, domid)
			d := openDomain(t, b.Host, domid)
			for _, pfn := range []uint64{0, holeStart - 1, holeEnd, areaStart - 1, d.Pages() - 1} {
				if !bytes.Equal(d.view(pfn), image[pfn*xen.PageSize:(pfn+1)*xen.PageSize]) {
					t.Errorf("pfn %#x is not that of the image", pfn)
				}
			}
			if err := d.Destroy(testContext(t)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestImageGuestSeesLostPage(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	path, _ := writeImage(t, 8)
	domid := a.create(t, GuestConfig{Name: "img", Image: path})
	domid = moveGuest(t, a.Host, a.Host, domid, map[uint64]bool{1500: true})
	st, err := a.Verify(testContext(t), domid)
	if err != nil || st.BadPages != 1 || len(st.Errors) != 1 || !strings.Contains(st.Errors[0], "image") {
		t.Errorf("after a page was lost: %+v, %v", st, err)
	}
}

func TestImageRefused(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	path, _ := writeImage(t, 4)
	for _, c := range []struct {
		cfg  GuestConfig
		want string
	}{
		{GuestConfig{MemMiB: 8, Image: path}, "smaller than"},
		{GuestConfig{MemMiB: 4, Image: path + "x"}, "no such file"},
		{GuestConfig{MemMiB: 4, Image: "image"}, "path from the root"},
		{GuestConfig{MemMiB: 4, Image: path, Workload: "uniform:1MB/s"}, "how much of memory"},
		{GuestConfig{MemMiB: 4, Image: path, Workload: "uniform:1MB/s,set=8MiB"}, "writes more memory than"},
		{GuestConfig{MemMiB: 4, Image: path, Workload: "hot:1MB/s"}, "writes more memory than"},
	} {
		c.cfg.Name = "img"
		if _, err := a.Create(testContext(t), c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.cfg, err, c.want)
		}
	}
}
