//go:build lab

package labtest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// GuestOptions say what guest to create. The zero value is a good guest.
type GuestOptions struct {
	Type     string   // "pvh" (the default) or "hvm"
	MemoryMB int      // of the domain; 160 if 0
	Args     []string // for its program, as "xfg.mem=96": see scripts/lab/guest/params.go
	NoDisk   bool     // without the disk that both hosts share
	Alone    bool     // without a process of xl that looks after it
	Config   []string // further lines of xl's configuration
}

// Guest is a guest of the lab that runs the checker.
type Guest struct {
	Lab  *Lab
	Name string
	ID   string // that the guest gave itself at its boot

	consoles map[string]*console // by the host's key, see read
}

// CreateGuest creates a guest on h and waits for its first heartbeat. Its name
// is the given one; on both hosts, what an earlier guest of that name printed
// is removed.
func (l *Lab) CreateGuest(t testing.TB, h *Host, name string, o GuestOptions) *Guest {
	t.Helper()
	// xenconsoled has no such log open: there is no guest of that name.
	mustAll(t, fmt.Sprintf("rm -f %s/guest-%s.log %[1]s/guest-%[2]s--*.log", consoleDir, name), l.Hosts()...)
	kind := o.Type
	if kind == "" {
		kind = "pvh"
	}
	config := append([]string{
		fmt.Sprintf("name=%q", name),
		fmt.Sprintf("extra=%q", strings.Join(append([]string{"console=hvc0 quiet mitigations=off highres=off"}, o.args()...), " ")),
	}, o.Config...)
	if o.MemoryMB != 0 {
		config = append(config, fmt.Sprintf("memory=%d", o.MemoryMB))
	}
	if o.NoDisk {
		config = append(config, "disk=[]")
	}
	flag := ""
	if o.Alone {
		flag = "-e"
	}
	h.Must(t, fmt.Sprintf("cp /root/guest/%s.cfg /tmp/%s.cfg && cat >> /tmp/%[2]s.cfg <<'END' && xl create %[4]s /tmp/%[2]s.cfg\n%[3]s\nEND",
		kind, name, strings.Join(config, "\n"), flag))
	g := &Guest{Lab: l, Name: name}
	g.ID = g.waitBoot(t, h).ID
	return g
}

func (o *GuestOptions) args() []string {
	if o.NoDisk {
		return append([]string{"xfg.disk=none"}, o.Args...)
	}
	return o.Args
}

// AssertGone waits until the host has no domain of that name, nor one that a
// migration of it has left (name--incoming, name--migratedaway), nor one that
// is still dying. Destruction goes on for a moment after xl's answer.
func AssertGone(t testing.TB, h *Host, name string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		began := time.Now()
		left := remains(h.Domains(t), name)
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Errorf("%s must be gone from %s, but is there as %q", name, h.Name, left)
			return
		}
		rest(began)
	}
}

// remains returns those of a host's domains that have that name, or that a
// migration or a destruction of such a guest has left.
func remains(domains map[string]string, name string) []string {
	var left []string
	for domid, n := range domains {
		if n == name || strings.HasPrefix(n, name+"--") || n == "(null)" {
			left = append(left, domid+" "+n)
		}
	}
	return left
}

// Migrate moves the guest with a command of stock xl or xenferry on the host
// where it is, such as "xl migrate NAME hostB", and returns how long the
// command took and what it printed.
func (g *Guest) Migrate(t testing.TB, from *Host, tool string) (time.Duration, string) {
	t.Helper()
	start := time.Now()
	out := from.Must(t, fmt.Sprintf("%s migrate %s %s", tool, g.Name, g.Lab.Other(from).Name))
	return time.Since(start), out
}

// Shutdown asks the guest to power itself off, as xl shutdown does, and waits
// until it is gone.
func (g *Guest) Shutdown(t testing.TB, h *Host) {
	t.Helper()
	if out, err := h.Run(context.Background(), "xl shutdown -w "+g.Name); err != nil {
		t.Errorf("shutdown: %v\n%s", err, out)
	}
	AssertGone(t, h, g.Name)
}
