package sim

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen/memcheck"
)

// contextVersion is of guestContext. A host refuses any other.
const contextVersion = 1

// guestContext is what a guest's processors keep outside memory: the body of
// its RecSimContext record, as JSON of at most maxContext bytes.
type guestContext struct {
	Version  int              `json:"version"`
	Seed     uint64           `json:"seed"` // of its memory: must fit the configuration
	Arrivals uint64           `json:"arrivals"`
	VCPUs    []memcheck.State `json:"vcpus"`
	Heart    heartState       `json:"heart"`
	Errors   []string         `json:"errors,omitempty"`
	// ImageSum is of the memory that came from an image: SHA-256, hexadecimal.
	ImageSum string `json:"image_sum,omitempty"`
}

// finalRecords makes the records of a suspended guest from its context.
func finalRecords(context []byte) []savefmt.Record {
	return []savefmt.Record{{Type: savefmt.RecSimContext, Body: context}}
}

// parseFinal reads the records of Finish, which may be anything, for a guest
// of that configuration.
func parseFinal(recs []savefmt.Record, cfg *GuestConfig) (*guestContext, error) {
	if len(recs) != 1 || recs[0].Type != savefmt.RecSimContext {
		return nil, fmt.Errorf("final state of a simulated guest: %d records, want one of type %#x",
			len(recs), savefmt.RecSimContext)
	}
	c, err := parseContext(recs[0].Body, cfg)
	if err != nil {
		return nil, fmt.Errorf("context of a simulated guest: %w", err)
	}
	return c, nil
}

func parseContext(body []byte, cfg *GuestConfig) (*guestContext, error) {
	if len(body) > maxContext {
		return nil, fmt.Errorf("%d bytes are longer than %d", len(body), maxContext)
	}
	// The version first: a later one may have fields that are unknown here.
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(body, &head); err != nil {
		return nil, err
	}
	if head.Version != contextVersion {
		return nil, fmt.Errorf("version %d, this host knows %d: update the older side", head.Version, contextVersion)
	}
	c := &guestContext{}
	if err := decodeStrict(body, c); err != nil {
		return nil, err
	}
	switch {
	case c.Seed != cfg.Seed:
		return nil, fmt.Errorf("seed %#x is of another guest than the configuration's %#x", c.Seed, cfg.Seed)
	case len(c.VCPUs) != cfg.VCPUs:
		return nil, fmt.Errorf("%d vCPUs, the configuration has %d", len(c.VCPUs), cfg.VCPUs)
	case len(c.Errors) > maxErrors:
		return nil, fmt.Errorf("%d error texts are more than %d", len(c.Errors), maxErrors)
	}
	return c, c.Heart.check()
}

// The static state is a CPU policy of two leaves, as a guest would see it with
// CPUID: who simulates, and which version of the simulated machine it needs.
const (
	leafSignature  = 0x40000000 // ebx, ecx, edx: signature
	leafMachine    = 0x40000001 // eax: machineVersion
	machineVersion = 1
	signature      = "xenferry sim"
	leafSize       = 24 // xen_cpuid_leaf_t: u32 leaf, subleaf, eax, ebx, ecx, edx
)

func staticRecords() []savefmt.Record {
	le, body := binary.LittleEndian, make([]byte, 2*leafSize)
	le.PutUint32(body, leafSignature)
	le.PutUint32(body[8:], leafMachine) // eax: the last leaf
	copy(body[12:], signature)
	le.PutUint32(body[leafSize:], leafMachine)
	le.PutUint32(body[leafSize+8:], machineVersion)
	return []savefmt.Record{{Type: savefmt.RecCPUIDPolicy, Body: body}}
}

// checkStatic tells whether a guest with that static state can run here.
func checkStatic(recs []savefmt.Record) error {
	want := staticRecords()[0]
	if len(recs) != 1 || recs[0].Type != want.Type || len(recs[0].Body) != len(want.Body) {
		return fmt.Errorf("static state of a simulated guest: %d records, want one CPU policy of %d bytes",
			len(recs), len(want.Body))
	}
	body := recs[0].Body
	if string(body[12:leafSize]) != signature {
		return fmt.Errorf("static state of a simulated guest: CPU policy is of %q, want %q", body[12:leafSize], signature)
	}
	if v := binary.LittleEndian.Uint32(body[leafSize+8:]); v != machineVersion {
		return fmt.Errorf("guest needs version %d of the simulated machine, this host has %d: update the older side",
			v, machineVersion)
	}
	return nil
}
