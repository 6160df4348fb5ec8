#!/bin/bash
# build.sh [RELEASE...]: makes the images of the lab, 4.17 and 4.20 by default, in the cache. Root.
#
# An image is a folder:
#   xen vmlinuz initrd   what QEMU boots
#   dom0.img             dom0's disk: Debian's Xen, its toolstack, QEMU for HVM guests, sshd, the guests' kernel
#   modules/             the guest's PV drivers, uncompressed
#   sysroot/             headers and libraries of that Xen, to build our programs against
# It is made in a temporary folder and renamed when complete.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

# make_dom0 RELEASE SUITE ROOT: unpacks dom0's system into ROOT.
make_dom0() {
  local v=$1 suite=$2 root=$3 b
  mmdebstrap --quiet --variant=minbase --include="$(tr -s ' \n' ',' <<END
xen-utils-$v xen-hypervisor-$v-amd64 xen-utils-common xenstore-utils qemu-system-xen seabios ipxe-qemu
linux-image-amd64 initramfs-tools busybox-static kmod udev procps util-linux iproute2 netcat-openbsd
openssh-server openssh-client strace python3-minimal
END
  )" --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' "$suite" "$root" "${sources[@]}"
  for b in "$root/usr/lib/xen-$v/bin/"*; do
    ln -sf "/usr/lib/xen-$v/bin/${b##*/}" "$root/usr/local/bin/${b##*/}"
  done
  install -m 755 "$LAB_DIR/dom0-init" "$root/lab-init"
  install -d -m 700 "$root/root/.ssh"
  install -d "$root/root/guest"
  install -m 600 "$CACHE/key.pub" "$root/root/.ssh/authorized_keys"
  install -m 600 "$CACHE/key" "$root/root/.ssh/id_ed25519"
  printf '%s\n' 'Host *' 'StrictHostKeyChecking no' 'UserKnownHostsFile /dev/null' 'LogLevel ERROR' > "$root/root/.ssh/config"
  printf '%s\n' '127.0.0.1 localhost' '192.168.77.1 hostA' '192.168.77.2 hostB' > "$root/etc/hosts"
  chroot "$root" ssh-keygen -q -A
}

# unpack_kernel VMLINUZ: prints the ELF file inside. Its place and length are in the header of the boot protocol
# (Linux: Documentation/arch/x86/boot.rst); the last 4 bytes are the unpacked length.
unpack_kernel() {
  local setup_sectors offset length
  setup_sectors=$(od -An -tu1 -j $((0x1f1)) -N 1 "$1")
  offset=$(od -An -tu4 -j $((0x248)) -N 4 "$1")
  length=$(od -An -tu4 -j $((0x24c)) -N 4 "$1")
  dd if="$1" of="$1.payload" iflag=skip_bytes,count_bytes bs=1M status=none \
    skip=$(((setup_sectors + 1) * 512 + offset)) count=$((length - 4))
  case $(od -An -tx1 -N 4 "$1.payload") in
    ' fd 37 7a 58') xz -dc "$1.payload" ;;
    ' 28 b5 2f fd') zstd -qdc "$1.payload" ;;
    *) die "the kernel $1 is packed in a way that this script does not know" ;;
  esac
  rm "$1.payload"
}

# make_sysroot SUITE ROOT: unpacks, without installing, what a cgo build needs.
make_sysroot() {
  mmdebstrap --quiet --variant=extract --include=libxen-dev,libzstd-dev,libc6-dev,libc6 "$1" "$2" "${sources[@]}"
  for d in lib lib64; do # the linker scripts name them
    [[ -e $2/$d ]] || ln -s "usr/$d" "$2/$d"
  done
  # Absolute links would lead out of the sysroot.
  find "$2/usr/lib" -type l -lname '/*' -exec sh -c 'ln -sfn "$1$(readlink "$2")" "$2"' sh "$2" {} \;
  [[ -e $2/usr/lib/x86_64-linux-gnu/pkgconfig/xenlight.pc ]] || die "libxen-dev of $1 has no xenlight.pc"
}

# make_modules ROOT DIR: the PV drivers that Debian's kernel has as modules.
make_modules() {
  local name ko
  mkdir "$2"
  for name in xen-blkfront xen-netfront; do
    ko=$(find "$1/usr/lib/modules" "$1/lib/modules" -name "$name.ko*" -print -quit)
    case $ko in
      *.ko) cp "$ko" "$2/" ;;
      *.xz) xz -dc "$ko" > "$2/$name.ko" ;;
      *.zst) zstd -qdc "$ko" > "$2/$name.ko" ;;
      *) die "Debian's kernel has no module $name" ;;
    esac
  done
}

build() { # build RELEASE
  local v=$1 suite dir tmp sources
  suite=$(suite_of "$v")
  dir=$(image_dir "$v")
  [[ -d $dir ]] && return
  say "building the image of Xen $v (Debian $suite) in $dir; a few minutes"
  sources=("deb $MIRROR/debian $suite main" "deb $MIRROR/debian $suite-updates main" "deb $MIRROR/debian-security $suite-security main")
  tmp=$(mktemp -d "$CACHE/tmp.XXXXXX")
  make_dom0 "$v" "$suite" "$tmp/dom0"
  gunzip -c "$tmp/dom0/boot/xen-$v-amd64.gz" > "$tmp/xen"
  cp "$tmp"/dom0/boot/vmlinuz-* "$tmp/vmlinuz"
  cp "$tmp"/dom0/boot/initrd.img-* "$tmp/initrd"
  make_modules "$tmp/dom0" "$tmp/modules"
  cp "$tmp/vmlinuz" "$tmp/dom0/root/guest/"
  unpack_kernel "$tmp/vmlinuz" > "$tmp/dom0/root/guest/vmlinux" # dom0 would take seconds for it
  truncate -s 3G "$tmp/dom0.img"
  mke2fs -q -t ext4 -d "$tmp/dom0" "$tmp/dom0.img"
  rm -rf --one-file-system "$tmp/dom0"
  make_sysroot "$suite" "$tmp/sysroot"
  chmod 755 "$tmp"
  mv "$tmp" "$dir"
  for old in "$CACHE/$suite"-*; do
    [[ $old == "$dir" ]] || rm -rf --one-file-system "$old"
  done
}

((EUID == 0)) || die "making a disk image with Debian in it needs root"
need_packages qemu-system-x86 qemu-utils mmdebstrap debian-archive-keyring e2fsprogs xz-utils zstd cpio openssh-client gcc libc6-dev pkg-config
mkdir -p "$CACHE"
exec 9> "$CACHE/lock"
flock 9
rm -rf --one-file-system "$CACHE"/tmp.* # of a build that was killed: we hold the lock
trap 'rm -rf --one-file-system "$CACHE"/tmp.*' EXIT
[[ -f $CACHE/key.pub ]] || ssh-keygen -q -t ed25519 -N '' -C xenferry-lab -f "$CACHE/key"
(($#)) || set -- 4.17 4.20
for v; do build "$v"; done
