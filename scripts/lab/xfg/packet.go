package xfg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// UDP ports: where the listener hears guests, and where a guest hears it.
const (
	ListenPort = 7707
	GuestPort  = 7708
)

// Kind tells what a packet is.
type Kind uint32

// The kinds of packets. All have the same layout.
const (
	KindBeat   Kind = 1 // guest to all: here I am, number N
	KindEcho   Kind = 2 // listener to guest: I heard number N
	KindClock  Kind = 3 // anyone to listener: what is your time?
	KindClocks Kind = 4 // the answer: N as asked, Clock is CLOCK_REALTIME in ns
	KindSweep  Kind = 5 // listener to guest: verify all your memory now
)

// Packet is what travels on the guests' network. On the wire, little-endian:
//
//	 0  u32 magic "XFGP"    4  u32 kind
//	 8  u64 ID             16  u64 N
//	24  i64 Clock          32  u64 Bad
//	40  u32 0              44  u32 CRC-32C of bytes 0-43
type Packet struct {
	Kind  Kind
	ID    uint64 // made at the guest's boot
	N     uint64 // from 1
	Clock int64  // CLOCK_BOOTTIME of the guest, ns
	Bad   uint64 // Beat.TotalBad of the guest
}

// PacketSize is the size of every packet in bytes.
const PacketSize = 48

const packetMagic = 0x50474658

var errPacket = errors.New("not a packet of a lab guest")

// Append appends the packet's bytes to dst.
func (p *Packet) Append(dst []byte) []byte {
	at := len(dst)
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, packetMagic)
	dst = le.AppendUint32(dst, uint32(p.Kind))
	dst = le.AppendUint64(dst, p.ID)
	dst = le.AppendUint64(dst, p.N)
	dst = le.AppendUint64(dst, uint64(p.Clock))
	dst = le.AppendUint64(dst, p.Bad)
	dst = le.AppendUint32(dst, 0)
	return le.AppendUint32(dst, crc32.Checksum(dst[at:], castagnoli))
}

// ParsePacket reads a packet. Any other bytes give an error.
func ParsePacket(b []byte) (Packet, error) {
	le := binary.LittleEndian
	if len(b) != PacketSize || le.Uint32(b) != packetMagic || le.Uint32(b[44:]) != crc32.Checksum(b[:44], castagnoli) {
		return Packet{}, errPacket
	}
	return Packet{
		Kind: Kind(le.Uint32(b[4:])), ID: le.Uint64(b[8:]), N: le.Uint64(b[16:]),
		Clock: int64(le.Uint64(b[24:])), Bad: le.Uint64(b[32:]),
	}, nil
}

// FormatID returns a guest's id as it stands in lines and reports.
func FormatID(id uint64) string { return fmt.Sprintf("%016x", id) }
