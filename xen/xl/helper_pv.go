//go:build xen

package xl

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/xenctrl"
)

// loadPV has Xen's own library fill a PV guest, through a pipe: the beginning
// of the stream has been read already.
func (h *helper) loadPV(stream io.Reader) error {
	r, w, err := libraryPipe()
	if err != nil {
		return err
	}
	fed := make(chan error, 1)
	go func() {
		out := os.NewFile(uintptr(w), "stream to Xen's library")
		_, err := io.Copy(out, stream)
		fed <- errors.Join(err, out.Close())
	}()
	var ended error // what libxl said
	store, console, err := xenctrl.LoadStream(r, h.hello.domid, xenctrl.LoadPorts{
		Store: h.hello.storePort, StoreDomid: h.hello.storeDomid,
		Console: h.hello.consolePort, ConsoleDomid: h.hello.consoleDomid,
	}, &xenctrl.StreamCalls{
		StaticDone: func(missing uint32) bool {
			ended = staticDone(&h.callouts, missing)
			return ended == nil
		},
		Log: func(level uint32, text string) {
			if level >= logWarn {
				_ = h.log(level, text)
			}
		},
	})
	_ = unix.Close(r) // ends what still feeds it
	if err != nil {
		return errors.Join(ended, err)
	}
	if err := <-fed; err != nil {
		return fmt.Errorf("the stream of the guest: %w", err)
	}
	return h.send(msgRestoreResults, appendUlong(appendUlong(nil, store), console))
}

// libraryPipe makes a pipe whose ends are blocking, as the library needs them.
func libraryPipe() (r, w int, err error) {
	const size = 1 << 20 // fewer switches between the two ends
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return 0, 0, fmt.Errorf("make a pipe to Xen's library: %w", err)
	}
	_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, size) // smaller does too
	return fds[0], fds[1], nil
}
