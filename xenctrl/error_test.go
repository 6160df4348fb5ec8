package xenctrl

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

func TestError(t *testing.T) {
	for _, tc := range []struct {
		err  *Error
		text string
		is   error
	}{
		{&Error{"pause", 7, unix.ESRCH}, "xenctrl: domain 7: pause: no such process", unix.ESRCH},
		{&Error{"open it", NoDomid, unix.ENOENT}, "xenctrl: open it: no such file or directory", unix.ENOENT},
		{&Error{"map", 0, fmt.Errorf("pfn 0x5: %w", unix.ENOMEM)}, "xenctrl: domain 0: map: pfn 0x5: cannot allocate memory", unix.ENOMEM},
	} {
		if tc.err.Error() != tc.text {
			t.Errorf("got  %s\nwant %s", tc.err, tc.text)
		}
		var e *Error
		if wrapped := fmt.Errorf("outside: %w", tc.err); !errors.Is(wrapped, tc.is) || !errors.As(wrapped, &e) {
			t.Errorf("%v: errors.Is or errors.As does not see through", wrapped)
		}
	}
}

func TestDomainFlags(t *testing.T) {
	const hvm, shutdown, paused, blocked, running, dying = 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 0
	for _, tc := range []struct {
		name      string
		flags     DomainFlags
		suspended bool
		reason    string
	}{
		{"running", hvm | running, false, "poweroff"},
		{"suspended", hvm | shutdown | 2<<16, true, "suspend"},
		{"crashed", hvm | shutdown | 3<<16, false, "crash"},
		{"reason without shutdown", hvm | blocked | 2<<16, false, "suspend"},
		{"reason of a later Xen", shutdown | 200<<16, false, "reason 200"},
	} {
		if tc.flags.Suspended() != tc.suspended || tc.flags.ShutdownReason().String() != tc.reason {
			t.Errorf("%s: suspended %v, reason %v", tc.name, tc.flags.Suspended(), tc.flags.ShutdownReason())
		}
	}
	f := DomainFlags(dying | hvm | paused)
	if !f.Dying() || !f.HVM() || !f.Paused() || f.Shutdown() || f.Blocked() || f.Running() {
		t.Errorf("flags %#x are read wrongly", uint32(f))
	}
}

func TestVersion(t *testing.T) {
	if v := (Version{4, 17, ".5"}).String(); v != "4.17.5" {
		t.Errorf("got %s", v)
	}
}
