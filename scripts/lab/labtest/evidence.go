//go:build lab

package labtest

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
)

// How the guest's kernel reports a fault of QEMU's emulation of SVM: an
// interrupt that Xen injects is delivered twice. See package main of
// scripts/lab/mend, which takes that fault out of a QEMU that it knows. If the
// first had interrupted the guest's program, Linux takes the second, at the
// first instruction of the handler, for one that interrupts the kernel, goes on
// without its own GS base, and faults until the stack is full. No processor
// does that, since interrupts are off there; nor can a state that was restored
// wrong bring it about, which would show the program right below the handler.
var (
	emulatorFault = "ENTRY_TRAMPOLINE stack guard page was hit"
	emulatorPlace = regexp.MustCompile(`RIP: 0010:asm_\w+\+0x0/`)
)

// emulatorWord begins the line by which test.sh knows a failed test that may
// be repeated. Only witness prints it.
const emulatorWord = "emulator fault: "

// evidenceLimit bounds the look at one host: it may be dead.
const evidenceLimit = time.Minute

// evidence is what a log must show of a host on which a test failed, since the
// machine that has the rest may be gone: how each guest's console ends, what
// went wrong there first, and what Xen says of domains other than dom0.
const evidence = `cd ` + consoleDir + ` && for f in guest-*.log; do
	[ -f "$f" ] || continue
	echo "== first of what is wrong in $f"; grep -aoE -m 8 '(` + trouble + `).*' "$f"
	echo "== end of $f"; tail -n 15 "$f"
done | tr -d '\r' | cut -c 1-300
echo "== xl dmesg"; xl dmesg | grep -aE '(^|[^a-z0-9])(d|dom|domain )[1-9][0-9]*' | grep -avE ' (save|restore): ' | tail -n 15
echo "== xl list"; xl list`

// trouble matches what a guest's console says when something is wrong.
const trouble = xfg.BadWord + `|BUG:|Oops|Kernel panic|RIP: 0010|stall`

// witness has a test that fails print the evidence of both hosts. If one of its
// guests has died of the emulator's fault, it says so.
func (l *Lab) witness(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, h := range l.Hosts() {
			ctx, cancel := context.WithTimeout(context.Background(), evidenceLimit)
			out, err := h.Run(ctx, evidence)
			cancel()
			if err != nil {
				out += fmt.Sprintf("\nnot all could be had: %v", err.(*RunError).Err)
			}
			t.Logf("evidence of %s:\n%s", h.Name, out)
		}
		if word := l.emulatorDid(t); word != "" {
			t.Error(word)
		}
	})
}

// emulatorDid says, in the words for test.sh, which guest has died of the
// emulator's fault; "" if none has, or if a guest has seen damage as well: that
// is never the emulator's.
func (l *Lab) emulatorDid(t testing.TB) string {
	t.Helper()
	found := ""
	for _, h := range l.Hosts() {
		ctx, cancel := context.WithTimeout(context.Background(), evidenceLimit)
		out, err := h.Run(ctx, fmt.Sprintf("cd %s && grep -aE '%s' guest-*.log /dev/null | cut -c 1-1000", consoleDir, telling))
		cancel()
		if err != nil && out == "" {
			continue // no guest has printed any of that
		}
		if strings.Contains(out, xfg.BadWord) {
			return ""
		}
		hit := map[string]bool{} // by log
		for line := range strings.Lines(out) {
			log, text, _ := strings.Cut(line, ":")
			switch {
			case strings.Contains(text, emulatorFault):
				hit[log] = true
			case hit[log] && emulatorPlace.MatchString(text):
				found = fmt.Sprintf("%s%s, %s: %s, %s", emulatorWord, h.Name, log, emulatorFault, strings.TrimSpace(text))
			}
		}
	}
	return found
}

// telling matches the lines that emulatorDid reads.
const telling = xfg.BadWord + `|guard page was hit|RIP: 0010:asm_`
