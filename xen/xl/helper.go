package xl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// libxl starts its save helper with one of these as first argument
// (tools/libs/light/libxl_save_callout.c).
const (
	argSave    = "--save-domain"
	argRestore = "--restore-domain"
)

// RunIfHelper makes this process the save helper of libxl if libxl has started
// it as one, and then never returns. main calls it before anything else.
func RunIfHelper() {
	if len(os.Args) < 2 {
		return
	}
	switch os.Args[1] {
	case argRestore:
		os.Exit(restoreHelper(os.Args[2:]))
	case argSave:
		fmt.Fprintln(os.Stderr, "xenferry: started as libxl's save helper to save a guest: not supported, unset LIBXL_SAVE_HELPER")
		os.Exit(1)
	}
}

// restoreHelper runs the helper and returns the exit status.
func restoreHelper(args []string) int {
	// What ps and top show in place of "exe". It is a nicety: no matter if not.
	_ = os.WriteFile("/proc/self/comm", []byte("xenferry-helper"), 0)

	a, err := parseRestoreArgs(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "xenferry: started as libxl's save helper:", err)
		return 1
	}
	h := &helper{
		stream: fd(a.streamFd), fromLibxl: fd(0), toLibxl: fd(1),
		hello:     a.hello,
		libxlGone: parentGone(os.Getppid()),
		destroy:   destroyUnfinished,
	}
	// A closed pipe is an error like others. An interrupt from the terminal
	// goes to the receiver too, which then closes the stream in its own time.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGINT, syscall.SIGHUP)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go func() {
		// To be terminated is to find the stream ended: the read that waits
		// in run returns, and the one way to give up is taken.
		<-term
		_ = syscall.Shutdown(a.streamFd, syscall.SHUT_RD)
	}()
	if err := h.run(); err != nil {
		fmt.Fprintf(os.Stderr, "xenferry: libxl's save helper for domain %d: %v\n", a.hello.domid, err)
		return 1
	}
	return 0
}

// fd reads and writes a file descriptor with plain blocking calls. It is
// shared with libxl, and must keep the mode that libxl gave it.
type fd int

func (f fd) Read(b []byte) (int, error) {
	for {
		n, err := syscall.Read(int(f), b)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

func (f fd) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := syscall.Write(int(f), b[done:])
		if err != nil && err != syscall.EINTR {
			return done, err
		}
		done += max(n, 0)
	}
	return done, nil
}

// restoreArgs are the arguments that matter to the bridge.
type restoreArgs struct {
	streamFd int
	hello    hello
}

// parseRestoreArgs reads what stands behind --restore-domain: stream fd,
// send-back fd or -1, domid, store port, store domid, console port, console
// domid, callback flags, stream type.
func parseRestoreArgs(args []string) (restoreArgs, error) {
	const (
		count      = 9
		callbacks  = 1<<msgStaticDataDone | 1<<msgRestoreResults
		plain      = 0 // stream type: neither Remus nor COLO
		maxArgBits = 32
	)
	if len(args) != count {
		return restoreArgs{}, fmt.Errorf("%d arguments after %s in place of %d: made for another release of Xen?", len(args), argRestore, count)
	}
	var n [count]int64
	for i, s := range args {
		v, err := strconv.ParseInt(s, 10, maxArgBits+1)
		if err != nil || (v < 0 && i != 1) {
			return restoreArgs{}, fmt.Errorf("argument %d is %q, not a number that can stand there", i+2, s)
		}
		n[i] = v
	}
	if n[0] < 3 || n[0] > 1<<20 {
		return restoreArgs{}, fmt.Errorf("stream descriptor %d is not possible", n[0])
	}
	if n[7] != callbacks || n[8] != plain {
		return restoreArgs{}, fmt.Errorf("callbacks %#x and stream type %d in place of %#x and %d: made for another release of Xen?", n[7], n[8], callbacks, plain)
	}
	return restoreArgs{int(n[0]), hello{uint32(n[2]), uint32(n[3]), uint32(n[4]), uint32(n[5]), uint32(n[6])}}, nil
}

// helper stands between the receiver, at the other end of the stream, and
// libxl, at its standard input and output.
type helper struct {
	stream    io.ReadWriter
	fromLibxl io.Reader
	toLibxl   io.Writer
	hello     hello
	uuid      [16]byte // of the guest, as the receiver says

	// libxlGone tells whether the process that started this one has ended.
	libxlGone func() bool
	// destroy destroys the domain if it is the guest of that UUID and has
	// never run.
	destroy func(domid uint32, uuid [16]byte) error
}

// errBrokenStream is sent to libxl as errno of a restore that was given up.
const errBrokenStream = int32(syscall.EPIPE)

// run does the helper's work. Whatever fails, the domain does not stay
// behind: libxl destroys it, or, where libxl has ended, the helper.
func (h *helper) run() error {
	complete, err := h.bridge()
	if err == nil && complete {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		err = errors.New("the receiver closed the stream before the guest was complete")
	}
	lerr := h.sendLog(err.Error())
	if lerr == nil {
		_, lerr = h.ask(msgComplete, appendInt(appendInt(nil, -1), errBrokenStream))
	}
	if lerr == nil {
		return nil // libxl is there, has our words, and destroys the domain
	}
	if !h.libxlGone() {
		return err // it destroys the domain when it sees us fail
	}
	err = fmt.Errorf("the receiver has died with libxl before the guest was complete")
	if derr := h.destroy(h.hello.domid, h.uuid); derr != nil {
		return fmt.Errorf("%w, and its domain cannot be destroyed: %w; destroy it with 'xl destroy %d'", err, derr, h.hello.domid)
	}
	return fmt.Errorf("%w; its domain has been destroyed", err)
}

// bridge serves the receiver's frames. complete is true once libxl has been
// told that the guest is complete.
func (h *helper) bridge() (complete bool, err error) {
	if err := h.greet(); err != nil {
		return false, err
	}
	for {
		f, err := readFrame(h.stream)
		if err != nil {
			return false, err
		}
		switch f.op {
		case opStaticDone:
			var rc int32
			if rc, err = h.ask(msgStaticDataDone, appendUint(nil, uint32(f.args[0]))); err == nil {
				err = writeFrame(h.stream, opStaticReply, uint64(uint32(rc)))
			}
		case opResults:
			err = h.send(msgRestoreResults, appendUlong(appendUlong(nil, f.args[0]), f.args[1]))
		case opComplete:
			body := appendInt(appendInt(nil, int32(f.args[0])), int32(f.args[1]))
			_, err = h.ask(msgComplete, body)
			return err == nil, err
		default:
			err = fmt.Errorf("the receiver sent frame %d, which means nothing here", f.op)
		}
		if err != nil {
			return false, err
		}
	}
}

// greet reads the preamble and answers with the hello.
func (h *helper) greet() error {
	var b [preambleSize]byte
	magic := b[:len(bridgeMagic)]
	if _, err := io.ReadFull(h.stream, magic); err != nil {
		return err
	}
	if [8]byte(magic) != bridgeMagic {
		return fmt.Errorf("the stream begins with % x: not one of a xenferry receiver, which is all that this helper can read; unset LIBXL_SAVE_HELPER", magic)
	}
	if _, err := io.ReadFull(h.stream, b[len(magic):]); err != nil {
		return err
	}
	h.uuid = [16]byte(b[len(magic):])
	return writeFrame(h.stream, opHello, h.hello.args()...)
}

// Messages from the helper to libxl, and their arguments
// (tools/libs/light/libxl_save_msgs_gen.pl). They are framed as u16 length of
// what follows, u16 number, arguments, in native byte order, unpadded; the
// reply, where there is one, is an int.
const (
	msgLog            uint16 = 1  // u32 level, u32 errno, string context, string text
	msgStaticDataDone uint16 = 8  // unsigned missing; reply 0 if good
	msgRestoreResults uint16 = 9  // pfn store, pfn console
	msgComplete       uint16 = 10 // int return value, int errno; reply 0
)

// maxLogText keeps a log message far below the 64 KiB that a frame can hold.
const maxLogText = 1024

func (h *helper) send(msg uint16, args []byte) error {
	b := binary.NativeEndian.AppendUint16(nil, uint16(2+len(args)))
	b = binary.NativeEndian.AppendUint16(b, msg)
	if _, err := h.toLibxl.Write(append(b, args...)); err != nil {
		return fmt.Errorf("sending message %d to libxl: %w", msg, err)
	}
	return nil
}

// ask sends a message and waits for the reply.
func (h *helper) ask(msg uint16, args []byte) (int32, error) {
	if err := h.send(msg, args); err != nil {
		return 0, err
	}
	var b [4]byte
	if _, err := io.ReadFull(h.fromLibxl, b[:]); err != nil {
		// Not io.EOF as it is: that means the receiver's end of the stream.
		return 0, fmt.Errorf("waiting for libxl's reply to message %d: %v", msg, err)
	}
	return int32(binary.NativeEndian.Uint32(b[:])), nil
}

// sendLog puts a text among libxl's errors, and so into the receiver's.
func (h *helper) sendLog(text string) error {
	const levelError = 8 // XTL_ERROR
	b := appendUint(appendUint(nil, levelError), 0)
	b = appendString(b, "xenferry")
	return h.send(msgLog, appendString(b, text[:min(len(text), maxLogText)]))
}

func appendUint(b []byte, v uint32) []byte  { return binary.NativeEndian.AppendUint32(b, v) }
func appendInt(b []byte, v int32) []byte    { return appendUint(b, uint32(v)) }
func appendUlong(b []byte, v uint64) []byte { return binary.NativeEndian.AppendUint64(b, v) }

// appendString appends a string as libxl wants it: length with the NUL, bytes, NUL.
func appendString(b []byte, s string) []byte {
	return append(append(appendUint(b, uint32(len(s)+1)), s...), 0)
}

// parentGone returns a function that tells whether the process parent, which
// started this one, has ended. The kernel closes a dying process's files a
// moment before it gives its children away, so it waits for that a little.
func parentGone(parent int) func() bool {
	return func() bool {
		const tries, pause = 40, 50 * time.Millisecond
		for range tries {
			if os.Getppid() != parent {
				return true
			}
			time.Sleep(pause)
		}
		return false
	}
}
