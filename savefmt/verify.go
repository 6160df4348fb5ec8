package savefmt

import (
	"errors"
	"fmt"
	"io"
)

// Summary is what Verify has found in a saved guest.
type Summary struct {
	Format    Layer  `json:"format"` // its outermost layer
	Guest     string `json:"guest"`  // pv, pvh, hvm, sim
	Name      string `json:"name,omitempty"`
	UUID      string `json:"uuid,omitempty"`
	Xen       string `json:"xen"` // release of the host that wrote it, e.g. "4.17"
	Version   uint32 `json:"libxc_version"`
	Converted bool   `json:"converted,omitempty"` // from the format before Xen 4.6
	VCPUs     int    `json:"vcpus"`
	// MemKiB is the memory whose contents are there, each page counted once.
	MemKiB uint64 `json:"mem_kib"`
	// MaxKiB is the most memory that the configuration allows; 0 if there is
	// no configuration.
	MaxKiB     uint64            `json:"max_kib,omitempty"`
	HighestPFN uint64            `json:"highest_pfn"`
	Records    map[string]uint64 `json:"records"`  // by name; libxl's with "libxl " before it
	Pages      map[string]uint64 `json:"pages"`    // entries by type, repeated ones each time
	Repeated   uint64            `json:"repeated"` // contents that a later copy replaces: rounds of a live save
	Verified   bool              `json:"verify_round,omitempty"`
	Bytes      int64             `json:"bytes"` // of the stock format
	Container  *ContainerInfo    `json:"container,omitempty"`
}

// Verify reads a saved guest to its end and checks all of it, but for the
// contents of pages, of which a stock format has no checksum. The Summary is
// of what came before an error.
func Verify(r io.Reader) (*Summary, error) { return VerifyCopy(r, nil) }

// VerifyCopy is Verify that writes the guest's stock bytes to w on the way,
// those in front of an error too, but the last of them only when all is right:
// the copy of a guest that is refused has no END. Nothing that follows the guest
// is written.
func VerifyCopy(r io.Reader, w io.Writer) (*Summary, error) {
	v := &verifier{r: NewReader(r)}
	defer v.r.Close()
	err := v.runCopy(w)
	v.sum.Bytes, v.sum.Container = v.r.in.at, v.r.Container()
	return &v.sum, err
}

type verifier struct {
	r    *Reader
	head Head
	conf *GuestConfig
	sum  Summary
	data pfnSet // pfns whose contents have come

	old      State // of version 2, as restore gathers it
	emulator bool
	vcpus    map[uint32]bool
}

func (v *verifier) runCopy(w io.Writer) error {
	if w == nil {
		return v.run()
	}
	end := &endHolder{w: w}
	v.r.in.copy = end
	if err := v.run(); err != nil {
		return err
	}
	if err := end.release(); err != nil {
		return &outsideError{err}
	}
	return nil
}

func (v *verifier) run() error {
	v.sum.Records, v.sum.Pages, v.vcpus = map[string]uint64{}, map[string]uint64{}, map[uint32]bool{}
	if err := v.open(); err != nil {
		return err
	}
	for {
		item, err := v.r.Next()
		if err == io.EOF {
			return v.end()
		}
		if err == nil {
			err = v.record(item)
		}
		if err != nil {
			return err
		}
	}
}

func (v *verifier) open() error {
	head, err := v.r.Open()
	v.head = head
	v.sum.Format, v.sum.Version, v.sum.Converted = head.Outer, head.Version, head.Converted
	if err != nil {
		return err
	}
	v.sum.Xen = fmt.Sprintf("%d.%d", head.XenMajor, head.XenMinor)
	v.sum.Guest = map[GuestKind]string{KindPV: "pv", KindSim: "sim"}[head.Kind]
	if head.Config == nil {
		return nil
	}
	conf, err := ParseGuestConfig(head.Kind, head.Config)
	if err != nil {
		return v.r.fail(LayerXL, "configuration", ConfigOffset, err)
	}
	v.conf = &conf
	v.sum.Name, v.sum.UUID, v.sum.MaxKiB, v.sum.Guest = conf.Name, conf.UUID, conf.MaxKiB, conf.Type
	return nil
}

func (v *verifier) record(item Item) error {
	name := RecordName(item.Layer, item.Type)
	if item.Layer == LayerLibxl {
		v.sum.Records["libxl "+name]++
		v.emulator = v.emulator || item.Type == LibxlEmulatorContext
		return nil
	}
	v.sum.Records[name]++
	if v.head.Version < libxcVersion && rules[item.Type].section == secState {
		if err := v.old.Add(Record{Type: item.Type, Body: item.Body}, item.Offset); err != nil {
			return err
		}
	}
	switch item.Type {
	case RecPageData:
		return v.r.fail(item.Layer, name, item.Offset, v.pages(item.Pages))
	case RecVerify:
		v.sum.Verified = true
	case RecHVMContext:
		v.sum.VCPUs, _ = hvmVCPUs(item.Body) // the reader has walked it already
	case RecSimContext:
		if v.conf != nil {
			v.sum.VCPUs = v.conf.VCPUMax
		}
	case RecPVVCPUBasic, RecPVVCPUExt, RecPVVCPUXSave, RecPVVCPUMSRs:
		return v.r.fail(item.Layer, name, item.Offset, v.vcpu(item))
	}
	return nil
}

// vcpu checks that a PV guest's processor has one record of each type, in
// version 2 at least one, the basic one first.
func (v *verifier) vcpu(item Item) error {
	id := uint32(item.Body[0]) | uint32(item.Body[1])<<8 // below maxVCPUs
	key := func(typ uint32) uint32 { return typ<<16 | id }
	switch {
	case v.vcpus[key(item.Type)] && v.head.Version < libxcVersion:
		return nil // it replaces the earlier one
	case v.vcpus[key(item.Type)]:
		return fmt.Errorf("it is there twice for vCPU %d", id)
	case item.Type != RecPVVCPUBasic && !v.vcpus[key(RecPVVCPUBasic)]:
		return fmt.Errorf("vCPU %d has no basic record before it", id)
	case item.Type == RecPVVCPUBasic:
		v.sum.VCPUs++
	}
	v.vcpus[key(item.Type)] = true
	return nil
}

// BeyondLimit is the error of a pfn that is not below GuestConfig.PageLimit.
func BeyondLimit(pfn, limit uint64) error {
	return fmt.Errorf("pfn %#x is beyond the %#x pages that the guest's configuration allows", pfn, limit)
}

// pages checks and counts pages. Those of a PV guest have no limit: its own
// tables say where they are.
func (v *verifier) pages(pages []StockPage) error {
	limit := uint64(MaxStockPFN + 1)
	if v.conf != nil && v.head.Kind != KindPV {
		limit = v.conf.PageLimit()
	}
	var types [16]uint64
	for _, p := range pages {
		if p.PFN() >= limit {
			return BeyondLimit(p.PFN(), limit)
		}
		types[p.Type()]++
		v.sum.HighestPFN = max(v.sum.HighestPFN, p.PFN())
		if p.HasData() && !v.data.add(p.PFN()) {
			v.sum.Repeated++
		}
	}
	for typ, n := range types {
		if n > 0 {
			v.sum.Pages[pageTypeNames[typ]] += n
		}
	}
	v.sum.MemKiB = v.data.count * (pageSize / 1024)
	return nil
}

// end checks what only the whole can tell.
func (v *verifier) end() error {
	fail := func(text string) error {
		return v.r.fail(v.head.Outer, "end", v.r.in.at, errors.New(text))
	}
	if v.head.Kind == KindHVM && v.head.Outer != LayerLibxc {
		if v.sum.Guest == "" {
			v.sum.Guest = "pvh"
			if v.emulator {
				v.sum.Guest = "hvm"
			}
		}
		switch {
		case v.sum.Guest == "hvm" && !v.emulator:
			return fail("an hvm guest without an EMULATOR_CONTEXT record: its device model could not be started")
		case v.sum.Guest == "pvh" && v.emulator:
			return fail("a pvh guest with an EMULATOR_CONTEXT record, which libxl refuses")
		}
	}
	if v.sum.Guest == "" {
		v.sum.Guest = "hvm or pvh"
	}
	return nil
}
