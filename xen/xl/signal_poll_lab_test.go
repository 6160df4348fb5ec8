//go:build xen && lab

package xl

import (
	"encoding/binary"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/scripts/lab/signal"
)

const (
	// pollerEnv makes a process of this binary a poller of that domain.
	pollerEnv = "XENFERRY_XL_POLLER"
	// isolatedFile names the processors on which the kernel runs only what is
	// sent there.
	isolatedFile = "/sys/devices/system/cpu/isolated"
	pollerFd     = 3 // the poller's end of its socket
)

func init() { roles[pollerEnv] = poll }

// poll looks at a domain's state without a pause, whenever it gets a byte,
// until the domain has suspended. It answers with a byte after its first look,
// and with the start of its last look that did not see that and the end of the
// first that did, in ticks.
func poll(arg string) {
	domid, err := strconv.ParseUint(arg, 10, 32)
	if err != nil {
		fatal("poller", err)
	}
	look, err := openLook(uint32(domid))
	if err != nil {
		fatal("poller", err)
	}
	var begin [1]byte
	for {
		if n, err := unix.Read(pollerFd, begin[:]); n != 1 {
			if err != nil {
				fatal("poller", err)
			}
			return // the test has ended
		}
		running, stopped, err := look.untilStop(pollerFd)
		if err != nil {
			fatal("poller", err)
		}
		answer := binary.LittleEndian.AppendUint64(nil, uint64(running))
		answer = binary.LittleEndian.AppendUint64(answer, uint64(stopped))
		if _, err := unix.Write(pollerFd, answer); err != nil {
			fatal("poller", err)
		}
	}
}

// poller is the poller's process, as the test sees it.
type poller struct {
	socket int     // blocking: an answer must wake nobody before it is asked for
	tick   float64 // in ns
}

// startPoller starts the poller on the processor that is the observer's.
func startPoller(t *testing.T, domid uint32) *poller {
	t.Helper()
	text, err := os.ReadFile(isolatedFile)
	cpu := strings.TrimSpace(string(text))
	if err != nil || cpu == "" {
		t.Fatalf("no processor is isolated for the poller (%s): boot the lab with XENFERRY_LAB_OBSERVER=1: %v", isolatedFile, err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "poller")
	defer theirs.Close()
	self := asRole(pollerEnv, strconv.FormatUint(uint64(domid), 10))
	cmd := exec.Command("taskset", "-c", cpu, self.Path)
	cmd.Env, cmd.Stderr, cmd.ExtraFiles = self.Env, self.Stderr, []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &poller{fds[0], tickTime()}
	limit := unix.NsecToTimeval(time.Minute.Nanoseconds())
	if err := unix.SetsockoptTimeval(p.socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Error(err)
	}
	t.Cleanup(func() {
		unix.Close(p.socket)
		if err := cmd.Wait(); err != nil {
			t.Errorf("poller: %v", err)
		}
	})
	return p
}

// begin returns when the poller looks at the domain.
func (p *poller) begin(t *testing.T) {
	t.Helper()
	if _, err := unix.Write(p.socket, []byte{'b'}); err != nil {
		t.Fatalf("poller: %v", err)
	}
	p.read(t, make([]byte, 1))
}

// sample is a suspend that was known, and the waiter told of it, at moments in
// ticks: the poller's answer says between which others the domain has stopped.
func (p *poller) sample(t *testing.T, known, told int64) signal.Sample {
	t.Helper()
	var b [16]byte
	p.read(t, b[:])
	at := func(ticks int64) int64 { return int64(float64(ticks) * p.tick) }
	return signal.Sample{
		Running: at(int64(binary.LittleEndian.Uint64(b[:8]))),
		Stopped: at(int64(binary.LittleEndian.Uint64(b[8:]))),
		Known:   at(known),
		Told:    at(told),
	}
}

// tickTime measures how long a tick is, in ns.
func tickTime() float64 {
	begun, from := time.Now(), ticks()
	time.Sleep(time.Second)
	return float64(time.Since(begun)) / float64(ticks()-from)
}

// read fills b with what the poller says.
func (p *poller) read(t *testing.T, b []byte) {
	t.Helper()
	for n := 0; n < len(b); {
		m, err := unix.Read(p.socket, b[n:])
		if err == unix.EINTR {
			continue
		}
		if m <= 0 {
			t.Fatalf("no answer from the poller: %v", err)
		}
		n += m
	}
}
