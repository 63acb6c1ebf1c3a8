# shellcheck shell=bash
# A private server with the release build (build/package); sourced after env.sh, never run by itself.
#
#   server_files NAME         stops the server of that name if it runs, and makes its files anew: those of the test server, by hard links,
#                             with the release build in place of the test build. Sets server_dir, server_tree, server_bin.
#   server_start <<CONF       an empty cluster in $server_dir with these settings, started; its socket is in $server_dir, its superuser postgres
#   server_stop
server_dir='' server_tree='' server_bin=''

server_files() {
  server_dir=$RUN_ROOT/$1
  server_tree=$RUN_ROOT/pg/$1
  server_bin=$server_tree/lib/postgresql/15/bin
  [[ ! -x $server_bin/pg_ctl ]] || server_stop
  rm -rf "$server_tree"
  cp -al "$RUN_ROOT/pg/15" "$server_tree"
  rm -f "$server_tree"/lib/postgresql/15/lib/pg_omen.so "$server_tree"/share/postgresql/15/extension/pg_omen*
  cp "$BUILD"/package/usr/lib/postgresql/15/lib/pg_omen.so "$server_tree/lib/postgresql/15/lib/"
  cp "$BUILD"/package/usr/share/postgresql/15/extension/pg_omen* "$server_tree/share/postgresql/15/extension/"
}

# The settings come from standard input. The caller's folder may be one that the server's user cannot enter: hence cd.
server_start() {
  local log
  log=$BUILD/$(basename "$server_dir").log
  rm -rf "$server_dir"
  install -d -m 755 "$server_dir"
  [[ $(id -u) -ne 0 ]] || chown "$TEST_USER" "$server_dir"
  cd / || die "no folder /"
  TZ=GMT as_test_user "$server_bin/initdb" -D "$server_dir/data" -U postgres -A trust --encoding=UTF8 --locale=C --no-instructions \
    </dev/null >"$log" 2>&1 || die "initdb failed: $(tail -n 3 "$log")"
  { printf "listen_addresses = ''\nunix_socket_directories = '%s'\ntimezone = 'GMT'\nlog_timezone = 'GMT'\njit = off\n" "$server_dir"; cat; } |
    as_test_user tee -a "$server_dir/data/postgresql.conf" >/dev/null
  as_test_user "$server_bin/pg_ctl" -D "$server_dir/data" -l "$server_dir/log" -w start >/dev/null ||
    die "the server did not start: $(tail -n 5 "$server_dir/log")"
  cd "$REPO" || die "no folder $REPO"
}

server_stop() {
  [[ ! -f $server_dir/data/postmaster.pid ]] || as_test_user "$server_bin/pg_ctl" -D "$server_dir/data" -m fast -w stop >/dev/null
}
