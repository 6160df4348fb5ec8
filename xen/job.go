package xen

import (
	"net"

	"github.com/xenferry/xenferry/savefmt"
)

// job is one batch on its way through a lane. Its buffers are reused.
type job struct {
	batch  *Batch
	mapped bool

	entries []savefmt.PageEntry
	sums    []uint32 // of those that travel as data
	zero    int      // pages that are all zero
	empty   int      // pages without contents
	data    int      // bytes of the pages that travel as data, before encoding
	runs    [][]byte // the same as they travel
	head    []byte   // copies frames if any, then header and table
	payload []byte   // encoded pages

	list   [][]byte    // all pieces: head, then runs
	pieces net.Buffers // what of list is still to be written
}

// reset empties the job, which must not be mapped.
func (j *job) reset() {
	j.batch.Reset()
	j.entries, j.sums, j.runs, j.head = j.entries[:0], j.sums[:0], j.runs[:0], j.head[:0]
	j.zero, j.empty, j.data = 0, 0, 0
}

// addData adds a page that travels as data.
func (j *job) addData(e savefmt.PageEntry, sum uint32) {
	j.entries = append(j.entries, e)
	j.sums = append(j.sums, sum)
}

// unmap ends the mapping of the batch, if it is mapped.
func (j *job) unmap(dom Domain) error {
	if !j.mapped {
		return nil
	}
	j.mapped = false
	return dom.Unmap(j.batch)
}

// addPages appends the head of the pages frame, if there are entries.
func (j *job) addPages(h savefmt.Header) {
	if len(j.entries) == 0 {
		return
	}
	var room [savefmt.HeaderSize]byte
	at, sums := len(j.head), j.sums
	if h.Codec != savefmt.CodecRaw {
		sums = append(sums[:0], savefmt.SumOfSums(sums))
	}
	j.head = savefmt.AppendTable(append(j.head, room[:]...), j.entries, sums)
	h.Count = uint32(len(j.entries))
	for _, run := range j.runs {
		h.Length += uint32(len(run))
	}
	table := j.head[at+savefmt.HeaderSize:]
	h.Table, h.BodyCRC = uint32(len(table)), savefmt.Checksum(table)
	h.Put(j.head[at:])
}

// seal lists the pieces to be written, and returns how many bytes they have.
func (j *job) seal() int {
	j.list = j.list[:0]
	if len(j.head) > 0 {
		j.list = append(j.list, j.head)
	}
	j.list = append(j.list, j.runs...)
	size := 0
	for _, piece := range j.list {
		size += len(piece)
	}
	return size
}
