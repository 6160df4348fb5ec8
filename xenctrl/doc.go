// Package xenctrl makes the hypercalls that a migration needs, through
// libxenctrl, libxenguest and libxenforeignmemory. It holds raw calls only: no
// policy, no retries, no logging. A failed call returns an [Error], which
// names the operation and the domain and unwraps to the errno.
//
// A [Handle] may be used by several goroutines at once: libxenctrl is opened
// in its thread-safe mode, where a call shares nothing with another but the
// device's descriptor and a locked cache of buffers. Closing it must come
// after all other calls have returned. The types that hold a buffer or a
// mapping ([DirtyLog], [Mapping]) are for one goroutine at a time.
//
// All calls are compiled behind the build tag xen, against the headers of the
// Xen release that they shall run on (4.17 to 4.20): domctl refuses callers of
// another interface version. What differs between releases stands in shim.h.
package xenctrl
