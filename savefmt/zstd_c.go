//go:build libzstd && cgo

package savefmt

import "github.com/xenferry/xenferry/savefmt/libzstd"

// ZstdLibrary names what codes Zstandard in this program.
func ZstdLibrary() string { return "libzstd " + libzstd.Version() }

// FastMethod makes pages smaller in less time than any other that this program
// has. On the benchmark's image it takes as long as s2 and makes them a tenth
// smaller, and is decoded in two thirds of the time.
var FastMethod = Method{Codec: CodecZstd, Level: -3}

// zstdFastest is the level below which less and less is gained.
const zstdFastest = libzstd.FastestLevel

// AutoMethods are those that are worth a choice, from the fastest to the
// strongest.
var AutoMethods = []Method{{Codec: CodecRaw}, FastMethod, {Codec: CodecZstd, Level: 1}, {Codec: CodecZstdLong, Level: 1}}

// wholeZstd tells whether blocks of the zstd codec are frames of their own.
func wholeZstd(level int) bool { return libzstd.Whole(level) }

func newZstdEncoder(level, _ int) (Encoder, error) { return libzstd.NewEncoder(level, zstdWindowLog) }
func newZstdDecoder(int) (Decoder, error)          { return libzstd.NewDecoder(zstdWindowLog) }

func newZstdLongEncoder(level, window int) (Encoder, error) {
	return libzstd.NewLongEncoder(level, window)
}
func newZstdLongDecoder(window int) (Decoder, error) { return libzstd.NewDecoder(window) }
