package sim

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/xenferry/xenferry/xen"
)

// clientEnv makes the test program a sender or receiver that does one thing,
// says so, and then waits to be killed.
const clientEnv = "XENFERRY_SIM_TEST_CLIENT"

var clients = map[string]func(ctx context.Context, h *Host, d xen.Domain) error{
	"log-dirty": func(ctx context.Context, _ *Host, d xen.Domain) error {
		return d.StartLogDirty(ctx)
	},
	"suspended": func(ctx context.Context, _ *Host, d xen.Domain) error {
		if err := d.StartLogDirty(ctx); err != nil {
			return err
		}
		return d.Suspend(ctx)
	},
	"asking": func(ctx context.Context, _ *Host, d xen.Domain) error {
		go d.Suspend(ctx)
		return waitFor(func() bool {
			dom := d.(*Domain)
			return dom.ctl.wanted().command() == cmdSuspend
		})
	},
	"receiving": func(ctx context.Context, h *Host, d xen.Domain) error {
		in, err := receiveCopy(ctx, h, d, "incoming")
		if err != nil {
			return err
		}
		b := xen.NewBatch()
		b.PFNs, b.Types = append(b.PFNs, 300), append(b.Types, xen.PageNormal)
		if err := in.Map(b); err != nil {
			return err
		}
		b.Pages[0][0] = 1
		return nil
	},
	"finished": func(ctx context.Context, h *Host, d xen.Domain) error {
		in, err := receiveCopy(ctx, h, d, "incoming")
		if err != nil {
			return err
		}
		return copyAll(ctx, d, in, nil)
	},
}

// runIfClient is a client's whole life.
func runIfClient() {
	what := os.Getenv(clientEnv)
	if what == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := func() error {
		h, err := Dial(ctx, "a")
		if err != nil {
			return err
		}
		d, err := h.Open(ctx, 1)
		if err != nil {
			return err
		}
		return clients[what](ctx, h, d)
	}()
	fmt.Println("done", err)
	<-ctx.Done()
	os.Exit(1)
}

// killClient starts a client, waits until it has done its thing, and kills it
// with -9.
func killClient(t *testing.T, what string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), clientEnv+"="+what)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	cmd.Process.Kill()
	cmd.Wait()
	if line != "done <nil>\n" {
		t.Fatalf("client %s: %q, %v", what, line, err)
	}
}

// waitFor waits until something is true.
func waitFor(true func() bool) error {
	for end := time.Now().Add(20 * time.Second); !true(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("waited for too long")
		}
	}
	return nil
}

// receiveCopy begins to build a guest like d on h.
func receiveCopy(ctx context.Context, h *Host, d xen.Domain, name string) (xen.Incoming, error) {
	spec, err := specOf(ctx, d, name)
	if err != nil {
		return nil, err
	}
	in, err := h.Receive(ctx, spec)
	if err != nil {
		return nil, err
	}
	return in, in.LoadStatic(ctx, staticRecords())
}

func specOf(ctx context.Context, d xen.Domain, name string) (xen.Spec, error) {
	config, err := d.Config(ctx)
	if err != nil {
		return xen.Spec{}, err
	}
	var cfg GuestConfig
	err = json.Unmarshal(config, &cfg)
	return xen.Spec{Config: config, Name: name, Type: xen.TypeSim, Pages: d.Pages(), MemKiB: cfg.memKiB()}, err
}

// copyAll suspends a guest and copies everything, but the pages of skip.
func copyAll(ctx context.Context, d xen.Domain, in xen.Incoming, skip map[uint64]bool) error {
	if err := d.Suspend(ctx); err != nil {
		return err
	}
	from, to := xen.NewBatch(), xen.NewBatch()
	for pfn := uint64(0); pfn < d.Pages(); pfn++ {
		from.Reset()
		to.Reset()
		from.PFNs, to.PFNs = append(from.PFNs, pfn), append(to.PFNs, pfn)
		if err := d.Map(from); err != nil {
			return err
		}
		to.Types = append(to.Types, from.Types...)
		if err := in.Map(to); err != nil {
			return err
		}
		if skip[pfn] {
			clear(to.Pages[0])
		} else {
			copy(to.Pages[0], from.Pages[0])
		}
		if err := in.Unmap(to); err != nil {
			return err
		}
	}
	final, err := d.FinalState(ctx)
	if err != nil {
		return err
	}
	return in.Finish(ctx, final)
}
