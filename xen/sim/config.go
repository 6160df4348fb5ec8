package sim

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/memcheck"
)

// Bounds of a guest.
const (
	MinMemMiB         = 2
	MaxMemMiB         = xen.MaxPages / pagesPerMiB
	MaxVCPUs          = 64
	MaxSuspendDelay   = 10 * time.Minute
	DefaultVerifyRate = 64_000_000 // bytes a second
	maxVerifyRate     = memcheck.MaxRate
	maxConfigSize     = 16 << 10
	maxGuestName      = 255

	pagesPerMiB = 1 << 20 / xen.PageSize
)

// The guest's physical address space, in pfns.
const (
	holeStart = 0xA0  // where a PC has its video memory: no pages
	holeEnd   = 0xC0  //
	areaStart = 0x100 // 1 MiB: from here on checked memory
)

// GuestConfig describes a guest. As JSON it is the Spec.Config of a migration.
type GuestConfig struct {
	Name     string `json:"name"`
	UUID     string `json:"uuid"`     // Create makes one if it is empty
	MemMiB   uint64 `json:"mem_mib"`  // MinMemMiB to MaxMemMiB
	VCPUs    int    `json:"vcpus"`    // 1 to MaxVCPUs; Create takes 0 as 1
	Workload string `json:"workload"` // see memcheck.ParseWorkload; Create takes "" as idle
	// ZeroShare is the share of pages that are zero at first, up to 1. 0 is
	// memcheck.DefaultZeroShare, a negative value none.
	ZeroShare float64 `json:"zero_share"`
	// Seed makes the contents of memory. Create takes 0 as any.
	Seed uint64 `json:"seed"`
	// VerifyRate is how much memory the guest verifies, in bytes a second. 0
	// is DefaultVerifyRate, a negative value none.
	VerifyRate int64 `json:"verify_rate"`
	// Image is a file, named from the root, that a new guest takes its memory
	// from, pfn by pfn: see image.go. Where the guest arrives it is not read.
	Image string `json:"image,omitempty"`
	// NoSuspend makes a guest that never suspends, SuspendDelay one that takes
	// its time, up to MaxSuspendDelay.
	NoSuspend    bool          `json:"no_suspend,omitempty"`
	SuspendDelay time.Duration `json:"suspend_delay_ns,omitempty"`
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// complete fills in what Create may be given empty.
func (c *GuestConfig) complete() {
	if c.UUID == "" {
		c.UUID = newUUID()
	}
	if c.VCPUs == 0 {
		c.VCPUs = 1
	}
	if c.Workload == "" {
		c.Workload = string(memcheck.PatternIdle)
	}
	for c.Seed == 0 {
		c.Seed = randomWord()
	}
}

// check tells what is wrong with a complete configuration.
func (c *GuestConfig) check() error {
	if err := checkGuestName(c.Name); err != nil {
		return err
	}
	_, err := memcheck.ParseWorkload(c.Workload)
	switch {
	case err != nil:
		return err
	case !uuidForm.MatchString(c.UUID):
		return fmt.Errorf("guest UUID %.40q is not of the form 01234567-89ab-cdef-0123-456789abcdef", c.UUID)
	case c.MemMiB < MinMemMiB || c.MemMiB > MaxMemMiB:
		return fmt.Errorf("guest memory of %d MiB is not from %d to %d MiB", c.MemMiB, MinMemMiB, MaxMemMiB)
	case c.VCPUs < 1 || c.VCPUs > MaxVCPUs:
		return fmt.Errorf("%d vCPUs are not from 1 to %d", c.VCPUs, MaxVCPUs)
	case !(c.ZeroShare <= 1): // so that a NaN fails too
		return fmt.Errorf("share of zero pages %g is above 1", c.ZeroShare)
	case c.Seed == 0:
		return errors.New("guest seed is 0")
	case c.VerifyRate > maxVerifyRate:
		return fmt.Errorf("verify rate of %d bytes/s is above %d", c.VerifyRate, int64(maxVerifyRate))
	case c.Image != "" && !filepath.IsAbs(c.Image):
		return fmt.Errorf("guest image %.80q is not a path from the root", c.Image)
	case c.SuspendDelay < 0 || c.SuspendDelay > MaxSuspendDelay:
		return fmt.Errorf("suspend delay %v is not from 0 to %v", c.SuspendDelay, MaxSuspendDelay)
	}
	return c.checkArea()
}

func checkGuestName(name string) error {
	if name == "" || len(name) > maxGuestName || !utf8.ValidString(name) {
		return fmt.Errorf("guest name %.40q: must be 1 to %d bytes of UTF-8", name, maxGuestName)
	}
	for _, r := range name {
		if !unicode.IsPrint(r) || r == '/' {
			return fmt.Errorf("guest name %q: must be printable, without slashes", name)
		}
	}
	return nil
}

// parseConfig reads the configuration of an arriving guest, which may be
// anything.
func parseConfig(text []byte) (GuestConfig, error) {
	var c GuestConfig
	if len(text) > maxConfigSize {
		return c, fmt.Errorf("guest configuration of %d bytes is longer than %d", len(text), maxConfigSize)
	}
	if err := decodeStrict(text, &c); err != nil {
		return c, fmt.Errorf("guest configuration: %w", err)
	}
	if err := c.check(); err != nil {
		return c, fmt.Errorf("guest configuration: %w", err)
	}
	return c, nil
}

// decodeStrict reads one JSON value that has only known fields.
func decodeStrict(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the JSON value")
	}
	return nil
}

func (c *GuestConfig) pages() uint64 { return c.MemMiB * pagesPerMiB }

// memKiB is the memory that the guest's pages take.
func (c *GuestConfig) memKiB() uint64 {
	return (c.pages() - (holeEnd - holeStart)) * (xen.PageSize / 1024)
}

func (c *GuestConfig) zeroShare() float64 {
	if c.ZeroShare == 0 {
		return memcheck.DefaultZeroShare
	}
	return max(c.ZeroShare, 0)
}

func (c *GuestConfig) verifyRate() uint64 {
	if c.VerifyRate == 0 {
		return DefaultVerifyRate
	}
	return uint64(max(c.VerifyRate, 0))
}

// pageType returns the type of a page of every simulated guest.
func pageType(pfn uint64) xen.PageType {
	if pfn >= holeStart && pfn < holeEnd {
		return xen.PageXTab
	}
	return xen.PageNormal
}

func randomWord() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails: the program ends instead
	return binary.LittleEndian.Uint64(b[:])
}

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0F | 0x40
	b[8] = b[8]&0x3F | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
