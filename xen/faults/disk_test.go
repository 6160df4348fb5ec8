package faults

import (
	"bytes"
	"fmt"
	"io/fs"
	"time"

	"github.com/xenferry/xenferry/fallback"
)

// disk is a host's disk for journals. What was not synced is lost with the
// host's power.
type disk struct {
	files  map[string]*file
	broken error // every write and fsync fails with it
}

type file struct {
	now    []byte // what programs see
	synced []byte // what the disk has
	writes []write
	holder *proc
}

type write struct {
	off  int64
	data []byte
}

// release gives up what a dead program has held.
func (d *disk) release(p *proc) {
	for _, f := range d.files {
		if f.holder == p {
			f.holder = nil
		}
	}
}

// lose forgets what was not synced, but for the first n writes of each file.
func (d *disk) lose(keep func(writes int) int) {
	for _, f := range d.files {
		for _, w := range f.writes[:keep(len(f.writes))] {
			copy(f.synced[w.off:], w.data)
		}
		f.now, f.writes = bytes.Clone(f.synced), nil
	}
	d.broken = nil
}

// diskOf is a host's disk as one program sees it. It implements fallback.Disk.
type diskOf struct{ p *proc }

func (diskOf) Path(name string) string { return name }
func (v diskOf) Boot() string          { return fmt.Sprint(v.p.host.boots) }

func (v diskOf) Create(name string, contents []byte) (fallback.File, error) {
	d := v.p.host.disk
	err := v.p.do("journal create", func() error {
		if d.broken != nil {
			return d.broken
		}
		if d.files[name] != nil {
			return fmt.Errorf("%s: %w", name, fs.ErrExist)
		}
		d.files[name] = &file{now: bytes.Clone(contents), synced: bytes.Clone(contents), holder: v.p}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &fileOf{v.p, d.files[name]}, nil
}

func (v diskOf) Open(name string) (fallback.File, error) {
	var f *file
	if err := v.p.alive(); err != nil {
		return nil, err
	}
	v.p.w.mu.Lock()
	defer v.p.w.mu.Unlock()
	f = v.p.host.disk.files[name]
	switch {
	case v.p.dead:
		return nil, errDead
	case f == nil:
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	case f.holder != nil:
		return nil, fallback.ErrBusy
	}
	f.holder = v.p
	return &fileOf{v.p, f}, nil
}

func (v diskOf) Read(name string, limit int) ([]byte, error) {
	v.p.w.mu.Lock()
	defer v.p.w.mu.Unlock()
	f := v.p.host.disk.files[name]
	if f == nil {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return bytes.Clone(f.now[:min(limit, len(f.now))]), nil
}

func (v diskOf) Names() (names []string, err error) {
	v.p.w.mu.Lock()
	defer v.p.w.mu.Unlock()
	for name := range v.p.host.disk.files {
		names = append(names, name)
	}
	return names, nil
}

func (v diskOf) Remove(string) error   { return nil }
func (v diskOf) Sweep(time.Time) error { return nil }

// fileOf is a held file.
type fileOf struct {
	p *proc
	f *file
}

func (v *fileOf) Read(limit int) ([]byte, error) {
	v.p.w.mu.Lock()
	defer v.p.w.mu.Unlock()
	return bytes.Clone(v.f.now[:min(limit, len(v.f.now))]), nil
}

func (v *fileOf) WriteAt(b []byte, off int64) (int, error) {
	err := v.p.do("journal write", func() error {
		if v.p.host.disk.broken != nil {
			return v.p.host.disk.broken
		}
		copy(v.f.now[off:], b)
		v.f.writes = append(v.f.writes, write{off, bytes.Clone(b)})
		return nil
	})
	return len(b), err
}

func (v *fileOf) Sync() error {
	err := v.p.do("journal fsync", func() error {
		if v.p.host.disk.broken != nil {
			return v.p.host.disk.broken
		}
		if v.p.w.bug == bugNoFsync {
			return nil
		}
		for _, w := range v.f.writes {
			copy(v.f.synced[w.off:], w.data)
		}
		v.f.writes = nil
		return nil
	})
	v.p.w.mu.Lock()
	defer v.p.w.mu.Unlock()
	if err != nil && !v.p.dead { // Linux forgets what it could not write
		v.f.writes = nil
	}
	return err
}

func (v *fileOf) Close() error {
	v.p.w.mu.Lock()
	defer v.p.w.mu.Unlock()
	if v.f.holder == v.p && !v.p.dead {
		v.f.holder = nil
	}
	return nil
}
