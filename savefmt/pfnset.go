package savefmt

import "slices"

// pfnSet is a set of pfns that grows with what is in it. Most guests fill their
// memory, for which a bitmap is right: 512 bytes for a range of 2^12 pfns. Where
// a range has few pages a list of them does, so that pages which lie far apart
// cost little more than those side by side.
type pfnSet struct {
	ranges map[uint64]*pfnRange
	last   *pfnRange
	lastID uint64
	count  uint64
}

const (
	rangeShift = 12
	rangeMask  = 1<<rangeShift - 1
	maxFew     = 32 // pfns of a list: its memory is an eighth of the bitmap's
)

// pfnRange has the pfns of a range, without the bits that they share.
type pfnRange struct {
	few  []uint16                      // sorted; nil once there are more
	bits *[1 << rangeShift / 64]uint64 // nil until then
}

// add adds a pfn, and tells whether it is new.
func (s *pfnSet) add(pfn uint64) bool {
	if id := pfn >> rangeShift; s.last == nil || s.lastID != id {
		s.last, s.lastID = s.find(id), id
	}
	isNew := s.last.add(uint16(pfn & rangeMask))
	if isNew {
		s.count++
	}
	return isNew
}

func (s *pfnSet) find(id uint64) *pfnRange {
	if s.ranges == nil {
		s.ranges = map[uint64]*pfnRange{}
	}
	r := s.ranges[id]
	if r == nil {
		r = new(pfnRange)
		s.ranges[id] = r
	}
	return r
}

func (r *pfnRange) add(low uint16) bool {
	if r.bits == nil {
		return r.addToFew(low)
	}
	word, bit := &r.bits[low>>6], uint64(1)<<(low&63)
	isNew := *word&bit == 0
	*word |= bit
	return isNew
}

func (r *pfnRange) addToFew(low uint16) bool {
	at, found := slices.BinarySearch(r.few, low)
	if found {
		return false
	}
	if len(r.few) < maxFew {
		r.few = slices.Insert(r.few, at, low)
		return true
	}
	few := r.few
	r.few, r.bits = nil, new([1 << rangeShift / 64]uint64)
	for _, old := range few {
		r.add(old)
	}
	return r.add(low)
}
