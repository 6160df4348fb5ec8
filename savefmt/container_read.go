package savefmt

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
)

// Unpacker reads the contents of a container. A block is handed out only when
// its checksums are right, and io.EOF comes only after a right end mark.
//
// Stages: a goroutine reads blocks and hands each to a new goroutine to be
// decoded, and as a promise to the queue; Read waits for each promise in turn.
// The queue bounds both. Close ends them.
type Unpacker struct {
	in      *input
	queue   chan chan unpacked
	free    chan []byte // buffers for decoded blocks
	quit    chan struct{}
	closing sync.Once
	ended   sync.WaitGroup

	cur  []byte // what of the current block is still to be read
	base []byte // the buffer that cur is part of
	err  error
	info ContainerInfo
}

// unpacked is a block that has been decoded, or the end of all.
type unpacked struct {
	raw   []byte
	codec BlockCodec
	err   error // io.EOF after the end mark
	bytes int64 // of the container up to here
}

// Unpack returns a reader of the contents of r if r is a container, and
// otherwise of r itself, with a nil *Unpacker. It may read ahead of r. What it
// has returned it takes back as it is: one layer is unpacked, not another one
// inside it.
func Unpack(r io.Reader) (io.Reader, *Unpacker, error) {
	if u, ok := r.(*Unpacker); ok {
		return u, u, nil
	}
	in := newInput(r)
	magic, err := in.r.Peek(len(containerMagic))
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	if string(magic) != containerMagic {
		if in.goesOn {
			return Device{in.r}, nil, nil
		}
		return in.r, nil, nil
	}
	var head [containerHead]byte
	err = in.full(head[:])
	size := 0
	if err == nil {
		size, err = parseContainerHead(head[:])
	}
	var outside *outsideError
	if err != nil && !errors.As(err, &outside) {
		err = &ContainerError{Part: "header", Err: err}
	}
	if err != nil {
		return nil, nil, err
	}
	depth := min(runtime.GOMAXPROCS(0), 8) + 1
	u := &Unpacker{
		in: in, queue: make(chan chan unpacked, depth), free: make(chan []byte, depth+3),
		quit: make(chan struct{}), info: ContainerInfo{Codecs: map[string]uint64{}},
	}
	for range cap(u.free) {
		u.free <- nil
	}
	u.ended.Add(1)
	go u.readBlocks(size)
	return u, u, nil
}

// Read implements io.Reader.
func (u *Unpacker) Read(b []byte) (int, error) {
	for len(u.cur) == 0 {
		if u.err != nil {
			return 0, u.err
		}
		u.next()
	}
	n := copy(b, u.cur)
	u.cur = u.cur[n:]
	return n, nil
}

// WriteTo implements io.WriterTo: a whole block at a time, without a copy.
func (u *Unpacker) WriteTo(w io.Writer) (total int64, err error) {
	for {
		if len(u.cur) > 0 {
			n, err := w.Write(u.cur)
			total += int64(n)
			u.cur = u.cur[n:]
			if err != nil {
				return total, err
			}
		}
		if u.err != nil {
			if u.err == io.EOF { // itself: a right end mark
				return total, nil
			}
			return total, u.err
		}
		u.next()
	}
}

// next fetches the next block into cur, or sets err.
func (u *Unpacker) next() {
	if u.base != nil {
		u.free <- u.base
		u.base = nil
	}
	select {
	case promise := <-u.queue:
		got := <-promise
		u.cur, u.base, u.err = got.raw, got.raw, got.err
		u.info.Bytes = got.bytes
		if got.err == nil {
			u.info.Blocks++
			u.info.Codecs[got.codec.String()]++
		}
	case <-u.quit:
		u.err = errors.New("container: read after Close")
	}
}

// Info returns what has been read so far.
func (u *Unpacker) Info() ContainerInfo { return u.info }

// Close ends the reading. The underlying reader is not closed: a Read of it
// that blocks holds Close up. Idempotent.
func (u *Unpacker) Close() error {
	u.closing.Do(func() { close(u.quit) })
	u.ended.Wait()
	return nil
}

// readBlocks is the goroutine that reads.
func (u *Unpacker) readBlocks(size int) {
	defer u.ended.Done()
	end := containerEnd{}
	for {
		promise := make(chan unpacked, 1)
		at := u.in.at
		last, err := u.readBlock(size, &end, promise)
		if err != nil {
			var ours *ContainerError
			var outside *outsideError
			if err != io.EOF && !errors.As(err, &ours) && !errors.As(err, &outside) {
				err = &ContainerError{Part: fmt.Sprintf("block %d", end.blocks), Offset: at, Err: err}
			}
			promise <- unpacked{err: err, bytes: u.in.at}
			last = true
		}
		select {
		case u.queue <- promise:
		case <-u.quit:
			return
		}
		if last {
			return
		}
	}
}

// readBlock reads one block and lets it be decoded into promise, or reads the
// end mark.
func (u *Unpacker) readBlock(size int, end *containerEnd, promise chan<- unpacked) (last bool, err error) {
	at := u.in.at
	var b [blockHead]byte
	if err := u.in.full(b[:]); err != nil {
		return true, err
	}
	if mark := b[:4]; string(mark) == "XFE1" {
		return true, u.readEnd(b[:], at, end)
	}
	h, err := parseBlock(b[:], uint32(end.blocks), size)
	if err != nil {
		return true, err
	}
	stored := getBuffer(int(h.stored))
	if err := u.in.full(stored); err != nil {
		return true, err
	}
	var raw []byte
	select {
	case raw = <-u.free:
	case <-u.quit:
		return true, errAborted
	}
	part := fmt.Sprintf("block %d", end.blocks)
	end.chain = extendChecksum(end.chain, b[:])
	end.blocks++
	end.bytes += uint64(h.raw)
	go func(upTo int64) {
		got := unpacked{codec: h.codec, bytes: upTo}
		got.raw, got.err = decode(&h, raw, stored)
		if got.err != nil {
			got.err = &ContainerError{Part: part, Offset: at, Err: got.err}
			got.raw = nil
		}
		promise <- got
	}(u.in.at)
	return false, nil
}

// decode checks and decodes a block into raw's memory, if it is enough.
func decode(h *block, raw, stored []byte) ([]byte, error) {
	if Checksum(stored) != h.storedCRC {
		return nil, errDamaged
	}
	defer func() { putBuffer(stored) }()
	if h.codec == BlockRaw {
		raw, stored = stored, raw // stored is what goes back
	} else {
		if cap(raw) < int(h.raw) {
			raw = make([]byte, h.raw)
		}
		raw = raw[:h.raw]
		if err := unpackBlock(h.codec, raw, stored); err != nil {
			return nil, err
		}
	}
	if Checksum(raw) != h.rawCRC {
		return nil, errDamaged
	}
	return raw, nil
}

// readEnd checks the end mark. io.EOF is good news.
func (u *Unpacker) readEnd(b []byte, at int64, want *containerEnd) error {
	got, err := parseContainerEnd(b)
	if err == nil && got != *want {
		err = fmt.Errorf("it tells of %d bytes in %d blocks, %d in %d came", got.bytes, got.blocks, want.bytes, want.blocks)
	}
	if err == nil {
		err = u.in.atEnd()
	}
	var outside *outsideError
	switch {
	case err == nil:
		return io.EOF
	case errors.As(err, &outside):
		return err
	}
	return &ContainerError{Part: "end mark", Offset: at, Err: err}
}
