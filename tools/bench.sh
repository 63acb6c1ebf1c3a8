#!/usr/bin/env bash
# A private server with the release build (build/package), and benches/sql/run.py on it.
#
#   tools/bench.sh [arguments of benches/sql/run.py]
#   PEERS=DIR tools/bench.sh ...     also the extensions in that tree, as `make install DESTDIR=DIR` of pgvector and VectorChord leaves it:
#                                    DIR/usr/lib/postgresql/15/lib, DIR/usr/share/postgresql/15/extension
# shellcheck source=tools/env.sh
source "$(dirname "$0")/env.sh"
# shellcheck source=tools/private_server.sh
source "$REPO/tools/private_server.sh"

preload=''
[[ -z ${PEERS:-} ]] || PEERS=$(realpath "$PEERS")
server_files bench
if [[ -n ${PEERS:-} ]]; then
  lib=$PEERS/usr/lib/postgresql/15/lib share=$PEERS/usr/share/postgresql/15/extension
  [[ -d $lib && -d $share ]] || die "$PEERS has no usr/lib/postgresql/15/lib with usr/share/postgresql/15/extension"
  # What is there are hard links to another server's files: they are replaced, not written to. The release build stays as it is.
  find "$lib" -maxdepth 1 -name '*.so' ! -name 'pg_omen*' -exec cp --remove-destination -t "$server_tree/lib/postgresql/15/lib" {} +
  find "$share" -maxdepth 1 -type f ! -name 'pg_omen*' -exec cp --remove-destination -t "$server_tree/share/postgresql/15/extension" {} +
  [[ ! -f $lib/vchord.so ]] || preload=vchord
fi
# Nothing in the background while times are taken; checkpoints and vacuums are the benchmark's own.
server_start <<CONF
shared_buffers = 2GB
max_wal_size = 16GB
checkpoint_timeout = 1h
autovacuum = off
shared_preload_libraries = '$preload'
CONF
trap server_stop EXIT

"$VENV/bin/python" benches/sql/run.py --dsn "host=$server_dir user=postgres dbname=postgres" --cache "$BUILD/cache" "$@"
