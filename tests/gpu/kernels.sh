#!/bin/sh
# Kernels on a machine with a GPU: parity tests natively, then under compute-sanitizer (memcheck, racecheck), then timings.
#
#   tests/gpu/kernels.sh pack            here: builds the binaries into .device/gpu (ignored by git)
#   tests/gpu/kernels.sh run [OUT]       there: runs them, logs to OUT, prints a table last
#
# The machine with the GPU needs the driver, and compute-sanitizer for the second step; no Rust, no toolkit.
set -u
cd "$(dirname "$0")/../.." || exit 1
BIN=.device/gpu

pack() {
    set -e
    mkdir -p "$BIN"
    built() { sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1; }
    for test in gpu_parity gpu_steps gpu_codes gpu_device gpu_tier gpu_batch gpu_load; do
        cp "$(cargo test -q --release -p omen_tests --test $test --no-run --message-format=json | built)" "$BIN/$test"
    done
    for example in gpu_timings code_timings load_rate; do
        cp "$(cargo build -q --release -p omen_gpu --example $example --message-format=json | built)" "$BIN/$example"
    done
    strip "$BIN"/gpu_* "$BIN/code_timings" "$BIN/load_rate"
    ls -l "$BIN"
}

run() {
    out=${1:-.device/out}
    mkdir -p "$out"
    table="" failed=0
    step() { # name, log, command ...
        name=$1 log=$out/$2
        shift 2
        start=$(date +%s)
        "$@" >"$log" 2>&1
        code=$?
        seconds=$(($(date +%s) - start))
        skipped=$(grep -c 'skipped:' "$log")
        passed=$(sed -n 's/^test result: .* \([0-9]*\) passed.*/\1/p' "$log")
        [ $code -eq 0 ] || { failed=1 && tail -40 "$log" | cut -c1-400; }
        table="$table$(printf '%-17s rc %-4s passed %-4s skipped %-4s %4s s' "$name" "$code" "${passed:--}" "$skipped" "$seconds")
"
    }
    step parity parity.log "$BIN/gpu_parity" --nocapture --test-threads=4
    step steps steps.log "$BIN/gpu_steps" --nocapture --test-threads=4
    step codes codes.log "$BIN/gpu_codes" --nocapture --test-threads=4
    step device device.log "$BIN/gpu_device" --nocapture --test-threads=4
    step batch batch.log "$BIN/gpu_batch" --nocapture --test-threads=6
    step tier tier.log "$BIN/gpu_tier" --nocapture
    step load load.log "$BIN/gpu_load" --nocapture
    if sanitizer=$(command -v compute-sanitizer); then
        for tool in memcheck racecheck; do
            for test in gpu_parity gpu_steps gpu_codes gpu_device gpu_batch gpu_load; do
                step "$tool ${test#gpu_}" "$tool.$test.log" env OMEN_GPU_TEST_SMALL=1 "$sanitizer" --tool $tool \
                    --error-exitcode 9 "$BIN/$test" --nocapture --test-threads=1
            done
        done
    else
        echo "skipped: no compute-sanitizer here"
    fi
    step timings timings.log "$BIN/gpu_timings"
    step 'code timings' code_timings.log "$BIN/code_timings"
    step 'load rate' load_rate.log "$BIN/load_rate"
    cat "$out/timings.log" "$out/code_timings.log" "$out/load_rate.log"
    printf '%s' "$table"
    return $failed
}

case "${1:-}" in
pack) pack ;;
run) shift; run "$@" ;;
*) sed -n '2,8p' "$0"; exit 2 ;;
esac
