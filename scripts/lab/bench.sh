#!/bin/bash
# bench.sh [PAIR]: boots two hosts (4.17+4.17 by default) and moves one PVH and one HVM guest between them with each
# tool in turn: xl over ssh, xl over plain TCP, xenferry. Prints total time, libxl's part of it and downtime side by side,
# and writes build/lab-bench.json. Root; leave the machine alone.
#
#   XENFERRY_LAB_ROUNDS=N   how often each (3)
#   XENFERRY_LAB_LINK=RATE  the link between the hosts, as tc has it (10mbit); "off" for as fast as the emulator has it
#   CHECK=1                 fails where a bar is missed
set -euo pipefail
dir=$(cd "$(dirname "$0")" && pwd)
export XENFERRY_LAB_BENCH=${XENFERRY_LAB_BENCH:-$dir/../../build/lab-bench.json}
mkdir -p "$(dirname "$XENFERRY_LAB_BENCH")"
exec "$dir/test.sh" -run '^TestBench$' "${1:-4.17+4.17}"
