package xen

import (
	"bytes"
	"unsafe"
)

var zeroPage [PageSize]byte

// isZero tells whether a page holds only zeros. The comparison ends at the
// first difference, so only zero pages cost a full read.
func isZero(page []byte) bool { return bytes.Equal(page, zeroPage[:]) }

// appendRun appends a page to a list of byte runs, extending the last run where
// the page follows it in memory: fewer, longer pieces for writev and read.
func appendRun(runs [][]byte, page []byte) [][]byte {
	if n := len(runs); n > 0 {
		last := runs[n-1]
		end := unsafe.Add(unsafe.Pointer(unsafe.SliceData(last)), len(last))
		if end == unsafe.Pointer(unsafe.SliceData(page)) {
			runs[n-1] = unsafe.Slice(unsafe.SliceData(last), len(last)+len(page))
			return runs
		}
	}
	return append(runs, page)
}
