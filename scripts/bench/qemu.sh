#!/bin/bash
# qemu.sh: unpacks QEMU 10.0 of Debian 13 with its libraries into the cache, once, and prints the folder. It installs
# what the benchmark needs: libzstd as well, which QEMU has, and libipsec-mb, so that xenferry is built with them. Root.
#
#   XENFERRY_BENCH_CACHE   the cache           (default ~/.cache/xenferry-bench)
#   XENFERRY_LAB_MIRROR    Debian mirror       (default http://deb.debian.org)
set -euo pipefail
cache=${XENFERRY_BENCH_CACHE:-$HOME/.cache/xenferry-bench}
mirror=${XENFERRY_LAB_MIRROR:-http://deb.debian.org}
tree=$cache/qemu-trixie

die() { echo "${0##*/}: $*" >&2; exit 1; }

((EUID == 0)) || die "run this as root: it makes network namespaces and unpacks a Debian"
missing=()
for p in mmdebstrap debian-archive-keyring iproute2 util-linux gcc libc6-dev pkg-config libzstd-dev libipsec-mb-dev; do
  [[ $(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) == installed ]] || missing+=("$p")
done
if ((${#missing[@]})); then
  echo "bench: installing ${missing[*]}" >&2
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" > /dev/null
fi
if [[ ! -d $tree ]]; then
  mkdir -p "$cache"
  exec 9> "$cache/lock"
  flock 9
  trap 'rm -rf --one-file-system "$cache"/tmp.*' EXIT
  rm -rf --one-file-system "$cache"/tmp.* # of a build that was killed: we hold the lock
fi
if [[ ! -d $tree ]]; then
  echo "bench: unpacking Debian 13's QEMU in $tree; about 20 s" >&2
  tmp=$(mktemp -d "$cache/tmp.XXXXXX")
  mmdebstrap --quiet --variant=minbase --include=qemu-system-x86 --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    trixie "$tmp/root" "deb $mirror/debian trixie main" "deb $mirror/debian-security trixie-security main" >&2
  mv "$tmp/root" "$tree"
fi
echo "$tree"
