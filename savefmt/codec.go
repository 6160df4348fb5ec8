package savefmt

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strconv"
	"strings"
)

// Codec is how the contents of a pages frame are encoded.
type Codec uint8

// The codecs. Numbers are never used again for something else; a codec in C
// gets the number of the format that it writes.
const (
	CodecRaw  Codec = 0 // pages as they are, one after the other
	CodecS2   Codec = 1 // one S2 block a frame
	CodecZstd Codec = 2 // a Zstandard frame, or blocks of one that goes on from frame to frame
	CodecZlib Codec = 3 // one zlib stream a frame
	// CodecZstdLong is CodecZstd with a history of its own, which reaches as
	// far back as LongWindow says.
	CodecZstdLong Codec = 4
)

// Encoder turns the pages of a frame into its payload. One goroutine uses it.
type Encoder interface {
	// Encode appends src, encoded, to dst: MaxEncoded bytes at most, for a src
	// of up to MaxPayload bytes that does not change meanwhile.
	Encode(dst, src []byte) ([]byte, error)
	// Reset forgets all blocks so far. The frame of the next one must have
	// FlagFresh.
	Reset()
}

// Decoder is the other end of an Encoder. One goroutine uses it. It never
// writes more than it was given room for, whatever src says.
type Decoder interface {
	// Decode fills the pieces of dst, in order, from src, which must hold
	// exactly as much. fresh is FlagFresh of the frame.
	Decode(dst [][]byte, src []byte, fresh bool) error
}

// Method is a codec at a level: what an encoder is made for. Its zero value is
// raw.
type Method struct {
	Codec Codec
	Level int
}

// Whole tells whether the method has no history: each of its frames must have
// FlagFresh.
func (m Method) Whole() bool { return m.Codec == CodecZstd && wholeZstd(m.Level) }

// String returns the method as ParseMethod reads it.
func (m Method) String() string {
	for _, c := range codecs {
		switch {
		case c.codec != m.Codec:
		case c.highest == 0:
			return c.name
		default:
			return fmt.Sprintf("%s:%d", c.name, m.Level)
		}
	}
	return fmt.Sprintf("codec %d", m.Codec)
}

// codec is one line of the table of codecs.
type codec struct {
	name       string
	codec      Codec
	level      int                                      // used unless one is asked for
	fastest    int                                      // levels are 1 to highest, and if below 0 fastest to -1
	highest    int                                      // 0: it has no levels
	newEncoder func(level, window int) (Encoder, error) // nil: this program cannot
	newDecoder func(window int) (Decoder, error)
}

// codecs are those that need code. Raw does not: it is not copied.
var codecs = []codec{
	{name: "off", codec: CodecRaw},
	{name: "s2", codec: CodecS2, newEncoder: newS2Encoder, newDecoder: newS2Decoder},
	{name: "zstd", codec: CodecZstd, level: 1, fastest: zstdFastest, highest: 22, newEncoder: newZstdEncoder, newDecoder: newZstdDecoder},
	{name: "zlib", codec: CodecZlib, level: 1, highest: 9, newEncoder: newZlibEncoder, newDecoder: newZlibDecoder},
	{name: "zstd-long", codec: CodecZstdLong, level: 1, fastest: 1, highest: 22, newEncoder: newZstdLongEncoder, newDecoder: newZstdLongDecoder},
}

// has tells whether the codec has that level.
func (c *codec) has(level int) bool { return level >= c.fastest && level <= c.highest && level != 0 }

// levels names them.
func (c *codec) levels() string {
	if c.fastest < 0 {
		return fmt.Sprintf("1 to %d, and %d to -1, which are faster", c.highest, c.fastest)
	}
	return fmt.Sprintf("1 to %d", c.highest)
}

// ParseMethod reads "off", "s2", "zstd", "zstd:3" and their like.
func ParseMethod(s string) (Method, error) {
	name, levelText, hasLevel := strings.Cut(s, ":")
	for _, c := range codecs {
		if c.name != name {
			continue
		}
		if c.codec != CodecRaw && c.newEncoder == nil {
			return Method{}, fmt.Errorf("%q: this program was built without libzstd, which alone writes that", s)
		}
		m := Method{Codec: c.codec, Level: c.level}
		if !hasLevel {
			return m, nil
		}
		level, err := strconv.Atoi(levelText)
		switch {
		case c.highest == 0:
			return Method{}, fmt.Errorf("%q: %s has no levels", s, name)
		case err != nil || !c.has(level):
			return Method{}, fmt.Errorf("%q: levels of %s are %s", s, name, c.levels())
		}
		m.Level = level
		return m, nil
	}
	return Method{}, fmt.Errorf("%q is no compression that this program has", s)
}

// longMemory is 2^longMemory bytes for the windows of all connections together,
// at each end; one connection has 2^longMost at most.
const (
	longMemory = 27
	longMost   = 26
)

// LongWindow says how far back a page in CodecZstdLong may refer on one of so
// many connections: 2 to the power of what it returns bytes.
func LongWindow(connections int) int {
	each := longMemory - bits.Len(uint(max(connections, 1)-1))
	return min(max(each, zstdWindowLog), longMost)
}

// NewEncoder returns an encoder for m, which must not be raw, on one of so many
// connections.
func NewEncoder(m Method, connections int) (Encoder, error) {
	for _, c := range codecs {
		if c.codec == m.Codec && c.newEncoder != nil {
			return c.newEncoder(m.Level, LongWindow(connections))
		}
	}
	return nil, fmt.Errorf("no encoder for %s", m)
}

// NewDecoder returns a decoder for c, which must not be CodecRaw, on one of so
// many connections.
func NewDecoder(c Codec, connections int) (Decoder, error) {
	for _, known := range codecs {
		if known.codec == c && known.newDecoder != nil {
			return known.newDecoder(LongWindow(connections))
		}
	}
	return nil, fmt.Errorf("pages in codec %d, which this program does not have", c)
}

// encodeSlack bounds what an encoder adds to pages that do not compress.
const encodeSlack = 4096

// errLength: an encoded block holds more or less than its frame says.
var errLength = errors.New("the encoded pages are not as many as the frame says")

// decodeError is the error of a decoder. That its bytes end too early is wrong
// with them, and no end of what they came in: no io.EOF gets out, which would
// say so to the reader of that.
func decodeError(codec string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errLength
	}
	return fmt.Errorf("%s: %w", codec, err)
}

func totalLen(pieces [][]byte) int {
	n := 0
	for _, p := range pieces {
		n += len(p)
	}
	return n
}

// scatter copies src over the pieces, which have the same length together.
func scatter(pieces [][]byte, src []byte) {
	for _, p := range pieces {
		src = src[copy(p, src):]
	}
}
