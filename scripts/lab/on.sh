#!/bin/bash
# on.sh A|B COMMAND...: runs a command on a host of the running lab, as root, with this script's stdin.
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"
(($# >= 2)) || die "usage: on.sh A|B COMMAND..."
ssh_to "$@"
