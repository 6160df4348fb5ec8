#!/bin/bash
# down.sh: ends the two hosts that up.sh started, and removes all that they left. Harmless when there are none.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

# ours PID: tells whether that process is a QEMU of this lab: a pid may have been given to another by now.
ours() {
  [[ -r /proc/$1/cmdline ]] && tr '\0' '\n' < "/proc/$1/cmdline" | grep -qF "$RUN/host"
}

stop() { # stop PIDFILE
  local pid i
  pid=$(cat "$1")
  ours "$pid" || return 0
  kill "$pid"
  for i in $(seq 50); do
    ours "$pid" || return 0
    ((i == 30)) && kill -KILL "$pid"
    sleep 0.1
  done
  die "QEMU, process $pid, does not end"
}

[[ -d $RUN ]] || exit 0
[[ -f $RUN/xenferry-lab ]] || die "$RUN was not made by up.sh: not touched"
for h in A B; do
  port=$(port_of $h)
  [[ ! -S $RUN/ssh-$port ]] || ssh -q -o ControlPath="$RUN/ssh-%p" -p "$port" -O exit root@127.0.0.1 2> /dev/null || true
done
for pidfile in "$RUN"/host?.pid; do
  [[ -f $pidfile ]] && stop "$pidfile"
done
rm -rf --one-file-system "$RUN"
