package xl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/savefmt"
)

// qemu is the device model of one HVM guest. One goroutine at a time may use it.
type qemu struct {
	// sockets are the QMP sockets that it may listen on, best first. Each
	// serves one client at a time.
	sockets []string
	held    *qmpClient // see hold; nil: none is
}

// do connects for as long as f runs, unless a connection is held.
func (m *qemu) do(ctx context.Context, f func(*qmpClient) error) error {
	if m.held != nil {
		err := f(m.held)
		if m.held.broken != nil {
			m.release()
		}
		return err
	}
	q, err := m.dial(ctx)
	if err != nil {
		return err
	}
	err = f(q)
	return errors.Join(err, q.close())
}

// hold connects, for all that is done until release: to connect each time would
// be part of the downtime. Other programs are kept out meanwhile.
func (m *qemu) hold(ctx context.Context) (err error) {
	if m.held == nil {
		m.held, err = m.dial(ctx)
	}
	return err
}

// release ends what hold has begun. Idempotent.
func (m *qemu) release() {
	if m != nil && m.held != nil {
		_ = m.held.close() // nothing was left to be said
		m.held = nil
	}
}

func (m *qemu) dial(ctx context.Context) (*qmpClient, error) {
	for _, path := range m.sockets {
		q, err := dialQMP(ctx, path)
		if !errors.Is(err, fs.ErrNotExist) {
			return q, err
		}
	}
	return nil, fmt.Errorf("no QMP socket at %s: is the device model dead, or a stub domain?", m.sockets[0])
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

// cont lets QEMU run. A held connection may have been lost since it was made: to
// say it twice does no harm.
func (m *qemu) cont(ctx context.Context) error {
	cont := func(q *qmpClient) error { return q.execute(ctx, "cont", nil, nil) }
	held := m.held != nil
	err := m.do(ctx, cont)
	if err != nil && held && m.held == nil {
		err = m.do(ctx, cont)
	}
	return err
}

// save returns the state of QEMU's devices as QEMU reads it at its start. QEMU
// takes a descriptor only in the access mode in which it would open the file
// itself, hence the second one.
func (m *qemu) save(ctx context.Context) (state []byte, err error) {
	mem, err := newMemfd()
	if err != nil {
		return nil, err
	}
	defer mem.Close()
	w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", mem.Fd()), os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the memory file for QEMU's state: %w", err)
	}
	defer w.Close()
	err = m.do(ctx, func(q *qmpClient) error { return saveDevices(ctx, q, w) })
	if err != nil {
		return nil, err
	}
	return readState(mem)
}

func saveDevices(ctx context.Context, q *qmpClient, w *os.File) error {
	var set struct {
		ID int `json:"fdset-id"`
	}
	if err := q.execute(ctx, "add-fd", nil, &set, w); err != nil {
		return err
	}
	save := struct {
		Filename string `json:"filename"`
		Live     bool   `json:"live"`
	}{fmt.Sprintf("/dev/fdset/%d", set.ID), true} // live: gives the locks on its disks back, as a migration must
	err := q.execute(ctx, "xen-save-devices-state", save, nil)
	return errors.Join(err, q.execute(ctx, "remove-fd", set, nil))
}

func newMemfd() (*os.File, error) {
	fd, err := unix.MemfdCreate("xenferry-qemu-state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create a memory file for QEMU's state: %w", err)
	}
	return os.NewFile(uintptr(fd), "QEMU's state"), nil
}

// incomingFD is the name by which QEMU knows the descriptor of load.
const incomingFD = "xenferry"

// load gives a QEMU that waits for it (-incoming defer) the state of its
// devices. It is paused then. One that cannot read the state ends.
func (m *qemu) load(ctx context.Context, state []byte) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe for QEMU's state: %w", err)
	}
	go func() { // it ends with r, which QEMU and we close
		_, _ = w.Write(state)
		_ = w.Close()
	}()
	return m.do(ctx, func(q *qmpClient) error {
		err := q.execute(ctx, "getfd", map[string]string{"fdname": incomingFD}, nil, r)
		_ = r.Close()
		if err != nil {
			return err
		}
		if err := q.execute(ctx, "migrate-incoming", map[string]string{"uri": "fd:" + incomingFD}, nil); err != nil {
			return err
		}
		return awaitLoaded(ctx, q)
	})
}

// loadPoll is how often a QEMU that reads its state is asked whether it is done.
const loadPoll = 2 * time.Millisecond

func awaitLoaded(ctx context.Context, q *qmpClient) error {
	for {
		status, err := askStatus(ctx, q)
		if err != nil || status != "inmigrate" {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(loadPoll):
		}
	}
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

// status returns the state of QEMU, such as "running", "paused", or "inmigrate"
// while it still reads the state that it is started with.
func (m *qemu) status(ctx context.Context) (status string, err error) {
	err = m.do(ctx, func(q *qmpClient) error {
		status, err = askStatus(ctx, q)
		return err
	})
	return status, err
}

func askStatus(ctx context.Context, q *qmpClient) (string, error) {
	var st struct {
		Status string `json:"status"`
	}
	err := q.execute(ctx, "query-status", nil, &st)
	return st.Status, err
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
