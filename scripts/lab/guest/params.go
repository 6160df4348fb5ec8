package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
	"github.com/xenferry/xenferry/xen/memcheck"
)

// params is what the kernel's command line asks for.
type params struct {
	mem      int64  // xfg.mem=64: checked memory in MiB, 0 for none
	workload string // xfg.workload=uniform:20MB/s: see memcheck.ParseWorkload
	verify   uint64 // xfg.verify=4MB: verified in a second

	image   int64 // xfg.image=0: MiB of memory that are read from the disk and never written
	imageAt int64 // xfg.image_at=0: from where on it, in MiB

	disk      string        // xfg.disk=/dev/xvda: disk to write on, none for none
	diskAt    int64         // xfg.disk_at=0: where on it, in MiB
	diskEvery time.Duration // xfg.disk_ms=100: a block every so often

	address  netip.Prefix   // xfg.net=192.168.77.101/24: of eth0, none for none
	to       netip.AddrPort // xfg.to=ADDRESS: to hear its packets, the network's broadcast address by default
	netEvery time.Duration  // xfg.net_ms=20: a packet every so often

	beat time.Duration // xfg.beat_ms=200

	// xfg.harm=mem:20,still:20,disk:30,net:30: damage to be done after so many seconds.
	harm map[string]time.Duration
}

// maxMemMiB bounds xfg.mem: more than any lab host has.
const maxMemMiB = 1 << 16

// parseParams reads a kernel command line. Words that do not begin with xfg.
// are the kernel's.
func parseParams(cmdline string) (params, error) {
	p := params{
		mem: 64 << 20, workload: "uniform:20MB/s", verify: 4e6,
		disk: "/dev/xvda", diskEvery: 100 * time.Millisecond,
		address: netip.MustParsePrefix("192.168.77.101/24"), netEvery: 20 * time.Millisecond,
		beat: 200 * time.Millisecond,
	}
	for _, word := range strings.Fields(cmdline) {
		rest, ours := strings.CutPrefix(word, "xfg.")
		if !ours {
			continue
		}
		key, value, _ := strings.Cut(rest, "=")
		if err := p.set(key, value); err != nil {
			return p, fmt.Errorf("kernel argument %s: %w", word, err)
		}
	}
	if p.address.IsValid() && !p.to.IsValid() {
		p.to = netip.AddrPortFrom(broadcast(p.address), xfg.ListenPort)
	}
	return p, nil
}

func (p *params) set(key, value string) (err error) {
	switch key {
	case "mem":
		p.mem, err = parseMiB(value)
	case "image":
		p.image, err = parseMiB(value)
	case "image_at":
		p.imageAt, err = parseMiB(value)
	case "workload":
		p.workload = value
	case "verify":
		p.verify, err = memcheck.ParseSize(value)
	case "disk":
		p.disk = value
		if value == "none" {
			p.disk = ""
		}
	case "disk_at":
		p.diskAt, err = parseMiB(value)
	case "disk_ms":
		p.diskEvery, err = parseMs(value)
	case "net":
		p.address = netip.Prefix{}
		if value != "none" {
			p.address, err = netip.ParsePrefix(value)
		}
		if err == nil && p.address.IsValid() && !p.address.Addr().Is4() {
			err = fmt.Errorf("not an IPv4 address")
		}
	case "to":
		var a netip.Addr
		a, err = netip.ParseAddr(value)
		p.to = netip.AddrPortFrom(a, xfg.ListenPort)
	case "net_ms":
		p.netEvery, err = parseMs(value)
	case "beat_ms":
		p.beat, err = parseMs(value)
	case "harm":
		err = p.setHarm(value)
	default:
		err = fmt.Errorf("unknown")
	}
	return err
}

func (p *params) setHarm(value string) error {
	p.harm = map[string]time.Duration{}
	for _, one := range strings.Split(value, ",") {
		what, after, _ := strings.Cut(one, ":")
		if what != "mem" && what != "still" && what != "disk" && what != "net" {
			return fmt.Errorf("harm is mem, still, disk or net")
		}
		seconds, err := strconv.ParseUint(after, 10, 16)
		if err != nil {
			return err
		}
		p.harm[what] = time.Duration(seconds) * time.Second
	}
	return nil
}

// parseMiB returns a number of MiB in bytes.
func parseMiB(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n > maxMemMiB {
		err = fmt.Errorf("more than %d MiB", maxMemMiB)
	}
	return int64(n) << 20, err
}

func parseMs(s string) (time.Duration, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && n == 0 {
		err = fmt.Errorf("must be at least 1 ms")
	}
	return time.Duration(n) * time.Millisecond, err
}

// broadcast returns the broadcast address of an IPv4 network.
func broadcast(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}
