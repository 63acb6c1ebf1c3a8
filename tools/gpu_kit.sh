#!/usr/bin/env bash
# Puts into .device (ignored by git) what tests/gpu/server.sh needs on a GPU machine without registries:
# the server with the release build (by the script $PACK), the demo's vectors in int8, and Python packages as wheels.
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
wheels=(psycopg==3.2.13 psycopg-binary==3.2.13 typing_extensions==4.15.0 pytest==8.4.2 pluggy==1.6.0 iniconfig==2.1.0 packaging==25.0 pygments==2.19.2)
if [[ $(cat "$kit/whl/.wheels" 2>/dev/null) != "${wheels[*]}" ]]; then
  rm -f "$kit"/whl/*.whl
  "$VENV/bin/python" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version "$GPU_PYTHON" --implementation cp \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d "$kit/whl" "${wheels[@]}"
  echo "${wheels[*]}" > "$kit/whl/.wheels"
fi
du -sh "$kit"
echo "carry $kit to the GPU machine, beside the repository, and run tests/gpu/server.sh there"
