#!/usr/bin/env bash
# On a GPU machine: the packed server (tools/gpu_kit.sh makes .device) runs the demo on the GPU and on the CPU, the scenario
# tests with the real card, and the same binary with the driver's library hidden. Prints a short table last. Without .device/glove.npz
# (a kit must be small to be carried) the demo is left out.
#
#   tests/gpu/server.sh [OUT]     OUT: folder for the logs (default: a temporary one)
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
out=${1:-$(mktemp -d)}
mkdir -p "$out"
kit=$PWD/.device
site=/tmp/pg_omen_site
python=${PYTHON:-python3}
table=()
failures=0

# record NAME LOG COMMAND...: runs a command into a log, notes how it went.
record() {
  local name=$1 log=$out/$2 code=0 began=$SECONDS
  shift 2
  "$@" >"$log" 2>&1 </dev/null || code=$?
  table+=("$(printf '%-48s %-7s %4d s   %s' "$name" "$( ((code)) && echo FAILED || echo ok)" $((SECONDS - began)) "$log")")
  if ((code)); then
    failures=$((failures + 1))
    echo "---- $name failed; the end of its log:"
    tail -n 60 "$log"
  fi
  return "$code"
}

"$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$site" "$kit"/whl/*.whl || exit 1
export PYTHONPATH=$site PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export OMEN_TEST_SEED=${OMEN_TEST_SEED:-$((RANDOM * 32768 + RANDOM))}
echo "OMEN_TEST_SEED=$OMEN_TEST_SEED"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || exit 1

"$kit/pg" up -m "${MEMORY_MB:-16000}" >"$out/env" || exit 1
# shellcheck disable=SC1091  # written just now
source "$out/env"

run_demo() {
  record 'demo, GPU and CPU, same rows' demo.log "$python" demo/run.py --data "$kit/glove.npz" --engines gpu,cpu
  tail -n 45 "$out/demo.log"
  record 'demo used the GPU' demo_engine.log grep -E 'engine gpu, default settings.*engine gpu,' "$out/demo.log"
  # shellcheck disable=SC2016  # $i is awk's
  record 'recall with default settings within 0.01 of 0.95' demo_recall.log awk '
    /engine gpu, default/ {for (i = 1; i < NF; i++) if ($i ~ /^recall@/) r = $(i + 1)} END {print r; exit !(r >= 0.94)}' "$out/demo.log"
  record 'engine auto picks and answers' auto.log "$python" demo/run.py --data "$kit/glove.npz" --engines auto
  grep -E '^engine auto' "$out/auto.log"
}
if [[ -f $kit/glove.npz ]]; then run_demo; else echo "skipped: the demo: no .device/glove.npz"; fi
"$kit/pg" down

# The scenario tests make servers of their own, with the programs that `pg` unpacked.
run_dir=/tmp/pg_omen_tests
mkdir -p "$run_dir"
export OMEN_PG_BIN=/tmp/pg/bin OMEN_RUN_DIR=$run_dir OMEN_TEST_USER=pg
# shellcheck disable=SC2329  # called through record
# By name, and ended by an interrupt after $LIMIT seconds, so that a run that is cut off tells what failed.
tests() { OMEN_REAL_GPU=$1 timeout -s INT "${LIMIT:-500}" "$python" -m pytest -v -c pg_test/pytest.ini "${@:2}"; }
record 'scenario tests on the real GPU' scenarios.log tests 1 pg_test/t -k 'stale or exactness or no_gpu or admin or concurrency or bad_input or all_rows or simd or batch or hot_tier or device_lists or codes_alone or service or mapped or gpu_build or parallel_build'
grep -E ' (FAILED|ERROR) |passed|failed' "$out/scenarios.log" | tail -n 20

# The same binary where the driver's library cannot be loaded: an empty file lies over it in a mount namespace.
# shellcheck disable=SC2016  # expanded by the inner shell
hide='for f in $(ldconfig -p | sed -n "s/.*libcuda\.so.* => //p") $(find / -xdev -name "libcuda.so*" -type f 2>/dev/null) /usr/local/nvidia/lib64/libcuda.so*; do
  [ -e "$f" ] && mount --bind /dev/null "$(readlink -f "$f")"; done; true'
record 'libcuda hidden: tests without a card' hidden.log unshare -m bash -c "$hide
  OMEN_REAL_GPU=0 '$python' -m pytest -c pg_test/pytest.ini pg_test/t/test_010_no_gpu.py -k 'without_a_card'"
tail -n 3 "$out/hidden.log"
record 'no device visible: tests without a card' nodevice.log env CUDA_VISIBLE_DEVICES='' OMEN_REAL_GPU=0 \
  "$python" -m pytest -c pg_test/pytest.ini pg_test/t/test_010_no_gpu.py -k 'without_a_card'
tail -n 3 "$out/nodevice.log"

printf '\n'
printf '%s\n' "${table[@]}"
echo "$((${#table[@]} - failures)) passed, $failures failed"
exit $((failures > 0))
