// Command spoil stands in for ssh on a lab host, and damages what a source
// sends of a guest's state:
//
//	xenferry migrate -s "spoil WHAT" --data plain GUEST HOST
//
// WHAT is
//
//	wire    a bit of the processors' state is flipped under way
//	cpu     the processors' state was damaged before it was sent: all checksums are right
//	qemu    the same, for the state of the device model
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/xenferry/xenferry/savefmt"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "spoil:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 3 || args[0] != "wire" && args[0] != "cpu" && args[0] != "qemu" {
		return errors.New("usage: spoil wire|cpu|qemu [SSH-OPTION...] HOST COMMAND [ARGUMENT...]")
	}
	ssh := exec.Command("ssh", args[1:]...)
	ssh.Stdout, ssh.Stderr = os.Stdout, os.Stderr
	to, err := ssh.StdinPipe()
	if err != nil {
		return err
	}
	if err := ssh.Start(); err != nil {
		return err
	}
	err = pass(args[0], os.Stdin, to)
	return errors.Join(err, to.Close(), ssh.Wait())
}

// pass hands frames on until the source closes the connection.
func pass(what string, from io.Reader, to io.Writer) error {
	for {
		frame := make([]byte, savefmt.HeaderSize)
		if _, err := io.ReadFull(from, frame); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		h, err := savefmt.ParseHeader(frame)
		if err != nil {
			return err
		}
		body := make([]byte, h.Length)
		if _, err := io.ReadFull(from, body); err != nil {
			return err
		}
		frame = append(frame, body...)
		if h.Type == savefmt.FrameState {
			if frame, err = spoil(what, frame, body); err != nil {
				return err
			}
		}
		if _, err := to.Write(frame); err != nil {
			return nil // the destination has had enough
		}
	}
}

// spoil returns the state frame as the destination is to get it.
func spoil(what string, frame, body []byte) ([]byte, error) {
	r, err := savefmt.ParseState(body)
	if err != nil {
		return nil, err
	}
	switch {
	case what == "wire" && r.Type == savefmt.RecHVMContext:
		frame[len(frame)-1] ^= 1
	case what == "cpu" && r.Type == savefmt.RecHVMContext:
		if err := spoilCPU(r.Body); err != nil {
			return nil, err
		}
		return savefmt.AppendState(nil, r)
	case what == "qemu" && r.Type == savefmt.RecDeviceModel:
		for i := len(r.Body) / 2; i < len(r.Body); i++ {
			r.Body[i] = 0xff // a section that no QEMU knows
		}
		return savefmt.AppendState(nil, r)
	}
	return frame, nil
}

// The processor's record in Xen's HVM context (public/arch-x86/hvm/save.h):
// after a head of u16 type, u16 instance and u32 length come 512 bytes of FPU
// registers, 18 registers of 8 bytes, and then CR0, CR2, CR3 and CR4.
const (
	contextHead = 8
	typeCPU     = 2
	cr4         = 512 + (18+3)*8
)

// spoilCPU sets the bits of CR4 that no processor has.
func spoilCPU(context []byte) error {
	for at := 0; at+contextHead <= len(context); {
		typ, length := binary.LittleEndian.Uint16(context[at:]), int(binary.LittleEndian.Uint32(context[at+4:]))
		at += contextHead
		if typ == typeCPU && length >= cr4+8 && at+length <= len(context) {
			binary.LittleEndian.PutUint64(context[at+cr4:], ^uint64(0))
			return nil
		}
		at += length
	}
	return errors.New("there is no processor in the HVM context")
}
