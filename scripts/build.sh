#!/usr/bin/env bash
# Configures when needed and builds the release into build/.
# usage: scripts/build.sh [NINJA ARGUMENT]...       e.g. scripts/build.sh longscan
# LONGSCAN_BUILD names another folder, LONGSCAN_CMAKE_ARGS adds arguments of cmake.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${LONGSCAN_BUILD:-$root/build}

# Configured again when the options change or packages were installed or removed since.
read -ra arguments <<<"${LONGSCAN_CMAKE_ARGS:-}"
plotly=${XDG_CACHE_HOME:-$HOME/.cache}/longscan/plotly.min.js
wanted="$root | ${arguments[*]-} | $(ls "$plotly" 2>/dev/null || true)"
stamp=$build/.configured
cpu="$(grep -m 1 '^flags' /proc/cpuinfo 2>/dev/null || uname -m)"
fresh=()
if [ -e "$build/CMakeCache.txt" ] &&
  ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$root" "$build/CMakeCache.txt"; then
  fresh=(--fresh)  # the checkout was moved
fi
if [ ! -e "$build/build.ninja" ] || [ ${#fresh[@]} -gt 0 ] ||
  [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || [ /var/lib/dpkg/status -nt "$stamp" ]; then
  cmake ${fresh[@]+"${fresh[@]}"} -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    ${arguments[@]+"${arguments[@]}"}
  echo "$wanted" >"$stamp"
fi
# Code made for one processor need not run on another.
if [ -e "$build/.cpu" ] && [ "$(cat "$build/.cpu")" != "$cpu" ]; then
  ninja -C "$build" -t clean
fi
echo "$cpu" >"$build/.cpu"

# One job a core, and no more than the memory holds.
jobs=$(nproc)
fit=$(awk '/^MemAvailable/ {print int($2 / 1e6)}' /proc/meminfo 2>/dev/null || true)
if [ -n "$fit" ] && [ "$fit" -lt "$jobs" ]; then
  jobs=$((fit > 1 ? fit : 1))
fi
exec ninja -C "$build" -j "$jobs" "$@"
