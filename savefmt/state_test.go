package savefmt

import (
	"bytes"
	"errors"
	"testing"
)

func params(values ...uint64) Record {
	body := u32s(uint32(len(values)/2), 0)
	for _, v := range values {
		body = append(body, u32s(uint32(v), uint32(v>>32))...)
	}
	return Record{RecHVMParams, body}
}

// TestState: the later record counts, parameters add up.
func TestState(t *testing.T) {
	var s State
	first, second := Record{RecHVMContext, testContext(1)}, Record{RecHVMContext, testContext(2)}
	for _, r := range []Record{first, params(1, 10, 2, 20), second, params(2, 21, 3, 30)} {
		if err := s.Add(r, 0); err != nil {
			t.Fatal(err)
		}
	}
	want := []Record{second, params(1, 10, 2, 21, 3, 30)}
	for i, r := range s.Records() {
		if len(s.Records()) != len(want) || r.Type != want[i].Type || !bytes.Equal(r.Body, want[i].Body) {
			t.Errorf("%x, want %x", r, want[i])
		}
	}
}

// TestStateBounds: records that come for ever do not fill the memory.
func TestStateBounds(t *testing.T) {
	var s State
	var err error
	var format *FormatError
	for i := uint64(0); err == nil && i < 2*maxParams; i++ {
		err = s.Add(params(i, 1), 77)
	}
	if !errors.As(err, &format) || format.Offset != 77 || len(s.Records()[0].Body) > paramsHead+(maxParams+1)*paramSize {
		t.Errorf("%v", err)
	}
	s, err = State{}, nil
	body := make([]byte, maxPolicy)
	for i := uint32(0); err == nil && i < maxVCPUs; i++ {
		vcpu := bytes.Clone(body[:maxPolicy])
		copy(vcpu, u32s(i))
		err = s.Add(Record{RecPVVCPUBasic, vcpu}, 77)
	}
	if !errors.As(err, &format) || s.size > maxState+maxPolicy {
		t.Errorf("%d bytes: %v", s.size, err)
	}
}
