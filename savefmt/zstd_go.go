//go:build !libzstd || !cgo

package savefmt

// ZstdLibrary names what codes Zstandard in this program.
func ZstdLibrary() string { return "zstd in Go" }

func newZstdEncoder(level int) (Encoder, error) { return newGoZstdEncoder(level) }
func newZstdDecoder() (Decoder, error)          { return newGoZstdDecoder() }
