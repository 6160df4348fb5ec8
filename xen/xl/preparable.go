package xl

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/xen"
)

// Which guests' devices may be built at the destination while the guest runs at
// the source. A disk is then open at both: that is safe where nothing is cached
// above it, so for a block device that the kernel's backend serves, not for an
// image file or a format with tables of its own (qcow2, vhd), of which the
// destination would keep what it has read too early.

// disk is what matters here of a libxl_device_disk in JSON, where libxl leaves
// out what is zero, and who serves the disk unless the admin has said it.
type disk struct {
	Path      string `json:"pdev_path"`
	Name      string `json:"vdev"`
	Format    string `json:"format"`
	Script    string `json:"script"`
	ReadWrite int    `json:"readwrite"`
}

// harmlessDevices are the lists of a libxl_domain_config that may be open twice,
// or are looked at.
var harmlessDevices = []string{"c_info", "b_info", "disks", "nics", "vfbs", "vkbs"}

// checkPreparable returns an error that wraps xen.ErrUnsupported and names the
// device which stands in the way. backends are who serves the disks, as libxl
// calls it ("phy", "qdisk"), by their names.
func checkPreparable(config []byte, backends map[string]string) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(config, &all); err != nil {
		return fmt.Errorf("guest configuration: %w", err)
	}
	for list, value := range all {
		if !slices.Contains(harmlessDevices, list) && strings.HasPrefix(string(value), "[") {
			return fmt.Errorf("%w: the guest has %s", xen.ErrUnsupported, list)
		}
	}
	var info struct {
		Stubdomain string `json:"device_model_stubdomain"`
		Restrict   string `json:"dm_restrict"`
	}
	if b := all["b_info"]; b != nil {
		if err := json.Unmarshal(b, &info); err != nil {
			return fmt.Errorf("guest configuration: %w", err)
		}
	}
	if info.Stubdomain == "True" {
		return fmt.Errorf("%w: its device model is in a stub domain", xen.ErrUnsupported)
	}
	if info.Restrict == "True" { // libxl wants to see another state of it
		return fmt.Errorf("%w: its device model is restricted (dm_restrict)", xen.ErrUnsupported)
	}
	disks, err := configDisks(config)
	if err != nil {
		return err
	}
	for _, d := range disks {
		if err := d.check(backends[d.Name]); err != nil {
			return err
		}
	}
	return nil
}

func configDisks(config []byte) ([]disk, error) {
	var c struct {
		Disks []disk `json:"disks"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("guest configuration: %w", err)
	}
	return c.Disks, nil
}

func (d disk) check(backend string) error {
	switch {
	case d.Path == "", d.Format == "empty": // a drive without a medium
		return nil
	case d.ReadWrite == 0 && d.Format == "raw" && d.Script == "":
		return nil // nobody writes it
	case backend != "phy" || d.Format != "raw":
		return fmt.Errorf("%w: disk %s is of format %s and served by %s, not a block device", xen.ErrUnsupported, d.Name, orUnknown(d.Format), orUnknown(backend))
	case d.Script != "":
		return fmt.Errorf("%w: disk %s is set up by the script %s", xen.ErrUnsupported, d.Name, d.Script)
	}
	return nil
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// forgetCached drops what this host's kernel has cached of the disks: QEMU, and
// whoever looks at a new block device, read them while the guest still wrote
// them elsewhere.
func forgetCached(disks []disk) error {
	for _, d := range disks {
		if d.Path == "" || d.ReadWrite == 0 {
			continue
		}
		fd, err := unix.Open(d.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
			_ = unix.Close(fd)
		}
		if err != nil {
			return fmt.Errorf("disk %s (%s): dropping what is cached of it: %w", d.Name, d.Path, err)
		}
	}
	return nil
}
