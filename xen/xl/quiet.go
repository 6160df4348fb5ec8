//go:build xen

package xl

/*
#include <stdlib.h>
#include <string.h>
#include <libxl.h>

// The arguments of a QEMU that is started while its guest runs elsewhere, and
// is given the state of its devices later, by migrate-incoming: until then it
// neither writes the guest's memory nor opens its disks for writing. They come
// behind those that libxl has for it, and the last -incoming counts.
static const char *const xf_quiet[] = { "-S", "-incoming", "defer" };
#define XF_QUIET 3

// xf_set_quiet adds the arguments to those of an HVM guest's QEMU. A failure
// leaves the list as it was.
static int xf_set_quiet(libxl_domain_build_info *b)
{
	int n = libxl_string_list_length(&b->extra_hvm), i;
	libxl_string_list list = calloc(n + XF_QUIET + 1, sizeof(*list));

	if (!list)
		return -1;
	for (i = 0; i < XF_QUIET; i++) {
		list[n + i] = strdup(xf_quiet[i]);
		if (!list[n + i]) {
			while (i-- > 0)
				free(list[n + i]);
			free(list);
			return -1;
		}
	}
	for (i = 0; i < n; i++)
		list[i] = b->extra_hvm[i];
	free(b->extra_hvm);
	b->extra_hvm = list;
	return 0;
}

// xf_unset_quiet takes them out again, and tells whether they were there.
static int xf_unset_quiet(libxl_domain_build_info *b)
{
	int n = libxl_string_list_length(&b->extra_hvm), i;
	libxl_string_list last;

	if (n < XF_QUIET)
		return 0;
	last = b->extra_hvm + n - XF_QUIET;
	for (i = 0; i < XF_QUIET; i++)
		if (strcmp(last[i], xf_quiet[i]))
			return 0;
	for (i = 0; i < XF_QUIET; i++)
		free(last[i]);
	last[0] = NULL;
	return 1;
}
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unsafe"
)

// setQuiet makes the guest's QEMU start without the state of its devices, and
// wait for it.
func (g *config) setQuiet() error {
	if C.xf_set_quiet(&g.p.b_info) != 0 {
		return errors.New("no memory for the arguments of QEMU")
	}
	return nil
}

// configUserdata is the name under which libxl keeps a domain's configuration.
const configUserdata = "libxl-json"

// forgetQuiet takes what setQuiet has added out of the configuration that libxl
// keeps of the domain: when the guest boots or moves again, with whatever tool,
// its QEMU is to start as ever.
func (c *libxl) forgetQuiet(domid uint32) error {
	name := C.CString(configUserdata)
	defer C.free(unsafe.Pointer(name))
	var data *C.uint8_t
	var size C.int
	err := c.call("read the stored configuration of", domid, func() C.int {
		return C.libxl_userdata_retrieve(c.lx, C.uint32_t(domid), name, &data, &size)
	})
	if err != nil {
		return err
	}
	text := C.GoBytes(unsafe.Pointer(data), size)
	C.free(unsafe.Pointer(data))
	cfg, err := c.parseConfig(text)
	if err != nil {
		return err
	}
	defer cfg.free()
	if C.xf_unset_quiet(&cfg.p.b_info) == 0 {
		return nil
	}
	return c.call("store the configuration of", domid, func() C.int {
		json := C.libxl_domain_config_to_json(c.lx, cfg.p)
		if json == nil {
			return C.ERROR_NOMEM
		}
		defer C.free(unsafe.Pointer(json))
		return C.libxl_userdata_store(c.lx, C.uint32_t(domid), name, (*C.uint8_t)(unsafe.Pointer(json)), C.int(C.strlen(json)+1))
	})
}

// quietPoll is how often a QEMU that starts is looked at. The socket on which
// it can be asked is made by it.
const quietPoll = 20 * time.Millisecond

// laterState goes to libxl in place of the state of a quiet QEMU, which does not
// read it.
var laterState = []byte("the state comes later")

// reportQuiet tells libxl, in QEMU's place, that a quiet QEMU has started: QEMU
// itself would only say so when it runs. It ends when ctx does.
func (in *incoming) reportQuiet(ctx context.Context) {
	q := qemuOf(in.hello.domid)
	tick := time.NewTicker(quietPoll)
	defer tick.Stop()
	for {
		if status, err := q.status(ctx); err == nil && status == "inmigrate" {
			// libxl waits for this node, and says so if it never comes.
			_ = in.h.ctx.xs.write(fmt.Sprintf("/local/domain/%d/device-model/%d/state", dom0, in.hello.domid), "running")
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
