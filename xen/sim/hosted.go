package sim

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/xenferry/xenferry/xen"
)

// hosted is a domain in its host: what it is made of, from start to end. What
// it is told to do is in commands.go.
type hosted struct {
	serial uint64
	domid  uint32
	cfg    GuestConfig
	name   string // now; belongs to the server, under the server's lock

	memory, area *os.File // memfds
	kick, notify *os.File // eventfds
	ctl          *control
	process      *exec.Cmd
	input        io.Writer // its end, when the host ends, is the guest's end

	mu      sync.Mutex    // one command at a time, and the fields below
	booted  bool          // the boot message is sent
	changed chan struct{} // closed and replaced when the guest has notified
	refs    int           // users of the fields above; the server's table is one

	unused    atomic.Bool   // it has arrived, or is arriving, and was never let run
	exited    chan struct{} // closed when the process has ended
	destroyed chan struct{} // closed when the domain is to end
	destroy   sync.Once
}

// newHosted makes a domain whose process waits for its boot message.
func newHosted(domid uint32, serial uint64, cfg GuestConfig) (*hosted, error) {
	d := &hosted{
		serial:    serial,
		domid:     domid,
		cfg:       cfg,
		name:      cfg.Name,
		changed:   make(chan struct{}),
		refs:      1,
		exited:    make(chan struct{}),
		destroyed: make(chan struct{}),
	}
	if err := d.open(); err != nil {
		d.release()
		return nil, err
	}
	if err := d.start(); err != nil {
		d.release()
		return nil, err
	}
	d.refs += 2 // one for each of the next
	go d.listen()
	go d.reap()
	return d, nil
}

// empty tells whether no page of the guest was ever written.
func (d *hosted) empty() bool {
	info, err := d.memory.Stat()
	return err == nil && info.Sys().(*syscall.Stat_t).Blocks == 0
}

func (d *hosted) open() (err error) {
	label := fmt.Sprintf("sim-%d", d.domid)
	if d.memory, err = newMemory(label, d.cfg.pages()*xen.PageSize); err != nil {
		return err
	}
	if d.area, d.ctl, err = newControl(label+"-control", d.cfg.pages()); err != nil {
		return err
	}
	if d.kick, err = newEventfd(label+"-kick", true); err != nil {
		return err
	}
	d.notify, err = newEventfd(label+"-notify", false)
	return err
}

// start starts the guest's process, this very program.
func (d *hosted) start() error {
	cmd := exec.Command("/proc/self/exe") // also when the file has been replaced since
	cmd.Args = []string{"xenferry-sim-guest", d.cfg.Name}
	cmd.Env = append(os.Environ(), guestEnv+"=1")
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{d.memory, d.area, d.kick, d.notify} // order of fdMemory...
	// A Ctrl-C at the terminal of the host is not meant for its guests.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	input, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the guest's process: %w", err)
	}
	d.process, d.input = cmd, input
	return nil
}

// listen turns the guest's notifications into changed, until the domain ends.
func (d *hosted) listen() {
	defer d.release()
	for b := make([]byte, 8); ; {
		if _, err := d.notify.Read(b); err != nil {
			return
		}
		d.wakeWaiters()
	}
}

func (d *hosted) wakeWaiters() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *hosted) reap() {
	defer d.release()
	d.process.Wait() // how it ended shows in the control area, if anywhere
	close(d.exited)
}

// release gives up one use of the domain; the last one frees what it holds.
func (d *hosted) release() {
	d.mu.Lock()
	d.refs--
	last := d.refs == 0
	d.mu.Unlock()
	if !last {
		return
	}
	for _, f := range []*os.File{d.memory, d.area, d.kick, d.notify} {
		if f != nil {
			f.Close()
		}
	}
	if d.ctl != nil {
		d.ctl.unmap()
	}
}

func (d *hosted) retain() {
	d.mu.Lock()
	d.refs++
	d.mu.Unlock()
}

// end kills the guest, and returns when it has ended. Its memory is freed then,
// whoever else maps it: for a large guest that takes a while, and nobody has to
// wait for it. The server has taken the domain out of its table.
func (d *hosted) end() {
	d.destroy.Do(func() {
		close(d.destroyed)
		d.process.Process.Kill()
		<-d.exited
		d.notify.SetReadDeadline(time.Unix(1, 0)) // ends listen
		go func() {
			defer d.release()
			if err := freeMemory(d.memory, d.cfg.pages()*xen.PageSize); err != nil {
				fmt.Fprintf(os.Stderr, "simulated host: freeing the memory of %s: %v\n", d, err)
			}
		}()
	})
}
