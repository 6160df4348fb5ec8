#!/bin/bash
# test.sh [-run REGEXP] [PAIR...]: the tests on real Xen. For each pair of releases it boots two hosts, runs the Go
# tests of labtest against them, and takes them down. 4.17+4.17 4.17+4.20 4.20+4.20 by default, and then
# 4.17+4.17:shadow, which has a hypervisor with shadow paging and is for TestTypes alone: not with -run.
# The last line is "N passed, N failed"; the exit status is not 0 if any failed or none ran. Root; some hours.
#
#   XENFERRY_LAB_KEEP=1               leaves the hosts running, and uses those of the same pair that run already:
#                                     a change is tested in seconds with test.sh -run TestX 4.17+4.17
#   XENFERRY_LAB_LOGS=DIR             where logs of failed tests go (default: logs in the cache)
#   XENFERRY_LAB_LIMIT=110m           for all tests of one pair
#   XENFERRY_LAB_MINUTES=N            no test and no cell of TestTypes begins later than that; XENFERRY_LAB_KILL_MINUTES=N: no row
#                                     of TestKills does.
#                                     What was not run is counted at the end. No limits by default
#   XENFERRY_LAB_WITHOUT_XENFERRY=1   tests only the lab, with stock Xen
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

TEST_LIMIT=${XENFERRY_LAB_LIMIT:-110m} # for all tests of one pair
MOST_REPEATS=3 # in all pairs: the emulator's fault has been seen once in some forty guests, and all pairs have about thirty
repeated=()    # what was run once more

# up PAIR: has two hosts run with our programs on them.
up() {
  local pair=${1%:*} variant=
  [[ $1 != *:* ]] || variant=${1#*:}
  local a=${pair%+*} b=${pair#*+}
  # QEMU removes its pid file when it ends.
  if [[ -n ${XENFERRY_LAB_KEEP:-} && -f $RUN/hostA.pid && -f $RUN/hostB.pid ]] && grep -qs "\"A\": {\"release\": \"$a\".*\"B\": {\"release\": \"$b\"" "$RUN/lab.json" &&
    grep -qs "\"hypervisor\": \"${variant:-stock}\"" "$RUN/lab.json"; then
    "$LAB_DIR/install.sh"
  else
    "$LAB_DIR/down.sh" && "$LAB_DIR/up.sh" "$a" "$b" ${variant:+"$variant"}
  fi
}

# put_tests RELEASE: builds the test programs that need a hypervisor under them, and puts them on hostA.
put_tests() {
  local package name dir
  dir=$(mktemp -d)
  "$LAB_DIR/on.sh" A 'rm -rf /root/tests' || return
  for package in xenctrl evtchn xen/xl; do
    name=${package//\//-}.test
    "$LAB_DIR/sysroot.sh" "$1" go test -C "$REPO" -c -tags xen,lab -o "$dir/$name" "./$package" || return
    "$LAB_DIR/put.sh" A "$dir/$name" "/root/tests/$name" || return
  done
  rm -r "$dir"
}

# run_pair PAIR: the phase of one pair. Fails if a test failed or could not be run.
# It is called in a condition, where bash does not end at errors: each is passed on.
run_pair() {
  local pair=$1 tests=$RUN_TESTS
  up "$pair" || return
  [[ $pair != *:* || $tests != . ]] || tests='^TestTypes$'
  if [[ $pair != *:* && -z ${XENFERRY_LAB_WITHOUT_XENFERRY:-} && ${pair%+*} == "${pair#*+}" ]]; then
    put_tests "${pair%+*}" || return
  fi
  run_tests "$tests" && { cat "$log.run" >> "$log"; return; }
  repeat_blameless
}

# repeat_blameless: takes what run_tests has left of a pair with a failure. What failed because of the emulator (see blame
# and labtest/evidence.go) is run once more, and that counts. Fails if a test has failed for another reason, or again, or
# if the emulator is blamed more often than it has ever earned.
repeat_blameless() {
  local status=0 units unit
  units=$(go run -C "$REPO" ./scripts/lab/blame < "$log.run") || return
  [[ -n $units ]] || status=1
  for unit in $units; do
    sed -i "s/^--- FAIL: ${unit%%/*} /--- REPEATED: ${unit%%/*} /" "$log.run"
  done
  ! grep -q '^--- FAIL' "$log.run" || status=1
  cat "$log.run" >> "$log"
  for unit in $units; do
    if ((${#repeated[@]} == MOST_REPEATS)); then
      say "$unit: emulator fault, but $MOST_REPEATS were repeated already: something else makes guests die"
      echo "--- FAIL: $unit (not repeated)" >> "$log"
      status=1
      continue
    fi
    say "EMULATOR FAULT: repeating once: $unit"
    repeated+=("$unit")
    run_tests "^${unit//\//\$/^}\$" || status=1
    cat "$log.run" >> "$log"
  done
  return $status
}

# run_tests REGEXP: runs tests; what they print goes to the terminal and to $log.run.
run_tests() {
  go test -C "$REPO" -tags lab -count=1 -timeout "$TEST_LIMIT" -v -run "$1" ./scripts/lab/labtest 2>&1 | tee "$log.run"
}

finish() {
  local status=$?
  trap - EXIT INT TERM
  [[ -n ${XENFERRY_LAB_KEEP:-} ]] || "$LAB_DIR/down.sh" || status=1
  rm -f "$log" "$log.run"
  exit "$status"
}

RUN_TESTS=.
if [[ ${1:-} == -run ]]; then
  RUN_TESTS=${2:?-run wants a regular expression}
  shift 2
fi
if (($# == 0)); then
  set -- 4.17+4.17 4.17+4.20 4.20+4.20
  [[ $RUN_TESTS != . ]] || set -- "$@" 4.17+4.17:shadow
fi
pairs=("${@%:*}")
releases=$(printf '%s\n' "${pairs[@]//+/ }" | xargs -n 1 | sort -u)
export XENFERRY_LAB_RUN=$RUN XENFERRY_LAB_CACHE=$CACHE XENFERRY_LAB_PORT=$PORT
export XENFERRY_LAB_LOGS=${XENFERRY_LAB_LOGS:-$CACHE/logs}
rm -rf "$XENFERRY_LAB_LOGS"
[[ -z ${XENFERRY_LAB_MINUTES:-} ]] || export XENFERRY_LAB_END=$(($(date +%s) + XENFERRY_LAB_MINUTES * 60))
log=$(mktemp)
trap finish EXIT
trap 'exit 130' INT TERM

# shellcheck disable=SC2086 # one word a release
"$LAB_DIR/build.sh" $releases
broken=0
for pair; do
  if [[ -n ${XENFERRY_LAB_END:-} ]] && (($(date +%s) > XENFERRY_LAB_END)); then
    echo "NOT RUN: the pair $pair: the time for all was over" | tee -a "$log"
    continue
  fi
  say "Xen $pair, $((SECONDS / 60)) minutes after the start"
  before=$(grep -c '^--- FAIL' "$log") || true
  if ! run_pair "$pair"; then
    after=$(grep -c '^--- FAIL' "$log") || true
    # No test says that it failed: the lab itself did, or a program would not build.
    ((after > before)) || { broken=$((broken + 1)) && say "Xen $pair: FAILED before or between its tests"; }
  fi
done

# Pages above, a table or two later, nobody finds it.
grep -oE '[a-z-]+ failed in dom0: .*' "$log" | cut -c 1-3000 || true
cut=$(grep -c 'NOT RUN' "$log") || true
((cut == 0)) || say "$cut NOT RUN for lack of time (tests, rows and pairs; see above)"
passed=$(grep -c '^--- PASS' "$log") || true
failed=$(($(grep -c '^--- FAIL' "$log") + broken)) || true
skipped=$(grep -c '^--- SKIP' "$log") || true
say "$skipped skipped: they do not apply to that pair; all took $((SECONDS / 60)) minutes"
say "${#repeated[@]} repeated after a fault of the emulator${repeated[*]:+: ${repeated[*]}}"
[[ -d $XENFERRY_LAB_LOGS ]] && say "logs of what failed are in $XENFERRY_LAB_LOGS"
echo "$passed passed, $failed failed"
((passed > 0 && failed == 0))
