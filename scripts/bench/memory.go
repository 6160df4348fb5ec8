package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/scripts/bench/image"
)

// memoryImage is the image, a file in a tmpfs, mapped.
type memoryImage struct {
	path string
	mib  int
	mem  []byte
	made image.Summary
}

// newImage makes the image in dir.
func newImage(dir, qemuTree string, mib int) (*memoryImage, error) {
	m := &memoryImage{path: filepath.Join(dir, "image"), mib: mib}
	var err error
	if m.mem, err = mapFile(m.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, int64(mib)<<20); err != nil {
		return nil, err
	}
	from, err := image.GoSources()
	if err != nil {
		return nil, err
	}
	from.Binary = append(from.Binary, filepath.Join(qemuTree, "usr/bin"), filepath.Join(qemuTree, "usr/lib"))
	m.made, err = image.Fill(m.mem, from)
	return m, err
}

// mapFile maps a file of size bytes, which it gives that size if it may make it.
func mapFile(path string, flags int, size int64) ([]byte, error) {
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	prot := unix.PROT_READ
	if flags&os.O_CREATE != 0 {
		prot |= unix.PROT_WRITE
		if err := f.Truncate(size); err != nil {
			return nil, err
		}
	}
	if info, err := f.Stat(); err != nil || info.Size() != size {
		return nil, fmt.Errorf("%s does not have %d bytes (%w)", path, size, err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(size), prot, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping %s: %w", path, err)
	}
	return mem, nil
}

// linkTo gives the image's file another name: QEMU's guest that does not run
// writes nothing to its memory, which compare proves.
func (m *memoryImage) linkTo(path string) error {
	_ = os.Remove(path)
	return os.Link(m.path, path)
}

// compare fails unless the file at path is the same as the image.
func (m *memoryImage) compare(path string) error {
	mem, err := mapFile(path, os.O_RDONLY, int64(len(m.mem)))
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(mem) }()
	const page = 4096
	for at := 0; at < len(mem); at += page {
		if !bytes.Equal(mem[at:at+page], m.mem[at:at+page]) {
			return fmt.Errorf("memory arrived wrong: page %#x of %s is not that of the image", at/page, path)
		}
	}
	return nil
}

// unchanged fails if the image is not what it was when it was made.
func (m *memoryImage) unchanged() error {
	if sum := sha256.Sum256(m.mem); hex.EncodeToString(sum[:]) != m.made.SHA {
		return fmt.Errorf("the image %s was written during the benchmark: its figures count for nothing", m.path)
	}
	return nil
}

// warmUp takes as much memory as a guest has from the kernel and gives it back.
// In a virtual machine, memory that was not used lately costs a fault in its
// host: without this, the mode that finds such memory would pay for it.
func (m *memoryImage) warmUp() error {
	mem, err := unix.Mmap(-1, 0, len(m.mem), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("taking %d MiB to warm up: %w", m.mib, err)
	}
	return unix.Munmap(mem)
}
