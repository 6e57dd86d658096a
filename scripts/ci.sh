#!/usr/bin/env bash
# What every change has to pass, from a fresh clone: format, headers that compile alone, no warning of
# the compiler, unit tests and a minute of each fuzz target under the sanitizers, GPU kernels where nvcc
# is, then every test that needs no GPU (the order of the rooms among them). Stops at the first step that fails.
# usage: scripts/ci.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export LONGSCAN_CMAKE_ARGS="-DLONGSCAN_WERROR=ON ${LONGSCAN_CMAKE_ARGS:-}"

step() {  # NAME COMMAND...
  local started=$SECONDS
  echo "== $1"
  "${@:2}"
  echo "== $1: $((SECONDS - started)) s"
}

build=${LONGSCAN_BUILD:-build}
gpu_kernels() {  # compiles them, and checks their mathematics on the host
  scripts/build.sh kernel_bench
  local check
  for check in "$build"/tests/bench/kernels/*_algebra; do
    "$check" | tail -n 1
  done
}

step "set-up" scripts/setup.sh --checks
step "format" scripts/format.sh --check
step "headers compile alone" scripts/build.sh check_headers
step "unit tests under the sanitizers" scripts/sanitize.sh -L unit
step "fuzzing under the sanitizers" scripts/fuzz.sh 60
step "build without warnings" scripts/build.sh
if grep -q "^build kernel_bench" "$build/build.ninja"; then
  step "GPU kernels" gpu_kernels
fi
echo "== tests"
exec scripts/test.sh  # its last lines are the last ones here
