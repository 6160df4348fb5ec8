package xl

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/savefmt"
)

// newFakeQEMU answers as QEMU does. Its devices have the given state.
func newFakeQEMU(state []byte, refuse string) *fakeQEMU {
	f := &fakeQEMU{greeting: qmpGreeting}
	running, loads := true, 0
	f.answer = func(command string, args json.RawMessage) string {
		result := `{}`
		switch command {
		case refuse:
			return `{"error": {"class": "GenericError", "desc": "refused"}, "id": %ID%}`
		case "stop":
			running = false
		case "cont":
			running = true
		case "query-status":
			result = fmt.Sprintf(`{"running": %t, "status": "paused"}`, running)
			if loads == 1 { // QEMU takes a moment to read
				loads++
				result = `{"running": false, "status": "inmigrate"}`
			}
		case "add-fd":
			result = `{"fdset-id": 3, "fd": 21}`
		case "xen-save-devices-state":
			if !strings.Contains(string(args), `"/dev/fdset/3"`) || !strings.Contains(string(args), `"live":true`) {
				return `{"error": {"class": "GenericError", "desc": "bad arguments"}, "id": %ID%}`
			}
			f.writeState(state)
		case "getfd":
			loads++
		case "migrate-incoming":
			if string(args) != `{"uri":"fd:xenferry"}` || loads != 1 {
				return `{"error": {"class": "GenericError", "desc": "bad arguments"}, "id": %ID%}`
			}
			f.readState()
		}
		return `{"event": "SOMETHING"}` + "\n" + `{"return": ` + result + `, "id": %ID%}`
	}
	return f
}

// readState reads what comes through the pipe that it was given.
func (f *fakeQEMU) readState() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.files) == 1 {
		f.loaded, _ = io.ReadAll(f.files[0])
		_ = f.files[0].Close()
	}
}

// writeState writes to the descriptor, which must be open for writing only, as
// QEMU demands.
func (f *fakeQEMU) writeState(state []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.files) != 1 {
		return
	}
	flags, err := unix.FcntlInt(f.files[0].Fd(), unix.F_GETFL, 0)
	if err == nil && flags&unix.O_ACCMODE == unix.O_WRONLY {
		f.files[0].Write(state)
	}
}

func TestQEMUStopAndSave(t *testing.T) {
	state := bytes.Repeat([]byte("device"), 100000)
	f := newFakeQEMU(state, "")
	m := &qemu{sockets: []string{filepath.Join(t.TempDir(), "absent"), f.listen(t)}}
	if err := m.stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := m.save(t.Context())
	if err != nil || !bytes.Equal(got, state) {
		t.Fatalf("%d bytes of state, want %d: %v", len(got), len(state), err)
	}
	want := []string{"qmp_capabilities", "stop", "qmp_capabilities", "add-fd", "xen-save-devices-state", "remove-fd"}
	if heard := f.heard(); !slices.Equal(heard, want) {
		t.Errorf("QEMU has heard %v, want %v", heard, want)
	}
	for range 2 {
		if err := m.ensureRunning(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want = append(want, "qmp_capabilities", "query-status", "cont", "qmp_capabilities", "query-status")
	if heard := f.heard(); !slices.Equal(heard, want) {
		t.Errorf("QEMU has heard %v, want %v", heard, want)
	}
}

// TestQEMULoad gives a QEMU that waits for it its state.
func TestQEMULoad(t *testing.T) {
	state := bytes.Repeat([]byte("device"), 100000)
	f := newFakeQEMU(nil, "")
	m := &qemu{sockets: []string{f.listen(t)}}
	if err := m.load(t.Context(), state); err != nil || !bytes.Equal(f.loaded, state) {
		t.Errorf("%d bytes of state were loaded, want %d: %v", len(f.loaded), len(state), err)
	}
	want := []string{"qmp_capabilities", "getfd", "migrate-incoming", "query-status", "query-status"}
	if heard := f.heard(); !slices.Equal(heard, want) {
		t.Errorf("QEMU has heard %v, want %v", heard, want)
	}
	for _, refuse := range []string{"getfd", "migrate-incoming", "query-status"} {
		m = &qemu{sockets: []string{newFakeQEMU(nil, refuse).listen(t)}}
		if err := m.load(t.Context(), state); err == nil || !strings.Contains(err.Error(), "QEMU refused "+refuse) {
			t.Errorf("%s is refused: %v", refuse, err)
		}
	}
	if status, err := m.status(t.Context()); err == nil {
		t.Errorf("status %q of a QEMU that does not tell it", status)
	}
}

func TestQEMUFails(t *testing.T) {
	for _, refuse := range []string{"add-fd", "xen-save-devices-state", "remove-fd"} {
		f := newFakeQEMU([]byte("state"), refuse)
		m := &qemu{sockets: []string{f.listen(t)}}
		if _, err := m.save(t.Context()); err == nil || !strings.Contains(err.Error(), "QEMU refused "+refuse) {
			t.Errorf("%s is refused: %v", refuse, err)
		}
		if heard := f.heard(); slices.Contains(heard, "add-fd") && refuse != "add-fd" && !slices.Contains(heard, "remove-fd") {
			t.Errorf("%s is refused: the descriptor stays with QEMU: %v", refuse, heard)
		}
	}
}

func TestQEMUEmptyState(t *testing.T) {
	m := &qemu{sockets: []string{newFakeQEMU(nil, "").listen(t)}}
	if _, err := m.save(t.Context()); err == nil || !strings.Contains(err.Error(), "0 bytes") {
		t.Errorf("QEMU has written nothing: %v", err)
	}
	if savefmt.MaxDeviceModel != 128<<20 {
		t.Error("the limit is not that of a record in a stock stream")
	}
}

func TestQEMUGone(t *testing.T) {
	m := &qemu{sockets: []string{filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")}}
	if err := m.setLogDirty(t.Context(), true); err == nil || !strings.Contains(err.Error(), "no QMP socket") {
		t.Errorf("no socket: %v", err)
	}
}

// TestQEMUHeld: what is done while a connection is held goes over that one, and
// one that has failed is not used again.
func TestQEMUHeld(t *testing.T) {
	f := newFakeQEMU([]byte("state"), "")
	m := &qemu{sockets: []string{f.listen(t)}}
	for range 2 {
		if err := m.hold(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.save(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"qmp_capabilities", "stop", "add-fd", "xen-save-devices-state", "remove-fd"}
	if heard := f.heard(); !slices.Equal(heard, want) {
		t.Errorf("QEMU has heard %v, want %v", heard, want)
	}
	_ = m.held.conn.Close() // QEMU has died, or was started anew
	if err := m.stop(t.Context()); err == nil {
		t.Error("stopped through a connection that has failed")
	}
	if err := m.cont(t.Context()); err != nil {
		t.Errorf("the next connection: %v", err)
	}
	if err := m.hold(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = m.held.conn.Close()
	if err := m.cont(t.Context()); err != nil {
		t.Errorf("a guest that is to run does not, as a held connection was lost: %v", err)
	}
	for range 2 {
		m.release()
	}
	var none *qemu
	none.release()
}
