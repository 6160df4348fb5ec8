#!/bin/bash
# bench-downtime.sh [PAIR]: boots two hosts (4.17+4.17 by default) and moves one PVH and one HVM guest between them by
# stock xl and by xenferry in turn, both over plain TCP. Prints the downtime as the guest sees it and part by part, and
# writes build/lab-bench-downtime.json. Root; leave the machine alone.
#
#   XENFERRY_LAB_ROUNDS=N   how often each (3)
#   XENFERRY_LAB_LINK=RATE  the link between the hosts, as tc has it (10mbit); "off" for as fast as the emulator has it
#   CHECK=1                 fails where a bar is missed
set -euo pipefail
dir=$(cd "$(dirname "$0")" && pwd)
export XENFERRY_LAB_DOWNTIME=${XENFERRY_LAB_DOWNTIME:-$dir/../../build/lab-bench-downtime.json}
mkdir -p "$(dirname "$XENFERRY_LAB_DOWNTIME")"
exec "$dir/test.sh" -run '^TestDowntime$' "${1:-4.17+4.17}"
