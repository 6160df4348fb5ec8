package xl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// saveArgs are the arguments of a save.
type saveArgs struct {
	streamFd     int
	domid        uint32
	live, verify bool
}

// Flags of a save, as libxl passes them on (XCFLAGS_* of xenguest.h).
const (
	flagLive  = 1 << 0
	flagDebug = 1 << 1
)

// parseSaveArgs reads what stands behind --save-domain: stream fd, back channel
// fd or -1, domid, flags, callback flags, stream type.
func parseSaveArgs(args []string) (saveArgs, error) {
	n, err := parseHelperArgs(argSave, args, 6, saveCallbacks)
	if err != nil {
		return saveArgs{}, err
	}
	if n[3]&^(flagLive|flagDebug) != 0 {
		return saveArgs{}, fmt.Errorf("flags %#x: only %#x are known: made for another release of Xen?", n[3], flagLive|flagDebug)
	}
	return saveArgs{int(n[0]), uint32(n[2]), n[3]&flagLive != 0, n[3]&flagDebug != 0}, nil
}

// saver is libxl's save helper at work on one guest.
type saver struct {
	callouts
	args saveArgs
	// save writes the stream. It returns with the guest as libxl wants it:
	// suspended on success, no longer logged in any case.
	save func(ctx context.Context, s *saver) error
	// libxlGone tells whether libxl has ended, resume lets the guest run on:
	// without libxl nobody else would.
	libxlGone func() bool
	resume    func(domid uint32) error
}

// saveHelper runs the helper and returns the exit status.
func saveHelper(args []string) int {
	nameHelper()
	a, err := parseSaveArgs(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "xenferry: started as libxl's save helper:", err)
		return 1
	}
	s := &saver{
		callouts: callouts{fromLibxl: fd(0), toLibxl: fd(1)}, args: a,
		save: saveStock, libxlGone: parentGone(os.Getppid()), resume: resumeLeft,
	}
	// An interrupt from the terminal goes to xl too, whose end is seen.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGINT, syscall.SIGHUP)
	ctx, cancel := context.WithCancelCause(context.Background())
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go func() {
		<-term
		cancel(errTerminated)
	}()
	if err := s.run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, helperErrorText, a.domid, err)
		return 1
	}
	return 0
}

// errTerminated: libxl does so where the operation was aborted, or where it
// cannot go on itself.
var errTerminated = fmt.Errorf("libxl has terminated the save: %w", syscall.EINTR)

// run saves, and tells libxl how that went. libxl then resumes the guest after
// a failure, or its caller does; where libxl has died before it knew of the
// end, the guest cannot be anywhere else, and is resumed here.
func (s *saver) run(ctx context.Context) error {
	err := s.save(ctx, s)
	var lerr error
	if err == nil {
		lerr = s.complete(0, 0)
	} else if lerr = s.sendLog(err.Error()); lerr == nil {
		lerr = s.complete(-1, errnoIn(err))
	}
	if lerr == nil {
		return nil // libxl knows
	}
	err = errors.Join(err, lerr)
	if !s.libxlGone() {
		return err
	}
	if rerr := s.resume(s.args.domid); rerr != nil {
		return fmt.Errorf("%w; libxl has died, and the guest could not be resumed: %w", err, rerr)
	}
	return fmt.Errorf("%w; libxl has died, and the guest runs on", err)
}

// errnoIn finds an errno for libxl.
func errnoIn(err error) int32 {
	var errno syscall.Errno
	if errors.As(err, &errno) && errno != 0 {
		return int32(errno)
	}
	return int32(syscall.EIO)
}
