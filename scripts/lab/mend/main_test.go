package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// sample is code that injects matches, with other numbers where it may be any.
func sample() []byte {
	var text []byte
	for i, b := range injects.bytes {
		if b < 0 {
			b = 0x10 + i%7
		}
		text = append(text, byte(b))
	}
	return text
}

func TestFind(t *testing.T) {
	before, one := bytes.Repeat([]byte{0x41, 0x0f}, 50), sample()
	begin, end, err := injects.find(slices.Concat(before, one, before))
	if err != nil || begin != len(before)+11 || end != begin+6 {
		t.Errorf("found at %d to %d (%v), want the 6 bytes at %d", begin, end, err, len(before)+11)
	}
	for name, text := range map[string][]byte{
		"nowhere":  before,
		"twice":    slices.Concat(one, before, one),
		"cut off":  one[:len(one)-1],
		"replaced": slices.Concat(one[:11], bytes.Repeat([]byte{nop}, 6), one[17:]),
	} {
		if _, _, err := injects.find(text); !errors.Is(err, errUnknown) {
			t.Errorf("%s: %v, want errUnknown", name, err)
		}
	}
	for i, b := range injects.bytes {
		if b < 0 {
			continue
		}
		other := slices.Clone(one)
		other[i] ^= 1
		if _, _, err := injects.find(other); !errors.Is(err, errUnknown) {
			t.Errorf("byte %d is another: %v, want errUnknown", i, err)
		}
	}
}

func TestReplace(t *testing.T) {
	mem := filepath.Join(t.TempDir(), "mem")
	whole := binary.BigEndian.AppendUint64(nil, 0x0102030405060708)
	if err := os.WriteFile(mem, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := replace(mem, 2, []byte{3, 5}); err == nil {
		t.Error("other bytes than those were there, and it wrote")
	}
	for range 2 { // the second time it has been done
		if err := replace(mem, 2, []byte{3, 4}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(mem)
	if want := []byte{1, 2, nop, nop, 5, 6, 7, 8}; err != nil || !bytes.Equal(got, want) {
		t.Errorf("% x (%v), want % x", got, err, want)
	}
}

// TestUnknown takes this very program, which is no QEMU.
func TestUnknown(t *testing.T) {
	if err := run([]string{"x"}); err == nil {
		t.Error("x is no process id")
	}
	if err := run([]string{"0"}); err == nil {
		t.Error("there is no process 0")
	}
	text, _, err := textOf("/proc/self/exe")
	if err == nil {
		_, _, err = injects.find(text)
	}
	if !errors.Is(err, errUnknown) {
		t.Errorf("%v, want errUnknown", err)
	}
}
