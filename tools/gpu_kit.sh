#!/usr/bin/env bash
# Puts into .device (ignored by git) what benches/gpu/run.sh and tests/gpu/server.sh need on a GPU machine without registries:
# the server with the release build (by the script $PACK), the programs gpu_search and gpu_train, the demo's vectors in int8 (for the tests alone),
# and Python packages as wheels. Real data sets, HDF5 files named as arguments, go into .device-real, each as small as $MEGABYTES.
# shellcheck source=tools/env.sh
source "$(dirname "$0")/env.sh"

# The tool that packs a Debian server and extensions into one relocatable archive, and its companion that runs it.
PACK=${PACK:-pack}
GPU_PYTHON=${GPU_PYTHON:-3.12}

PACK=$(command -v "$PACK") || die "set PACK to the script that packs the server"
kit=$REPO/.device
mkdir -p "$kit/whl"
"$PACK" -o "$kit" "$BUILD/package"
[[ -f $kit/glove.npz ]] || "$VENV/bin/python" "$REPO/demo/data.py" kit "$BUILD/cache" "$kit/glove.npz"
cargo build --locked --release -p omen_gpu --example gpu_search --example gpu_train --manifest-path "$REPO/Cargo.toml"
mkdir -p "$kit/gpu"
for program in gpu_search gpu_train; do strip -o "$kit/gpu/$program" "$TARGET/release/examples/$program"; done
wheels=(psycopg==3.2.13 psycopg-binary==3.2.13 typing_extensions==4.15.0 pytest==8.4.2 pluggy==1.6.0 iniconfig==2.1.0 packaging==25.0 pygments==2.19.2)
if [[ $(cat "$kit/whl/.wheels" 2>/dev/null) != "${wheels[*]}" ]]; then
  rm -f "$kit"/whl/*.whl
  "$VENV/bin/python" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version "$GPU_PYTHON" --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d "$kit/whl" "${wheels[@]}"
  echo "${wheels[*]}" > "$kit/whl/.wheels"
fi
if (($#)); then
  real=$REPO/.device-real
  rm -rf "$real"
  mkdir -p "$real"
  for file in "$@"; do
    "$VENV/bin/python" "$REPO/benches/gpu/real.py" "$file" "$real/$(basename "${file%.*}").npz" --megabytes "${MEGABYTES:-56}"
  done
fi
du -sh "$kit"/* "$kit"
echo "carry $kit to the GPU machine, beside the repository, and run benches/gpu/run.sh OUT there (and tests/gpu/server.sh)"
