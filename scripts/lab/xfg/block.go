package xfg

import (
	"encoding/binary"
	"hash/crc32"
)

// BlockSize is the size of a disk block in bytes: the unit of O_DIRECT.
const BlockSize = 4096

const blockMagic = 0x42474658

// Block is one numbered block on the guest's disk. On the disk, little-endian:
//
//	 0  u32 magic "XFGB"    4  u32 CRC-32C of bytes 8-4095
//	 8  u64 ID             16  u64 N
//	24  i64 Clock          32  filling made of N and Clock, to the end
type Block struct {
	ID    uint64 // of the guest that wrote it
	N     uint64 // from 1
	Clock int64  // CLOCK_BOOTTIME when it was written, ns: differs between two copies of a guest
}

// Put fills buf, of BlockSize bytes, and returns the block's checksum.
func (b *Block) Put(buf []byte) uint32 {
	le := binary.LittleEndian
	le.PutUint32(buf, blockMagic)
	le.PutUint64(buf[8:], b.ID)
	le.PutUint64(buf[16:], b.N)
	le.PutUint64(buf[24:], uint64(b.Clock))
	x := b.N ^ uint64(b.Clock)
	for i := 32; i < BlockSize; i += 8 {
		x = x*6364136223846793005 + 1442695040888963407
		le.PutUint64(buf[i:], x)
	}
	sum := crc32.Checksum(buf[8:BlockSize], castagnoli)
	le.PutUint32(buf[4:], sum)
	return sum
}

// GetBlock reads a block of BlockSize bytes. ok is false if it is no block of
// a guest or is damaged; sum is its checksum.
func GetBlock(buf []byte) (b Block, sum uint32, ok bool) {
	le := binary.LittleEndian
	sum = le.Uint32(buf[4:])
	if le.Uint32(buf) != blockMagic || sum != crc32.Checksum(buf[8:BlockSize], castagnoli) {
		return b, 0, false
	}
	return Block{ID: le.Uint64(buf[8:]), N: le.Uint64(buf[16:]), Clock: int64(le.Uint64(buf[24:]))}, sum, true
}
