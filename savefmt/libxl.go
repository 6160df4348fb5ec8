package savefmt

import (
	"encoding/binary"
	"fmt"
	"io"
)

// The outer stream of libxl (Xen's docs/specs/libxc-migration-stream and
// libxl-migration-stream): what libxl_domain_create_restore reads.
//
//	header      16 bytes, big-endian: u64 "LibxlFmt", u32 version 2, u32 options
//	record      8 bytes, little-endian: u32 type, u32 body length;
//	            the body; zeros up to a multiple of 8
//
//	type  name                     body
//	0     END                      empty; the last record
//	1     LIBXC_CONTEXT            empty; the inner stream follows at once
//	2     EMULATOR_XENSTORE_DATA   u32 emulator, u32 index, key\0value\0...; HVM only,
//	                               not written by today's QEMU, nor by us
//	3     EMULATOR_CONTEXT         u32 emulator, u32 index, QEMU's state; HVM only
//
// The order is header, LIBXC_CONTEXT, inner stream, EMULATOR_CONTEXT for an HVM
// guest, END. libxl refuses a type that it does not know, optional or not, so
// nothing of ours can stand here.

// The header's fields.
const (
	libxlIdent      uint64 = 0x4C6962786C466D74 // "LibxlFmt"
	libxlVersion    uint32 = 2
	libxlHeaderSize        = 16
)

// Record types of the libxl stream.
const (
	LibxlEnd              uint32 = 0
	LibxlLibxcContext     uint32 = 1
	LibxlEmulatorXenstore uint32 = 2
	LibxlEmulatorContext  uint32 = 3
	LibxlCheckpointEnd    uint32 = 4 // Remus only
	LibxlCheckpointState  uint32 = 5 // COLO only
)

const (
	// emulatorQEMU is upstream QEMU, the only device model that we know.
	emulatorQEMU uint32 = 2
	// emulatorHeaderSize is what stands before QEMU's own bytes.
	emulatorHeaderSize = 8
	recordHeaderSize   = 8
	recordAlign        = 8
)

// MaxDeviceModel is the most bytes of device model state that we write or
// accept: 128 MiB, the limit that Xen sets to a record of the inner stream.
// QEMU's state for a guest is some 100 KiB; its video memory is guest memory.
const MaxDeviceModel = 128 << 20

// LibxlWriter writes a libxl stream. The first error of the underlying writer
// ends it.
type LibxlWriter struct {
	w io.Writer
}

// NewLibxlWriter returns a writer of a libxl stream on w. Each method makes
// one Write, so that w need not be buffered.
func NewLibxlWriter(w io.Writer) *LibxlWriter { return &LibxlWriter{w: w} }

// Start writes the header and the LIBXC_CONTEXT record. The inner stream is
// the caller's, and follows at once.
func (lw *LibxlWriter) Start() error {
	b := make([]byte, 0, libxlHeaderSize+recordHeaderSize)
	b = binary.BigEndian.AppendUint64(b, libxlIdent)
	b = binary.BigEndian.AppendUint32(b, libxlVersion)
	b = binary.BigEndian.AppendUint32(b, 0) // options: little-endian, not converted
	b = appendRecordHeader(b, LibxlLibxcContext, 0)
	return lw.write("stream header", b)
}

// DeviceModel writes QEMU's state, as xen-save-devices-state wrote it. It must
// not be called for a PVH or PV guest: libxl then refuses the stream.
func (lw *LibxlWriter) DeviceModel(state []byte) error {
	if len(state) > MaxDeviceModel {
		return fmt.Errorf("libxl stream: device model state of %d bytes is over the limit of %d", len(state), MaxDeviceModel)
	}
	body := emulatorHeaderSize + len(state)
	b := make([]byte, 0, recordHeaderSize+body+recordAlign)
	b = appendRecordHeader(b, LibxlEmulatorContext, body)
	b = binary.LittleEndian.AppendUint32(b, emulatorQEMU)
	b = binary.LittleEndian.AppendUint32(b, 0) // index: the first and only one
	b = append(b, state...)
	return lw.write("device model state", pad(b))
}

// End writes the END record.
func (lw *LibxlWriter) End() error {
	return lw.write("end", appendRecordHeader(nil, LibxlEnd, 0))
}

func (lw *LibxlWriter) write(what string, b []byte) error {
	if _, err := lw.w.Write(b); err != nil {
		return fmt.Errorf("libxl stream: writing the %s: %w", what, err)
	}
	return nil
}

func appendRecordHeader(b []byte, typ uint32, body int) []byte {
	b = binary.LittleEndian.AppendUint32(b, typ)
	return binary.LittleEndian.AppendUint32(b, uint32(body))
}

// pad appends zeros up to the alignment of records. Every header has a length
// that is a multiple of it, so that the slice's own length tells.
func pad(b []byte) []byte {
	for len(b)%recordAlign != 0 {
		b = append(b, 0)
	}
	return b
}
