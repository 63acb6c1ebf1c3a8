#!/usr/bin/env bash
# The borders and habits of the repository, checked by looking at its files. One line per check: "ok" or "FAILED".
# shellcheck source=tools/env.sh
source "$(dirname "$0")/env.sh"
cd "$REPO"

failures=0
# check NAME OUTPUT: fails when OUTPUT (the offending lines) is not empty.
check() {
  if [[ -z $2 ]]; then
    echo "ok - $1"
  else
    printf 'FAILED - %s\n%s\n' "$1" "$2"
    failures=$((failures + 1))
  fi
}

# Tracked files and those not yet added.
files() { git ls-files --cached --others --exclude-standard -- "$@" | while IFS= read -r f; do [[ -f $f ]] && echo "$f"; done; }
# search PATTERN PATHSPEC...: lines of code (not comments) that match.
search() {
  local pattern=$1
  shift
  files "$@" | xargs -r -d '\n' grep -nHE "$pattern" | grep -vE '^[^:]*:[0-9]+:[[:space:]]*(//|#|--)' || true
}

check 'no Postgres in the pure crates' "$(search '\b(pgrx|pg_sys)\b' 'crates/**' 'tests/**')"
check 'CUDA only in crates/gpu' "$(search '\bcudarc\b' 'src/*.rs' 'crates/distance/**' 'crates/ivf/**' 'tests/**' Cargo.toml)"
check 'no threads in the distance crate and in scans' "$(search '\brayon\b' 'crates/distance/**' 'src/am/scan*.rs' 'crates/ivf/src/search*.rs' 'crates/ivf/src/query.rs' 'crates/ivf/src/topk.rs')"
check 'the GPU crate knows nothing of the glue' "$(search '\bpg_omen\b' 'crates/**/*.rs')"
check 'no process exits, no printing in libraries' "$(search '\b(println!|eprintln!|dbg!|std::process::exit)' 'src/**/*.rs' 'crates/*/src/**/*.rs' | grep -vE '/tests?(\.rs|/)|testing\.rs|src/bin/' || true)"
check 'no unfinished code' "$(search '\b(todo!|unimplemented!)\(|\b(FIXME|XXX)\b' '*.rs' '*.cu' '*.h' '*.py' '*.sh' '*.sql' | grep -v '^tools/architecture.sh' || true)"

long=$(files '*.rs' '*.cu' '*.h' '*.py' '*.sh' | xargs -r -d '\n' wc -l | awk '$2 != "total" && $1 > 500 {print $2 ": " $1 " lines"}')
check 'files of at most 500 lines' "$long"
# shellcheck disable=SC2016  # $0 is awk's
naked=$(files '*.rs' | xargs -r -d '\n' awk '
  FNR == 1 {recent = ""}
  /allow\(unsafe_code\)/ && $0 !~ /^[[:space:]]*\/\// {where = FILENAME ":" FNR; if (seen[FILENAME] == "") seen[FILENAME] = where}
  /SAFETY:|# Safety/ {safe[FILENAME] = 1}
  END {for (f in seen) if (!safe[f]) print seen[f] ": unsafe without a SAFETY line in the file"}')
check 'unsafe is explained' "$naked"
undocumented=$(files 'src/*.rs' 'crates/*/src/*.rs' | while IFS= read -r f; do head -n 1 "$f" | grep -q '^//!' || echo "$f"; done)
check 'every Rust file says what it is' "$undocumented"
# Variants of one verb (scan_fma, scan_mma) share a launcher.
kernels=$(for f in kernels/*.cu; do
  name=$(basename "$f" .cu)
  [[ -f crates/gpu/src/launch/$name.rs || -f crates/gpu/src/launch/${name%%_*}.rs ]] || echo "$f has no launcher in crates/gpu/src/launch"
done)
check 'every kernel file has its launcher' "$kernels"
unlisted=$(for f in kernels/*.cu; do [[ -e $f ]] || continue; grep -q "$(basename "$f")" kernels/README.md || echo "$f is not in kernels/README.md"; done)
check 'kernels/README.md names every kernel file' "$unlisted"
# shellcheck disable=SC2016
unpinned=$(files Cargo.toml 'crates/*/Cargo.toml' tests/Cargo.toml fuzz/Cargo.toml | xargs -d '\n' awk '
  /^\[/ {deps = /dependencies/}
  deps && /=/ && !/workspace *= *true|path *= *"|"=[0-9]/ && !/^#/ {print FILENAME ":" FNR ":" $0}')
check 'dependencies are pinned' "$unpinned"
control=$(sed -n "s/^default_version *= *'\(.*\)'/\1/p" pg_omen.control)
check 'what is released is not built again' "$([[ -n $control && ! -f sql/pg_omen--$control.sql ]] || echo "sql/pg_omen--$control.sql is released: pg_omen.control needs another version than '$control'")"
check 'shellcheck' "$(files '*.sh' .ci/run | xargs -d '\n' "$VENV/bin/shellcheck" -x 2>&1 || true)"

exit $((failures > 0))
