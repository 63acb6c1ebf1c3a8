#!/usr/bin/env bash
# Removes what was built, the private servers and the test clusters.
# shellcheck source=tools/env.sh
source "$(dirname "$0")/env.sh"

for pidfile in "$RUN_ROOT"/t/*/*/data/postmaster.pid "$RUN_ROOT"/{demo,bench}/data/postmaster.pid; do
  [[ -f $pidfile ]] && die "a server still runs in $(dirname "$pidfile")"
done
rm -rf "${RUN_ROOT:?}" "${BUILD:?}"
(cd "$REPO" && cargo clean)
