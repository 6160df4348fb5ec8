package xl

import (
	"fmt"
	"strings"

	"github.com/xenferry/xenferry/xen"
)

// Error is a call of libxl that failed. errors.Is finds xen.ErrNoDomain and
// xen.ErrNoMemory in it where libxl's code says so.
type Error struct {
	Op     string // what was to be done, e.g. "rename"
	Domid  uint32 // the domain, 0 if none is concerned
	Code   int    // libxl's ERROR_* code (libxl's libxl_types.idl), negative
	Detail string // what libxl logged about it; may be empty
}

// Codes of libxl that mean something to a caller.
const (
	codeNoMem          = -5
	codeDomainNotFound = -21
	codeAborted        = -22
)

// codeNames are the codes of libxl_error in libxl_types.idl; the later ones
// belong to QMP and say no more than their text.
var codeNames = map[int]string{
	-1: "nonspecific error", -2: "version mismatch", -3: "failed", -4: "not implemented",
	codeNoMem: "out of memory", -6: "invalid argument", -7: "failed badly",
	-8: "guest timed out", -9: "timed out", -11: "not ready", -15: "cannot lock",
	-17: "device exists", codeDomainNotFound: "domain not found", codeAborted: "aborted",
	-23: "not found", -24: "domain destroyed",
}

// Error names the operation and the domain, and gives libxl's own words.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("libxl: " + e.Op)
	if e.Domid != 0 {
		fmt.Fprintf(&b, " domain %d", e.Domid)
	}
	name, known := codeNames[e.Code]
	if !known {
		name = "failed"
	}
	fmt.Fprintf(&b, ": %s (libxl error %d)", name, e.Code)
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	return b.String()
}

// Unwrap returns the error of package xen that the code stands for.
func (e *Error) Unwrap() error {
	switch e.Code {
	case codeNoMem:
		return xen.ErrNoMemory
	case codeDomainNotFound:
		return xen.ErrNoDomain
	}
	return nil
}

// tidyMessage shortens a message of libxl to what a reader can use: libxl puts
// "file.c:123:function: " before each, and its texts may span lines.
func tidyMessage(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	parts := strings.SplitN(s, ":", 4)
	if len(parts) == 4 && strings.HasSuffix(parts[0], ".c") {
		s = strings.TrimSpace(parts[3])
	}
	return s
}

// tidyLog makes one line of what libxl logged: one message a line of text, the
// first being the cause more often than not, repetitions left out.
func tidyLog(text string) string {
	var out []string
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		m := tidyMessage(line)
		if m != "" && !seen[m] {
			seen[m] = true
			out = append(out, m)
		}
	}
	return strings.Join(out, "; ")
}
