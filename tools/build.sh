#!/usr/bin/env bash
# Builds the extension with plain cargo and puts it where it is wanted.
#
#   tools/build.sh test MAJOR          dev profile with the simulated GPU, into the private server of that major
#   tools/build.sh package PG_CONFIG   release, into build/package: the server's paths below that folder
#   tools/build.sh install PG_CONFIG   copies build/package into that server ($DESTDIR before the paths if set)
# shellcheck source=tools/env.sh
source "$(dirname "$0")/env.sh"

major_of() { "$1" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/'; }

# pgrx finds the server's headers by PGRX_PG_CONFIG_PATH alone. `--locked`: what Cargo.lock says, nothing newer.
build() {
  local config=$1 features=$2
  shift 2
  (cd "$REPO" && PGRX_PG_CONFIG_PATH=$config cargo build --locked --lib -p pg_omen --no-default-features --features "$features" "$@")
}

# copy_to LIBRARY PKGLIBDIR SHAREDIR
copy_to() {
  local version
  install -d "$2" "$3/extension"
  install -m 755 "$1" "$2/pg_omen.so.new"
  # Renamed into place: a server that has the old file mapped must not see it change.
  mv "$2/pg_omen.so.new" "$2/pg_omen.so"
  rm -f "$3"/extension/pg_omen*
  install -m 644 "$REPO/pg_omen.control" "$3/extension/"
  # What has been released stays as it was: sql/pg_omen--*.sql.
  find "$REPO/sql" -maxdepth 1 -name 'pg_omen--*.sql' -exec install -m 644 -t "$3/extension" {} +
  version=$(sed -n "s/^default_version *= *'\(.*\)'/\1/p" "$REPO/pg_omen.control")
  cat "$REPO"/sql/install/*.sql > "$3/extension/pg_omen--$version.sql"
}

case ${1:-} in
  test)
    major=${2:?which major?}
    build "$(pg_build_config "$major")" "pg$major,simulated-gpu"
    config=$(pg_tree "$major")/bin/pg_config
    copy_to "$TARGET/debug/libpg_omen.so" "$("$config" --pkglibdir)" "$("$config" --sharedir)"
    ;;
  package)
    config=${2:?which pg_config?}
    build "$config" "pg$(major_of "$config")" --release
    rm -rf "$BUILD/package"
    copy_to "$TARGET/release/libpg_omen.so" "$BUILD/package$("$config" --pkglibdir)" "$BUILD/package$("$config" --sharedir)"
    ;;
  install)
    config=${2:?which pg_config?}
    from=$BUILD/package lib=$("$config" --pkglibdir) share=$("$config" --sharedir)
    [[ -f $from$lib/pg_omen.so ]] || die "nothing built for $config yet: run make PG_CONFIG=$config first"
    install -d "${DESTDIR:-}$lib" "${DESTDIR:-}$share/extension"
    install -m 755 "$from$lib/pg_omen.so" "${DESTDIR:-}$lib/pg_omen.so.new"
    mv "${DESTDIR:-}$lib/pg_omen.so.new" "${DESTDIR:-}$lib/pg_omen.so"
    install -m 644 "$from$share"/extension/* "${DESTDIR:-}$share/extension/"
    echo "installed in ${DESTDIR:-}$lib and ${DESTDIR:-}$share/extension"
    ;;
  *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
