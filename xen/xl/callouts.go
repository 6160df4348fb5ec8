package xl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Messages from the helper to libxl, and their arguments. libxl numbers them
// in the order of tools/libs/light/libxl_save_msgs_gen.pl, the same for save
// and restore; these are those of Xen 4.14 and later (before 4.14 there was no
// static_data_done, and 9 and 10 were 8 and 9). Those that are not here belong
// to Remus and COLO. A message is framed as u16 length of what follows, u16
// number, arguments, in native byte order, unpadded; the reply, where there is
// one, is an int. libxl silently drops what it does not understand.
const (
	msgLog            uint16 = 1  // u32 level, int errno or -1, string context, string text
	msgProgress       uint16 = 2  // string context, string what, ulong done, ulong total
	msgSuspend        uint16 = 3  // reply 1: libxl has asked the guest, look whether it has
	msgQEMULogDirty   uint16 = 7  // u32 domid, unsigned enable; reply 0 if good
	msgStaticDataDone uint16 = 8  // unsigned missing; reply 0 if good
	msgRestoreResults uint16 = 9  // pfn store, pfn console
	msgComplete       uint16 = 10 // int return value, int errno; reply 0
)

// Callbacks that libxl must offer, as bits 1<<number of its flags: all that it
// offers for a plain stream. A call of another one would crash it.
const (
	saveCallbacks    = 1<<msgSuspend | 1<<msgQEMULogDirty
	restoreCallbacks = 1<<msgStaticDataDone | 1<<msgRestoreResults
)

// Levels of log messages (xentoollog.h).
const (
	logInfo  = 5
	logWarn  = 7
	logError = 8
)

// maxLogText keeps a log message far below the 64 KiB that a frame can hold.
const maxLogText = 1024

// callouts speaks to libxl. Its methods may be called by several goroutines;
// one exchange ends before the next begins. libxl waits for the rest of a
// message without a limit, so one is written in one piece.
type callouts struct {
	fromLibxl io.Reader
	toLibxl   io.Writer

	mu     sync.Mutex
	closed bool // nothing more is said
}

var errCalloutsClosed = errors.New("libxl has been told the end already")

func (c *callouts) send(msg uint16, args []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.write(msg, args)
}

// ask sends a message and waits for the reply, for as long as libxl takes: it
// has limits of its own, and its end ends this.
func (c *callouts) ask(msg uint16, args []byte) (int32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.write(msg, args); err != nil {
		return 0, err
	}
	var b [4]byte
	if _, err := io.ReadFull(c.fromLibxl, b[:]); err != nil {
		// Not io.EOF as it is: that means the receiver's end of the stream.
		return 0, fmt.Errorf("waiting for libxl's reply to message %d: %v", msg, err)
	}
	return int32(binary.NativeEndian.Uint32(b[:])), nil
}

func (c *callouts) write(msg uint16, args []byte) error {
	if c.closed {
		return fmt.Errorf("message %d: %w", msg, errCalloutsClosed)
	}
	c.closed = msg == msgComplete // libxl reads nothing behind it
	b := binary.NativeEndian.AppendUint16(nil, uint16(2+len(args)))
	b = binary.NativeEndian.AppendUint16(b, msg)
	if _, err := c.toLibxl.Write(append(b, args...)); err != nil {
		return fmt.Errorf("sending message %d to libxl: %w", msg, err)
	}
	return nil
}

// sendLog puts a text among libxl's errors, and so into the receiver's.
func (c *callouts) sendLog(text string) error { return c.log(logError, text) }

// log gives a text to libxl's logger.
func (c *callouts) log(level uint32, text string) error {
	const noErrno = -1 // 0 would be printed as "Success"
	b := appendInt(appendUint(nil, level), noErrno)
	b = appendString(b, "xenferry")
	return c.send(msgLog, appendString(b, text[:min(len(text), maxLogText)]))
}

// progress tells how much of something is done.
func (c *callouts) progress(what string, done, total uint64) error {
	b := appendString(appendString(nil, "xenferry"), what)
	return c.send(msgProgress, appendUlong(appendUlong(b, done), total))
}

// complete says how it went: 0, or -1 and an errno. It is the last message.
func (c *callouts) complete(rc, errno int32) error {
	_, err := c.ask(msgComplete, appendInt(appendInt(nil, rc), errno))
	return err
}

func appendUint(b []byte, v uint32) []byte  { return binary.NativeEndian.AppendUint32(b, v) }
func appendInt(b []byte, v int32) []byte    { return appendUint(b, uint32(v)) }
func appendUlong(b []byte, v uint64) []byte { return binary.NativeEndian.AppendUint64(b, v) }

// appendString appends a string as libxl wants it: length with the NUL, bytes, NUL.
func appendString(b []byte, s string) []byte {
	return append(append(appendUint(b, uint32(len(s)+1)), s...), 0)
}
