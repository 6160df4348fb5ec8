package xl

import (
	"bytes"
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
		os.Exit(saveHelper(os.Args[2:]))
	}
}

// nameHelper is what ps and top show in place of "exe". It is a nicety: no
// matter if not.
func nameHelper() { _ = os.WriteFile("/proc/self/comm", []byte("xenferry-helper"), 0) }

// restoreHelper runs the helper and returns the exit status.
func restoreHelper(args []string) int {
	nameHelper()
	a, err := parseRestoreArgs(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "xenferry: started as libxl's save helper:", err)
		return 1
	}
	h := &helper{
		stream: fd(a.streamFd), callouts: callouts{fromLibxl: fd(0), toLibxl: fd(1)},
		hello:     a.hello,
		libxlGone: parentGone(os.Getppid()),
		destroy:   destroyUnfinished,
		load:      loadStock,
	}
	// A closed pipe is an error like others. An interrupt from the terminal
	// goes to the receiver too, which then closes the stream in its own time.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGINT, syscall.SIGHUP)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go func() {
		// To be terminated is to find the stream ended: the read that waits
		// in run returns, and the one way to give up is taken. What is no
		// socket comes from stock xl, which then expects no more words.
		<-term
		if syscall.Shutdown(a.streamFd, syscall.SHUT_RD) != nil {
			os.Exit(1)
		}
	}()
	if err := h.run(); err != nil {
		fmt.Fprintf(os.Stderr, helperErrorText, a.hello.domid, err)
		return 1
	}
	return 0
}

const helperErrorText = "xenferry: libxl's save helper for domain %d: %v\n"

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
	n, err := parseHelperArgs(argRestore, args, 9, restoreCallbacks)
	if err != nil {
		return restoreArgs{}, err
	}
	return restoreArgs{int(n[0]), hello{uint32(n[2]), uint32(n[3]), uint32(n[4]), uint32(n[5]), uint32(n[6])}}, nil
}

// parseHelperArgs reads count numbers: the first is the stream's descriptor,
// the second a descriptor or -1, the last two are the callbacks that libxl
// offers and the type of the stream.
func parseHelperArgs(what string, args []string, count int, callbacks int64) ([]int64, error) {
	const (
		plain      = 0 // stream type: neither Remus nor COLO
		maxArgBits = 32
	)
	if len(args) != count {
		return nil, fmt.Errorf("%d arguments after %s in place of %d: made for another release of Xen?", len(args), what, count)
	}
	n := make([]int64, count)
	for i, s := range args {
		v, err := strconv.ParseInt(s, 10, maxArgBits+1)
		if err != nil || (v < 0 && i != 1) {
			return nil, fmt.Errorf("argument %d is %q, not a number that can stand there", i+2, s)
		}
		n[i] = v
	}
	if n[0] < 3 || n[0] > 1<<20 {
		return nil, fmt.Errorf("stream descriptor %d is not possible", n[0])
	}
	if got, typ := n[count-2], n[count-1]; typ != plain || got != callbacks {
		return nil, fmt.Errorf("callbacks %#x and stream type %d in place of %#x and %d: made for Remus or COLO, or for another release of Xen?", got, typ, callbacks, plain)
	}
	return n, nil
}

// helper stands between the receiver, at the other end of the stream, and
// libxl, at its standard input and output. Where the stream is a stock one,
// from stock xl, it fills the guest itself.
type helper struct {
	callouts
	stream io.ReadWriter
	hello  hello
	uuid   [16]byte // of the guest, as the receiver says, or Xen where there is none

	// libxlGone tells whether the process that started this one has ended.
	libxlGone func() bool
	// destroy destroys the domain if it is the guest of that UUID and has
	// never run.
	destroy func(domid uint32, uuid [16]byte) error
	// load fills the guest from a libxc stream. It sends libxl its messages,
	// but for the last one.
	load func(h *helper, stream io.Reader) error
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
		lerr = h.complete(-1, errBrokenStream)
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
	if stock, err := h.greet(); err != nil || stock {
		return err == nil, err
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
		case opStream:
			err = h.loadStream()
			return err == nil, err
		case opResults:
			err = h.send(msgRestoreResults, appendUlong(appendUlong(nil, f.args[0]), f.args[1]))
		case opComplete:
			err = h.complete(int32(f.args[0]), int32(f.args[1]))
			return err == nil, err
		default:
			err = fmt.Errorf("the receiver sent frame %d, which means nothing here", f.op)
		}
		if err != nil {
			return false, err
		}
	}
}

// greet looks at the beginning of the stream. To a receiver it says hello. A
// stock stream it takes as a whole: that is all that there is to do then.
func (h *helper) greet() (stock bool, err error) {
	var b [preambleSize]byte
	magic := b[:len(bridgeMagic)]
	if _, err := io.ReadFull(h.stream, magic); err != nil {
		return false, err
	}
	if [8]byte(magic) == stockMagic {
		return true, h.takeStock(io.MultiReader(bytes.NewReader(magic), h.stream))
	}
	if [8]byte(magic) != bridgeMagic {
		return false, fmt.Errorf("the stream begins with % x: neither one of Xen nor of a xenferry receiver", magic)
	}
	if _, err := io.ReadFull(h.stream, b[len(magic):]); err != nil {
		return false, err
	}
	h.uuid = [16]byte(b[len(magic):])
	return false, writeFrame(h.stream, opHello, h.hello.args()...)
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
