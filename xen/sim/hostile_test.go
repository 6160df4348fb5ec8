package sim

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/memcheck"
)

func goodConfig() GuestConfig {
	cfg := GuestConfig{Name: "guest", MemMiB: 4, Seed: 9}
	cfg.complete()
	return cfg
}

func TestGuestConfigLimits(t *testing.T) {
	for name, change := range map[string]func(*GuestConfig){
		"no name":          func(c *GuestConfig) { c.Name = "" },
		"long name":        func(c *GuestConfig) { c.Name = strings.Repeat("x", maxGuestName+1) },
		"name with slash":  func(c *GuestConfig) { c.Name = "../x" },
		"name with escape": func(c *GuestConfig) { c.Name = "a\x1b[2J" },
		"name not UTF-8":   func(c *GuestConfig) { c.Name = "a\xff" },
		"bad UUID":         func(c *GuestConfig) { c.UUID = "1234" },
		"no memory":        func(c *GuestConfig) { c.MemMiB = 0 },
		"1 MiB":            func(c *GuestConfig) { c.MemMiB = 1 },
		"too much memory":  func(c *GuestConfig) { c.MemMiB = MaxMemMiB + 1 },
		"overflow":         func(c *GuestConfig) { c.MemMiB = math.MaxUint64 },
		"no vCPU":          func(c *GuestConfig) { c.VCPUs = -1 },
		"too many vCPUs":   func(c *GuestConfig) { c.VCPUs = MaxVCPUs + 1 },
		"workload":         func(c *GuestConfig) { c.Workload = "busy" },
		"zero share":       func(c *GuestConfig) { c.ZeroShare = 1.5 },
		"NaN":              func(c *GuestConfig) { c.ZeroShare = math.NaN() },
		"no seed":          func(c *GuestConfig) { c.Seed = 0 },
		"verify rate":      func(c *GuestConfig) { c.VerifyRate = math.MaxInt64 },
		"negative delay":   func(c *GuestConfig) { c.SuspendDelay = -1 },
		"long delay":       func(c *GuestConfig) { c.SuspendDelay = MaxSuspendDelay + 1 },
	} {
		cfg := goodConfig()
		if err := cfg.check(); err != nil {
			t.Fatal(err)
		}
		if change(&cfg); cfg.check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, text := range []string{"", "null", "{}", "[]", `{"name":"x","unknown":1}`, "{} {}",
		strings.Repeat(" ", maxConfigSize) + "{}"} {
		if _, err := parseConfig([]byte(text)); err == nil {
			t.Errorf("configuration %.30q was accepted", text)
		}
	}
}

func goodContext(cfg *GuestConfig) guestContext {
	return guestContext{Version: contextVersion, Seed: cfg.Seed, VCPUs: make([]memcheck.State, cfg.VCPUs)}
}

func TestFinalStateLimits(t *testing.T) {
	cfg := goodConfig()
	record := func(c guestContext) []savefmt.Record {
		body, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return finalRecords(body)
	}
	if _, err := parseFinal(record(goodContext(&cfg)), &cfg); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*guestContext){
		"version":     func(c *guestContext) { c.Version++ },
		"seed":        func(c *guestContext) { c.Seed++ },
		"no vCPU":     func(c *guestContext) { c.VCPUs = nil },
		"vCPUs":       func(c *guestContext) { c.VCPUs = make([]memcheck.State, 2) },
		"heart":       func(c *guestContext) { c.Heart.Beats = -1 },
		"many errors": func(c *guestContext) { c.Errors = make([]string, maxErrors+1) },
		"too long":    func(c *guestContext) { c.Errors = []string{strings.Repeat("x", maxContext)} },
	} {
		c := goodContext(&cfg)
		change(&c)
		if _, err := parseFinal(record(c), &cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	good := record(goodContext(&cfg))
	for name, recs := range map[string][]savefmt.Record{
		"none":       nil,
		"two":        append(good, good...),
		"other type": {{Type: savefmt.RecHVMContext, Body: good[0].Body}},
		"no JSON":    finalRecords([]byte("x")),
		"empty":      finalRecords(nil),
	} {
		if _, err := parseFinal(recs, &cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestStaticStateLimits(t *testing.T) {
	if err := checkStatic(staticRecords()); err != nil {
		t.Fatal(err)
	}
	change := func(at int) []savefmt.Record {
		recs := staticRecords()
		recs[0].Body[at]++
		return recs
	}
	for name, recs := range map[string][]savefmt.Record{
		"none":      nil,
		"two":       append(staticRecords(), staticRecords()...),
		"truncated": {{Type: savefmt.RecCPUIDPolicy, Body: staticRecords()[0].Body[:30]}},
		"machine":   change(leafSize + 8),
		"signature": change(12),
	} {
		if err := checkStatic(recs); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A guest whose context names impossible positions must not run.
func TestHostileContextCrashesGuestOnly(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	ctx := testContext(t)
	d := openDomain(t, a.Host, a.create(t, GuestConfig{MemMiB: 4}))
	in, err := receiveCopy(ctx, a.Host, d, "arrived")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	b := xen.NewBatch() // the header of the area, so that it is found
	b.PFNs = append(b.PFNs, areaStart)
	if err := d.Map(b); err != nil {
		t.Fatal(err)
	}
	copy(in.(*Incoming).view(areaStart), b.Pages[0])
	config, err := d.Config(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := parseConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	c := goodContext(&cfg)
	c.VCPUs[0].Cursor = math.MaxUint64
	body, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Finish(ctx, finalRecords(body)); err != nil {
		t.Fatal(err)
	}
	if err := in.Finish(ctx, finalRecords(body)); err == nil {
		t.Error("finished twice")
	}
	if err := in.Unpause(ctx); err == nil || !strings.Contains(err.Error(), "cannot go on") {
		t.Errorf("unpause: %v", err)
	}
	checkGuest(t, a.Host, d.ref.Domid)
}

func TestReceiveRefuses(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	d := openDomain(t, a.Host, a.create(t, GuestConfig{MemMiB: 4}))
	for name, c := range map[string]struct {
		change func(*xen.Spec)
		want   error
	}{
		"type":           {func(s *xen.Spec) { s.Type = xen.TypePVH }, xen.ErrUnsupported},
		"configuration":  {func(s *xen.Spec) { s.Config = []byte("{") }, nil},
		"name":           {func(s *xen.Spec) { s.Name = "" }, nil},
		"pages":          {func(s *xen.Spec) { s.Pages++ }, nil},
		"no pages":       {func(s *xen.Spec) { s.Pages = 0 }, nil},
		"domid in use":   {func(s *xen.Spec) { s.Domid = d.ref.Domid }, nil},
		"domid too high": {func(s *xen.Spec) { s.Domid = math.MaxUint32 }, nil},
		"name in use":    {func(s *xen.Spec) { s.Name = "testreceiverefuses" }, xen.ErrNameTaken},
	} {
		spec, err := specOf(testContext(t), d, "arrived")
		if err != nil {
			t.Fatal(err)
		}
		c.change(&spec)
		in, err := a.Receive(testContext(t), spec)
		if err == nil {
			t.Errorf("%s: accepted", name)
			in.Close()
		} else if c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	spec, err := specOf(testContext(t), d, "arrived")
	if err != nil {
		t.Fatal(err)
	}
	spec.Domid = 77
	in, err := a.Receive(testContext(t), spec)
	if err != nil || in.Domid() != 77 {
		t.Fatalf("a certain domid: %v", err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
}

// Map must not be led astray by what a source says of its pages.
func TestIncomingMapRefuses(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	ctx := testContext(t)
	d := openDomain(t, a.Host, a.create(t, GuestConfig{MemMiB: 4}))
	spec, err := specOf(ctx, d, "arrived")
	if err != nil {
		t.Fatal(err)
	}
	in, err := a.Receive(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	batch := func(pfn uint64, types ...xen.PageType) *xen.Batch {
		b := xen.NewBatch()
		b.PFNs, b.Types = append(b.PFNs, pfn), append(b.Types, types...)
		return b
	}
	good := func() *xen.Batch { return batch(areaStart, xen.PageNormal) }
	if in.Map(good()) == nil {
		t.Error("mapped before the static state")
	}
	if in.Finish(ctx, nil) == nil {
		t.Error("finished before the static state")
	}
	if err := in.LoadStatic(ctx, staticRecords()); err != nil {
		t.Fatal(err)
	}
	if in.LoadStatic(ctx, staticRecords()) == nil {
		t.Error("the static state was loaded twice")
	}
	tooLong := xen.NewBatch()
	for range xen.BatchPages + 1 {
		tooLong.PFNs, tooLong.Types = append(tooLong.PFNs, 1), append(tooLong.Types, xen.PageNormal)
	}
	for name, b := range map[string]*xen.Batch{
		"beyond the end":  batch(in.(*Incoming).ref.Pages, xen.PageNormal),
		"far beyond":      batch(math.MaxUint64, xen.PageXTab),
		"no type":         batch(areaStart),
		"two types":       batch(areaStart, xen.PageNormal, xen.PageNormal),
		"page table":      batch(areaStart, 4),
		"page in a hole":  batch(holeStart, xen.PageNormal),
		"too many at all": tooLong,
	} {
		if in.Map(b) == nil {
			t.Errorf("%s: mapped", name)
		}
	}
	for _, typ := range []xen.PageType{xen.PageBroken, xen.PageXAlloc, xen.PageXTab} {
		b := batch(areaStart, typ)
		if err := in.Map(b); err != nil || b.Pages[0] != nil {
			t.Errorf("type %#x: %v, a view of %d bytes", typ, err, len(b.Pages[0]))
		}
	}
	if err := in.Map(good()); err != nil {
		t.Error(err)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if in.Map(good()) == nil {
		t.Error("mapped after Close")
	}
}

// rawDial connects to a host without its client.
func rawDial(t *testing.T, h *testHost) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: h.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestHostileRequests(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	domid := a.create(t, GuestConfig{MemMiB: 4})
	descriptors := func() int {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", a.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	before := descriptors()
	frame := func(body string) string {
		return string(binary.LittleEndian.AppendUint32(nil, uint32(len(body)))) + body
	}
	op := func(rest string) string {
		return frame(fmt.Sprintf(`{"version":%d,"op":%s}`, protocolVersion, rest))
	}
	for name, frame := range map[string]string{
		"too long":        "\xff\xff\xff\xff{}",
		"no JSON":         frame("{"),
		"empty":           frame(""),
		"no version":      frame(`{"op":"info"}`),
		"unknown request": op(fmt.Sprintf(`"no","domid":%d`, domid)),
		"domain 0":        op(`"destroy"`),
		"another serial":  op(fmt.Sprintf(`"destroy","domid":%d,"serial":99`, domid)),
		"no guest":        op(`"create"`),
		"no spec":         op(`"receive"`),
	} {
		c := rawDial(t, a)
		if _, err := c.Write([]byte(frame)); err != nil {
			t.Fatal(err)
		}
		rep := &reply{}
		if _, err := receiveFrame(c, rep); err != nil {
			t.Errorf("%s: no reply: %v", name, err)
		} else if rep.Failure == nil || !strings.Contains(rep.Failure.Text, `simulated host "a"`) {
			t.Errorf("%s: reply %+v", name, rep)
		}
	}
	// One that ends in the middle, and one with descriptors that nobody wants.
	half := rawDial(t, a)
	if _, err := half.Write([]byte{9, 0}); err != nil {
		t.Fatal(err)
	}
	half.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, n := range []int{1, maxFiles + 1} {
		c := rawDial(t, a)
		files := make([]*os.File, n)
		for i := range files {
			files[i] = null
		}
		if err := sendFrame(c, &request{Version: protocolVersion, Op: opInfo}, files, time.Second); err != nil {
			t.Fatal(err)
		}
		rep := &reply{}
		if _, err := receiveFrame(c, rep); err != nil {
			t.Errorf("%d descriptors: %v", n, err)
		}
	}
	checkGuest(t, a.Host, domid)
	mustWaitFor(t, "the host closes what it was sent", func() bool { return descriptors() <= before })
}

// A guest that nobody waits for any more is not left behind.
func TestCreateTakenBack(t *testing.T) {
	shortDir(t)
	a := startHost(t, "a")
	for _, limit := range []time.Duration{0, time.Millisecond, 20 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(testContext(t), limit)
		_, err := a.Create(ctx, GuestConfig{Name: "guest", MemMiB: 400})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("create within %v: %v", limit, err)
		}
		if _, err := a.Find(testContext(t), "guest"); !errors.Is(err, xen.ErrNoDomain) {
			t.Errorf("create within %v: still there, %v", limit, err)
		}
	}
	if _, err := a.Create(testContext(t), GuestConfig{Name: "guest", MemMiB: 4000}); !errors.Is(err, xen.ErrNoMemory) {
		t.Errorf("too large: %v", err)
	}
	info, err := a.Info(testContext(t))
	if err != nil || info.FreeKiB != info.TotalKiB {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestDirChecks(t *testing.T) {
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Dir(); err == nil || !strings.Contains(err.Error(), "0700") {
		t.Errorf("a directory for all: %v", err)
	}
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.Chmod(dir, 0o700), os.Symlink(dir, link)); err != nil {
		t.Fatal(err)
	}
	t.Setenv(DirEnv, link)
	if _, err := Dir(); err == nil {
		t.Error("a link was followed")
	}
	t.Setenv(DirEnv, filepath.Join(dir, "sub"))
	if got, err := Dir(); err != nil || got != filepath.Join(dir, "sub") {
		t.Errorf("a new directory: %q, %v", got, err)
	}
	for _, name := range []string{"", ".", "..", "-x", "a b", strings.Repeat("a", 64), "a/b"} {
		if CheckHostName(name) == nil {
			t.Errorf("host name %q was accepted", name)
		}
	}
	if _, err := socketPath("/"+strings.Repeat("d", 100), "host"); err == nil || !strings.Contains(err.Error(), DirEnv) {
		t.Errorf("long path: %v", err)
	}
	for _, addr := range []string{"nobody", filepath.Join(dir, "nobody.sock")} {
		_, err := Dial(testContext(t), addr)
		if err == nil || !strings.Contains(err.Error(), "nobody.sock") || !strings.Contains(err.Error(), "xenferry sim start") {
			t.Errorf("dial %s: %v", addr, err)
		}
	}
}

func TestSecondHostOfThatName(t *testing.T) {
	dir := shortDir(t)
	a := startHost(t, "a")
	if err := Serve(testContext(t), Options{Name: "a"}); err == nil || !strings.Contains(err.Error(), "already runs") {
		t.Errorf("a second host: %v", err)
	}
	if _, err := a.Info(testContext(t)); err != nil {
		t.Errorf("the second has harmed the first: %v", err)
	}
	if names, err := Names(); err != nil || len(names) != 1 || names[0] != "a" {
		t.Errorf("names: %q, %v", names, err)
	}
	if err := a.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	a.cmd.Wait()
	// In this process, ended by its context.
	ctx, cancel := context.WithCancel(testContext(t))
	ready := make(chan struct{})
	done := make(chan error)
	go func() { done <- Serve(ctx, Options{Name: "a", Dir: dir, Ready: func() { close(ready) }}) }()
	<-ready
	h, err := Dial(testContext(t), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Create(testContext(t), GuestConfig{Name: "guest", MemMiB: 4}); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if names, err := Names(); err != nil || len(names) != 0 {
		t.Errorf("names after the end: %q, %v", names, err)
	}
}

// Memory that is not what was announced must not be mapped: a look beyond its
// end would kill the process.
func TestMapMemoryRefuses(t *testing.T) {
	f, err := newMemory("test", 8192)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := mapMemory(f, 12288, unix.PROT_READ); err == nil {
		t.Error("more was mapped than there is")
	}
	if err := f.Truncate(4096); err == nil {
		t.Error("guest memory could be made smaller")
	}
	open, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if _, err := mapMemory(open, 4096, unix.PROT_READ); err == nil {
		t.Error("a file was mapped as guest memory")
	}
}

func FuzzParseContext(f *testing.F) {
	cfg := goodConfig()
	body, err := json.Marshal(goodContext(&cfg))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if c, err := parseContext(body, &cfg); err == nil && len(c.VCPUs) != cfg.VCPUs {
			t.Errorf("accepted %+v", c)
		}
	})
}

func FuzzParseConfig(f *testing.F) {
	text, err := json.Marshal(goodConfig())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseConfig(text)
		if err != nil {
			return
		}
		if err := c.check(); err != nil || c.pages() == 0 || c.pages() > xen.MaxPages {
			t.Errorf("accepted %+v: %v", c, err)
		}
	})
}
