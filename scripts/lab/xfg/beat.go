// Package xfg holds what the lab's guest says to the world: the lines on its
// console, the packets on its NIC and the blocks on its disk. The guest writes
// them, the listener and the tests read them.
package xfg

import (
	"fmt"
	"hash/crc32"
	"reflect"
	"strconv"
	"strings"
)

// Words that begin a line of the guest on its console.
const (
	BeatWord = "XFG"      // a heartbeat, see Beat
	BadWord  = "XFG-BAD"  // proof of damage or of a second copy; free text follows
	NoteWord = "XFG-NOTE" // something worth knowing, no error of the guest's
)

// Beat is one heartbeat. Counters count from the guest's boot. Clocks are in
// milliseconds. The tag is the field's key in the line.
type Beat struct {
	ID     string `xfg:"id"` // made at boot: a copy of the guest has the same
	N      uint64 `xfg:"n"`
	BootMs int64  `xfg:"boot_ms"` // CLOCK_BOOTTIME: goes on while the guest is suspended
	MonoMs int64  `xfg:"mono_ms"` // CLOCK_MONOTONIC
	RealMs int64  `xfg:"real_ms"` // CLOCK_REALTIME

	GapMs    int64 `xfg:"gap_ms"`     // since the beat before, by CLOCK_BOOTTIME
	MaxGapMs int64 `xfg:"max_gap_ms"` // the largest so far

	Writes   uint64 `xfg:"writes"`   // pages of checked memory written
	Verified uint64 `xfg:"verified"` // pages of checked memory found whole
	Sweeps   uint64 `xfg:"sweeps"`   // times that all checked memory was verified
	Bad      uint64 `xfg:"bad"`      // pages of checked memory found damaged, and MiB of the still memory
	Still    uint64 `xfg:"still"`    // pages that nobody writes found whole

	DiskWrites uint64 `xfg:"disk_w"`   // blocks written, read back and found whole
	DiskErrs   uint64 `xfg:"disk_err"` // requests that failed, and were repeated
	DiskBad    uint64 `xfg:"disk_bad"` // blocks lost, damaged, or written by another
	DiskMaxMs  int64  `xfg:"disk_max_ms"`

	NetTx   uint64 `xfg:"net_tx"`   // packets sent
	NetRx   uint64 `xfg:"net_rx"`   // answers heard
	NetErrs uint64 `xfg:"net_err"`  // packets that could not be sent, and were repeated
	NetBad  uint64 `xfg:"net_bad"`  // answers to packets that this guest never sent
	Dropped uint64 `xfg:"dropped"`  // lines that the console did not take
	MemMB   uint64 `xfg:"mem_mb"`   // checked memory
	StillMB uint64 `xfg:"still_mb"` // memory that nobody writes
}

// TotalBad is the number of all proofs of damage or of a second copy.
func (b *Beat) TotalBad() uint64 { return b.Bad + b.DiskBad + b.NetBad }

// String returns the line, without newline. Its end is a checksum, so that a
// line torn by a kernel message is not taken for a beat.
func (b *Beat) String() string {
	var s strings.Builder
	s.WriteString(BeatWord)
	v := reflect.ValueOf(b).Elem()
	for i := range v.NumField() {
		fmt.Fprintf(&s, " %s=%v", v.Type().Field(i).Tag.Get("xfg"), v.Field(i).Interface())
	}
	return fmt.Sprintf("%s crc=%08x", &s, crc32.Checksum([]byte(s.String()), castagnoli))
}

// ParseBeat reads a line of a console log. ok is false for any other line,
// and for a beat that is torn.
func ParseBeat(line string) (b Beat, ok bool) {
	// Something without a newline may stand before it.
	at := strings.Index(line, BeatWord+" ")
	if at < 0 {
		return b, false
	}
	body, sum, found := strings.Cut(strings.TrimSpace(line[at:]), " crc=")
	if !found || sum != fmt.Sprintf("%08x", crc32.Checksum([]byte(body), castagnoli)) {
		return b, false
	}
	v := reflect.ValueOf(&b).Elem()
	values := map[string]string{}
	for _, word := range strings.Fields(body)[1:] {
		key, value, _ := strings.Cut(word, "=")
		values[key] = value
	}
	for i := range v.NumField() {
		if setField(v.Field(i), values[v.Type().Field(i).Tag.Get("xfg")]) != nil {
			return b, false
		}
	}
	return b, true
}

func setField(f reflect.Value, value string) error {
	switch f.Kind() {
	case reflect.Uint64:
		n, err := strconv.ParseUint(value, 10, 64)
		f.SetUint(n)
		return err
	case reflect.Int64:
		n, err := strconv.ParseInt(value, 10, 64)
		f.SetInt(n)
		return err
	default:
		f.SetString(value)
		return nil
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)
