#!/usr/bin/env bash
# Everything that can be checked on this machine; the last line is "N passed, N failed, N skipped".
#
#   tools/test.sh [MAJOR[:MARK]...]         the PostgreSQL majors whose servers are tested (default 15); with a mark, by tests that have it
#   tools/test.sh --soak SECONDS [MAJOR]    only pg_test/soak.py, for so long; SOAK holds its options
#   ONLY="static crates kernels server" tools/test.sh    some of the parts
#   PYTEST_ARGS='-k crash' ONLY=server tools/test.sh     some of the server tests; '-n 0' has one process run them, '-n 0 -s' shows what they print
#
# Server tests wait much, for processes and for clocks: as many processes as there are cores run them, and beside them, for what time they leave,
# goes all that cargo does. So steps overlap, and each is told when it ends.
# shellcheck source=tools/env.sh
source "$(dirname "$0")/env.sh"

soak=''
if [[ ${1:-} == --soak ]]; then
  soak=$2
  shift 2
fi
majors=("$@")
((${#majors[@]})) || majors=(15)
parts=${ONLY:-static crates kernels server}
logs=$BUILD/log
steps=$logs/steps.tsv
mkdir -p "$logs"
: > "$steps"
started=$SECONDS

# step KIND NAME COMMAND...: runs, keeps the output in build/log, shows its end when the step fails.
step() {
  local kind=$1 name=$2 log code=0 began=$SECONDS
  shift 2
  log=$logs/$(tr -c 'A-Za-z0-9\n' _ <<<"$name").log
  printf '== %s ...\n' "$name"
  # What it may leave running shall not hold the pipe of `cargo_steps`.
  "$@" >"$log" 2>&1 </dev/null 4>&- || code=$?
  printf '%s\t%s\t%s\t%s\n' "$kind" "$name" "$code" "$log" >> "$steps"
  if ((code)); then
    printf '== %s: FAILED after %d s, the end of %s:\n%s\n' "$name" $((SECONDS - began)) "$log" "$(tail -n 150 "$log")"
  else
    printf '== %s: %d s\n' "$name" $((SECONDS - began))
  fi
  return "$code"
}

wants() { [[ " $parts " == *" $1 "* ]]; }
clippy() { PGRX_PG_CONFIG_PATH=$(pg_build_config 15) cargo clippy --locked --workspace --all-targets --features simulated-gpu -- -D warnings; }
# With the same choice of packages and features nothing is compiled twice.
crates=(-p omen_vector -p omen_distance -p omen_ivf -p omen_gpu -p omen_service -p omen_tests --features "omen_gpu/simulated omen_service/simulated")
crate_tests() { cargo test --locked --no-fail-fast "${crates[@]}" -- --show-output; }
# The scripts that measure on a GPU machine, at tiny sizes on the simulated device.
gpu_benchmark() {
  cargo build --locked -q "${crates[@]}" --example gpu_search --example gpu_train &&
    GPU_SEARCH=$TARGET/debug/examples/gpu_search GPU_TRAIN=$TARGET/debug/examples/gpu_train "$VENV/bin/python" -m pytest -ra -q -p no:cacheprovider --tb=short benches/gpu
}
# MAJOR=FOLDER of each server that has this build: pg_upgrade needs two.
built=()
server_env() {
  local major=$1
  shift
  OMEN_PG_BIN=$(pg_tree "$major")/bin OMEN_PG_BINS="${built[*]}" OMEN_RUN_DIR=$RUN_ROOT/t/$major OMEN_PGVECTOR=$PGVECTOR_ROOT/$major OMEN_TEST_USER=$TEST_USER \
    PYTHONDONTWRITEBYTECODE=1 OPENBLAS_NUM_THREADS=1 "$@"
}
scenarios() {
  local major=$1 mark=$2 selection=()
  # The whole set runs on the first major; the others run the tests that could depend on the server's version.
  [[ $1:$2 == "${majors[0]}:" ]] || selection=(-m "${mark:-every_major}")
  # shellcheck disable=SC2086  # words are meant to be split
  server_env "$major" "$VENV/bin/python" -m pytest -c pg_test/pytest.ini -n "$(nproc)" --dist loadfile "${selection[@]}" ${PYTEST_ARGS:-} pg_test/t
}
build_server() { step command "build for PostgreSQL ${1%%:*}" tools/build.sh test "${1%%:*}"; }
# All that runs cargo, one after the other, and the kernel pack. Builds come first, since tests wait for them: each of `majors` is told (to 4) when it is built.
cargo_steps() {
  local spec
  if wants server; then
    for spec in "${majors[@]}"; do
      build_server "$spec" && echo "$spec" >&4
      # From here on beside tests, which shall not be late for it.
      renice -n 10 "$BASHPID" >/dev/null
    done
  fi
  if wants static; then
    step command 'formatting' cargo fmt --all --check
    step checks 'architecture' tools/architecture.sh
    step command 'clippy' clippy
  fi
  if wants crates; then
    step cargo 'crate tests' crate_tests
    step pytest 'GPU benchmark scripts' gpu_benchmark
  fi
  if wants kernels; then step command 'kernel pack' "$VENV/bin/python" tools/build_kernels.py --check; fi
  return 0
}
# The tests on the server of one major.
test_server() {
  local major=${1%%:*} mark=
  [[ $1 != *:* ]] || mark=${1#*:}
  built+=("$major=$(pg_tree "$major")/bin")
  mkdir -p "$RUN_ROOT/t/$major"
  [[ $mark ]] || step regress "regression tests on PostgreSQL $major" server_env "$major" "$VENV/bin/python" pg_test/regress.py
  step pytest "scenario tests on PostgreSQL $major" scenarios "$major" "$mark"
}

cd "$REPO"
[[ -n ${OMEN_TEST_SEED:-} ]] || OMEN_TEST_SEED=$((RANDOM * 32768 + RANDOM))
export OMEN_TEST_SEED
echo "OMEN_TEST_SEED=$OMEN_TEST_SEED"
tools/setup.sh build
tools/setup.sh python

if [[ -n $soak ]]; then
  tools/setup.sh server "${majors[0]}"
  tools/build.sh test "${majors[0]}"
  mkdir -p "$RUN_ROOT/t/${majors[0]}"
  # shellcheck disable=SC2086  # words are meant to be split
  server_env "${majors[0]}" "$VENV/bin/python" pg_test/soak.py "$soak" ${SOAK:-}
  exit
fi

if wants server; then
  for spec in "${majors[@]}"; do
    tools/setup.sh server "${spec%%:*}"
    tools/setup.sh pgvector "${spec%%:*}"
  done
fi
# What fails in a step is counted, and the others go on.
set +e
exec 3>&1 5< <(cargo_steps 4>&1 >&3)
cargo_process=$!
if wants server; then step command 'clients for the driver tests' tools/setup.sh drivers; fi
while read -r spec <&5; do test_server "$spec"; done
wait "$cargo_process" || step command 'all steps that run cargo' false

echo "took $((SECONDS - started)) s"
"$VENV/bin/python" tools/summary.py "$steps"
