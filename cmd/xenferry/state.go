package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xen/sim"
)

// xenStateDir holds the journals of a real host.
const xenStateDir = "/var/lib/xenferry"

var stateDirFlag = &cli.StringFlag{
	Name: "state-dir", EnvVars: []string{"XENFERRY_STATE_DIR"},
	Usage: "the `folder` of this host's journals, the same for all commands (default: " + xenStateDir + ", for a simulated host beside its socket)",
}

// stateDir returns the folder of the journals of the host that is worked on.
func stateDir(c *cli.Context) (string, error) {
	if dir := c.String(stateDirFlag.Name); dir != "" {
		return filepath.Abs(dir)
	}
	name, isSim := strings.CutPrefix(c.String("connect"), simPrefix)
	if !isSim {
		return xenStateDir, nil
	}
	if strings.Contains(name, "/") {
		return filepath.Abs(name + ".state")
	}
	dir, err := sim.Dir()
	return filepath.Join(dir, name+".state"), err
}

// openStore opens the journals of the host that is worked on.
func openStore(c *cli.Context) (*fallback.Store, string, error) {
	dir, err := stateDir(c)
	if err != nil {
		return nil, "", err
	}
	disk, err := fallback.OpenDir(dir)
	if err != nil {
		return nil, "", err
	}
	return fallback.NewStore(disk), dir, nil
}

// askLimit bounds one question to the destination.
const askLimit = 30 * time.Second

// peer asks the destination of a migration through a new connection of the
// same transport.
type peer struct{ limits xen.Limits }

// Ask implements fallback.Peer.
func (p peer) Ask(ctx context.Context, m fallback.Migration) (fallback.Answer, error) {
	if m.Transport == "" {
		return fallback.AnswerPending, fmt.Errorf("%s has stock xl, which cannot be asked: look there, and then use xenferry resolve", m.Peer)
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	t, err := startTransport(m.Transport)
	if err != nil {
		return fallback.AnswerPending, err
	}
	link := xen.NewLink(t, m.Peer, p.limits)
	defer link.Close()
	return xen.Ask(ctx, link, m)
}
