#!/usr/bin/env bash
# On a machine with a GPU: the benchmark that `make bench-gpu` packed into .device. Prints the tables last; OUT gets measurements.jsonl,
# results.json, table.txt, recall.png, run.log.
#
#   benches/gpu/run.sh OUT [PART...]
#
#   quick   (default) 1M x 768: data, searches without a server, torch's exact search. About 4 minutes
#   full    quick, then through SQL. At most 10 minutes
#   sql     1M x 768: data, then through SQL alone
#   service 1M x 768: data, through SQL, then many clients on the shared GPU service. At most 10 minutes
#   build   1M x 768: data, then CREATE INDEX with several settings and its floors. About 5 minutes
#   builds  those builds alone, after a part that has made data, a server and the table
#   train   training and assigning from memory, after a part that has made data
#   10m     10M x 768: data, searches without a server. At most 10 minutes
#   train10m 10M x 768: data, then training and assigning from memory. At most 6 minutes
#   build10m 10M x 768: data, the table, then CREATE INDEX, all in /dev/shm (some 90 GB). At most 10 minutes
#   real    each .device-real/*.npz: data, searches without a server, torch's exact search
#
# SCALE=N makes N rows instead (and parts with 10m 10 N), to try it. SIMULATED=1: no GPU, tiny sizes, to try the scripts themselves.
# PG_ARCHIVE: another packed server than .device/pg*.tar.xz.
# PG_DIR: folder of the server (default: /tmp/pg; /dev/shm/omen-pg for build10m).
# GPU_SEARCH, GPU_TRAIN, PYTHON, WORK: the programs, the interpreter, the folder for the data (default: /dev/shm if it has room).
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
out=${1:?folder for the results}
shift
parts=("${@:-quick}")
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
gpu_search=${GPU_SEARCH:-$repo/.device/gpu/gpu_search}
gpu_train=${GPU_TRAIN:-$repo/.device/gpu/gpu_train}
scale=${SCALE:-1000000}
simulated=() tiny=() train_simulated=()
[[ -z ${SIMULATED:-} ]] || simulated=(--simulated --seconds 0.02) tiny=(--dim 40 --nq 200) train_simulated=(--simulated)
# Of data whose rows alone count: few queries, and a rough order.
rows_alone=(--nq 1000 --k 10 --lists 1024 --iterations 2)
# More arguments for the scripts of that name.
read -ra sql_arguments <<<"${SQL_ARGUMENTS:-}"
read -ra service_arguments <<<"${SERVICE_ARGUMENTS:-}"
read -ra build_arguments <<<"${BUILD_ARGUMENTS:-}"
read -ra train_arguments <<<"${TRAIN_ARGUMENTS:-}"
lines=$out/measurements.jsonl log=$out/run.log
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
: >"$lines"
: >"$log"
data='' made=''
failures=0
server_folder=()

# step NAME SECONDS COMMAND...: its standard output are results, the rest is log. Ends it when the seconds are over.
step() {
  local name=$1 bound=$2 began=$SECONDS code=0 outcome=ok
  shift 2
  echo "== $name" | tee -a "$log"
  timeout -k 5 "$bound" "$@" >>"$lines" 2>>"$log" </dev/null || code=$?
  # A command that was stopped may have left half a line.
  [[ -z $(tail -c 1 "$lines") ]] || echo >>"$lines"
  if ((code)); then
    outcome="FAILED ($( ((code == 124 || code == 137)) && echo "stopped after $bound s" || echo "exit $code"))"
    failures=$((failures + 1))
    tail -n 25 "$log"
  fi
  printf '{"part": "step", "name": "%s", "outcome": "%s", "seconds": %d}\n' "$name" "$outcome" $((SECONDS - began)) >>"$lines"
  return "$code"
}

# place MEGABYTES: an empty folder for data, in memory if they fit there.
place() {
  [[ -z $data ]] || rm -rf "$data"
  local root=${WORK:-/dev/shm}
  if [[ -z ${WORK:-} ]] && (($(df -Pm "$root" 2>/dev/null | awk 'NR == 2 {print $4}') + 0 < $1)); then root=${TMPDIR:-/tmp}; fi
  data=$(mktemp -d "$root/omen-bench.XXXXXX")
  chmod 755 "$data"
}
# shellcheck disable=SC2317,SC2329  # called by the trap
clean() {
  [[ -z $data ]] || rm -rf "$data"
  [[ -z ${server:-} ]] || "$repo/.device/pg" wipe "${server_folder[@]}" >/dev/null 2>&1
}
trap clean EXIT

# make_data ROWS SECONDS [ARGUMENTS]
make_data() {
  local rows=$1 bound=$2
  shift 2
  # What the part before has made, and left whole.
  [[ $made != "$rows $*" || ! -f $data/rows.f16 ]] || return 0
  place $((rows * 1700 / 1000000 + 500))
  step "data, $rows rows" "$bound" "$python" "$here/data.py" "$data" --n "$rows" "$@" && made="$rows $*"
}
search() { # SECONDS ARGUMENTS...
  local bound=$1
  shift
  step search $((bound + 60)) "$gpu_search" "$data" --limit "$bound" "${simulated[@]}" "$@"
}
train() { step train 120 "$gpu_train" "$data" "${train_simulated[@]}" "${train_arguments[@]}"; }
torch() { ((${#simulated[@]})) || step torch 60 "$python" "$here/torch_baseline.py" "$data"; }

# A server of our own, with these arguments for `pg up`, unless the environment names one; and the client's packages.
start_server() {
  local memory=${MEMORY_MB:-48000} site=/tmp/pg_omen_site
  if [[ -z ${PGHOST:-} ]]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$repo"/.device/whl/*.whl >>"$log" 2>&1
    export PYTHONPATH=$site
    # Durability costs loading time only: searches write nothing.
    local settings=(-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c autovacuum=off -c wal_level=minimal -c max_wal_senders=0)
    server_folder=(${PG_DIR:+-d "$PG_DIR"})
    if ! server=$("$repo/.device/pg" up ${PG_ARCHIVE:+-a "$PG_ARCHIVE"} "${server_folder[@]}" -m "$memory" "${settings[@]}" "$@" 2>>"$log"); then
      echo "the server did not start"
      tail -n 20 "$log"
      failures=$((failures + 1))
      return 1
    fi
    eval "$server"
  fi
}
sql() {
  start_server || return 1
  step sql "$((${1:-240} + 20))" "$python" "$here/sql.py" "$data" --limit "${1:-240}" "${sql_arguments[@]}"
  server_log
}
# Index builds are logged, as on a server that has standbys.
logged=(-c wal_level=replica -c max_wal_size=64GB -c max_worker_processes=40 -c max_parallel_workers=32 -c max_parallel_maintenance_workers=8)
builds() { step builds "$((${1:-200} + 60))" "$python" "$here/build.py" "$data" --limit "${1:-200}" "${build_arguments[@]}"; }
build() {
  start_server "${logged[@]}" || return 1
  step sql 120 "$python" "$here/sql.py" "$data" --limit 100 --engines '' "${sql_arguments[@]}"
  builds
  server_log
}
# Table, index, data and memory for 10M x 768 have to fit a machine of 128 GB beside each other: the WAL is kept short. Vectors are in line, and the table's
# files are written without the server: COPY took four to six and a half of the ten minutes, out of line more than that.
build10m() {
  export PG_DIR=${PG_DIR:-/dev/shm/omen-pg}
  MEMORY_MB=24000 start_server "${logged[@]}" -c max_wal_size=6GB -c min_wal_size=4GB || return 1
  step build10m 400 "$python" "$here/build.py" "$data" --limit 380 --load --files --parts gpu,floors --workers 14 --memory 4GB,20GB --seconds 70 "${build_arguments[@]}"
  server_log
}
service() {
  start_server -l pg_omen -c max_connections=500 "${logged[@]}" || return 1
  step sql 300 "$python" "$here/sql.py" "$data" --limit 260 --engines gpu "${sql_arguments[@]}"
  step service 260 "$python" "$here/service.py" "$data" --limit 240 "${service_arguments[@]}"
  server_log
}
server_log() {
  if [[ -n ${PGLOG:-} ]]; then grep -E 'WARNING|ERROR|LOG:.*omen' "$PGLOG" | tail -n 40 >>"$log"; fi
  return 0
}

[[ -x $gpu_search ]] || { echo "no $gpu_search: make bench-gpu packs it"; exit 2; }
"$python" "$here/machine.py" | tee -a "$lines"
for part in "${parts[@]}"; do
  case $part in
    quick) make_data "$scale" 120 "${tiny[@]}" && { search 150; torch; } ;;
    full) make_data "$scale" 120 "${tiny[@]}" && { search 110; torch; sql 240; } ;;
    sql) make_data "$scale" 120 "${tiny[@]}" && sql 240 ;;
    service) make_data "$scale" 120 "${tiny[@]}" && service ;;
    builds) builds 110 ;;
    train) train ;;
    build) make_data "$scale" 120 "${tiny[@]}" && build ;;
    10m)
      make_data $((10 * scale)) 240 "${tiny[@]}" &&
        { search 200 --no-codes --batches 10000,1024,1 --exact 1,1024 --targets 10:0.95,10:0.957,10:0.99 --curve 32,128,512; torch; }
      ;;
    train10m) make_data $((10 * scale)) 240 "${rows_alone[@]}" "${tiny[@]}" && train ;;
    build10m) make_data $((10 * scale)) 200 "${rows_alone[@]}" "${tiny[@]}" && build10m ;;
    real)
      found=("$repo"/.device-real/*.npz)
      [[ -f ${found[0]} ]] || { echo "no .device-real/*.npz: make bench-gpu REAL=... packs them"; failures=$((failures + 1)); }
      for file in "${found[@]}"; do
        [[ ! -f $file ]] || { make_data 1000000 120 --npz "$file" && { search 100; torch; }; }
      done
      ;;
    *) echo "no part $part"; sed -n '2,17s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
done
echo
"$python" "$here/report.py" "$out" 2>>"$log" || { tail -n 10 "$log"; failures=$((failures + 1)); }
exit $((failures > 0))
