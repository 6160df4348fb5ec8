#!/bin/sh
# Runs every fuzz target, of the module or of some folders, for a time (5m) or a
# number of inputs (2000x) each: scripts/fuzz.sh 5m ./savefmt
set -eu
time=${1:?usage: scripts/fuzz.sh TIME|COUNTx [FOLDER...]}
shift
go=${GO:-go}
for dir in $(grep -rl --include='*_test.go' '^func Fuzz' "${@:-.}" | xargs -n 1 dirname | sort -u); do
    for target in $("$go" test -list '^Fuzz' "$dir" | grep '^Fuzz'); do
        # Shrinking what is new, but not wrong, would take most of the time.
        if ! out=$("$go" test "$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x 2>&1); then
            echo "$out"
            exit 1
        fi
        echo "$dir $target: $(echo "$out" | grep -o 'execs: [0-9]*' | tail -1)"
    done
done
