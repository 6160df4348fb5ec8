// Package memcheck fills guest memory with pages that carry their own check,
// keeps writing them, and finds every page that is not what was last written.
//
// It runs in the simulated guest of xen/sim and in the checker program that is
// a guest under real Xen: so it knows nothing of either, needs only the
// standard library, and sees memory as one []byte.
//
// # The area
//
//	page 0          header: seed, size, CRC32C
//	pages 1..t      table: 8 bytes for each data page, what it must hold
//	pages t+1..     data pages, 4 KiB each
//
// A data page has a header with its index, version, kind and a CRC32C of the
// page, then a body that follows from (seed, index, version); or it is all
// zeros. The table has the version and the kind of each page:
//
//	bits 63-24 version | 23-20 kind | 19-0 check of both, index and seed
//
// A bit flip breaks a CRC. A page at the wrong place has another index. A page
// whose last write was lost is whole, but older than its table entry; and if
// the entry was lost as well, the sum of all versions no longer agrees with
// the writes that the [Worker] counted, and the worker's state is not in the
// area. Each write first checks what it overwrites, so that damage cannot be
// overwritten before it is seen.
//
// # Workers
//
// N workers share an area without locks: worker w owns the data pages i with
// i%N == w, and is the only one to write and to verify them. A table page has
// entries of several workers, which write different words of it.
package memcheck
