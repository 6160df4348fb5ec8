// Package libzstd codes Zstandard by the library of its authors, through cgo.
// It holds one thing: frames that go on from block to block of pages, or hold
// one, as savefmt's zstd codecs send them over a connection. Package savefmt
// reads and writes the same in Go, and says what a block and a connection are;
// it takes this package in its place where both the build tag libzstd and cgo
// are set. Without them nothing is in here.
//
// The C stands in a room of its own so that savefmt stays Go alone, whichever
// way it is built: whoever reads it need not know of cgo's rules, and its
// other codecs are built and tested without a C compiler.
//
// Memory that comes from C is freed when its Encoder or Decoder is collected.
// Both are for one goroutine at a time.
package libzstd
