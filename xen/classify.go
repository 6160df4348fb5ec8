package xen

import "github.com/xenferry/xenferry/savefmt"

// classify fills the job from its mapped batch, and lets the pages travel from
// where they are. It returns how many have data.
func (j *job) classify(first bool) int {
	data := 0
	for i, pfn := range j.batch.PFNs {
		page, typ := j.batch.Pages[i], j.batch.Types[i]
		if page == nil || isZero(page) {
			j.addEmpty(first, pfn, typ, page != nil)
			continue
		}
		data++
		j.runs = appendRun(j.runs, page)
		j.addData(savefmt.NewPageEntry(uint8(typ), savefmt.ContentData, pfn), savefmt.PageSum(page))
	}
	return data
}

// addEmpty adds a page that is all zero, or has no contents at all; first: it was
// not sent before.
func (j *job) addEmpty(first bool, pfn uint64, typ PageType, zero bool) {
	content := savefmt.ContentZero
	if zero {
		j.zero++
	} else {
		j.empty++
		if first && !typ.Populated() {
			return // a hole that the other side has as well
		}
		content = savefmt.ContentNone
	}
	j.entries = append(j.entries, savefmt.NewPageEntry(uint8(typ), content, pfn))
}

// copyOut fills the job from its mapped batch, with a copy of each page in
// scratch, where it stays as it was summed. A page of which this round has one
// like it goes to the list of copies.
func (l *lane) copyOut(j *job, h *savefmt.Header) {
	if l.scratch == nil {
		l.scratch = make([]byte, 0, savefmt.MaxPayload)
	}
	l.scratch = l.scratch[:0]
	for i, pfn := range j.batch.PFNs {
		page, typ := j.batch.Pages[i], j.batch.Types[i]
		if page == nil || isZero(page) {
			j.addEmpty(l.s.first, pfn, typ, page != nil)
			continue
		}
		at := len(l.scratch)
		l.scratch = append(l.scratch, page...)
		entry, stable := savefmt.NewPageEntry(uint8(typ), savefmt.ContentData, pfn), l.scratch[at:]
		sum := savefmt.PageSum(stable)
		if h.Flags&savefmt.FlagVerify == 0 && !l.copies.full() {
			if source, ok := l.s.dedup.find(stable, sum, pfn); ok {
				l.copies.add(savefmt.Copy{Entry: entry, Source: source, Sum: sum})
				l.scratch = l.scratch[:at]
				continue
			}
		}
		j.addData(entry, sum)
	}
}
