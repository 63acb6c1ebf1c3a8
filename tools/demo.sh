#!/usr/bin/env bash
# A private server with the release build (build/package), and demo/run.py on it.
#
#   tools/demo.sh [--keep] [arguments of demo/run.py]      --keep: the server stays, and is shown how to be reached
# shellcheck source=tools/env.sh
source "$(dirname "$0")/env.sh"
# shellcheck source=tools/private_server.sh
source "$REPO/tools/private_server.sh"

keep=''
if [[ ${1:-} == --keep ]]; then
  keep=1
  shift
fi

server_files demo
server_start <<CONF
shared_buffers = 512MB
maintenance_work_mem = 512MB
max_wal_size = 4GB
CONF
[[ -n $keep ]] || trap server_stop EXIT

"$VENV/bin/python" demo/run.py --dsn "host=$server_dir user=postgres dbname=postgres" --cache "$BUILD/cache" "$@"
if [[ -n $keep ]]; then
  printf '\nThe server stays:  %s/psql -h %s -U postgres\nStop it:           %s%s/pg_ctl -D %s/data stop\n' \
    "$server_bin" "$server_dir" "$([[ $(id -u) -ne 0 ]] || echo "runuser -u $TEST_USER -- ")" "$server_bin" "$server_dir"
fi
