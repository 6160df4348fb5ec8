//go:build xen

package xl

/*
#include <stdlib.h>
#include <libxl.h>
#include <libxl_utils.h>
#include <libxl_uuid.h>
*/
import "C"

import (
	"bytes"
	"fmt"
	"unsafe"

	"github.com/xenferry/xenferry/xen"
)

// maxConfig is the most bytes of a guest's configuration that are looked at:
// one of a guest with hundreds of devices has some 100 KiB.
const maxConfig = 1 << 20

// configJSON returns the configuration to build the domain from elsewhere, as
// the JSON of libxl_domain_config: what xl sends ahead of a migration.
func (c *libxl) configJSON(domid uint32) ([]byte, error) {
	cfg, err := c.retrieveConfig(domid)
	if err != nil {
		return nil, err
	}
	defer cfg.free()
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer c.leave()
	text := C.libxl_domain_config_to_json(c.lx, cfg.p)
	if text == nil {
		return nil, c.failed("write the configuration of", domid, C.ERROR_FAIL)
	}
	defer C.free(unsafe.Pointer(text))
	return []byte(C.GoString(text)), nil
}

// retrieveConfig returns the domain's configuration as it is now, with the
// devices that it has now.
func (c *libxl) retrieveConfig(domid uint32) (*config, error) {
	cfg := newConfig()
	err := c.call("get the configuration of", domid, func() C.int {
		return C.libxl_retrieve_domain_configuration(c.lx, C.uint32_t(domid), cfg.p, nil)
	})
	if err != nil {
		cfg.free()
		return nil, err
	}
	return cfg, nil
}

// diskBackends returns who serves the disks of a domain, by their names.
func (c *libxl) diskBackends(domid uint32) (map[string]string, error) {
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer c.leave()
	var n C.int
	list := C.libxl_device_disk_list(c.lx, C.uint32_t(domid), &n)
	defer C.libxl_device_disk_list_free(list, n)
	backends := map[string]string{}
	for _, d := range unsafe.Slice(list, n) {
		backends[C.GoString(d.vdev)] = C.GoString(C.libxl_disk_backend_to_string(d.backend))
	}
	return backends, nil
}

// config is a libxl_domain_config, in C memory.
type config struct {
	p *C.libxl_domain_config
}

func newConfig() *config {
	// calloc never returns nil in cgo: it crashes the program instead.
	p := (*C.libxl_domain_config)(C.calloc(1, C.sizeof_libxl_domain_config))
	C.libxl_domain_config_init(p)
	return &config{p}
}

// free frees it. Idempotent.
func (g *config) free() {
	if g.p != nil {
		C.libxl_domain_config_dispose(g.p)
		C.free(unsafe.Pointer(g.p))
		g.p = nil
	}
}

// parseConfig reads a configuration that another host has sent. A UUID is
// made if it has none, as the guest is known by it while it is being built.
func (c *libxl) parseConfig(text []byte) (*config, error) {
	if len(text) == 0 || len(text) > maxConfig {
		return nil, fmt.Errorf("guest configuration of %d bytes: must have 1 to %d", len(text), maxConfig)
	}
	// xl sends the NUL at its end; one elsewhere would hide the rest from C.
	text = bytes.TrimSuffix(text, []byte{0})
	if bytes.IndexByte(text, 0) >= 0 {
		return nil, fmt.Errorf("guest configuration has a NUL byte inside")
	}
	cText := C.CString(string(text))
	defer C.free(unsafe.Pointer(cText))
	cfg := newConfig()
	err := c.call("read the guest's configuration", 0, func() C.int {
		return C.libxl_domain_config_from_json(c.lx, cfg.p, cText)
	})
	if err != nil {
		cfg.free()
		return nil, err
	}
	if C.libxl_uuid_is_nil(&cfg.p.c_info.uuid) != 0 {
		C.libxl_uuid_generate(&cfg.p.c_info.uuid)
	}
	return cfg, nil
}

func (g *config) guestType() xen.GuestType { return guestType(g.p.c_info._type) }

func (g *config) uuid() [16]byte {
	return *(*[16]byte)(unsafe.Pointer(&g.p.c_info.uuid))
}

// setUUID sets the UUID that the guest is built with.
func (g *config) setUUID(text string) error {
	cText := C.CString(text)
	defer C.free(unsafe.Pointer(cText))
	if C.libxl_uuid_from_string(&g.p.c_info.uuid, cText) != 0 {
		return fmt.Errorf("guest UUID %.80q is not one", text)
	}
	return nil
}

// setName sets the name that the guest is built under.
func (g *config) setName(name string) {
	C.free(unsafe.Pointer(g.p.c_info.name))
	g.p.c_info.name = C.CString(name)
}

// setDomid sets the id that the guest must get, 0 for any. The sender's own
// must never stay in it.
func (g *config) setDomid(domid uint32) {
	g.p.c_info.domid = C.libxl_domid(domid)
}
