#!/bin/bash
# sysroot.sh RELEASE COMMAND...: runs COMMAND (go build -tags xen …) so that cgo builds against the
# headers and libraries of that Xen release instead of this machine's.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
(($# >= 2)) || die "usage: sysroot.sh RELEASE COMMAND..."
root=$(image_dir "$1")/sysroot
[[ -d $root ]] || die "there is no image of Xen $1 for this recipe: run build.sh $1"
shift
lib=/usr/lib/x86_64-linux-gnu
export CGO_ENABLED=1 CC="gcc --sysroot=$root"
export PKG_CONFIG_SYSROOT_DIR=$root PKG_CONFIG_LIBDIR=$root$lib/pkgconfig:$root/usr/share/pkgconfig
# Libraries that those we name need in turn.
export CGO_LDFLAGS="-Wl,-rpath-link,$root$lib ${CGO_LDFLAGS:-}"
exec "$@"
