package evtchn

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Page is memory that one program of ours, its owner, shares with those that
// look at what it does or ask something of it. It lies in a memfd, and so
// nowhere else: when the last process that has it open ends, in whatever way,
// the kernel frees it, and no name is left on a disk. It is found by the name
// of the memfd, among the open files of all processes: see [FindPage].
//
//	offset  bytes  field
//	     0      8  magic "XFerPage", stored last by its owner
//	     8      4  version of all that follows, 2
//	    12      4  process id of the owner
//	    16      4  semaphore: something was asked
//	    20      4  semaphore: an answer is there
//	    24      8  the desk's state, see Desk
//	    32      8  sum of the request
//	    40    128  the request
//	   168      8  sum of the answer
//	   176    512  the answer
//	   688      8  number of the last record that was published, see Board
//	   696   1024  two slots: sum of the record, then the record of 504 bytes
//	  1720   2376  zero
//
// Integers are in the byte order of the machine, which all that share it are
// on. The first three fields stay as they are in every version; a program that
// finds another version than its own reads no further.
type Page struct {
	mem      []byte
	file     *os.File
	writable bool
}

const (
	pageSize    = 4096
	pageVersion = 2

	atMagic    = 0
	atVersion  = 8
	atPID      = 12
	atAsked    = 16
	atAnswered = 20
	atState    = 24
	atRequest  = 32
	atAnswer   = 168
	atNumber   = 688
	atSlots    = 696
	pageEnd    = atSlots + 2*8*(1+RecordWords)
)

// Sizes of what a page carries, in words of 8 bytes.
const (
	RequestWords = 16
	AnswerWords  = 64
	RecordWords  = 63
)

// The layout above: these fail to compile where it is not met.
var (
	_ = [1]struct{}{}[atRequest+8*(1+RequestWords)-atAnswer]
	_ = [1]struct{}{}[atAnswer+8*(1+AnswerWords)-atNumber]
	_ = [1]struct{}{}[atNumber+8-atSlots]
	_ [pageSize - pageEnd]struct{}
)

var pageMagic = *(*uint64)(unsafe.Pointer(&[8]byte{'X', 'F', 'e', 'r', 'P', 'a', 'g', 'e'}))

// Errors of pages, for errors.Is.
var (
	// ErrNoPage: no process shares a page of that name.
	ErrNoPage = errors.New("no program shares its figures")
	// ErrPageVersion: the owner's program is older or newer than this one.
	ErrPageVersion = errors.New("the program that shares its figures is of another release")
	// ErrBadPage: what the page holds makes no sense, or is not whole.
	ErrBadPage = errors.New("shared page is damaged")
)

// CreatePage makes a page of that name, of which this process is the owner.
// Only this user, and root, may open it.
func CreatePage(name string) (*Page, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // a kernel before 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("shared page %s: memfd_create: %w", name, err)
	}
	p := &Page{file: os.NewFile(uintptr(fd), name), writable: true}
	if err := p.shape(fd); err != nil {
		return nil, errors.Join(fmt.Errorf("shared page %s: %w", name, err), p.Close())
	}
	p.word32(atVersion).Store(pageVersion)
	p.word32(atPID).Store(uint32(os.Getpid()))
	p.word(atMagic).Store(pageMagic)
	return p, nil
}

// pageSeals keep the size as it is: memory that a file no longer has would kill
// whoever touches it.
const pageSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW

func (p *Page) shape(fd int) error {
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return err
	}
	if err := unix.Ftruncate(fd, pageSize); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, pageSeals|unix.F_SEAL_SEAL); err != nil {
		return err
	}
	return p.attach(fd)
}

func (p *Page) attach(fd int) error {
	prot := unix.PROT_READ
	if p.writable {
		prot |= unix.PROT_WRITE
	}
	var err error
	p.mem, err = unix.Mmap(fd, 0, pageSize, prot, unix.MAP_SHARED)
	return err
}

// openPage maps the page that a file is, and checks all that can be checked of
// it. It owns the file from now on.
func openPage(file *os.File, writable bool) (*Page, error) {
	p := &Page{file: file, writable: writable}
	err := p.check()
	if err == nil {
		err = p.attach(int(file.Fd()))
	}
	if err == nil {
		err = p.checkHead()
	}
	if err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

// check refuses a file that another user could have made, or that could shrink.
func (p *Page) check() error {
	fd := int(p.file.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	switch {
	case err != nil || seals&pageSeals != pageSeals || st.Size != pageSize:
		return fmt.Errorf("%w: %d bytes, seals %#x, where %d and %#x are due", ErrBadPage, st.Size, seals, pageSize, pageSeals)
	case int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0:
		return fmt.Errorf("%w: it belongs to user %d, with mode %#o", ErrBadPage, st.Uid, st.Mode&0o777)
	}
	return nil
}

func (p *Page) checkHead() error {
	if got := p.word(atMagic).Load(); got != pageMagic {
		return fmt.Errorf("%w: it begins with %#x", ErrBadPage, got)
	}
	if got := p.word32(atVersion).Load(); got != pageVersion {
		return fmt.Errorf("%w: its page has version %d, this program knows %d; use the release that moves the guest", ErrPageVersion, got, pageVersion)
	}
	return nil
}

// Owner returns the process id of the page's owner, as the page has it.
func (p *Page) Owner() int { return int(int32(p.word32(atPID).Load())) }

// word returns the 8 bytes at an offset, which is a multiple of 8.
func (p *Page) word(at int) *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&p.mem[at])) }

// word32 returns the 4 bytes at an offset, which is a multiple of 4.
func (p *Page) word32(at int) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&p.mem[at])) }

// Close unmaps the page: nobody may use it any more. Idempotent.
func (p *Page) Close() error {
	var err error
	if p.mem != nil {
		err = unix.Munmap(p.mem)
		p.mem = nil
	}
	if p.file != nil {
		err = errors.Join(err, p.file.Close())
		p.file = nil
	}
	return err
}
