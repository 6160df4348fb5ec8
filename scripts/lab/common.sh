# shellcheck shell=bash
# common.sh: names and places that all scripts of the lab share. Sourced, never run.
#
#   XENFERRY_LAB_CACHE   images and keys, kept between runs   (default ~/.cache/xenferry-lab)
#   XENFERRY_LAB_RUN     state of the running lab             (default $XENFERRY_LAB_CACHE/run)
#   XENFERRY_LAB_PORT    first of three ports on 127.0.0.1: ssh of hostA, ssh of hostB,
#                        the link between them                (default 24220)
#   XENFERRY_LAB_MIRROR  Debian mirror                        (default http://deb.debian.org)
set -euo pipefail

LAB_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPO=$(cd "$LAB_DIR/../.." && pwd)
CACHE=${XENFERRY_LAB_CACHE:-$HOME/.cache/xenferry-lab}
RUN=${XENFERRY_LAB_RUN:-$CACHE/run}
PORT=${XENFERRY_LAB_PORT:-24220}
MIRROR=${XENFERRY_LAB_MIRROR:-http://deb.debian.org}
LINK_PORT=$((PORT + 2))
export LAB_DIR REPO CACHE RUN PORT LINK_PORT MIRROR

die() { echo "${0##*/}: $*" >&2; exit 1; }
say() { echo "lab: $*" >&2; }

# suite_of RELEASE: the Debian suite that ships that release of Xen.
suite_of() {
  case $1 in
    4.17) echo bookworm ;;
    4.20) echo trixie ;;
    *) die "unknown Xen release '$1': the lab knows 4.17 (Debian 12) and 4.20 (Debian 13)" ;;
  esac
}

# image_dir RELEASE: where the image of that release is or will be. The hash
# covers all that decides its content, so a changed recipe makes a new image.
image_dir() {
  local suite hash
  suite=$(suite_of "$1")
  [[ -f $CACHE/key.pub ]] || die "no ssh key in $CACHE: run build.sh first"
  hash=$(cat "$LAB_DIR/build.sh" "$LAB_DIR/dom0-init" "$CACHE/key.pub" | sha256sum)
  echo "$CACHE/$suite-${hash:0:12}"
}

# shadow_dir: where shadow.sh keeps the hypervisor that it builds, by its recipe.
shadow_dir() {
  local hash
  hash=$(sha256sum < "$LAB_DIR/shadow.sh")
  echo "$CACHE/shadow-${hash:0:12}"
}

# need_packages PACKAGE...: installs those that are missing (root, apt).
need_packages() {
  local p missing=()
  for p; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null) == installed ]] || missing+=("$p")
  done
  ((${#missing[@]} == 0)) && return
  ((EUID == 0)) || die "packages missing: ${missing[*]}: install them, or run this as root"
  say "installing ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" > /dev/null
}

# port_of A|B: the port on 127.0.0.1 that leads to that host's sshd.
port_of() {
  case $1 in
    A) echo "$PORT" ;;
    B) echo $((PORT + 1)) ;;
    *) die "no host '$1': the lab has A and B" ;;
  esac
}

# ssh_to A|B [COMMAND...]: ssh as root. One connection a host is kept open and
# shared, since a handshake takes an emulated host a second.
ssh_to() {
  local port
  port=$(port_of "$1")
  shift
  ssh -q -i "$CACHE/key" -p "$port" -o BatchMode=yes -o ConnectTimeout=30 \
    -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
    -o ControlMaster=auto -o ControlPath="$RUN/ssh-%p" -o ControlPersist=600 \
    root@127.0.0.1 "$@"
}
