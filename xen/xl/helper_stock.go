package xl

import (
	"io"

	"github.com/xenferry/xenferry/savefmt"
)

// The restore helper where the guest comes as a libxc stream: from stock xl,
// or from our receiver for a guest that only Xen's own library can fill.

// stockMagic opens a libxc stream.
var stockMagic = [8]byte{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}

// opStream, from the receiver to the helper: a libxc stream follows, from its
// header to its END, in place of results and complete, which the helper finds
// out itself.
const opStream bridgeOp = 0x100

// takeStock fills the guest, and tells libxl that it is complete. Not a byte
// behind the stream's END is read: that is libxl's.
func (h *helper) takeStock(stream io.Reader) error {
	if err := h.load(h, savefmt.NewInnerReader(stream)); err != nil {
		return err
	}
	return h.complete(0, 0)
}

func (h *helper) loadStream() error { return h.takeStock(h.stream) }
