package savefmt

import (
	"errors"
	"fmt"
	"slices"
)

// section is a part of a libxc stream. Records come in this order of sections.
type section uint8

const (
	secStatic section = iota // what must be there before any page
	secMemory                // pages, and for PV the frames that hold the p2m
	secState                 // processors, parameters, clocks
	secEnded                 // after END
)

// rule says where a record may stand in a libxc stream.
type rule struct {
	section section
	kinds   []GuestKind // nil: all
	version uint32      // the first that has it
	once    bool        // state only in version 3: a converted older stream may repeat it
	after   uint32      // must have been seen before, 0: none
	refuse  string      // not part of a saved guest, because
}

var (
	onlyPV  = []GuestKind{KindPV}
	onlyHVM = []GuestKind{KindHVM}
)

// rules are those of the specification, as narrow as stock Xen writes.
var rules = map[uint32]rule{
	RecPVInfo:        {section: secStatic, kinds: onlyPV, once: true},
	RecCPUIDPolicy:   {section: secStatic, version: 3, once: true},
	RecMSRPolicy:     {section: secStatic, version: 3, once: true},
	RecStaticDataEnd: {section: secStatic, version: 3, once: true},
	RecPVP2MFrames:   {section: secMemory, kinds: onlyPV, after: RecPVInfo},
	RecPageData:      {section: secMemory},
	RecVerify:        {section: secMemory, once: true, after: RecPageData},
	RecTSCInfo:       {section: secState, once: true},
	RecHVMParams:     {section: secState, kinds: onlyHVM, once: true},
	RecHVMContext:    {section: secState, kinds: onlyHVM, once: true},
	RecSharedInfo:    {section: secState, kinds: onlyPV, once: true},
	RecPVVCPUBasic:   {section: secState, kinds: onlyPV},
	RecPVVCPUExt:     {section: secState, kinds: onlyPV, after: RecPVVCPUBasic},
	RecPVVCPUXSave:   {section: secState, kinds: onlyPV, after: RecPVVCPUBasic},
	RecPVVCPUMSRs:    {section: secState, kinds: onlyPV, after: RecPVVCPUBasic},
	RecSimContext:    {section: secState, kinds: []GuestKind{KindSim}, once: true},
	RecToolstack:     {refuse: "it is deprecated, and no Xen since 4.6 reads it"},
	RecCheckpoint:    {refuse: "it belongs to a running Remus or COLO connection, not to a saved guest"},
	RecDirtyPFNs:     {refuse: "it belongs to a running COLO connection, not to a saved guest"},
}

// needed are the records without which a guest of that kind cannot run.
var needed = map[GuestKind][]uint32{
	KindPV:  {RecPVInfo, RecPVP2MFrames, RecPageData, RecTSCInfo, RecSharedInfo, RecPVVCPUBasic},
	KindHVM: {RecPageData, RecTSCInfo, RecHVMParams, RecHVMContext},
	KindSim: {RecPageData, RecSimContext},
}

// order follows a libxc stream record by record, for a reader or a writer.
type order struct {
	kind    GuestKind
	version uint32
	section section
	seen    map[uint32]bool
	again   bool // pages have come after VERIFY
	width   byte // of a PV guest, from PV_INFO
}

func newOrder(kind GuestKind, version uint32) *order {
	return &order{kind: kind, version: version, seen: map[uint32]bool{}}
}

// next takes the next record, or says why it may not stand here. Optional
// records that are unknown may stand anywhere.
func (o *order) next(typ uint32) error {
	switch {
	case o.section == secEnded:
		return errors.New("it follows the END of the stream")
	case typ == RecEnd:
		return o.end()
	case typ&RecOptional != 0:
		return nil
	}
	r, known := rules[typ]
	switch {
	case !known:
		return errors.New("a mandatory record of an unknown type: it needs a newer program")
	case r.refuse != "":
		return errors.New(r.refuse)
	case r.kinds != nil && !slices.Contains(r.kinds, o.kind):
		return fmt.Errorf("no %s guest has such a record", o.kind)
	case o.version < r.version:
		return fmt.Errorf("there is no such record in version %d of the stream", o.version)
	case r.once && o.seen[typ] && (o.version >= libxcVersion || r.section != secState):
		return errors.New("it is there twice")
	case r.after != 0 && !o.seen[r.after]:
		return fmt.Errorf("there is no %s record before it", RecordName(LayerLibxc, r.after))
	case typ == RecPageData && o.kind == KindPV && !o.seen[RecPVP2MFrames]:
		return fmt.Errorf("there is no %s record before it", RecordName(LayerLibxc, RecPVP2MFrames))
	}
	if err := o.enter(r.section); err != nil {
		return err
	}
	if typ == RecStaticDataEnd {
		o.section = secMemory
	}
	o.again = o.again || typ == RecPageData && o.seen[RecVerify]
	o.seen[typ] = true
	return nil
}

// body takes the body of the record that next has let pass, for what one record
// says of another.
func (o *order) body(typ uint32, body []byte) error {
	switch typ {
	case RecPVInfo:
		o.width = body[0]
	case RecPVP2MFrames:
		return checkP2MCount(body, o.width)
	}
	return nil
}

// enter moves on to a section. Version 2 has no mark between its sections, and
// streams converted to it mix them.
func (o *order) enter(s section) error {
	if o.version < 3 {
		return nil
	}
	switch {
	case s > secStatic && o.section == secStatic:
		return errors.New("there is no STATIC_DATA_END record before it")
	case s < o.section && s == secStatic:
		return errors.New("it follows STATIC_DATA_END, and must come before")
	case s < o.section:
		return errors.New("it follows the guest's state, and must come before")
	}
	o.section = s
	return nil
}

func (o *order) end() error {
	for _, typ := range needed[o.kind] {
		if !o.seen[typ] {
			return fmt.Errorf("the stream of a %s guest ends without a %s record", o.kind, RecordName(LayerLibxc, typ))
		}
	}
	if o.seen[RecVerify] && !o.again {
		return errors.New("no PAGE_DATA record follows VERIFY: there is no second copy to compare")
	}
	o.section = secEnded
	return nil
}
