package savefmt

import (
	"encoding/json"
	"errors"
	"fmt"
)

// GuestConfig is what xenferry itself needs of a guest's configuration. The
// rest is for libxl, or for the simulated host.
type GuestConfig struct {
	Name    string
	UUID    string
	Type    string // "pv", "pvh", "hvm", "sim"
	MaxKiB  uint64 // the most memory that it may have
	MemKiB  uint64 // the memory that it is to have now
	VCPUMax int
	Domid   uint32 // the id that it must get, 0 for any
}

// domidReserved is DOMID_FIRST_RESERVED of public/xen.h: numbers from there on
// stand for no domain in particular.
const domidReserved = 0x7FF0

// ParseGuestConfig reads the JSON of a libxl_domain_config, or for KindSim
// that of a simulated guest. It checks that it fits the kind of guest, and that
// the guest has a name.
func ParseGuestConfig(kind GuestKind, text []byte) (GuestConfig, error) {
	if len(text) > MaxConfig {
		return GuestConfig{}, fmt.Errorf("guest configuration of %d bytes: the limit is %d", len(text), MaxConfig)
	}
	parse := parseXenConfig
	if kind == KindSim {
		parse = parseSimConfig
	}
	g, err := parse(kind, text)
	if err == nil && g.Name == "" {
		err = errors.New("guest configuration: the guest has no name")
	}
	return g, err
}

func parseXenConfig(kind GuestKind, text []byte) (GuestConfig, error) {
	var c struct {
		Create struct {
			Type  string `json:"type"`
			Name  string `json:"name"`
			UUID  string `json:"uuid"`
			Domid uint32 `json:"domid"` // 0 for any
		} `json:"c_info"`
		Build struct {
			MaxVCPUs  int    `json:"max_vcpus"`
			MaxMemKiB uint64 `json:"max_memkb"`
			TargetKiB uint64 `json:"target_memkb"`
		} `json:"b_info"`
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return GuestConfig{}, fmt.Errorf("guest configuration: %w", err)
	}
	g := GuestConfig{
		Name: c.Create.Name, UUID: c.Create.UUID, Type: c.Create.Type,
		Domid: c.Create.Domid, MaxKiB: c.Build.MaxMemKiB, MemKiB: c.Build.TargetKiB, VCPUMax: max(c.Build.MaxVCPUs, 1),
	}
	if g.Domid >= domidReserved {
		g.Domid = 0
	}
	const maxKiB = (MaxStockPFN + 1) << (pageShift - 10)
	if g.MaxKiB == 0 || g.MaxKiB > maxKiB {
		return g, fmt.Errorf("guest configuration: max_memkb is %d, want 1 to %d", g.MaxKiB, uint64(maxKiB))
	}
	g.MemKiB = min(g.MemKiB, g.MaxKiB)
	fits := map[GuestKind][]string{KindPV: {"pv"}, KindHVM: {"hvm", "pvh"}}
	for _, typ := range fits[kind] {
		if g.Type == typ {
			return g, nil
		}
	}
	return g, fmt.Errorf("guest configuration: it is for a guest of type %q, the stream has an %s guest", g.Type, kind)
}

// mmioPages is room for what is not memory in an HVM or PVH guest's physical
// address space: the hole below 4 GiB, and as much again for devices.
const mmioPages = 2 << 20

// PageLimit bounds the pfns of the guest. A stock file does not tell the size
// of its address space, so this is what its configuration can mean at most.
func (g *GuestConfig) PageLimit() uint64 {
	pages := g.MaxKiB / (pageSize / 1024)
	if g.Type == "hvm" || g.Type == "pvh" {
		pages = min(pages+mmioPages, MaxStockPFN+1)
	}
	return pages
}

func parseSimConfig(_ GuestKind, text []byte) (GuestConfig, error) {
	var c struct {
		Name   string `json:"name"`
		UUID   string `json:"uuid"`
		MemMiB uint64 `json:"mem_mib"`
		VCPUs  int    `json:"vcpus"`
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return GuestConfig{}, fmt.Errorf("guest configuration: %w", err)
	}
	if c.MemMiB == 0 || c.MemMiB > (MaxStockPFN+1)>>8 {
		return GuestConfig{}, fmt.Errorf("guest configuration: a simulated guest of %d MiB", c.MemMiB)
	}
	return GuestConfig{
		Name: c.Name, UUID: c.UUID, Type: "sim",
		MaxKiB: c.MemMiB << 10, MemKiB: c.MemMiB << 10, VCPUMax: c.VCPUs,
	}, nil
}
