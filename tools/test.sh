#!/usr/bin/env bash
# Everything that can be checked on this machine; the last line is "N passed, N failed, N skipped".
#
#   tools/test.sh [MAJOR[:MARK]...]         the PostgreSQL majors whose servers are tested (default 15); with a mark, by tests that have it
#   tools/test.sh --soak SECONDS [MAJOR]    only pg_test/soak.py, for so long; SOAK holds its options
#   ONLY="static crates kernels server" tools/test.sh    some of the parts
#   PYTEST_ARGS='-k crash' ONLY=server tools/test.sh     some of the server tests
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

# step KIND NAME COMMAND...: runs, keeps the output in build/log, shows it when the step fails.
step() {
  local kind=$1 name=$2 log code=0 began=$SECONDS
  shift 2
  log=$logs/$(tr -c 'A-Za-z0-9\n' _ <<<"$name").log
  printf '== %s ... ' "$name"
  "$@" >"$log" 2>&1 </dev/null || code=$?
  printf '%s\t%s\t%s\t%s\n' "$kind" "$name" "$code" "$log" >> "$steps"
  if ((code)); then
    printf 'FAILED after %d s, the end of %s:\n' $((SECONDS - began)) "$log"
    tail -n 150 "$log"
  else
    printf '%d s\n' $((SECONDS - began))
  fi
  return "$code"
}

wants() { [[ " $parts " == *" $1 "* ]]; }
clippy() { PGRX_PG_CONFIG_PATH=$(pg_build_config 15) cargo clippy --locked --workspace --all-targets --features simulated-gpu -- -D warnings; }
crate_tests() {
  cargo test --locked --no-fail-fast -p omen_vector -p omen_distance -p omen_ivf -p omen_gpu -p omen_service -p omen_tests --features omen_gpu/simulated,omen_service/simulated -- --show-output
}
# The scripts that measure on a GPU machine, at tiny sizes on the simulated device.
gpu_benchmark() {
  cargo build --locked -q -p omen_gpu --features simulated --example gpu_search --example gpu_train &&
    GPU_SEARCH=$TARGET/debug/examples/gpu_search GPU_TRAIN=$TARGET/debug/examples/gpu_train "$VENV/bin/python" -m pytest -ra -q -p no:cacheprovider --tb=short benches/gpu
}
# MAJOR=FOLDER of each server that has this build: pg_upgrade needs two.
built=()
server_env() {
  local major=$1
  shift
  OMEN_PG_BIN=$(pg_tree "$major")/bin OMEN_PG_BINS="${built[*]}" OMEN_RUN_DIR=$RUN_ROOT/t/$major OMEN_PGVECTOR=$PGVECTOR_ROOT/$major OMEN_TEST_USER=$TEST_USER \
    PYTHONDONTWRITEBYTECODE=1 "$@"
}
scenarios() {
  local major=$1 mark=$2 selection=()
  # The whole set runs on the first major; the others run the tests that could depend on the server's version.
  [[ $1:$2 == "${majors[0]}:" ]] || selection=(-m "${mark:-every_major}")
  # shellcheck disable=SC2086  # words are meant to be split
  server_env "$major" "$VENV/bin/python" -m pytest -c pg_test/pytest.ini "${selection[@]}" ${PYTEST_ARGS:-} pg_test/t
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

if wants static; then
  step command 'formatting' cargo fmt --all --check || true
  step checks 'architecture' tools/architecture.sh || true
  step command 'clippy' clippy || true
fi
if wants crates; then
  step cargo 'crate tests' crate_tests || true
  step pytest 'GPU benchmark scripts' gpu_benchmark || true
fi
if wants kernels; then step command 'kernel pack' "$VENV/bin/python" tools/build_kernels.py --check || true; fi
if wants server; then
  step command 'clients for the driver tests' tools/setup.sh drivers || true
  for spec in "${majors[@]}"; do
    major=${spec%%:*} mark=
    [[ $spec != *:* ]] || mark=${spec#*:}
    tools/setup.sh server "$major"
    tools/setup.sh pgvector "$major"
    step command "build for PostgreSQL $major" tools/build.sh test "$major" || continue
    built+=("$major=$(pg_tree "$major")/bin")
    mkdir -p "$RUN_ROOT/t/$major"
    [[ $mark ]] || step regress "regression tests on PostgreSQL $major" server_env "$major" "$VENV/bin/python" pg_test/regress.py || true
    step pytest "scenario tests on PostgreSQL $major" scenarios "$major" "$mark" || true
  done
fi

echo "took $((SECONDS - started)) s"
"$VENV/bin/python" tools/summary.py "$steps"
