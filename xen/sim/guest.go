package sim

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/memcheck"
)

// guestEnv marks a process as a guest's.
const guestEnv = "XENFERRY_SIM_GUEST"

// Descriptors that a guest process inherits.
const (
	fdMemory = 3 + iota
	fdControl
	fdKick
	fdNotify
)

// bootMessage is what the host writes to the standard input of a guest process
// before the guest may begin: a frame as in wire.go.
type bootMessage struct {
	Config  GuestConfig   `json:"config"`
	Context *guestContext `json:"context,omitempty"` // of a guest that arrives
}

// RunIfGuest makes this process a guest if a host has started it as one, and
// then never returns. Every program that calls Serve calls it first of all, in
// main and in TestMain: a guest is its host's program, started once more.
func RunIfGuest() {
	if os.Getenv(guestEnv) == "" {
		return
	}
	if err := runGuest(); err != nil {
		fmt.Fprintf(os.Stderr, "simulated guest: %v\n", err)
	}
	os.Exit(1)
}

// guest is the state of a guest process.
//
// The lock running is what makes it run: each vCPU and the heartbeat hold it
// for reading during a step, and who stops the guest takes it for writing.
type guest struct {
	cfg     GuestConfig
	context *guestContext // where it goes on, nil for a new guest
	mem     []byte
	// imageSum is of the memory that came from an image and is never written.
	imageSum string
	ctl      *control
	kicks    chan struct{} // the host has written the control area
	notify   *os.File

	running  sync.RWMutex
	stopped  bool // running is held for writing
	workers  []*memcheck.Worker
	wake     []chan struct{}
	heart    heart
	errorsMu sync.Mutex // of ctl.addError
}

// runGuest is the life of a guest process. It returns only errors: a guest
// ends by being killed, or when its host is gone.
func runGuest() error {
	host := bufio.NewReader(os.Stdin)
	g, err := openGuest(host)
	if err != nil {
		return err
	}
	go func() {
		io.Copy(io.Discard, host) // the host writes no more: this waits for its end
		os.Exit(0)
	}()
	// Room for each vCPU, the heartbeat and the kicks to run at once: a kick
	// must not wait for a vCPU that never sleeps.
	runtime.GOMAXPROCS(max(g.cfg.VCPUs+3, runtime.NumCPU()))
	kick := os.NewFile(fdKick, "kick")
	go func() {
		for b := make([]byte, 8); ; {
			if _, err := kick.Read(b); err != nil {
				fmt.Fprintf(os.Stderr, "simulated guest: kick: %v\n", err)
				os.Exit(1)
			}
			select {
			case g.kicks <- struct{}{}:
			default: // one is waiting already
			}
		}
	}()
	g.serve()
	return nil
}

// openGuest waits for the boot message and maps the guest's memory, without
// looking into it.
func openGuest(host io.Reader) (*guest, error) {
	var size [4]byte
	if _, err := io.ReadFull(host, size[:]); err != nil {
		os.Exit(0) // destroyed before it could boot
	}
	var boot bootMessage
	if err := readBody(host, binary.LittleEndian.Uint32(size[:]), &boot); err != nil {
		return nil, fmt.Errorf("boot message: %w", err)
	}
	g := &guest{
		cfg:     boot.Config,
		context: boot.Context,
		kicks:   make(chan struct{}, 1),
		notify:  os.NewFile(fdNotify, "notify"),
		stopped: true,
	}
	g.running.Lock()
	memory, area := os.NewFile(fdMemory, "memory"), os.NewFile(fdControl, "control")
	var err error
	if g.mem, err = mapMemory(memory, g.cfg.pages()*xen.PageSize, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return nil, err
	}
	if g.ctl, err = mapControl(area, g.cfg.pages()); err != nil {
		return nil, err
	}
	memory.Close()
	area.Close()
	g.heart.counters = &g.ctl.heart
	g.ctl.instance.Store(randomWord())
	if g.context != nil {
		g.restoreCounters()
	}
	return g, nil
}

// restoreCounters shows the counters that the guest arrives with.
func (g *guest) restoreCounters() {
	g.ctl.arrivals.Store(g.context.Arrivals + 1)
	g.heart.arrive(g.context.Heart)
	g.heart.publish()
	for _, text := range g.context.Errors {
		g.ctl.addError(text)
	}
	for i, s := range g.context.VCPUs {
		g.ctl.setCounts(i, memcheck.Counts{Writes: s.Writes, Verified: s.Verified, Sweeps: s.Sweeps, Bad: s.Bad})
	}
}

// serve obeys the host's commands for ever.
func (g *guest) serve() {
	var obeyed word
	for {
		if want := g.ctl.wanted(); want != obeyed {
			obeyed = want
			g.obey(want)
			continue
		}
		for _, w := range g.wake {
			select {
			case w <- struct{}{}:
			default:
			}
		}
		<-g.kicks
	}
}

func (g *guest) obey(want word) {
	switch want.command() {
	case cmdPause:
		g.publish(want, guestPaused)
	case cmdRun:
		if err := g.resume(); err != nil {
			g.ctl.failure.set(err.Error())
			g.publish(want, guestCrashed)
			return
		}
		g.publish(want, guestRunning)
	case cmdSuspend:
		if g.cfg.NoSuspend || !g.delay(want) {
			return // no answer: that is all the host sees of it
		}
		if err := g.suspend(); err != nil {
			g.ctl.failure.set(err.Error())
			g.publish(want, guestCrashed)
			return
		}
		g.publish(want, guestSuspended)
	}
}

// publish answers a command.
func (g *guest) publish(want word, state guestState) {
	g.ctl.setState(makeWord(want.seq(), uint8(state)))
	if err := signal(g.notify); err != nil {
		fmt.Fprintf(os.Stderr, "simulated guest: notify: %v\n", err)
	}
}

// delay waits as long as this guest takes until it suspends. It tells whether
// that is still wanted.
func (g *guest) delay(want word) bool {
	if g.cfg.SuspendDelay == 0 {
		return true
	}
	timer := time.NewTimer(g.cfg.SuspendDelay)
	defer timer.Stop()
	for g.ctl.wanted() == want {
		select {
		case <-timer.C:
			return g.ctl.wanted() == want
		case <-g.kicks:
		}
	}
	return false
}

// suspend stops all vCPUs between two steps and saves their context.
func (g *guest) suspend() error {
	if !g.stopped {
		g.running.Lock()
		g.stopped = true
	}
	c := guestContext{
		Version:  contextVersion,
		Seed:     g.cfg.Seed,
		Arrivals: g.ctl.arrivals.Load(),
		Heart:    g.heart.state,
		Errors:   g.ctl.errorList(),
		ImageSum: g.imageSum,
	}
	for _, w := range g.workers {
		c.VCPUs = append(c.VCPUs, w.State())
	}
	body, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if len(body) > maxContext {
		return fmt.Errorf("context of %d bytes is longer than %d", len(body), maxContext)
	}
	g.ctl.contextLen.Store(uint32(copy(g.ctl.context[:], body)))
	return nil
}

// resume lets the vCPUs run, and boots the guest if it never ran here.
func (g *guest) resume() error {
	if g.workers == nil {
		if err := g.boot(); err != nil {
			return err
		}
	}
	if g.stopped {
		g.stopped = false
		g.running.Unlock()
	}
	return nil
}

// boot fills memory, or takes over what arrived, and starts the vCPUs.
func (g *guest) boot() error {
	opts := memcheck.Options{
		Seed:      g.cfg.Seed,
		ZeroShare: g.cfg.zeroShare(),
		Workers:   min(g.cfg.VCPUs, runtime.NumCPU()),
		Touched:   func(page int) { g.ctl.mark(areaStart + uint64(page)) },
	}
	open := memcheck.New
	if g.context != nil {
		open = memcheck.Attach
		g.imageSum = g.context.ImageSum
	} else if err := g.loadImage(); err != nil {
		return err
	}
	area, err := open(g.mem[areaStart*xen.PageSize:g.cfg.areaEnd()*xen.PageSize], opts)
	if err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	load, err := memcheck.ParseWorkload(g.cfg.Workload)
	if err != nil {
		return err
	}
	for i := range g.cfg.VCPUs {
		w, err := memcheck.NewWorker(area, g.workerOptions(i, load))
		if err != nil {
			return err // crashed: nothing runs
		}
		g.workers = append(g.workers, w)
		g.wake = append(g.wake, make(chan struct{}, 1))
	}
	for i := range g.workers {
		go g.runVCPU(i)
	}
	go g.heart.run(g.running.RLocker())
	return nil
}

func (g *guest) workerOptions(i int, load memcheck.Workload) memcheck.WorkerOptions {
	opts := memcheck.WorkerOptions{
		ID:                i,
		Workers:           g.cfg.VCPUs,
		Workload:          load,
		VerifyBytesPerSec: g.cfg.verifyRate(),
		OnBad: func(err error) {
			g.errorsMu.Lock()
			defer g.errorsMu.Unlock()
			g.ctl.addError(err.Error())
		},
	}
	if g.context != nil {
		opts.State = &g.context.VCPUs[i]
	}
	return opts
}

// runVCPU is one vCPU: steps of its worker, and sleep when nothing is due.
func (g *guest) runVCPU(i int) {
	w, counters := g.workers[i], &g.ctl.vcpus[i]
	clock := newVCPUClock(&g.ctl.throttle)
	var sweep, ticket uint64
	timer := time.NewTimer(0)
	for {
		g.running.RLock()
		if asked := g.ctl.sweep.Load(); asked != sweep {
			sweep, ticket = asked, w.SweepNow()
			if i == 0 {
				g.verifyImage(w)
			}
		}
		wait := w.Step(clock.now())
		g.ctl.setCounts(i, w.Counts())
		if counters.swept.Load() != sweep && w.Swept(ticket) {
			counters.swept.Store(sweep)
			signal(g.notify)
		}
		g.running.RUnlock()
		if wait = clock.pause(wait); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-g.wake[i]:
			}
		}
	}
}
