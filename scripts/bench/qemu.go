package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// qemuMode is a way in which QEMU migrates.
type qemuMode struct {
	name     string
	multifd  bool
	settings map[string]any // migration parameters besides the common ones
}

// qemuModes are QEMU's ways to send memory over TCP, each as it runs best on
// two cores here: two channels where there are channels, the default level of
// each codec, which is 1.
var qemuModes = []qemuMode{
	{name: "qemu-plain"},
	{name: "qemu-multifd", multifd: true, settings: map[string]any{"multifd-channels": 2, "multifd-compression": "none"}},
	{name: "qemu-zstd", multifd: true, settings: map[string]any{"multifd-channels": 2, "multifd-compression": "zstd"}},
	{name: "qemu-zlib", multifd: true, settings: map[string]any{"multifd-channels": 2, "multifd-compression": "zlib"}},
}

// qemuPeer runs QEMU's migrations. The guests' memory is a file at each end.
type qemuPeer struct {
	tree string // Debian's QEMU with its libraries
	dir  string // for sockets, logs, and memory: a tmpfs
	net  *network
	img  *memoryImage
}

const qemuPort = "4444"

// qemuProcess is one running QEMU.
type qemuProcess struct {
	cmd    *exec.Cmd
	log    bytes.Buffer
	qmp    *qmp
	memory string
}

// start starts a QEMU at one end, with the file memory as its guest's memory.
func (p *qemuPeer) start(ctx context.Context, holder *exec.Cmd, name string, extra ...string) (*qemuProcess, error) {
	lib := filepath.Join(p.tree, "usr/lib/x86_64-linux-gnu")
	share := filepath.Join(p.tree, "usr/share")
	socket := filepath.Join(p.dir, name+".qmp")
	_ = os.Remove(socket)
	q := &qemuProcess{memory: filepath.Join(p.dir, name+".memory")}
	// The tree's own loader runs it: neither a chroot nor its mounts are needed.
	argv := inside(holder, filepath.Join(lib, "ld-linux-x86-64.so.2"), "--library-path", lib,
		filepath.Join(p.tree, "usr/bin/qemu-system-x86_64"),
		"-L", filepath.Join(share, "seabios"), "-L", filepath.Join(share, "qemu"),
		"-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "pc,memory-backend=ram", "-m", fmt.Sprintf("%dM", p.img.mib),
		"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%dM,mem-path=%s,share=on", p.img.mib, q.memory),
		"-qmp", "unix:"+socket+",server=on,wait=off")
	argv = append(argv, extra...)
	q.cmd = exec.Command(argv[0], argv[1:]...)
	q.cmd.Env = append(os.Environ(), "QEMU_MODULE_DIR="+filepath.Join(lib, "qemu"))
	q.cmd.Stdout, q.cmd.Stderr = &q.log, &q.log
	q.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := q.cmd.Start(); err != nil {
		return nil, err
	}
	up, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var err error
	if q.qmp, err = dialQMP(up, socket); err != nil {
		q.end()
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(q.log.String()))
	}
	return q, nil
}

// end ends the process, whatever it is doing.
func (q *qemuProcess) end() {
	if q.qmp != nil {
		_ = q.qmp.conn.Close()
	}
	_ = q.cmd.Process.Kill()
	_ = q.cmd.Wait()
}

// configure sets a mode, the same at both ends. There is no limit of the
// bandwidth; the limit of the downtime is QEMU's default.
func (q *qemuProcess) configure(ctx context.Context, mode qemuMode) error {
	capabilities := []map[string]any{
		{"capability": "events", "state": true},
		{"capability": "multifd", "state": mode.multifd},
	}
	if err := q.qmp.do(ctx, "migrate-set-capabilities", map[string]any{"capabilities": capabilities}, nil); err != nil {
		return err
	}
	settings := map[string]any{"max-bandwidth": 0}
	for name, value := range mode.settings {
		settings[name] = value
	}
	return q.qmp.do(ctx, "migrate-set-parameters", settings, nil)
}

// run moves the image once. Both processes are up before, and end after, the
// time and the CPU seconds that count.
func (p *qemuPeer) run(ctx context.Context, mode qemuMode) (r Result, err error) {
	target := filepath.Join(p.dir, "qemu-b.memory")
	_ = os.Remove(target)
	defer os.Remove(target)
	if err := p.img.linkTo(filepath.Join(p.dir, "qemu-a.memory")); err != nil {
		return r, err
	}
	from, err := p.start(ctx, p.net.a, "qemu-a", "-S")
	if err != nil {
		return r, err
	}
	defer from.end()
	to, err := p.start(ctx, p.net.b, "qemu-b", "-S", "-incoming", "defer")
	if err != nil {
		return r, err
	}
	defer to.end()
	for _, q := range []*qemuProcess{from, to} {
		if err := q.configure(ctx, mode); err != nil {
			return r, err
		}
	}
	if err := p.move(ctx, from, to, &r); err != nil {
		return r, fmt.Errorf("%w: source: %s: destination: %s", err, strings.TrimSpace(from.log.String()), strings.TrimSpace(to.log.String()))
	}
	return r, p.img.compare(to.memory)
}

// move migrates, and measures.
func (p *qemuPeer) move(ctx context.Context, from, to *qemuProcess, r *Result) error {
	if err := to.qmp.do(ctx, "migrate-incoming", map[string]any{"uri": "tcp:" + addressB + ":" + qemuPort}, nil); err != nil {
		return err
	}
	m, err := startMeter(p.net, p.img, from.cmd.Process.Pid, to.cmd.Process.Pid)
	if err != nil {
		return err
	}
	if err := from.qmp.do(ctx, "migrate", map[string]any{"uri": "tcp:" + addressB + ":" + qemuPort}, nil); err != nil {
		return err
	}
	for _, q := range []*qemuProcess{from, to} {
		if err := q.qmp.migrated(); err != nil {
			return err
		}
	}
	if err := m.stop(r); err != nil {
		return err
	}
	var info struct {
		TotalMs    int64 `json:"total-time"`
		DowntimeMs int64 `json:"downtime"`
	}
	err = from.qmp.do(ctx, "query-migrate", nil, &info)
	r.Total = time.Duration(info.TotalMs) * time.Millisecond
	r.Downtime = time.Duration(info.DowntimeMs) * time.Millisecond
	return err
}
