//go:build !xen

package xl

import (
	"context"
	"errors"
	"io"

	"github.com/xenferry/xenferry/xen"
)

var errNoXen = errors.New("this binary was built without Xen support: install libxen-dev and rebuild with make")

// Open returns an error: this binary was built without the tag xen.
func Open(Options) (xen.Host, error) { return nil, errNoXen }

// Monitor returns an error: this binary was built without the tag xen.
func Monitor(context.Context, Options, uint32, func(string)) error { return errNoXen }

// destroyUnfinished: libxl is not in this binary, so nothing can call it.
func destroyUnfinished(uint32, [16]byte) error { return errNoXen }

// libxl's save helper needs libxl's libraries.
func saveStock(context.Context, *saver) error { return errNoXen }
func resumeLeft(uint32) error                 { return errNoXen }
func loadStock(*helper, io.Reader) error      { return errNoXen }

// BuiltFor returns "": this binary was built without the tag xen.
func BuiltFor() string { return "" }
