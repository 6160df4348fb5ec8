package xl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/savefmt"
)

// qemu is the device model of one HVM guest.
type qemu struct {
	// sockets are the QMP sockets that it may listen on, best first. Each
	// serves one client at a time.
	sockets []string
}

// do connects for as long as f runs.
func (m *qemu) do(ctx context.Context, f func(*qmpClient) error) error {
	for _, path := range m.sockets {
		q, err := dialQMP(ctx, path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		err = f(q)
		return errors.Join(err, q.close())
	}
	return fmt.Errorf("no QMP socket at %s: is the device model dead, or a stub domain?", m.sockets[0])
}

// setLogDirty makes QEMU tell Xen of the pages that its devices write.
func (m *qemu) setLogDirty(ctx context.Context, on bool) error {
	args := struct {
		Enable bool `json:"enable"`
	}{on}
	return m.do(ctx, func(q *qmpClient) error {
		return q.execute(ctx, "xen-set-global-dirty-log", args, nil)
	})
}

// stopAndSave stops QEMU, after which its devices write no guest memory, and
// returns their state, as QEMU reads it at its start.
func (m *qemu) stopAndSave(ctx context.Context) (state []byte, err error) {
	err = m.do(ctx, func(q *qmpClient) error {
		if err := q.execute(ctx, "stop", nil, nil); err != nil {
			return err
		}
		state, err = saveDevices(ctx, q)
		return err
	})
	return state, err
}

// saveDevices has QEMU write the state of its devices into a memory file. QEMU
// takes a descriptor only in the access mode in which it would open the file
// itself, hence the second one.
func saveDevices(ctx context.Context, q *qmpClient) ([]byte, error) {
	fd, err := unix.MemfdCreate("xenferry-qemu-state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create a memory file for QEMU's state: %w", err)
	}
	mem := os.NewFile(uintptr(fd), "QEMU's state")
	defer mem.Close()
	w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the memory file for QEMU's state: %w", err)
	}
	defer w.Close()

	var set struct {
		ID int `json:"fdset-id"`
	}
	if err := q.execute(ctx, "add-fd", nil, &set, w); err != nil {
		return nil, err
	}
	save := struct {
		Filename string `json:"filename"`
		Live     bool   `json:"live"`
	}{fmt.Sprintf("/dev/fdset/%d", set.ID), true} // live: gives the locks on its disks back, as a migration must
	saveErr := q.execute(ctx, "xen-save-devices-state", save, nil)
	remove := struct {
		ID int `json:"fdset-id"`
	}{set.ID}
	if err := errors.Join(saveErr, q.execute(ctx, "remove-fd", remove, nil)); err != nil {
		return nil, err
	}
	return readState(mem)
}

func readState(mem *os.File) ([]byte, error) {
	st, err := mem.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() == 0 || st.Size() > savefmt.MaxDeviceModel {
		return nil, fmt.Errorf("QEMU has saved a state of %d bytes: 1 to %d are possible", st.Size(), savefmt.MaxDeviceModel)
	}
	state := make([]byte, st.Size())
	_, err = io.ReadFull(io.NewSectionReader(mem, 0, st.Size()), state)
	return state, err
}

// ensureRunning starts QEMU again where it has been stopped.
func (m *qemu) ensureRunning(ctx context.Context) error {
	return m.do(ctx, func(q *qmpClient) error {
		var st struct {
			Running bool `json:"running"`
		}
		if err := q.execute(ctx, "query-status", nil, &st); err != nil || st.Running {
			return err
		}
		return q.execute(ctx, "cont", nil, nil)
	})
}
