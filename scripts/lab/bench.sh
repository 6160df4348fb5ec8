#!/bin/bash
# bench.sh [PAIR]: boots two hosts (4.17+4.17 by default) and moves one PVH and one HVM guest between them with each
# tool in turn: xl over ssh, xl over plain TCP, xenferry. Prints total time and downtime side by side. Root.
#
#   XENFERRY_LAB_ROUNDS=N   how often each (3)
set -euo pipefail
export XENFERRY_LAB_BENCH=1
exec "$(dirname "$0")/test.sh" -run '^TestBench$' "${1:-4.17+4.17}"
