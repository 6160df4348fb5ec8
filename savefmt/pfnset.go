package savefmt

// pfnSet is a set of pfns that grows with what is in it: 512 bytes for each
// range of 2^12 pfns that has any, and so an eighth of the contents that have
// come with even one.
type pfnSet struct {
	chunks map[uint64]*pfnChunk
	last   *pfnChunk
	lastID uint64
	count  uint64
}

const chunkShift = 12

type pfnChunk [1 << chunkShift / 64]uint64

// add adds a pfn, and tells whether it is new.
func (s *pfnSet) add(pfn uint64) bool {
	id := pfn >> chunkShift
	if s.last == nil || s.lastID != id {
		s.last, s.lastID = s.chunk(id), id
	}
	word, bit := &s.last[pfn>>6&(1<<chunkShift/64-1)], uint64(1)<<(pfn&63)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	s.count++
	return true
}

func (s *pfnSet) chunk(id uint64) *pfnChunk {
	if s.chunks == nil {
		s.chunks = map[uint64]*pfnChunk{}
	}
	c := s.chunks[id]
	if c == nil {
		c = new(pfnChunk)
		s.chunks[id] = c
	}
	return c
}
