package faults

import (
	"bytes"
	"time"

	"github.com/xenferry/xenferry/xen"
)

// guestPages is the size of the guest. Small: a run takes milliseconds.
const guestPages = 16

const (
	guestName  = "db1"
	guestUUID  = "6ad1f5d0-9a1c-4d5e-8b1f-0c0ffee00001"
	guestDomid = 1                // at the source
	downTime   = 90 * time.Second // of a host that loses its power
)

// machine is a host.
type machine struct {
	w      *world
	index  int
	name   string
	up     bool
	guests map[uint32]*guest
	next   uint32
	boots  int
	disk   *disk
	lost   bool // it has lost its power, once
}

// guest is a domain.
type guest struct {
	domid    uint32
	name     string
	uuid     string
	state    xen.RunState
	mem      []byte
	filled   bool // it has memory of its own
	complete bool
	hasRun   bool
	logDirty bool
	asked    bool // to suspend
	taken    bool // and it will
	dirty    xen.Bitmap
}

func (m *machine) add(name, uuid string) *guest {
	m.next++
	g := &guest{
		domid: m.next, name: name, uuid: uuid, state: xen.StatePaused,
		mem: make([]byte, guestPages*xen.PageSize), dirty: xen.NewBitmap(guestPages),
	}
	m.guests[g.domid] = g
	return g
}

// crash is the loss of power. The world is locked.
func (m *machine) crash() {
	if !m.up {
		return
	}
	m.w.note("%s is down", m.name)
	m.up, m.lost = false, true
	m.boots, m.next = m.boots+1, 0
	for _, c := range m.w.conns {
		if c.procs[0].host == m || c.procs[1].host == m {
			c.cut()
		}
	}
	for _, p := range m.w.procs {
		if p.host == m {
			p.kill("goes with its host")
		}
	}
	clear(m.guests)
	m.disk.lose(func(n int) int { return m.w.rnd.IntN(n + 1) })
	m.w.running.Go(func() {
		time.Sleep(downTime)
		m.w.mu.Lock()
		m.up = true
		m.w.note("%s is up", m.name)
		m.w.mu.Unlock()
	})
}

// run lets a guest run: the moment at which the rules are checked. The world
// is locked.
func (m *machine) run(g *guest) {
	w := m.w
	if g.state == xen.StateRunning {
		return
	}
	for _, other := range w.hosts {
		for _, o := range other.guests {
			if o != g && o.state == xen.StateRunning {
				w.violate("two run: domain %d on %s and domain %d on %s", g.domid, m.name, o.domid, other.name)
			}
		}
	}
	if m.index == alpha && w.ranThere {
		w.violate("the guest runs at the source after it has run at the destination")
	}
	if m.index == beta {
		w.ranThere = true
		for _, o := range w.hosts[alpha].guests {
			if !bytes.Equal(o.mem, g.mem) {
				w.violate("the guest runs at the destination with other memory")
			}
		}
	}
	if !w.stopped.IsZero() {
		w.longest = max(w.longest, time.Since(w.stopped))
		w.stopped = time.Time{}
	}
	g.state, g.hasRun, g.asked, g.taken = xen.StateRunning, true, false, false
}

// scribble writes some pages of a running guest.
func (g *guest) scribble(w *world, n int) {
	for range n {
		pfn := w.rnd.Uint64N(guestPages)
		for i := range 8 {
			g.mem[pfn*xen.PageSize+uint64(i)] = byte(w.rnd.Uint32())
		}
		g.dirty.Set(pfn)
	}
}

// The guest's reaction to a request to suspend: slow enough that live rounds go
// on meanwhile, also between its stop and the moment in which that is known.
const (
	takesAfter    = time.Millisecond // from then on it cannot be taken back
	suspendsAfter = 30 * time.Millisecond
)

// ask asks the guest to suspend, whoever lives to see it. The world is locked.
func (m *machine) ask(g *guest) {
	if g.asked {
		return
	}
	g.asked = true
	m.w.running.Go(func() {
		time.Sleep(takesAfter)
		m.w.mu.Lock()
		g.taken = g.asked
		m.w.mu.Unlock()
		time.Sleep(suspendsAfter - takesAfter)
		m.w.mu.Lock()
		defer m.w.mu.Unlock()
		if g.taken && g.state == xen.StateRunning {
			g.scribble(m.w, 3)
			g.state, g.asked, g.taken = xen.StateSuspended, false, false
			m.w.stopped = time.Now()
			m.w.note("domain %d on %s has suspended", g.domid, m.name)
		}
	})
}

// resume makes a suspended guest run, or takes a request back if it still can.
func (m *machine) resume(g *guest) {
	if g.state == xen.StateSuspended {
		m.run(g)
	}
	if !g.taken {
		g.asked = false
	}
}
