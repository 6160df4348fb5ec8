#!/bin/bash
# install.sh: builds our programs and puts them into both hosts of the running lab: the guest, the listener, and
# xenferry, for each host against its release of Xen. Run it again after a change: it takes a few seconds.
#
#   XENFERRY_LAB_WITHOUT_XENFERRY=1   leaves xenferry out: a lab with stock Xen
#
# It also gives dom0 the weight that hosts give theirs: with one processor, a busy guest would starve the toolstack.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

# make_initrd IMAGE: prints the guest's initramfs: our program is all of it.
make_initrd() {
  local tree=$tmp/initrd
  rm -rf "$tree"
  mkdir -p "$tree"/{dev,proc,sys,sbin,modules}
  cp "$tmp/guest" "$tree/init"
  ln -s /init "$tree/sbin/poweroff"
  ln -s /init "$tree/sbin/reboot"
  cp "$1"/modules/* "$tree/modules/"
  (cd "$tree" && find . | cpio --quiet -o -H newc -R 0:0 | gzip -1)
}

install_host() { # install_host A|B
  local host=$1 image release
  release=$(sed -n "s/.*\"$1\": {\"release\": \"\([0-9.]*\)\".*/\1/p" "$RUN/lab.json")
  image=$(image_dir "$release")
  rm -rf "$tmp/root"
  mkdir -p "$tmp/root/root/guest" "$tmp/root/usr/local/bin"
  make_initrd "$image" > "$tmp/root/root/guest/initrd"
  cp "$LAB_DIR"/guest/*.cfg "$tmp/root/root/guest/"
  cp "$tmp/listen" "$tmp/await" "$tmp/spoil" "$tmp/root/usr/local/bin/"
  if [[ -z ${XENFERRY_LAB_WITHOUT_XENFERRY:-} ]]; then
    # Once for both hosts of one release: linking it takes a while.
    [[ -e $tmp/xenferry-$release ]] || "$LAB_DIR/sysroot.sh" "$release" go build -C "$REPO" -tags xen,libzstd -o "$tmp/xenferry-$release" ./cmd/xenferry
    cp "$tmp/xenferry-$release" "$tmp/root/usr/local/bin/xenferry"
  fi
  # tar replaces a program that is running. The listener is told to end.
  tar -C "$tmp/root" --owner=0 --group=0 -cf - . | ssh_to "$host" \
    'listen quit 2>/dev/null; tar -C / -xf - --no-overwrite-dir && (setsid listen serve > /var/log/listen.log 2>&1 < /dev/null &)'
}

[[ -f $RUN/lab.json ]] || die "no lab is running in $RUN: run up.sh first"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
CGO_ENABLED=0 go build -C "$REPO" -trimpath -ldflags '-s -w' -o "$tmp/" ./scripts/lab/guest ./scripts/lab/listen ./scripts/lab/await ./scripts/lab/spoil
for host in A B; do install_host $host; done
for host in A B; do ssh_to $host 'xl sched-credit2 -d Domain-0 -w 2048'; done
say "clocks: hostB was $(ssh_to A 'listen clock hostB') ns ahead of hostA, and now hostA is $(ssh_to B 'listen clock hostA set') ns ahead of it"
