package xen

// prefetch asks for a page to be in the cache soon, line by line, and does not
// wait for it.
//
//go:noescape
func prefetch(page *byte)
