package xl

import (
	"errors"
	"testing"

	"github.com/xenferry/xenferry/xen"
)

func TestErrorText(t *testing.T) {
	log := "libxl_qmp.c:123:qmp_next: Domain 7:Socket read error: Connection reset by peer\n" +
		"libxl_qmp.c:123:qmp_next: Domain 7:Socket read error: Connection reset by peer\n" +
		"\nno prefix: at all\n"
	e := &Error{Op: "resume", Domid: 7, Code: -3, Detail: tidyLog(log)}
	const want = "libxl: resume domain 7: failed (libxl error -3): " +
		"Domain 7:Socket read error: Connection reset by peer; no prefix: at all"
	if e.Error() != want {
		t.Errorf("got  %s\nwant %s", e, want)
	}
	if got := (&Error{Op: "open", Code: -99}).Error(); got != "libxl: open: failed (libxl error -99)" {
		t.Errorf("got %s", got)
	}
}

func TestErrorIs(t *testing.T) {
	for code, want := range map[int]error{
		codeNoMem:          xen.ErrNoMemory,
		codeDomainNotFound: xen.ErrNoDomain,
	} {
		if err := error(&Error{Op: "x", Code: code}); !errors.Is(err, want) {
			t.Errorf("%v is not %v", err, want)
		}
	}
	if errors.Is(&Error{Op: "x", Code: -3}, xen.ErrNoDomain) {
		t.Error("a plain failure passes for ErrNoDomain")
	}
}
