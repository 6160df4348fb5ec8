package savefmt

import (
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/s2"
)

// Packer writes a container. What is written to it is cut into blocks, which
// are compressed side by side and written in order by a goroutine.
//
// Stages: Write fills a block and hands it to a new goroutine for compression
// and, as a promise, to the queue; the writing goroutine waits for each
// promise in turn. The queue bounds both.
type Packer struct {
	codec  BlockCodec
	fill   []byte
	queue  chan chan packed
	free   chan []byte // buffers for raw blocks
	done   chan struct{}
	failed chan struct{} // closed when writing has failed
	err    error         // why; read after failed or done is closed
	w      io.Writer
	n      int64
	ended  bool
}

// packed is a block that is ready to be written.
type packed struct {
	head   block
	stored []byte
	raw    []byte // the buffers to give back:
	spare  []byte // of the block, and of its encoding
	err    error
}

// NewPacker returns a Packer to w. Close must be called.
func NewPacker(w io.Writer, codec BlockCodec) *Packer {
	depth := min(runtime.GOMAXPROCS(0), 8) + 1
	p := &Packer{
		codec: codec, w: w,
		queue: make(chan chan packed, depth), free: make(chan []byte, depth+3),
		done: make(chan struct{}), failed: make(chan struct{}),
	}
	for range depth + 2 { // one place stays free, for Abort's promise
		p.free <- nil
	}
	go p.write()
	return p
}

var errPackerClosed = errors.New("container: written to after its end")

// Write takes b, which the caller may change afterwards.
func (p *Packer) Write(b []byte) (int, error) {
	if p.ended {
		return 0, errPackerClosed
	}
	total := len(b)
	for len(b) > 0 {
		if p.fill == nil {
			select {
			case buf := <-p.free:
				if buf == nil {
					buf = make([]byte, 0, DefaultBlock)
				}
				p.fill = buf[:0]
			case <-p.failed:
				return total - len(b), p.err
			}
		}
		n := min(len(b), DefaultBlock-len(p.fill))
		p.fill = append(p.fill, b[:n]...)
		b = b[n:]
		if len(p.fill) == DefaultBlock {
			if err := p.flush(); err != nil {
				return total - len(b), err
			}
		}
	}
	return total, nil
}

// flush hands the filled block on.
func (p *Packer) flush() error {
	raw := p.fill
	p.fill = nil
	promise := make(chan packed, 1)
	select {
	case p.queue <- promise:
	case <-p.failed:
		return p.err
	}
	go func() { promise <- pack(p.codec, raw) }()
	return nil
}

// pack compresses one block. Raw is kept where that is not shorter.
func pack(codec BlockCodec, raw []byte) packed {
	b := packed{raw: raw, stored: raw}
	b.head = block{codec: BlockRaw, raw: uint32(len(raw)), rawCRC: Checksum(raw)}
	if codec != BlockRaw {
		b.spare, b.err = packBlock(codec, getBuffer(s2.MaxEncodedLen(len(raw))), raw)
		if b.err == nil && len(b.spare) < len(raw) {
			b.stored, b.head.codec = b.spare, codec
		}
	}
	b.head.stored, b.head.storedCRC = uint32(len(b.stored)), Checksum(b.stored)
	return b
}

// write is the goroutine that writes.
func (p *Packer) write() {
	defer close(p.done)
	end := containerEnd{}
	err := p.put(putContainerHead())
	for promise := range p.queue {
		b := <-promise
		if err == nil {
			err = b.err
		}
		if err == nil {
			b.head.index = uint32(end.blocks)
			err = p.putBlock(&b, &end)
		}
		if err != nil && p.err == nil {
			p.err = fmt.Errorf("container: %w", err)
			close(p.failed)
		}
		p.free <- b.raw
		putBuffer(b.spare)
	}
	if err == nil {
		err = p.put(end.put())
	}
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("container: %w", err)
	}
}

func (p *Packer) putBlock(b *packed, end *containerEnd) error {
	var head [blockHead]byte
	b.head.put(head[:])
	end.chain = extendChecksum(end.chain, head[:])
	end.blocks++
	end.bytes += uint64(b.head.raw)
	if err := p.put(head[:]); err != nil {
		return err
	}
	return p.put(b.stored)
}

func (p *Packer) put(b []byte) error {
	n, err := p.w.Write(b)
	p.n += int64(n)
	return err
}

// Close writes the end mark: only with it is the container whole. Calls after
// the first do nothing more.
func (p *Packer) Close() error {
	if p.ended {
		return p.err
	}
	var err error
	if len(p.fill) > 0 {
		err = p.flush()
	}
	p.ended = true
	close(p.queue)
	<-p.done
	return errors.Join(err, p.err)
}

// Abort ends the Packer without an end mark.
func (p *Packer) Abort() {
	if p.ended {
		return
	}
	p.ended = true
	p.queue <- aborted()
	close(p.queue)
	<-p.done
}

var errAborted = errors.New("given up")

func aborted() chan packed {
	promise := make(chan packed, 1)
	promise <- packed{err: errAborted}
	return promise
}

// Written returns the size of the container, once Close has returned.
func (p *Packer) Written() int64 { return p.n }
