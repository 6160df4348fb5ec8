package xen

import (
	"encoding/json"
	"testing"
)

// FuzzDecodeMessage reads a control message. One that is accepted must be
// accepted again when it is written.
func FuzzDecodeMessage(f *testing.F) {
	f.Add([]byte(`{"kind":"go"}`))
	f.Add([]byte(`{"kind":"abort","abort":{"code":"failed","text":"x"}}`))
	f.Add([]byte(`{"kind":"hello","hello":{"min_version":1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMessage(b)
		if (m == nil) == (err == nil) {
			t.Fatalf("%v and %v", m, err)
		}
		if err != nil {
			return
		}
		again, err := json.Marshal(m)
		if err == nil {
			_, err = decodeMessage(again)
		}
		if err != nil {
			t.Fatalf("%s was accepted, what it writes as is not: %v", b, err)
		}
	})
}
