//go:build xen

package xl

/*
#include <stdlib.h>
#include <string.h>
#include <libxl.h>

// QEMU tells the network that the guest is here as soon as it has read its
// state. One that is started while the guest runs elsewhere must not.
static const char *const xf_quiet[] = { "-global", "migration.announce-rounds=0" };

// xf_set_quiet adds the arguments to those of an HVM guest's QEMU. calloc and
// strdup of a few bytes: a failure leaves the list as it was.
static int xf_set_quiet(libxl_domain_build_info *b)
{
	int n = libxl_string_list_length(&b->extra_hvm);
	libxl_string_list list = calloc(n + 3, sizeof(*list));
	char *first = strdup(xf_quiet[0]), *second = strdup(xf_quiet[1]);

	if (!list || !first || !second) {
		free(list);
		free(first);
		free(second);
		return -1;
	}
	for (int i = 0; i < n; i++)
		list[i] = b->extra_hvm[i];
	list[n] = first;
	list[n + 1] = second;
	free(b->extra_hvm);
	b->extra_hvm = list;
	return 0;
}

// xf_unset_quiet takes them out again, and tells whether they were there.
static int xf_unset_quiet(libxl_domain_build_info *b)
{
	libxl_string_list list = b->extra_hvm;

	for (int i = 0; list && list[i] && list[i + 1]; i++) {
		if (strcmp(list[i], xf_quiet[0]) || strcmp(list[i + 1], xf_quiet[1]))
			continue;
		free(list[i]);
		free(list[i + 1]);
		do
			list[i] = list[i + 2];
		while (list[i++]);
		return 1;
	}
	return 0;
}
*/
import "C"

import (
	"errors"
	"unsafe"
)

// setQuiet makes the guest's QEMU start without a word to the network.
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
// its QEMU is to speak.
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
