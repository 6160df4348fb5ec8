#!/bin/bash
# bench-signal.sh: boots two hosts of Xen 4.17 with a second processor each, and measures on the first, while 0, 12, 24
# and 48 processes hammer xenstore: how long after a guest's stop dom0 knows it, by an event channel and by a watch; and
# saves of xl and of xenferry. Prints tables and writes build/lab-bench-signal.json. Root; leave the machine alone.
#
#   XENFERRY_LAB_ROUNDS=N   suspends by each way under each load (30); two saves by each tool for three of them
#   CHECK=1                 fails where a bar is missed
set -euo pipefail
dir=$(cd "$(dirname "$0")" && pwd)
export XENFERRY_LAB_SIGNAL=${XENFERRY_LAB_SIGNAL:-$dir/../../build/lab-bench-signal.json}
export XENFERRY_LAB_OBSERVER=1 XENFERRY_LAB_LIMIT=${XENFERRY_LAB_LIMIT:-4h}
mkdir -p "$(dirname "$XENFERRY_LAB_SIGNAL")"
exec "$dir/test.sh" -run '^TestSignals$' 4.17+4.17
