//go:build xen

package xl

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// deviceModel is a handle on the QEMU process of one guest of this host. It is
// taken while the guest is paused and complete, so that its death is seen
// before the guest is let run: libxl would let it run without its devices.
type deviceModel struct {
	domid uint32
	pidfd int
}

// deviceModel returns the handle, nil for a guest that has no QEMU. The error
// says that the process is dead already, or could not be found.
func (h *host) deviceModel(domid uint32) (*deviceModel, error) {
	path := fmt.Sprintf("/local/domain/%d/image/device-model-pid", domid) // where libxl notes it
	text, ok, err := h.ctx.xs.read(path)
	if err != nil || !ok {
		return nil, err
	}
	pid, err := strconv.Atoi(text)
	if err != nil || pid <= 1 {
		return nil, fmt.Errorf("domain %d: xenstore has %.40q as the process of its device model (%s)", domid, text, path)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, deviceModelDead(domid)
	}
	if err != nil {
		return nil, fmt.Errorf("domain %d: a handle on its device model, process %d: %w", domid, pid, err)
	}
	return &deviceModel{domid, fd}, nil
}

// alive returns an error if the process has ended. A guest without one is
// always well.
func (m *deviceModel) alive() error {
	if m == nil {
		return nil
	}
	fds := []unix.PollFd{{Fd: int32(m.pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("domain %d: its device model: %w", m.domid, err)
	}
	if n > 0 {
		return deviceModelDead(m.domid)
	}
	return nil
}

// close gives the handle up. Idempotent.
func (m *deviceModel) close() {
	if m != nil && m.pidfd >= 0 {
		_ = unix.Close(m.pidfd)
		m.pidfd = -1
	}
}

func deviceModelDead(domid uint32) error {
	return fmt.Errorf("domain %d: its device model (QEMU) has died: see /var/log/xen/qemu-dm-*.log on this host", domid)
}
