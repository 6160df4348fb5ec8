//go:build xen

package xl

import (
	"os"
	"strings"
)

// qemuLogs is where libxl puts what QEMU prints, under the name that the domain
// has when QEMU is started.
const qemuLogs = "/var/log/xen/qemu-dm-"

// maxWords bounds what is taken from such a log.
const maxWords = 4096

// lastWords returns the last line that the QEMU of a domain has printed, "" if
// there is none to be had.
func lastWords(name string) string {
	f, err := os.Open(qemuLogs + name + ".log")
	if err != nil {
		return ""
	}
	defer f.Close()
	end, err := f.Seek(0, 2)
	if err != nil {
		return ""
	}
	b := make([]byte, min(end, maxWords))
	if _, err := f.ReadAt(b, end-int64(len(b))); err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.ToValidUTF8(lines[len(lines)-1], "?")
}
