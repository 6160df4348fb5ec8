package savefmt

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// State gathers the records of a stream that come after its pages. In version 2
// they may stand anywhere, and come again, as those that were converted from an
// older format do: then the later one counts, as for Xen's own reader.
type State struct {
	recs []Record
	at   map[uint64]int // where in recs, by stateKey
	size int            // bytes of their bodies
	// params is where each parameter is in the body of HVM_PARAMS; nil until
	// there is a second such record.
	params map[uint64]int
}

// maxState bounds the bodies of all records together: 2000 vCPUs of a PV guest
// need a tenth of it.
const maxState = MaxRecord

// Add takes the next record, at that offset, which the Reader has checked. It
// replaces one of the same type, and of a PV guest's vCPU of the same vCPU.
// HVM_PARAMS add up, as each sets some.
func (s *State) Add(r Record, offset int64) error {
	key := stateKey(r)
	at, again := s.at[key]
	switch {
	case !again:
		if s.at == nil {
			s.at = map[uint64]int{}
		}
		at = len(s.recs)
		s.at[key], s.recs = at, append(s.recs, Record{Type: r.Type})
	case r.Type == RecHVMParams:
		r.Body = s.mergeParams(s.recs[at].Body, r.Body)
	}
	s.size += len(r.Body) - len(s.recs[at].Body)
	s.recs[at].Body = r.Body
	if limit := bodyRules[r.Type].max; len(r.Body) > int(limit) {
		return &FormatError{Layer: LayerLibxc, Record: RecordName(LayerLibxc, r.Type), Offset: offset,
			Err: fmt.Errorf("with those before it, it has %d bytes: the limit is %d", len(r.Body), limit)}
	}
	if s.size > maxState {
		return &FormatError{Layer: LayerLibxc, Record: RecordName(LayerLibxc, r.Type), Offset: offset,
			Err: fmt.Errorf("with it the guest's state has more than %d bytes, the limit", maxState)}
	}
	return nil
}

// Records returns what was added, in the order in which it first came.
func (s *State) Records() []Record { return s.recs }

// stateKey is the same for two records that are about the same thing.
func stateKey(r Record) uint64 {
	key := uint64(r.Type) << 32
	switch r.Type {
	case RecPVVCPUBasic, RecPVVCPUExt, RecPVVCPUXSave, RecPVVCPUMSRs:
		key |= uint64(binary.LittleEndian.Uint32(r.Body)) // the vCPU's number
	}
	return key
}

// mergeParams adds the parameters of a further HVM_PARAMS record to those that
// are there, and takes its value where both have one. It costs what the further
// record has: there may be many small ones.
func (s *State) mergeParams(body, more []byte) []byte {
	le := binary.LittleEndian
	if s.params == nil {
		s.params = map[uint64]int{}
		body = bytes.Clone(body)
		for at := paramsHead; at < len(body); at += paramSize {
			s.params[le.Uint64(body[at:])] = at
		}
	}
	for at := paramsHead; at < len(more); at += paramSize {
		param := more[at : at+paramSize]
		if old, known := s.params[le.Uint64(param)]; known {
			copy(body[old:], param)
			continue
		}
		s.params[le.Uint64(param)] = len(body)
		body = append(body, param...)
	}
	le.PutUint32(body, uint32((len(body)-paramsHead)/paramSize))
	return body
}
