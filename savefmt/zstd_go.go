//go:build !libzstd || !cgo

package savefmt

// ZstdLibrary names what codes Zstandard in this program.
func ZstdLibrary() string { return "zstd in Go" }

// FastMethod makes pages smaller in less time than any other that this program
// has.
var FastMethod = Method{Codec: CodecS2}

// zstdFastest: that library has no levels that are faster than 1.
const zstdFastest = 1

// AutoMethods are those that are worth a choice, from the fastest to the
// strongest.
var AutoMethods = []Method{{Codec: CodecRaw}, FastMethod, {Codec: CodecZstd, Level: 1}}

// wholeZstd: no block of the zstd codec is a frame of its own.
func wholeZstd(int) bool { return false }

func newZstdEncoder(level, _ int) (Encoder, error) { return newGoZstdEncoder(level, zstdWindowLog) }
func newZstdDecoder(int) (Decoder, error)          { return newGoZstdDecoder(zstdWindowLog) }

// newZstdLongEncoder is nil: that library does not look so far back.
var newZstdLongEncoder func(level, window int) (Encoder, error)

func newZstdLongDecoder(window int) (Decoder, error) { return newGoZstdDecoder(window) }
