//go:build !libzstd || !cgo

package savefmt

// ZstdLibrary names what codes Zstandard in this program.
func ZstdLibrary() string { return "zstd in Go" }

// FastMethod makes pages smaller in less time than any other that this program
// has.
var FastMethod = Method{Codec: CodecS2}

// zstdFastest: that library has no levels that are faster than 1.
const zstdFastest = 1

func newZstdEncoder(level int) (Encoder, error) { return newGoZstdEncoder(level) }
func newZstdDecoder() (Decoder, error)          { return newGoZstdDecoder() }
