#!/bin/sh
# Kernels on a machine with a GPU: parity tests natively, then under compute-sanitizer (memcheck, racecheck), then timings.
#
#   tests/gpu/kernels.sh pack            here: builds the binaries into .device/gpu (ignored by git)
#   tests/gpu/kernels.sh run [OUT]       there: runs them, logs to OUT, prints a table last
#   tests/gpu/kernels.sh sanitize [OUT]  there: under compute-sanitizer alone, each at most $LIMIT (300) seconds
#
# The machine with the GPU needs the driver, and compute-sanitizer for the second step; no Rust, no toolkit.
set -u
cd "$(dirname "$0")/../.." || exit 1
BIN=.device/gpu

pack() {
    set -e
    mkdir -p "$BIN"
    built() { sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1; }
    for test in gpu_parity gpu_steps gpu_codes gpu_device gpu_tier gpu_batch gpu_load gpu_assign; do
        cp "$(cargo test -q --release -p omen_tests --test $test --no-run --message-format=json | built)" "$BIN/$test"
    done
    for example in gpu_timings code_timings metric_timings load_rate gpu_train; do
        cp "$(cargo build -q --release -p omen_gpu --example $example --message-format=json | built)" "$BIN/$example"
    done
    strip "$BIN"/gpu_* "$BIN/code_timings" "$BIN/metric_timings" "$BIN/load_rate" "$BIN/gpu_train"
    ls -l "$BIN"
}

table="" failed=0

# Adds a line to the table: name, log, exit status, seconds.
note() {
    skipped=$(grep -c 'skipped:' "$2")
    passed=$(sed -n 's/^test result: .* \([0-9]*\) passed.*/\1/p' "$2")
    [ "$3" -eq 0 ] || { failed=1 && tail -40 "$2" | cut -c1-400; }
    table="$table$(printf '%-17s rc %-4s passed %-4s skipped %-4s %4s s' "$1" "$3" "${passed:--}" "$skipped" "$4")
"
}

# Runs a command: name, log, command ...
step() {
    name=$1 log=$out/$2
    shift 2
    start=$(date +%s)
    "$@" >"$log" 2>&1
    note "$name" "$log" $? $(($(date +%s) - start))
}

# The tests at small sizes under compute-sanitizer, side by side, each at most $LIMIT seconds.
sanitize() {
    sanitizer=$(command -v compute-sanitizer) || { echo "skipped: no compute-sanitizer here"; return; }
    tests="gpu_parity gpu_steps gpu_codes gpu_device gpu_batch gpu_load gpu_assign"
    for tool in memcheck racecheck; do
        for test in $tests; do
            (
                start=$(date +%s)
                OMEN_GPU_TEST_SMALL=1 timeout -k 5 "${LIMIT:-300}" "$sanitizer" --tool $tool --error-exitcode 9 \
                    "$BIN/$test" --nocapture --test-threads=1 >"$out/$tool.$test.log" 2>&1
                echo $? $(($(date +%s) - start)) >"$out/$tool.$test.rc"
            ) &
        done
    done
    wait
    for tool in memcheck racecheck; do
        for test in $tests; do
            read -r code seconds <"$out/$tool.$test.rc"
            note "$tool ${test#gpu_}" "$out/$tool.$test.log" "$code" "$seconds"
        done
    done
}

run() {
    out=${1:-.device/out}
    mkdir -p "$out"
    step parity parity.log "$BIN/gpu_parity" --nocapture --test-threads=4
    step steps steps.log "$BIN/gpu_steps" --nocapture --test-threads=4
    step codes codes.log "$BIN/gpu_codes" --nocapture --test-threads=4
    step device device.log "$BIN/gpu_device" --nocapture --test-threads=4
    step batch batch.log "$BIN/gpu_batch" --nocapture --test-threads=6
    step tier tier.log "$BIN/gpu_tier" --nocapture
    step assign assign.log "$BIN/gpu_assign" --nocapture
    step load load.log "$BIN/gpu_load" --nocapture
    sanitize
    step timings timings.log "$BIN/gpu_timings"
    step 'code timings' code_timings.log "$BIN/code_timings"
    step 'metric timings' metric_timings.log "$BIN/metric_timings"
    step 'load rate' load_rate.log "$BIN/load_rate"
    cat "$out/timings.log" "$out/code_timings.log" "$out/metric_timings.log" "$out/load_rate.log"
    printf '%s' "$table"
    return $failed
}

case "${1:-}" in
pack) pack ;;
run) shift; run "$@" ;;
sanitize)
    out=${2:-.device/out}
    mkdir -p "$out"
    sanitize
    printf '%s' "$table"
    exit $failed
    ;;
*) sed -n '2,9p' "$0"; exit 2 ;;
esac
