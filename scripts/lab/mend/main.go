// Command mend takes one fault of QEMU's emulation of SVM out of a running
// QEMU, because it kills the lab's guests now and then.
//
//	mend PID
//
// The fault is in helper_vmrun (QEMU 7.2, target/i386/tcg): when Xen injects an
// interrupt into a guest, QEMU delivers it at once, but leaves its number in
// exception_index, where an exception stands that is still to be delivered. The
// next event clears it, most often before it matters. But if another thread of
// QEMU asks the processor to pause after it has looked for interrupts and
// before it looks for that request, QEMU goes through its loop, finds the
// number, and delivers the interrupt a second time: with interrupts off, at the
// first instruction of its handler. Linux does not survive that if the first
// had interrupted a program: the kernel goes on with the program's GS base.
//
// Nothing but a log reads the number: so the one instruction that stores it is replaced by
// instructions that do nothing, in the memory of the process and nowhere else.
// It is found by the instructions around it, and only if they are there once. A
// QEMU that is built otherwise is left as it is, with exit code 3.
package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// exitUnknown says that this QEMU was left as it is.
const exitUnknown = 3

func main() {
	err := run(os.Args[1:])
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "mend:", err)
	if errors.Is(err, errUnknown) {
		os.Exit(exitUnknown)
	}
	os.Exit(1)
}

var errUnknown = errors.New("this QEMU is not built as the one that mend knows")

func run(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: mend PID")
	}
	pid, err := strconv.Atoi(args[0])
	if err != nil {
		return fmt.Errorf("%q is no process id", args[0])
	}
	dir := fmt.Sprintf("/proc/%d/", pid)
	text, vaddr, err := textOf(dir + "exe")
	if err != nil {
		return err
	}
	begin, end, err := injects.find(text)
	if err != nil {
		return err
	}
	base, err := loadBase(dir)
	if err != nil {
		return err
	}
	return replace(dir+"mem", int64(base+vaddr)+int64(begin), text[begin:end])
}

// textOf returns a program's code, and its virtual address before the program
// is loaded.
func textOf(exe string) ([]byte, uint64, error) {
	f, err := elf.Open(exe)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	section := f.Section(".text")
	if f.Machine != elf.EM_X86_64 || f.Type != elf.ET_DYN || section == nil {
		return nil, 0, errUnknown
	}
	text, err := section.Data()
	return text, section.Addr, err
}

// injects is helper_vmrun where it injects an external interrupt, as gcc
// translates it: bytes in hexadecimal, ?? for any, and the instruction that is
// to be replaced in brackets. env is in rbx; the CPU's generic part, which has
// exception_index, stands before it.
var injects = pattern(
	"41 0f b6 ??",                            // movzbl vector, esi
	"44 89 ?? ?? ?? 00 00",                   // env->error_code = event_inj_err
	"[ 89 b3 ?? ?? ff ff ]",                  // cs->exception_index = vector
	"c7 83 ?? ?? 00 00 00 00 00 00",          // env->exception_is_int = 0
	"48 c7 83 ?? ?? 00 00 ff ff ff ff",       // env->exception_next_eip = -1
	"f6 05 ?? ?? ?? ?? 02 0f 85 ?? ?? ?? ??", // is it to be logged?
	"ba 01 00 00 00 48 89 df e8 ?? ?? ?? ??", // do_interrupt_x86_hardirq(env, vector, 1)
)

// code is a sequence of instructions to be looked for.
type code struct {
	bytes      []int // -1 for any
	begin, end int   // of the part in brackets
}

func pattern(lines ...string) (c code) {
	for _, word := range strings.Fields(strings.Join(lines, " ")) {
		switch word {
		case "[":
			c.begin = len(c.bytes)
		case "]":
			c.end = len(c.bytes)
		case "??":
			c.bytes = append(c.bytes, -1)
		default:
			b, err := strconv.ParseUint(word, 16, 8)
			if err != nil {
				panic(err) // a constant of this file
			}
			c.bytes = append(c.bytes, int(b))
		}
	}
	return c
}

func (c *code) at(text []byte) bool {
	if len(text) < len(c.bytes) {
		return false
	}
	for i, b := range c.bytes {
		if b >= 0 && text[i] != byte(b) {
			return false
		}
	}
	return true
}

// find returns where in the text the instruction in brackets begins and ends.
func (c *code) find(text []byte) (begin, end int, err error) {
	places := 0
	for i := range text {
		if c.at(text[i:]) {
			places++
			begin, end = i+c.begin, i+c.end
		}
	}
	if places != 1 {
		return 0, 0, fmt.Errorf("%w: %d places look like the fault", errUnknown, places)
	}
	return begin, end, nil
}

// loadBase returns where a process has its program: the first mapping of it.
func loadBase(dir string) (uint64, error) {
	exe, err := os.Readlink(dir + "exe")
	if err != nil {
		return 0, err
	}
	maps, err := os.ReadFile(dir + "maps")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		if len(f) == 6 && f[5] == exe && strings.Trim(f[2], "0") == "" {
			start, _, _ := strings.Cut(f[0], "-")
			return strconv.ParseUint(start, 16, 64)
		}
	}
	return 0, fmt.Errorf("%smaps does not have %s", dir, exe)
}

// nop does nothing, in one byte.
const nop = 0x90

// replace writes nops over an instruction that must be there, if it has not
// been done before.
func replace(mem string, at int64, instruction []byte) error {
	f, err := os.OpenFile(mem, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	now := make([]byte, len(instruction))
	if _, err := f.ReadAt(now, at); err != nil {
		return fmt.Errorf("%s at %#x: %w", mem, at, err)
	}
	nops := bytes.Repeat([]byte{nop}, len(instruction))
	if bytes.Equal(now, nops) {
		return nil
	}
	if !bytes.Equal(now, instruction) {
		return fmt.Errorf("%s at %#x: % x is there instead of % x", mem, at, now, instruction)
	}
	_, err = f.WriteAt(nops, at)
	return err
}
