#!/usr/bin/env bash
# A private server with the release build (build/package), and demo/run.py on it.
#
#   tools/demo.sh [--keep] [arguments of demo/run.py]      --keep: the server stays, and is shown how to be reached
# shellcheck source=tools/env.sh
source "$(dirname "$0")/env.sh"

keep=''
if [[ ${1:-} == --keep ]]; then
  keep=1
  shift
fi
dir=$RUN_ROOT/demo
tree=$RUN_ROOT/pg/demo
bin=$tree/lib/postgresql/15/bin

stop() { [[ ! -f $dir/data/postmaster.pid ]] || as_test_user "$bin/pg_ctl" -D "$dir/data" -m fast -w stop >/dev/null; }

# The files of the test server, by hard links, with the release build in place of the test build.
[[ ! -x $bin/pg_ctl ]] || stop
rm -rf "$tree"
cp -al "$RUN_ROOT/pg/15" "$tree"
rm -f "$tree"/lib/postgresql/15/lib/pg_omen.so "$tree"/share/postgresql/15/extension/pg_omen*
cp "$BUILD"/package/usr/lib/postgresql/15/lib/pg_omen.so "$tree/lib/postgresql/15/lib/"
cp "$BUILD"/package/usr/share/postgresql/15/extension/pg_omen* "$tree/share/postgresql/15/extension/"

rm -rf "$dir"
install -d -m 755 "$dir"
[[ $(id -u) -ne 0 ]] || chown "$TEST_USER" "$dir"
cd /
TZ=GMT as_test_user "$bin/initdb" -D "$dir/data" -U postgres -A trust --encoding=UTF8 --locale=C --no-instructions >"$BUILD/demo.log" 2>&1 ||
  die "initdb failed: $(tail -n 3 "$BUILD/demo.log")"
as_test_user tee -a "$dir/data/postgresql.conf" >/dev/null <<CONF
listen_addresses = ''
unix_socket_directories = '$dir'
shared_buffers = 512MB
maintenance_work_mem = 512MB
max_wal_size = 4GB
timezone = 'GMT'
log_timezone = 'GMT'
jit = off
CONF
as_test_user "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w start >/dev/null || die "the server did not start: $(tail -n 5 "$dir/log")"
[[ -n $keep ]] || trap stop EXIT

cd "$REPO"
"$VENV/bin/python" demo/run.py --dsn "host=$dir user=postgres dbname=postgres" --cache "$BUILD/cache" "$@"
if [[ -n $keep ]]; then
  printf '\nThe server stays:  %s/psql -h %s -U postgres\nStop it:           %s%s/pg_ctl -D %s/data stop\n' \
    "$bin" "$dir" "$([[ $(id -u) -ne 0 ]] || echo "runuser -u $TEST_USER -- ")" "$bin" "$dir"
fi
