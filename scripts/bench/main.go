// Command bench measures xenferry beside QEMU: the same memory moved over the
// same link, in one run. See docs/testing.md; "make bench-peers" starts it.
//
//	bench -qemu TREE -xenferry PROGRAM [-out FILE]
//
// The environment says what is measured:
//
//	ROUNDS=5                 how often each mode is measured on each link
//	LINKS=1g,10g,unshaped    the links
//	MODES=auto,qemu-zstd     the modes; all if empty; "memory" is how much memory
//	                         sender and receiver take with a guest of 8 GiB
//	MEMORY=2048              the guest's memory in MiB
//	CHECK=1                  fail where a bar is missed
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// options say what is measured.
type options struct {
	qemuTree, program, out string
	rounds, mib            int
	links                  []link
	modes                  []string // empty: all
	check                  bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

func readOptions() (options, error) {
	var o options
	flag.StringVar(&o.qemuTree, "qemu", "", "`folder` with Debian 13's QEMU, as qemu.sh makes it")
	flag.StringVar(&o.program, "xenferry", "", "the xenferry `program`")
	flag.StringVar(&o.out, "out", "bench-peers.json", "`file` for all figures, as JSON")
	flag.Parse()
	if o.qemuTree == "" || o.program == "" || flag.NArg() > 0 {
		return o, errors.New("usage: bench -qemu TREE -xenferry PROGRAM [-out FILE]; make bench-peers runs it")
	}
	var err error
	if o.rounds, err = number("ROUNDS", 5, 1000); err != nil {
		return o, err
	}
	if o.mib, err = number("MEMORY", 2048, 1<<20); err != nil {
		return o, err
	}
	o.modes, o.check = listed("MODES"), os.Getenv("CHECK") == "1"
	names := listed("LINKS")
	for _, l := range links {
		if i := slices.Index(names, l.Name); i >= 0 || len(names) == 0 {
			o.links = append(o.links, l)
		}
	}
	if len(names) > 0 && len(names) != len(o.links) {
		return o, fmt.Errorf("LINKS=%s: each is one of 1g, 10g, unshaped", os.Getenv("LINKS"))
	}
	return o, nil
}

// number reads a variable that is a number from 1 to most.
func number(name string, byDefault, most int) (int, error) {
	text := os.Getenv(name)
	if text == "" {
		return byDefault, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, fmt.Errorf("%s=%s: it is a number from 1 to %d", name, text, most)
	}
	return n, nil
}

// listed reads a variable that is a list of words.
func listed(name string) []string {
	return strings.FieldsFunc(os.Getenv(name), func(r rune) bool { return r == ',' || r == ' ' })
}

func run(ctx context.Context) (err error) {
	o, err := readOptions()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("run this as root: it makes network namespaces")
	}
	s, err := newSession(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	err = s.measureAll(ctx)
	if err == nil && (len(o.modes) == 0 || slices.Contains(o.modes, peakMode)) {
		s.peaks, err = s.ferry.measurePeaks(ctx)
	}
	if len(s.results) == 0 && len(s.peaks) == 0 {
		return cmp.Or(err, errors.New("there is nothing to measure: auto-tls is for the unshaped link only"))
	}
	// What was measured until a failure or a Ctrl-C is worth having.
	return errors.Join(err, s.img.unchanged(), s.publish(os.Stdout))
}
