package sim

import (
	"fmt"
	"math/bits"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/memcheck"
)

// Sizes of the control area's parts. The dirty bitmap follows, a bit a page.
const (
	controlMagic  = 0x4C52544346455831
	controlHeader = 128 << 10
	maxContext    = 64 << 10
	maxErrors     = 8
	maxErrorText  = 248
)

// command is what the host wants of the guest.
type command uint8

const (
	cmdPause command = iota // stay as made, until told to run
	cmdRun
	cmdSuspend
)

// guestState is what the guest is doing.
type guestState uint8

const (
	guestStarting guestState = iota
	guestPaused              // never ran here
	guestRunning
	guestSuspended
	guestCrashed
)

// A word of the control area carries a command or a state with the number of
// the command: seq<<8 | value. The guest answers each command that it obeys
// with the same number, so that an old answer is never taken for a new one.
type word uint64

func makeWord(seq uint64, v uint8) word { return word(seq<<8 | uint64(v)) }
func (w word) seq() uint64              { return uint64(w >> 8) }
func (w word) command() command         { return command(w) }
func (w word) state() guestState        { return guestState(w) }

// controlLayout is the start of the control area, shared by the host, the
// guest and whoever migrates it. Each field has one writer.
type controlLayout struct {
	magic uint64
	pages uint64

	want     atomic.Uint64 // host: command
	is       atomic.Uint64 // guest: state
	logDirty atomic.Uint32 // sender: 1 while it reads the dirty bitmap
	throttle atomic.Uint32 // sender: percent of its time that the guest loses
	sweep    atomic.Uint64 // host: number of full verifications asked for

	instance atomic.Uint64 // guest: random number of this run of the process
	arrivals atomic.Uint64 // guest: how often it was migrated
	heart    heartCounters // guest
	vcpus    [MaxVCPUs]vcpuCounters

	errors     atomic.Uint32 // guest: texts in use
	contextLen atomic.Uint32 // guest, while suspended
	failure    text          // guest: why it crashed
	errorTexts [maxErrors]text
	context    [maxContext]byte
}

// vcpuCounters are one vCPU's, a cache line.
type vcpuCounters struct {
	writes, verified, sweeps, bad atomic.Uint64
	swept                         atomic.Uint64 // last full verification done
	_                             [3]uint64
}

// heartCounters: times are nanoseconds, moments CLOCK_MONOTONIC.
type heartCounters struct {
	beats, last, maxGap, maxGapHere, arrivalGap atomic.Int64
}

type text struct {
	len  atomic.Uint32
	text [maxErrorText]byte
}

func (t *text) set(s string) { t.len.Store(uint32(copy(t.text[:], s))) }

func (t *text) get() string { return string(t.text[:min(t.len.Load(), maxErrorText)]) }

// The header must hold the layout.
const _ = uint(controlHeader - unsafe.Sizeof(controlLayout{}))

// control is a mapping of a guest's control area.
type control struct {
	*controlLayout
	dirty []uint64 // atomic access only
	mem   []byte
}

func controlSize(pages uint64) uint64 {
	const page = xen.PageSize
	return controlHeader + (pages/8+page)/page*page
}

// newControl makes the control area of a guest.
func newControl(name string, pages uint64) (*os.File, *control, error) {
	f, err := newMemory(name, controlSize(pages))
	if err != nil {
		return nil, nil, err
	}
	c, err := mapControlMemory(f, pages)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	c.magic, c.controlLayout.pages = controlMagic, pages
	c.want.Store(uint64(makeWord(1, uint8(cmdPause))))
	return f, c, nil
}

// mapControl maps the control area of a guest with that many pages.
func mapControl(f *os.File, pages uint64) (*control, error) {
	c, err := mapControlMemory(f, pages)
	if err != nil {
		return nil, err
	}
	if c.magic != controlMagic || c.controlLayout.pages != pages {
		c.unmap()
		return nil, fmt.Errorf("control area of a simulated guest: is not one for %d pages", pages)
	}
	return c, nil
}

func mapControlMemory(f *os.File, pages uint64) (*control, error) {
	mem, err := mapMemory(f, controlSize(pages), unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return nil, err
	}
	return &control{
		controlLayout: (*controlLayout)(unsafe.Pointer(&mem[0])),
		dirty:         unsafe.Slice((*uint64)(unsafe.Pointer(&mem[controlHeader])), (pages+63)/64),
		mem:           mem,
	}, nil
}

func (c *control) unmap() error {
	mem := c.mem
	*c = control{}
	return unix.Munmap(mem)
}

func (c *control) wanted() word    { return word(c.want.Load()) }
func (c *control) state() word     { return word(c.is.Load()) }
func (c *control) setState(w word) { c.is.Store(uint64(w)) }

// mark sets the dirty bit of a page that was written. See the package comment.
func (c *control) mark(pfn uint64) { atomic.OrUint64(&c.dirty[pfn/64], 1<<(pfn%64)) }

// clean moves the dirty bits to bm, which has as many words or is nil, and
// returns how many there were.
func (c *control) clean(bm xen.Bitmap) (n uint64) {
	for i := range c.dirty {
		w := uint64(0)
		// Most words are zero: a load leaves their cache line shared.
		if atomic.LoadUint64(&c.dirty[i]) != 0 {
			w = atomic.SwapUint64(&c.dirty[i], 0)
		}
		if bm != nil {
			bm[i] = w
		}
		n += uint64(bits.OnesCount64(w))
	}
	return n
}

// addError adds the text of a damaged page, if there is still room.
func (c *control) addError(s string) {
	if n := c.errors.Load(); n < maxErrors {
		c.errorTexts[n].set(s)
		c.errors.Store(n + 1)
	}
}

func (c *control) errorList() []string {
	var list []string
	for i := range min(c.errors.Load(), maxErrors) {
		list = append(list, c.errorTexts[i].get())
	}
	return list
}

func (c *control) setCounts(vcpu int, n memcheck.Counts) {
	v := &c.vcpus[vcpu]
	v.writes.Store(n.Writes)
	v.verified.Store(n.Verified)
	v.sweeps.Store(n.Sweeps)
	v.bad.Store(n.Bad)
}

// counts returns the sum over all vCPUs, but for Sweeps the least.
func (c *control) counts(vcpus int) (sum memcheck.Counts) {
	sum.Sweeps = ^uint64(0)
	for i := range vcpus {
		v := &c.vcpus[i]
		sum.Writes += v.writes.Load()
		sum.Verified += v.verified.Load()
		sum.Sweeps = min(sum.Sweeps, v.sweeps.Load())
		sum.Bad += v.bad.Load()
	}
	return sum
}

// monotonic returns CLOCK_MONOTONIC, which all processes of a machine share.
func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // cannot fail on Linux
	}
	return time.Duration(ts.Nano())
}
