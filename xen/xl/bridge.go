package xl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// The bridge protocol, between the receiver and its save helper, over the
// socket that libxl reads as its stream. Both ends are the same binary, so the
// number in its magic changes only to catch an upgrade under a running receiver.
// Everything is little-endian.
//
//	receiver → helper   preamble: bridgeMagic, 16 bytes UUID of the guest
//	helper → receiver   hello: domid, store port, store domid, console port, console domid
//	receiver → helper   staticDone: bits of what the sender's static state lacks
//	helper → receiver   staticReply: libxl's answer, 0 is good
//	    the receiver loads the guest's memory and state
//	receiver → helper   results: store gfn, console gfn
//	receiver → helper   complete: return value, errno
//
// or, for a guest that Xen's own library fills (helper_stock.go), in place of
// all that follows the hello
//
//	receiver → helper   stream: a libxc stream follows, to its END
//
// After complete the helper reads nothing more: libxl reads on where it stops.
// At the end of the stream before complete it tells libxl that the restore has
// failed.

// bridgeMagic opens a stream for the bridge. A stock stream has eight bytes
// 0xFF in its place.
var bridgeMagic = [8]byte{'X', 'F', 'b', 'r', 'i', 'd', 'g', '1'}

const preambleSize = len(bridgeMagic) + 16

// bridgeOp is the kind of a bridge frame.
type bridgeOp uint32

const (
	opHello bridgeOp = 1 + iota
	opStaticDone
	opStaticReply
	opResults
	opComplete
)

// bridgeFrame is the one frame of the protocol: u32 frameMark, u32 op, 5 x u64.
type bridgeFrame struct {
	op   bridgeOp
	args [5]uint64
}

const (
	frameMark uint32 = 0x52464658 // "XFFR": tells a frame from a stray byte
	frameSize        = 8 + 5*8
)

func writeFrame(w io.Writer, op bridgeOp, args ...uint64) error {
	b := make([]byte, frameSize)
	binary.LittleEndian.PutUint32(b, frameMark)
	binary.LittleEndian.PutUint32(b[4:], uint32(op))
	for i, a := range args {
		binary.LittleEndian.PutUint64(b[8+8*i:], a)
	}
	_, err := w.Write(b)
	return err
}

// readFrame reads one frame and not a byte more. io.EOF: the other end has
// closed between two frames.
func readFrame(r io.Reader) (bridgeFrame, error) {
	var b [frameSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return bridgeFrame{}, err
	}
	if mark := binary.LittleEndian.Uint32(b[:]); mark != frameMark {
		return bridgeFrame{}, fmt.Errorf("save helper bridge: a frame begins with %#x in place of %#x", mark, frameMark)
	}
	f := bridgeFrame{op: bridgeOp(binary.LittleEndian.Uint32(b[4:]))}
	for i := range f.args {
		f.args[i] = binary.LittleEndian.Uint64(b[8+8*i:])
	}
	return f, nil
}

// hello is what libxl told its helper about the new domain: its id, and the
// event channel ports that it has made in it for xenstore and console.
type hello struct {
	domid                     uint32
	storePort, storeDomid     uint32
	consolePort, consoleDomid uint32
}

func (h hello) args() []uint64 {
	return []uint64{uint64(h.domid), uint64(h.storePort), uint64(h.storeDomid), uint64(h.consolePort), uint64(h.consoleDomid)}
}

func helloFrom(f bridgeFrame) (hello, error) {
	for _, a := range f.args {
		if a > 1<<32-1 {
			return hello{}, fmt.Errorf("save helper bridge: %#x in the hello is not a port or a domid", a)
		}
	}
	a := f.args
	return hello{uint32(a[0]), uint32(a[1]), uint32(a[2]), uint32(a[3]), uint32(a[4])}, nil
}

// bridge is the receiver's end. Its methods are called by one goroutine at a
// time, but close may come at any time and ends them.
type bridge struct {
	f *os.File // a socket that Go's poller knows, so that deadlines work
}

// limit makes the reads and writes until undo return an error when ctx ends.
func (b *bridge) limit(ctx context.Context) (undo func()) {
	b.f.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { b.f.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// open writes the beginning of libxl's stream and the preamble, and waits for
// the helper that libxl then starts.
func (b *bridge) open(ctx context.Context, uuid [16]byte) (hello, error) {
	defer b.limit(ctx)()
	if err := savefmt.NewLibxlWriter(b.f).Start(); err != nil {
		return hello{}, cause(ctx, err)
	}
	if _, err := b.f.Write(append(bridgeMagic[:], uuid[:]...)); err != nil {
		return hello{}, cause(ctx, fmt.Errorf("save helper bridge: writing the preamble: %w", err))
	}
	f, err := b.read(opHello)
	if err != nil {
		return hello{}, cause(ctx, err)
	}
	return helloFrom(f)
}

// staticDone tells libxl that the static state has been loaded, but for the
// bits in missing, which libxl then makes up.
func (b *bridge) staticDone(ctx context.Context, missing uint32) error {
	defer b.limit(ctx)()
	if err := b.write(opStaticDone, uint64(missing)); err != nil {
		return cause(ctx, err)
	}
	f, err := b.read(opStaticReply)
	if err != nil {
		return cause(ctx, err)
	}
	if rc := int32(f.args[0]); rc != 0 {
		return fmt.Errorf("libxl: make up the CPU policy: failed (libxl error %d)", rc)
	}
	return nil
}

// complete tells libxl that the guest's memory and state are all there, and
// where in it the pages for xenstore and console are. deviceModel is QEMU's
// state, nil for a guest without QEMU. libxl then goes on by itself.
func (b *bridge) complete(ctx context.Context, storeGFN, consoleGFN uint64, deviceModel []byte) error {
	defer b.limit(ctx)()
	err := b.write(opResults, storeGFN, consoleGFN)
	if err == nil {
		err = b.write(opComplete, 0, 0)
	}
	lw := savefmt.NewLibxlWriter(b.f)
	if err == nil && deviceModel != nil {
		err = lw.DeviceModel(deviceModel)
	}
	if err == nil {
		err = lw.End()
	}
	return cause(ctx, err)
}

// close ends the stream. libxl, if it still reads it, then fails and destroys
// the domain. Idempotent.
func (b *bridge) close() { b.f.Close() }

func (b *bridge) write(op bridgeOp, args ...uint64) error {
	if err := writeFrame(b.f, op, args...); err != nil {
		return fmt.Errorf("save helper bridge: writing to the helper: %w", err)
	}
	return nil
}

func (b *bridge) read(want bridgeOp) (bridgeFrame, error) {
	f, err := readFrame(b.f)
	if err != nil {
		return f, fmt.Errorf("save helper bridge: waiting for the helper: %w", err)
	}
	if f.op != want {
		return f, fmt.Errorf("save helper bridge: the helper sent frame %d in place of %d", f.op, want)
	}
	return f, nil
}

// cause prefers the reason for which ctx ended to the deadline that it set.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}
