package sim

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// newMemory returns an anonymous file of size bytes, all zeros, whose size can
// never change: nobody who maps it can be hurt by another who shrinks it.
func newMemory(name string, size uint64) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memory for %s: memfd_create: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		f.Close()
		return nil, fmt.Errorf("memory for %s: %d bytes: %w", name, size, err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS,
		unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		f.Close()
		return nil, fmt.Errorf("memory for %s: seal: %w", name, err)
	}
	return f, nil
}

// mapMemory maps the whole of f, which must have size bytes and be sealed. The
// mapping outlives f.
func mapMemory(f *os.File, size uint64, prot int) ([]byte, error) {
	fd := int(f.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("memory of a simulated guest: %w", err)
	}
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil || seals&unix.F_SEAL_SHRINK == 0 || uint64(st.Size) != size {
		return nil, fmt.Errorf("memory of a simulated guest: %d bytes with seals %#x, want %d that cannot shrink",
			st.Size, seals, size)
	}
	mem, err := unix.Mmap(fd, 0, int(size), prot, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("memory of a simulated guest: map %d bytes: %w", size, err)
	}
	return mem, nil
}

// freeMemory gives all pages of f back at once, though others may still map
// it: they read zeros from then on.
func freeMemory(f *os.File, size uint64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, int64(size))
}

// newEventfd returns an eventfd. Its reader blocks in read(2) if blocking,
// else in Go's poller.
func newEventfd(name string, blocking bool) (*os.File, error) {
	flags := unix.EFD_CLOEXEC
	if !blocking {
		flags |= unix.EFD_NONBLOCK
	}
	fd, err := unix.Eventfd(0, flags)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// signal adds one to an eventfd.
func signal(f *os.File) error {
	_, err := f.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}) // a u64 of this machine, little-endian
	return err
}
