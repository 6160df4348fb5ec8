package savefmt

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLibxlStream(t *testing.T) {
	const (
		start = "4c6962786c466d74 00000002 00000000  01000000 00000000"
		end   = "00000000 00000000"
	)
	for _, c := range []struct {
		name  string
		write func(w *LibxlWriter) error
		want  string
	}{
		{"start", (*LibxlWriter).Start, start},
		{"end", (*LibxlWriter).End, end},
		{"device model, padded", func(w *LibxlWriter) error { return w.DeviceModel([]byte{1, 2, 3}) },
			"03000000 0b000000  02000000 00000000  010203 0000000000"},
		{"device model, aligned", func(w *LibxlWriter) error { return w.DeviceModel(bytes.Repeat([]byte{7}, 8)) },
			"03000000 10000000  02000000 00000000  0707070707070707"},
		{"device model, empty", func(w *LibxlWriter) error { return w.DeviceModel(nil) },
			"03000000 08000000  02000000 00000000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := c.write(NewLibxlWriter(&out)); err != nil {
				t.Fatal(err)
			}
			if want := unhex(t, c.want); !bytes.Equal(out.Bytes(), want) {
				t.Errorf("wrote %x, want %x", out.Bytes(), want)
			}
		})
	}
}

type brokenWriter struct{ calls int }

var errBroken = errors.New("broken")

func (w *brokenWriter) Write([]byte) (int, error) { w.calls++; return 0, errBroken }

func TestLibxlWriterErrors(t *testing.T) {
	w := &brokenWriter{}
	if err := NewLibxlWriter(w).Start(); !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "stream header") {
		t.Errorf("Start on a broken writer: %v", err)
	}
	before := w.calls
	if err := NewLibxlWriter(w).DeviceModel(make([]byte, MaxDeviceModel+1)); err == nil || !strings.Contains(err.Error(), "over the limit") {
		t.Errorf("a device model state over the limit: %v", err)
	}
	if w.calls != before {
		t.Error("bytes were written for a device model state over the limit")
	}
}
