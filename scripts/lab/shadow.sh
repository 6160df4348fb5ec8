#!/bin/bash
# shadow.sh: builds the hypervisor of Xen 4.17 with shadow paging, without which PV guests cannot be moved live and which
# Debian leaves out of its own, and prints its path. It comes from Debian's source package, with the default
# configuration and SHADOW_PAGING. About five minutes on two cores, once; it is kept in the cache. Root.
#
# apt's own lists and settings are not touched: it is given others, in a temporary folder.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

SUITE=$(suite_of 4.17)

# apt_options prints the options that give apt nothing but the source packages of the suite, in $tmp.
apt_options() {
  printf '%s\n' -qq -o Dir::Etc::SourceList="$tmp/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::State::Lists="$tmp/apt/lists" -o Dir::Cache="$tmp/apt/cache" -o APT::Sandbox::User=root
}

# fetch: puts Debian's source package of Xen into the current folder. Mirrors list versions whose files are gone: the
# newest that can be had is taken.
fetch() {
  local version options
  mapfile -t options < <(apt_options)
  mkdir -p "$tmp/apt/lists/partial" "$tmp/apt/cache/archives/partial"
  local signed="[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
  printf '%s\n' "deb-src $signed $MIRROR/debian $SUITE main" "deb-src $signed $MIRROR/debian $SUITE-updates main" \
    "deb-src $signed $MIRROR/debian-security $SUITE-security main" > "$tmp/apt/sources.list"
  apt-get "${options[@]}" update
  while read -r version; do
    apt-get "${options[@]}" source --download-only "xen=$version" > /dev/null 2>&1 && return
  done < <(apt-cache "${options[@]}" showsrc xen | sed -n 's/^Version: //p' | sort -rVu)
  die "no source package of xen can be had from $MIRROR"
}

build() {
  local jobs
  say "building Xen 4.17 with shadow paging in $dir; about five minutes"
  need_packages dpkg-dev make gcc libc6-dev bison flex libelf-dev python3 zlib1g-dev ca-certificates
  mkdir "$tmp/src"
  (cd "$tmp/src" && fetch && dpkg-source -x xen_*.dsc xen > ../unpack.log 2>&1) || die "$(tail -n 5 "$tmp/unpack.log" 2>/dev/null)"
  jobs=$(nproc)
  (
    cd "$tmp/src/xen/xen"
    make defconfig
    for option in EXPERT UNSUPPORTED SHADOW_PAGING; do
      sed -i "/CONFIG_$option\b/d" .config
      echo "CONFIG_$option=y" >> .config
    done
    make olddefconfig
    make -j"$jobs" build
  ) > "$tmp/build.log" 2>&1 || die "Xen does not build: $(tail -n 20 "$tmp/build.log")"
  grep -q '^CONFIG_SHADOW_PAGING=y' "$tmp/src/xen/xen/.config" || die "Xen was built without shadow paging"
  mkdir "$tmp/done"
  cp "$tmp/src/xen/xen/xen" "$tmp/done/xen"
  mv "$tmp/done" "$dir"
  for old in "$CACHE"/shadow-*; do
    [[ $old == "$dir" ]] || rm -rf --one-file-system "$old"
  done
}

dir=$(shadow_dir)
if [[ ! -d $dir ]]; then
  mkdir -p "$CACHE"
  exec 9> "$CACHE/lock.shadow"
  flock 9
  if [[ ! -d $dir ]]; then
    tmp=$(mktemp -d "$CACHE/shadowtmp.XXXXXX")
    trap 'rm -rf --one-file-system "$tmp"' EXIT
    build
  fi
fi
echo "$dir/xen"
