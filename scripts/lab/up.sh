#!/bin/bash
# up.sh RELEASE_A RELEASE_B [shadow]: starts two Xen hosts, hostA and hostB, each 4.17 or 4.20, and waits until both are
# ready. With "shadow", both run the hypervisor of shadow.sh.
#
# Each host is a QEMU without hardware virtualisation; QEMU emulates AMD's SVM,
# so HVM and PVH guests run in it. Both have one disk in common, /dev/vdb (the
# SAN), and a private link with the addresses 192.168.77.1 (A) and .2 (B).
# From outside only sshd is reached, on 127.0.0.1; nothing leads out.
#
#   XENFERRY_LAB_OBSERVER=1   a second processor on each host, for an observer alone: dom0 has it and runs nothing on
#                             it that is not sent there (isolcpus, irqaffinity). Guests want cpus="0" then.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

MEM_MB=${XENFERRY_LAB_MEM_MB:-2048}   # of a host
DOM0_MB=${XENFERRY_LAB_DOM0_MB:-1024} # of that, dom0's

# What QEMU's emulation gets wrong or Xen does not bear must be off: under smap
# lret and iret from ring 3 fault; avx and xsave corrupt registers of dom0's
# programs; rdtscp is reported to Xen as rdtsc, and Xen kills the PVH guest.
# cmpxchg16b is hidden from PVH and HVM guests only (guest/pvh.cfg): what Linux
# does without it, cli, is nothing in a PV dom0, whose allocator then breaks.
CPU=max,-smap,-avx,-avx2,-avx512f,-xsave,-rdtscp

# No comma may stand in these: it would end the multiboot module.
XEN_ARGS="dom0_mem=${DOM0_MB}M com1=115200,8n1 console=com1 loglvl=info guest_loglvl=info noreboot smt=0 spec-ctrl=no"
DOM0_ARGS="root=/dev/vda rw console=hvc0 init=/lab-init net.ifnames=0 mitigations=off"

CPUS=1
if [[ -n ${XENFERRY_LAB_OBSERVER:-} ]]; then
  CPUS=2
  XEN_ARGS+=" dom0_vcpus_pin"
  DOM0_ARGS+=" isolcpus=1 nohz_full=1 irqaffinity=0"
fi

start() { # start A|B RELEASE LINK: LINK is QEMU's end of the private link
  local host=host$1 release=$2 link=$3 image port number=1
  image=$(image_dir "$release")
  port=$(port_of "$1")
  [[ $1 == B ]] && number=2
  qemu-img create -q -f qcow2 -b "$image/dom0.img" -F raw "$RUN/$host.qcow2"
  setsid qemu-system-x86_64 -name "$host" -pidfile "$RUN/$host.pid" -nographic -no-reboot \
    -machine q35 -accel tcg,thread=multi,tb-size=512 -cpu "$CPU" -smp "$CPUS" -m "$MEM_MB" \
    -kernel "${hypervisor:-$image/xen}" -append "$XEN_ARGS" \
    -initrd "$image/vmlinuz $DOM0_ARGS labhost=$host,$image/initrd" \
    -drive "file=$RUN/$host.qcow2,if=virtio,format=qcow2,cache=unsafe" \
    -drive "file=$RUN/san.img,if=virtio,format=raw,cache=none,file.locking=off" \
    -netdev "user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:$port-:22" -device virtio-net-pci,netdev=n0 \
    -netdev "socket,id=n1,$link" -device "virtio-net-pci,netdev=n1,mac=52:54:00:77:00:0$number" \
    < /dev/null > "$RUN/$host.console.log" 2> "$RUN/$host.qemu.log" &
}

# mend takes a known fault out of both QEMUs, which now and then kills a guest.
mend() {
  local host
  go build -C "$REPO" -o "$RUN/mend" ./scripts/lab/mend
  for host in hostA hostB; do
    "$RUN/mend" "$(cat "$RUN/$host.pid")" || say "$host: its QEMU is left as it is: now and then it kills a guest (docs/testing.md, The emulator)"
  done
}

wait_file() { # wait_file PATTERN FILE SECONDS HOST
  local end=$((SECONDS + $3))
  until grep -qs "$1" "$2"; do
    if [[ -s $RUN/$4.pid ]] && ! kill -0 "$(cat "$RUN/$4.pid")" 2> /dev/null || [[ -s $RUN/$4.qemu.log && ! -s $RUN/$4.pid ]]; then
      die "$4 ended: $(tail -n 3 "$RUN/$4.qemu.log" "$RUN/$4.console.log")"
    fi
    ((SECONDS < end)) || die "$4 is not up after $3 s; the end of its console: $(tail -n 15 "$RUN/$4.console.log")"
    sleep 1
  done
}

failed() {
  local status=$?
  trap - EXIT
  ((status == 0)) && exit
  [[ -z ${XENFERRY_LAB_LOGS:-} ]] || { mkdir -p "$XENFERRY_LAB_LOGS" && cp "$RUN"/*.log "$XENFERRY_LAB_LOGS/"; } || true
  "$LAB_DIR/down.sh"
  exit "$status"
}

[[ $# == 2 || $# == 3 && $3 == shadow ]] || die "usage: up.sh RELEASE_A RELEASE_B [shadow], each release 4.17 or 4.20"
hypervisor=
if (($# == 3)); then
  [[ $1 == 4.17 && $2 == 4.17 ]] || die "the hypervisor with shadow paging is one of Xen 4.17"
  hypervisor=$("$LAB_DIR/shadow.sh")
fi
for v in "$1" "$2"; do
  [[ -d $(image_dir "$v") ]] || die "there is no image of Xen $v for this recipe: run build.sh $v"
done
mkdir -p "$(dirname "$RUN")"
mkdir -m 700 "$RUN" 2> /dev/null || die "a lab is running or was left behind in $RUN: run down.sh first"
((${#RUN} <= 80)) || die "the path $RUN is too long for the ssh sockets in it: set XENFERRY_LAB_RUN"
touch "$RUN/xenferry-lab" # what down.sh knows it by
trap failed EXIT
truncate -s 512M "$RUN/san.img"
start A "$1" "listen=127.0.0.1:$LINK_PORT"
wait_file . "$RUN/hostA.console.log" 20 hostA # only now does the link listen
start B "$2" "connect=127.0.0.1:$LINK_PORT"
cat > "$RUN/lab.json" <<END
{"hosts": {"A": {"release": "$1", "port": $(port_of A)}, "B": {"release": "$2", "port": $(port_of B)}},
 "hypervisor": "${3:-stock}", "key": "$CACHE/key"}
END
for host in hostA hostB; do
  wait_file 'LAB READY' "$RUN/$host.console.log" 300 "$host"
  say "$host is up: $(grep -a 'LAB READY' "$RUN/$host.console.log" | tr -d '\r')"
done
mend
"$LAB_DIR/install.sh"
