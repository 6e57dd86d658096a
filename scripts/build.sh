#!/usr/bin/env bash
# Configures (once) and builds the release in build/.
# usage: scripts/build.sh [TARGET ...]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build="${LONGSCAN_BUILD:-$root/build}"
if [ ! -e "$build/build.ninja" ]; then
  cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release ${LONGSCAN_CMAKE_ARGS:-}
fi
ninja -C "$build" "$@"
