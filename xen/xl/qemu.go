package xl

import (
	"context"
	"encoding/json"
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

// stop stops QEMU, after which its devices write no guest memory.
func (m *qemu) stop(ctx context.Context) error {
	return m.do(ctx, func(q *qmpClient) error { return q.execute(ctx, "stop", nil, nil) })
}

// devices is what QEMU has of a guest, at one moment.
type devices struct {
	state []byte // as QEMU reads it at its start, and in load
	// layout is where the guest has mapped the memory of PCI devices: a QEMU
	// that has been started with one layout cannot be given the state of
	// another.
	layout string
}

// save returns the devices. A QEMU that runs stands still for that.
func (m *qemu) save(ctx context.Context) (d devices, err error) {
	err = m.do(ctx, func(q *qmpClient) error {
		if d.state, err = saveDevices(ctx, q); err != nil {
			return err
		}
		d.layout, err = pciLayout(ctx, q)
		return err
	})
	return d, err
}

// pciLayout lists the regions of all PCI devices.
func pciLayout(ctx context.Context, q *qmpClient) (string, error) {
	var buses []struct {
		Bus     int `json:"bus"`
		Devices []struct {
			Slot     int             `json:"slot"`
			Function int             `json:"function"`
			Regions  json.RawMessage `json:"regions"`
		} `json:"devices"`
	}
	if err := q.execute(ctx, "query-pci", nil, &buses); err != nil {
		return "", err
	}
	text, err := json.Marshal(buses)
	return string(text), err
}

// withMemfd runs f with the number of a set in which QEMU has a memory file,
// opened by us in the access mode in which it would open a file itself: it
// takes no other.
func withMemfd(ctx context.Context, q *qmpClient, mem *os.File, mode int, f func(path string) error) error {
	file, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", mem.Fd()), mode, 0)
	if err != nil {
		return fmt.Errorf("open the memory file for QEMU's state: %w", err)
	}
	defer file.Close()
	var set struct {
		ID int `json:"fdset-id"`
	}
	if err := q.execute(ctx, "add-fd", nil, &set, file); err != nil {
		return err
	}
	err = f(fmt.Sprintf("/dev/fdset/%d", set.ID))
	return errors.Join(err, q.execute(ctx, "remove-fd", set, nil))
}

func newMemfd() (*os.File, error) {
	fd, err := unix.MemfdCreate("xenferry-qemu-state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create a memory file for QEMU's state: %w", err)
	}
	return os.NewFile(uintptr(fd), "QEMU's state"), nil
}

// saveDevices has QEMU write the state of its devices into a memory file.
func saveDevices(ctx context.Context, q *qmpClient) ([]byte, error) {
	mem, err := newMemfd()
	if err != nil {
		return nil, err
	}
	defer mem.Close()
	err = withMemfd(ctx, q, mem, os.O_WRONLY, func(path string) error {
		return q.execute(ctx, "xen-save-devices-state", struct {
			Filename string `json:"filename"`
			Live     bool   `json:"live"`
		}{path, true}, nil) // live: a QEMU that is stopped gives the locks on its disks back, as a migration must
	})
	if err != nil {
		return nil, err
	}
	return readState(mem)
}

// load gives QEMU, whose guest is paused, the state of its devices in place of
// the one that it has been started with.
func (m *qemu) load(ctx context.Context, state []byte) error {
	mem, err := newMemfd()
	if err != nil {
		return err
	}
	defer mem.Close()
	if _, err := mem.Write(state); err != nil {
		return fmt.Errorf("fill the memory file for QEMU's state: %w", err)
	}
	if _, err := mem.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return m.do(ctx, func(q *qmpClient) error {
		return withMemfd(ctx, q, mem, os.O_RDONLY, func(path string) error {
			return q.execute(ctx, "xen-load-devices-state", struct {
				Filename string `json:"filename"`
			}{path}, nil)
		})
	})
}

// announce makes QEMU tell the network, a few times, where the guest's emulated
// NICs are now.
func (m *qemu) announce(ctx context.Context) error {
	times := struct { // in ms; those that QEMU has as default
		Initial int `json:"initial"`
		Max     int `json:"max"`
		Rounds  int `json:"rounds"`
		Step    int `json:"step"`
	}{50, 550, 5, 100}
	return m.do(ctx, func(q *qmpClient) error { return q.execute(ctx, "announce-self", times, nil) })
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
