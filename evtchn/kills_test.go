package evtchn

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	flagRounds = flag.Int("rounds", 10, "how often processes that share a page are killed or stopped")
	flagSeed   = flag.Uint64("seed", 0, "of the kills; 0: any")
)

// What a process of the kill test is, and the page that it shares.
const (
	roleEnv = "EVTCHN_TEST_ROLE"
	pageEnv = "EVTCHN_TEST_PAGE"
)

// askLimit is that of the askers, askPause how long they rest.
const (
	askLimit = 100 * time.Millisecond
	askPause = 300 * time.Microsecond
)

func TestMain(m *testing.M) {
	roles := map[string]func(name string) error{"owner": beOwner, "asker": beAsker, "reader": beReader}
	if role := roles[os.Getenv(roleEnv)]; role != nil {
		if err := role(os.Getenv(pageEnv)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// beOwner shows a record all the time, and answers, until it is killed.
func beOwner(name string) error {
	p, err := CreatePage(name)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	go func() {
		for n := uint64(0); ; n++ {
			p.Board().Publish([]uint64{n, n, n})
			time.Sleep(100 * time.Microsecond)
		}
	}()
	p.Desk().Serve(context.Background(), double)
	return nil
}

// beAsker asks all the time until the owner is gone. An answer that is wrong,
// or a wait that is too long, is an error.
func beAsker(name string) error {
	p, owner, err := FindPage(name, true)
	if err != nil {
		return goneIsFine(err)
	}
	fmt.Println("ready")
	ctx, cancel := owner.Context(context.Background())
	defer cancel()
	for n := uint64(1); ; n++ {
		begun := time.Now()
		answer, err := p.Desk().Ask(ctx, askLimit, [RequestWords]uint64{n})
		switch {
		case errors.Is(err, ErrGone):
			return nil
		case err == nil && answer[0] != 2*n, errors.Is(err, ErrBadPage):
			return fmt.Errorf("asked %d: %d, %w", n, answer[0], err)
		case time.Since(begun) > patience:
			return fmt.Errorf("waited for %s: %w", time.Since(begun), err)
		}
		time.Sleep(askPause)
	}
}

// beReader reads until the owner is gone.
func beReader(name string) error {
	p, owner, err := FindPage(name, false)
	if err != nil {
		return goneIsFine(err)
	}
	fmt.Println("ready")
	ctx, cancel := owner.Context(context.Background())
	defer cancel()
	for ctx.Err() == nil {
		words, number, err := p.Board().Read()
		if err == nil && number > 0 && (words[0] != number-1 || words[2] != words[0]) {
			return fmt.Errorf("record %d is %v", number, words[:3])
		}
		time.Sleep(askPause)
	}
	return nil
}

func goneIsFine(err error) error {
	if errors.Is(err, ErrNoPage) {
		return nil
	}
	return err
}

// sharer is one process of a round.
type sharer struct {
	role string
	cmd  *exec.Cmd
	says strings.Builder
	err  error         // of its end
	end  chan struct{} // closed then
}

func startSharer(t *testing.T, role, name string) *sharer {
	t.Helper()
	s := &sharer{role: role, cmd: exec.Command(os.Args[0]), end: make(chan struct{})}
	s.cmd.Env = append(os.Environ(), roleEnv+"="+role, pageEnv+"="+name)
	s.cmd.Stderr = &s.says
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%s says %q: %v", role, line, err)
	}
	go func() {
		defer close(s.end)
		s.err = s.cmd.Wait()
	}()
	return s
}

func (s *sharer) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("%s: %v", s.role, err)
	}
}

// TestKills kills or stops, at any moment, the processes that share a page, one
// a round: no other waits for longer than its limit or sees what is not whole,
// and nothing is left.
func TestKills(t *testing.T) {
	seed := *flagSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	before := sharedFiles(t)
	struck := map[string]int{}
	for round := range *flagRounds {
		what := killRound(t, random, fmt.Sprintf("kills-%d-%d", os.Getpid(), round))
		struck[what]++
		if t.Failed() {
			t.Fatalf("in round %d, %s", round, what)
		}
	}
	if after := sharedFiles(t); after > before {
		t.Errorf("%d files in /dev/shm, %d before", after, before)
	}
	t.Logf("%d rounds: %v", *flagRounds, struck)
}

func killRound(t *testing.T, random *rand.Rand, name string) (what string) {
	all := []*sharer{
		startSharer(t, "owner", name), startSharer(t, "asker", name), startSharer(t, "asker", name), startSharer(t, "reader", name),
	}
	defer func() {
		for _, s := range all {
			_ = s.cmd.Process.Kill()
			<-s.end
		}
	}()
	page, owner, err := FindPage(name, true)
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close()
	defer page.Close()
	ctx, cancel := owner.Context(t.Context())
	defer cancel()

	victim, stop := all[random.IntN(len(all))], random.IntN(2) == 0
	time.Sleep(time.Duration(random.IntN(3000)) * time.Microsecond)
	if what = "kill of " + victim.role; stop {
		what = "stop of " + victim.role
		victim.signal(t, syscall.SIGSTOP)
		mustReturn(t, ctx, page) // whatever it is
		if random.IntN(2) == 0 {
			victim.signal(t, syscall.SIGCONT)
			mustAnswer(t, ctx, page)
		}
	}
	victim.signal(t, syscall.SIGKILL)
	if victim != all[0] {
		mustAnswer(t, ctx, page)
		all[0].signal(t, syscall.SIGKILL)
	}
	if _, err := page.Desk().Ask(ctx, patience, [RequestWords]uint64{1}); !errors.Is(err, ErrGone) {
		t.Errorf("asked of one that was killed: %v", err)
	}
	for _, s := range all {
		mustEnd(t, s, s == victim || s == all[0])
	}
	_ = page.Close()
	if held := heldBy(t, name); held != "" {
		t.Errorf("the page is still there: %s", held)
	}
	return what
}

// mustReturn asks, and takes any answer that comes in time.
func mustReturn(t *testing.T, ctx context.Context, p *Page) {
	t.Helper()
	begun := time.Now()
	answer, err := p.Desk().Ask(ctx, askLimit, [RequestWords]uint64{5})
	if err == nil && answer[0] != 10 || errors.Is(err, ErrBadPage) || time.Since(begun) > patience {
		t.Errorf("after %s: %d, %v", time.Since(begun), answer[0], err)
	}
}

// mustAnswer asks until there is an answer.
func mustAnswer(t *testing.T, ctx context.Context, p *Page) {
	t.Helper()
	if answer, err := p.Desk().Ask(ctx, patience, [RequestWords]uint64{9}); err != nil || answer[0] != 18 {
		t.Errorf("%d, %v", answer[0], err)
	}
}

// mustEnd waits for the end of one whose owner is gone.
func mustEnd(t *testing.T, s *sharer, killed bool) {
	t.Helper()
	select {
	case <-s.end:
		if s.err != nil && !killed {
			t.Errorf("%s: %v: %s", s.role, s.err, s.says.String())
		}
	case <-time.After(patience):
		t.Errorf("%s waits on", s.role)
	}
}

// heldBy returns an open file, or a mapping, of a page.
func heldBy(t *testing.T, name string) string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if target, _ := os.Readlink(f); strings.HasPrefix(target, "/memfd:"+name) {
			return f
		}
	}
	maps, err := filepath.Glob("/proc/[0-9]*/maps")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range maps {
		if text, _ := os.ReadFile(m); strings.Contains(string(text), "/memfd:"+name+" ") {
			return m
		}
	}
	return ""
}

// sharedFiles counts what POSIX shared memory would leave behind.
func sharedFiles(t *testing.T) int {
	t.Helper()
	files, err := filepath.Glob("/dev/shm/*evtchn*")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}
