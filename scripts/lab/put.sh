#!/bin/bash
# put.sh A|B FILE PATH: copies a file, with its mode, to PATH on a host of the running lab; a file there is replaced at once.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
(($# == 3)) || die "usage: put.sh A|B FILE PATH"
mode=$(stat -c %a "$2")
printf -v path '%q' "$3"
ssh_to "$1" "mkdir -p \$(dirname $path) && cat > $path.part && chmod $mode $path.part && mv $path.part $path" < "$2"
