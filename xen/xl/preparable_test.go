package xl

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xenferry/xenferry/xen"
)

func TestCheckPreparable(t *testing.T) {
	const phy = `{"pdev_path": "/dev/vdb", "vdev": "xvda", "format": "raw", "readwrite": 1}`
	backends := map[string]string{"xvda": "phy", "xvdb": "qdisk", "hdc": "qdisk"}
	for _, c := range []struct{ name, config, err string }{
		{"no devices", `{"c_info": {}, "b_info": {}}`, ""},
		{"block device", `{"disks": [` + phy + `], "nics": [{"devid": 0}], "vkbs": [{}], "on_reboot": "restart"}`, ""},
		{"empty drive", `{"disks": [` + phy + `, {"vdev": "hdc", "format": "empty", "removable": 1}]}`, ""},
		{"CD image", `{"disks": [{"pdev_path": "/cd.iso", "vdev": "hdc", "format": "raw"}]}`, ""},
		{"qcow2", `{"disks": [` + phy + `, {"pdev_path": "/a", "vdev": "xvdb", "format": "qcow2", "readwrite": 1}]}`, "disk xvdb is of format qcow2 and served by qdisk"},
		{"raw file", `{"disks": [{"pdev_path": "/a", "vdev": "xvdb", "format": "raw", "readwrite": 1}]}`, "served by qdisk"},
		{"read-only qcow2", `{"disks": [{"pdev_path": "/a", "vdev": "hdc", "format": "qcow2"}]}`, "format qcow2"},
		{"nobody knows", `{"disks": [{"pdev_path": "/a", "vdev": "xvdc", "readwrite": 1}]}`, "of format unknown and served by unknown"},
		{"script", `{"disks": [{"pdev_path": "iqn", "vdev": "xvda", "format": "raw", "readwrite": 1, "script": "block-iscsi"}]}`, "script block-iscsi"},
		{"read-only script", `{"disks": [{"pdev_path": "iqn", "vdev": "xvda", "format": "raw", "script": "block-iscsi"}]}`, "script block-iscsi"},
		{"vtpm", `{"vtpms": [{}]}`, "the guest has vtpms"},
		{"something new", `{"hyperdrives": [{}]}`, "the guest has hyperdrives"},
		{"stub domain", `{"b_info": {"device_model_stubdomain": "True"}}`, "stub domain"},
		{"restricted", `{"b_info": {"dm_restrict": "True"}}`, "dm_restrict"},
		{"no stub domain", `{"b_info": {"device_model_stubdomain": "False"}}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := checkPreparable([]byte(c.config), backends)
			checkErr(t, err, c.err)
			if err != nil && !errors.Is(err, xen.ErrUnsupported) {
				t.Errorf("%v does not say that it cannot be", err)
			}
		})
	}
	for _, text := range []string{``, `[]`, `{"disks": 7}`, `{"b_info": 7}`} {
		if err := checkPreparable([]byte(text), backends); err == nil || errors.Is(err, xen.ErrUnsupported) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestForgetCached(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := forgetCached([]disk{{Name: "hdc"}, {Name: "hdd", Path: "/absent"}, {Name: "xvda", Path: path, ReadWrite: 1}}); err != nil {
		t.Error(err)
	}
	if err := forgetCached([]disk{{Name: "xvda", Path: path + "x", ReadWrite: 1}}); err == nil || !strings.Contains(err.Error(), "xvda") {
		t.Errorf("a disk that is not there: %v", err)
	}
}
