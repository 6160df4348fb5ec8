//go:build xen

package xl

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/xenferry/xenferry/xen"
)

var _ xen.Watcher = (*incoming)(nil)

// Signs implements xen.Watcher: the guest's processors get time, and its NICs
// send. On Linux the first packet is the one by which the driver announces the
// guest at its new place.
func (in *incoming) Signs(context.Context) ([]xen.Sign, error) {
	before, err := in.h.xc.Domain(in.hello.domid)
	if err != nil {
		return nil, err
	}
	signs := []xen.Sign{{Name: "first instruction", Shown: func(context.Context) (bool, error) {
		now, err := in.h.xc.Domain(in.hello.domid)
		return now.CPUTime > before.CPUTime, err
	}}}
	// Interfaces of dom0: those of a driver domain's cannot be seen from here.
	nics, err := filepath.Glob(fmt.Sprintf("/sys/class/net/vif%d.*/statistics/rx_packets", in.hello.domid))
	if err != nil || len(nics) == 0 {
		return signs, err
	}
	sent := packets(nics)
	return append(signs, xen.Sign{Name: "first packet of a NIC", Shown: func(context.Context) (bool, error) {
		return packets(nics) > sent, nil
	}}), nil
}

// packets returns what the files count, all together: a guest's own interface
// may be gone, once its driver has made QEMU's way.
func packets(files []string) (sum uint64) {
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		n, _ := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		sum += n
	}
	return sum
}
