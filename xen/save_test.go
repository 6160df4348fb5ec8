package xen

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// savedDomain is a fakeDomain whose state is that of a PVH or HVM guest.
type savedDomain struct {
	*fakeDomain
	typ   GuestType
	vcpus int
}

// savedHost is a fakeHost that is a Xen host and builds savedIncomings.
type savedHost struct {
	*fakeHost
	spec Spec
	got  *savedIncoming
}

type savedIncoming struct {
	*fakeIncoming
	static, final []savefmt.Record
}

// savedPages is the guest's size.
const savedPages = 300

const savedConfig = `{"c_info":{"type":"pvh","name":"db1","domid":3,"uuid":"u","x":[1,2]},"b_info":{"max_memkb":4000,"target_memkb":4000}}`

func (h *savedHost) Info(ctx context.Context) (HostInfo, error) {
	info, err := h.fakeHost.Info(ctx)
	info.Hypervisor = "Xen 4.17.5"
	return info, err
}

func (h *savedHost) Receive(ctx context.Context, spec Spec) (Incoming, error) {
	h.spec = spec
	spec.Pages = savedPages // the guest's own size, far below what its configuration could mean
	in, err := h.fakeHost.Receive(ctx, spec)
	if err != nil {
		return nil, err
	}
	h.got = &savedIncoming{fakeIncoming: in.(*fakeIncoming)}
	return h.got, nil
}

func (in *savedIncoming) LoadStatic(ctx context.Context, recs []savefmt.Record) error {
	in.static = recs
	return in.h.enter(ctx, "LoadStatic")
}

func (in *savedIncoming) Finish(ctx context.Context, recs []savefmt.Record) error {
	if err := in.h.enter(ctx, "Finish"); err != nil {
		return err
	}
	in.final, in.finished = recs, true
	return nil
}

func (d *savedDomain) Info(ctx context.Context) (DomainInfo, error) {
	info, err := d.fakeDomain.Info(ctx)
	info.Type, info.VCPUs = d.typ, d.vcpus
	return info, err
}

func (d *savedDomain) Config(ctx context.Context) ([]byte, error) {
	return []byte(strings.ReplaceAll(savedConfig, "pvh", string(d.typ))), d.h.enter(ctx, "Config")
}

func (d *savedDomain) StaticState(ctx context.Context) ([]savefmt.Record, error) {
	return []savefmt.Record{
		{Type: savefmt.RecCPUIDPolicy, Body: bytes.Repeat([]byte{1}, 48)}, {Type: savefmt.RecMSRPolicy, Body: make([]byte, 32)},
	}, d.h.enter(ctx, "StaticState")
}

func (d *savedDomain) FinalState(ctx context.Context) ([]savefmt.Record, error) {
	var hvm []byte
	for _, v := range []uint32{1, 24, 0x54381286, 1, 0, 0, 0, 0, 0, 0} { // an empty HVM save blob
		hvm = binary.LittleEndian.AppendUint32(hvm, v)
	}
	recs := []savefmt.Record{
		{Type: savefmt.RecTSCInfo, Body: make([]byte, 24)}, {Type: savefmt.RecHVMParams, Body: make([]byte, 8)},
		{Type: savefmt.RecHVMContext, Body: hvm},
	}
	if d.typ == TypeHVM {
		recs = append(recs, savefmt.Record{Type: savefmt.RecDeviceModel, Body: []byte("QEMU")})
	}
	return recs, d.h.enter(ctx, "FinalState")
}

func (d *savedDomain) ResumePaused(ctx context.Context) error {
	d.state = StatePaused
	return d.h.enter(ctx, "ResumePaused")
}

// memoryTarget is a SaveTarget in memory.
type memoryTarget struct {
	bytes.Buffer
	committed bool
	limit     int // fails beyond it, 0: never
	commitErr error
}

var errDiskFull = errors.New("disk full")

func (m *memoryTarget) Write(b []byte) (int, error) {
	if m.limit > 0 && m.Len()+len(b) > m.limit {
		return 0, errDiskFull
	}
	return m.Buffer.Write(b)
}

func (m *memoryTarget) Commit() error {
	m.committed = m.commitErr == nil
	return m.commitErr
}

func newSaved(typ GuestType) (*savedHost, *savedDomain) {
	h := &savedHost{fakeHost: &fakeHost{name: "alpha"}}
	return h, &savedDomain{newFakeDomain(h.fakeHost, savedPages), typ, 1}
}

func TestSaveAndRestore(t *testing.T) {
	zstd := savefmt.BlockZstd
	for name, opts := range map[string]SaveOptions{
		"plain": {}, "live": {Live: true}, "container": {Codec: &zstd}, "live, container": {Live: true, Codec: &zstd},
	} {
		for _, typ := range []GuestType{TypePVH, TypeHVM} {
			t.Run(name+", "+string(typ), func(t *testing.T) {
				host, dom := newSaved(typ)
				var file memoryTarget
				report, err := Save(t.Context(), host, dom, &file, opts)
				if err != nil || !file.committed || !dom.destroyed {
					t.Fatalf("%+v, %v", report, err)
				}
				if opts.Live != (len(report.Rounds) > 1) || report.Bytes != int64(file.Len()) {
					t.Errorf("%+v for %d bytes", report, file.Len())
				}
				sum, err := savefmt.Verify(bytes.NewReader(file.Bytes()))
				if err != nil || sum.Guest != string(typ) || sum.Xen != "4.17" || sum.Name != "db1" {
					t.Fatalf("%+v, %v", sum, err)
				}
				expectRestored(t, dom, file.Bytes())
			})
		}
	}
}

// expectRestored restores a file and compares the guest with what it was.
func expectRestored(t *testing.T, dom *savedDomain, file []byte) {
	t.Helper()
	to := &savedHost{fakeHost: &fakeHost{name: "beta"}}
	report, err := Restore(t.Context(), to, bytes.NewReader(file), RestoreOptions{})
	if err != nil || !report.Running || to.got.state != StateRunning {
		t.Fatalf("%+v, %v", report, err)
	}
	if to.spec.Name != "db1" || to.spec.Domid != 0 || to.spec.Type != dom.typ || to.spec.MemKiB != 4000 || !strings.Contains(string(to.spec.Config), `"x":[1,2]`) {
		t.Errorf("built from %+v", to.spec)
	}
	final, _ := dom.FinalState(t.Context())
	if len(to.got.static) != 2 || len(to.got.final) != len(final) {
		t.Errorf("%d static and %d final records", len(to.got.static), len(to.got.final))
	}
	for pfn := range dom.Pages() {
		want, got := dom.mem[pfn*PageSize:][:PageSize], to.got.mem[pfn*PageSize:][:PageSize]
		if dom.types[pfn].HasData() && !bytes.Equal(want, got) {
			t.Fatalf("pfn %#x differs", pfn)
		}
	}
}

// TestSaveFailures: each call fails once, and the guest runs on; or the file is
// whole, and the guest does not run.
func TestSaveFailures(t *testing.T) {
	for _, method := range []string{
		"Info", "Config", "Host.Info", "StaticState", "StartLogDirty", "CleanDirty", "Map", "Suspend", "FinalState", "StopLogDirty", "Destroy",
	} {
		t.Run(method, func(t *testing.T) {
			host, dom := newSaved(TypeHVM)
			host.failAt = map[string]error{method: errors.New("told to")}
			var file memoryTarget
			_, err := Save(t.Context(), host, dom, &file, SaveOptions{Live: true})
			if method == "StopLogDirty" { // destroyed: there is nothing to stop
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var failure *SaveError
			if !errors.As(err, &failure) || !strings.Contains(err.Error(), "told to") {
				t.Fatal(err)
			}
			if method == "Destroy" {
				if !failure.Written || !file.committed || failure.Outcome != OutcomeSuspended || dom.state != StateSuspended {
					t.Errorf("%+v, guest %s", failure, dom.state)
				}
				return
			}
			if file.committed || dom.state != StateRunning || dom.destroyed || dom.logDirty || failure.Outcome != OutcomeAtSource {
				t.Errorf("committed %v, guest %s, destroyed %v, log-dirty %v, %+v", file.committed, dom.state, dom.destroyed, dom.logDirty, failure)
			}
		})
	}
}

// TestSaveDiskFull: at whatever byte the disk is full.
// TestSaveSuspendsLate: see TestSuspendsLate.
func TestSaveSuspendsLate(t *testing.T) {
	host, dom := newSaved(TypePVH)
	dom.failsLate = true
	_, err := Save(t.Context(), host, dom, &memoryTarget{}, SaveOptions{})
	if err == nil || dom.due || dom.state != StateRunning {
		t.Errorf("%v, to suspend yet: %v, guest %s", err, dom.due, dom.state)
	}
}

func TestSaveDiskFull(t *testing.T) {
	s2 := savefmt.BlockS2
	for _, opts := range []SaveOptions{{}, {Codec: &s2}, {After: AfterResume}, {After: AfterNothing}} {
		for _, limit := range []int{1, 50, 300, 10_000, 300_000} {
			host, dom := newSaved(TypePVH)
			file := memoryTarget{limit: limit}
			_, err := Save(t.Context(), host, dom, &file, opts)
			if !errors.Is(err, errDiskFull) || file.committed || dom.state != StateRunning || dom.destroyed {
				t.Errorf("%+v, full at %d: %v, committed %v, guest %s", opts, limit, err, file.committed, dom.state)
			}
		}
	}
	host, dom := newSaved(TypePVH)
	_, err := Save(t.Context(), host, dom, &memoryTarget{commitErr: errDiskFull}, SaveOptions{})
	if !errors.Is(err, errDiskFull) || dom.state != StateRunning {
		t.Errorf("fsync fails: %v, guest %s", err, dom.state)
	}
}

// TestSavePauseFails: a guest that was to be left paused beside its file runs on
// when there is none, as after every failed save.
func TestSavePauseFails(t *testing.T) {
	host, dom := newSaved(TypePVH)
	_, err := Save(t.Context(), host, dom, &memoryTarget{commitErr: errDiskFull}, SaveOptions{After: AfterPause})
	var failure *SaveError
	if !errors.As(err, &failure) || failure.Outcome != OutcomeAtSource || dom.state != StateRunning || dom.destroyed {
		t.Errorf("%v, guest %s", err, dom.state)
	}
}

func TestSaveResumeFails(t *testing.T) {
	host, dom := newSaved(TypePVH)
	host.failAt = map[string]error{"FinalState": errors.New("told to"), "Resume": errors.New("this too")}
	_, err := Save(t.Context(), host, dom, &memoryTarget{}, SaveOptions{})
	var failure *SaveError
	if !errors.As(err, &failure) || failure.Outcome != OutcomeSuspended || !strings.Contains(err.Error(), "this too") {
		t.Errorf("%v", err)
	}
}

// TestSaveErrorText: one line, and nothing twice.
func TestSaveErrorText(t *testing.T) {
	gone := fmt.Errorf("domain 3: %w", ErrNoDomain)
	for want, cleanup := range map[string]error{
		"save failed (suspend): domain 3: no such domain":                                                                errors.Join(gone, gone),
		"save failed (suspend): domain 3: no such domain (and then: resuming it failed: domain 3: no such domain; this)": errors.Join(fmt.Errorf("resuming it failed: %w", gone), gone, errors.New("this"), gone),
	} {
		failures := map[string]error{"save": &SaveError{What: "save", Phase: "suspend", Cause: gone, Cleanup: cleanup}, "migration": &MigrateError{Phase: "suspend", Cause: gone, Cleanup: cleanup}}
		for what, err := range failures {
			if got := err.Error(); got != strings.Replace(want, "save", what, 1) {
				t.Errorf("%s\nwant %s", got, want)
			}
		}
	}
}

// TestSavePaused: it is told what to do.
func TestSavePaused(t *testing.T) {
	host, dom := newSaved(TypePVH)
	dom.state = StatePaused
	_, err := Save(t.Context(), host, dom, &memoryTarget{}, SaveOptions{})
	if err == nil || !strings.Contains(err.Error(), "unpause it first") || !strings.Contains(err.Error(), "not touched") {
		t.Error(err)
	}
}

func TestSaveAfter(t *testing.T) {
	for after, want := range map[AfterSave]RunState{AfterResume: StateRunning, AfterPause: StatePaused, AfterNothing: StateSuspended} {
		host, dom := newSaved(TypePVH)
		var file memoryTarget
		report, err := Save(t.Context(), host, dom, &file, SaveOptions{Live: true, After: after})
		if err != nil || dom.state != want || dom.destroyed || dom.logDirty || !file.committed || report.Pause <= 0 {
			t.Errorf("%s: %v, guest %s, %+v", after, err, dom.state, report)
		}
	}
	host, dom := newSaved(TypePVH)
	_, err := Save(t.Context(), host, dom.fakeDomain, &memoryTarget{}, SaveOptions{After: AfterPause})
	if !errors.Is(err, ErrUnsupported) || host.called("Suspend") {
		t.Errorf("paused on a host that cannot: %v", err)
	}
}

func TestSaveCancelled(t *testing.T) {
	host, dom := newSaved(TypePVH)
	host.blockAt = map[string]bool{"Suspend": true}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	var file memoryTarget
	_, err := Save(ctx, host, dom, &file, SaveOptions{})
	if !errors.Is(err, context.Canceled) || file.committed || dom.state != StateRunning {
		t.Errorf("%v, guest %s", err, dom.state)
	}
}

// TestSaveConfig: a configuration that the guest could not be restored with is
// refused while nothing was done to the guest yet.
func TestSaveConfig(t *testing.T) {
	big := `"b_info":{"max_memkb":4000,"max_vcpus":4}`
	for name, tt := range map[string]struct {
		typ          GuestType
		config, want string // "": accepted
	}{
		"its own":          {TypePVH, savedConfig, ""},
		"with new things":  {TypeHVM, `{"c_info":{"type":"hvm","name":"db2","new":[1]},"b_info":{"max_memkb":8000}}`, ""},
		"empty":            {TypePVH, `{}`, "max_memkb"},
		"of a simulation":  {TypePVH, `{"name":"db1","mem_mib":16}`, "max_memkb"},
		"no JSON":          {TypePVH, `name = "db1"`, "guest configuration"},
		"no name":          {TypePVH, `{"c_info":{"type":"pvh","name":""},` + big + `}`, "no name"},
		"another type":     {TypePVH, `{"c_info":{"type":"hvm","name":"db1"},` + big + `}`, "type hvm"},
		"of another kind":  {TypePVH, `{"c_info":{"type":"pv","name":"db1"},` + big + `}`, "type"},
		"fewer processors": {TypeHVM, `{"c_info":{"type":"hvm","name":"db1"},"b_info":{"max_memkb":4000}}`, "vCPUs"},
	} {
		t.Run(name, func(t *testing.T) {
			host, dom := newSaved(tt.typ)
			if tt.want == "vCPUs" {
				dom.vcpus = 2
			}
			var file memoryTarget
			_, err := Save(t.Context(), host, dom, &file, SaveOptions{Config: []byte(tt.config)})
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var failure *SaveError
			if !errors.As(err, &failure) || failure.Phase != PhaseHello || !strings.Contains(err.Error(), tt.want) || host.called("Suspend") || file.Len() > 0 {
				t.Errorf("%v, %d bytes", err, file.Len())
			}
		})
	}
}

// TestSaveConfigTooSmall: one guest has pfns beyond what the configuration
// leaves for devices, the other more memory.
func TestSaveConfigTooSmall(t *testing.T) {
	_, dom := newSaved(TypePVH)
	for _, info := range []DomainInfo{{Type: TypePVH}, {Type: TypePVH, MemKiB: 64 << 10}} {
		to := Domain(hugeDomain{dom})
		if info.MemKiB > 0 {
			to = dom
		}
		if err := checkConfig(t.Context(), to, info, []byte(savedConfig)); err == nil || !strings.Contains(err.Error(), "smaller guest") {
			t.Errorf("%+v: %v", info, err)
		}
	}
	pv := []byte(`{"c_info":{"type":"pv","name":"db2"},"b_info":{"max_memkb":4}}`)
	if err := checkConfig(t.Context(), dom, DomainInfo{Type: TypePV}, pv); err != nil { // its pfns are no measure
		t.Errorf("PV: %v", err)
	}
}

type hugeDomain struct{ *savedDomain }

func (hugeDomain) Pages() uint64 { return 3 << 20 }

func TestSaveKeepsDomid(t *testing.T) {
	host, dom := newSaved(TypePVH)
	var file memoryTarget
	if _, err := Save(t.Context(), host, dom, &file, SaveOptions{KeepDomid: true}); err != nil {
		t.Fatal(err)
	}
	to := &savedHost{fakeHost: &fakeHost{name: "beta"}}
	if _, err := Restore(t.Context(), to, bytes.NewReader(file.Bytes()), RestoreOptions{LeavePaused: true}); err != nil {
		t.Fatal(err)
	}
	if to.spec.Domid != 3 || to.got.state != StatePaused {
		t.Errorf("domid %d, %s", to.spec.Domid, to.got.state)
	}
}

// TestRestoreFailures: each call fails once, or the file is cut: nothing is
// left, and the guest has never run.
func TestRestoreFailures(t *testing.T) {
	host, dom := newSaved(TypeHVM)
	var file memoryTarget
	if _, err := Save(t.Context(), host, dom, &file, SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	check := func(name string, to *savedHost, b []byte) {
		_, err := Restore(t.Context(), to, bytes.NewReader(b), RestoreOptions{})
		if err == nil || to.called("Unpause") && to.failAt["Unpause"] == nil {
			t.Errorf("%s: %v", name, err)
		}
		if to.got != nil && !to.got.destroyed {
			t.Errorf("%s: something is left", name)
		}
	}
	for _, method := range []string{"Receive", "LoadStatic", "In.Map", "Finish", "Unpause"} {
		check(method, &savedHost{fakeHost: &fakeHost{failAt: map[string]error{method: errors.New("told to")}}}, file.Bytes())
	}
	for n := 1; n < file.Len(); n += file.Len() / 20 {
		check("cut", &savedHost{fakeHost: &fakeHost{}}, file.Bytes()[:n])
	}
	check("cut at the last byte", &savedHost{fakeHost: &fakeHost{}}, file.Bytes()[:file.Len()-1])
}

// TestRestoreSmallConfig: the user's configuration is too small, or the file's
// own is: only then is the file to blame.
func TestRestoreSmallConfig(t *testing.T) {
	host, dom := newSaved(TypePVH)
	var file memoryTarget
	if _, err := Save(t.Context(), host, dom, &file, SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	small := []byte(strings.ReplaceAll(savedConfig, "4000", "4"))
	for _, given := range []bool{true, false} {
		r := newRestore(&savedHost{fakeHost: &fakeHost{name: "beta"}}, bytes.NewReader(file.Bytes()), RestoreOptions{})
		if given {
			r.opts.Config = small
		}
		err := r.open(t.Context())
		if err == nil {
			err = r.create(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		r.pages = 1
		err = r.load(t.Context())
		if err == nil || IsDamage(err) == given {
			t.Errorf("given %v: %v", given, err)
		}
		_ = r.undo(err)
	}
}

func TestRestoreSpecBounds(t *testing.T) {
	head := savefmt.Head{Kind: savefmt.KindHVM}
	for name, tt := range map[string]struct{ config, want string }{
		"PV":        {`{"c_info":{"type":"pv","name":"a"},"b_info":{"max_memkb":4}}`, "guest configuration"},
		"no name":   {`{"c_info":{"type":"pvh"},"b_info":{"max_memkb":4}}`, "no name"},
		"no memory": {`{"c_info":{"type":"pvh","name":"a"}}`, "max_memkb"},
		"too much":  {`{"c_info":{"type":"pvh","name":"a"},"b_info":{"max_memkb":18446744073709551615}}`, "max_memkb"},
		"no JSON":   {`name = "a"`, "guest configuration"},
	} {
		head.Config = []byte(tt.config)
		if _, _, err := restoreSpec(head); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	head = savefmt.Head{Kind: savefmt.KindPV, Config: []byte(`{"c_info":{"type":"pv","name":"a"},"b_info":{"max_memkb":4}}`)}
	if spec, _, err := restoreSpec(head); err != nil || spec.Type != TypePV || spec.Pages != 1 {
		t.Errorf("PV: %+v, %v", spec, err)
	}
}

func TestSaveFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "x")
	write := func(text string) *SaveFile {
		f, err := CreateSaveFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		return f
	}
	expect := func(want string) {
		t.Helper()
		entries, _ := os.ReadDir(dir)
		text, err := os.ReadFile(name)
		if want == "" && (len(entries) != 0 || err == nil) || want != "" && (string(text) != want || len(entries) != 1) {
			t.Errorf("%q, %v, %v; want %q", text, err, entries, want)
		}
	}
	f := write("one")
	f.Discard()
	expect("")
	f = write("two")
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	f.Discard()
	expect("two")
	f = write("three") // the old file is there until the new one is whole
	if text, _ := os.ReadFile(name); string(text) != "two" {
		t.Errorf("%q before Commit", text)
	}
	f.Discard()
	expect("two")
}

// TestPipeLimit: a reader that hangs does not hold the writer for ever.
func TestPipeLimit(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	p, err := OpenPipe(int(w.Fd()), "standard output", 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), "took nothing") {
		t.Errorf("%v", err)
	}
}
