#!/usr/bin/env bash
# What every change has to pass, from a fresh clone: format, headers that compile alone, no warning of
# the compiler, unit tests and a minute of each fuzz target under the sanitizers, GPU kernels where nvcc
# is, a build for processors with AVX2 alone, then every test that needs no GPU (the order of the rooms
# among them). Stops at the first step that fails.
# usage: scripts/ci.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export LONGSCAN_CMAKE_ARGS="-DLONGSCAN_WERROR=ON ${LONGSCAN_CMAKE_ARGS:-}"
# The build without warnings reads every header as it is included; those of other kinds need not.
export LONGSCAN_SANITIZE_ARGS="-DLONGSCAN_TESTS=UNIT -DLONGSCAN_PCH=ON"

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

# A processor with AVX2 and nothing newer, with a folder of its own.
avx2_tests() {
  local options="$LONGSCAN_CMAKE_ARGS -DLONGSCAN_NATIVE=OFF -DLONGSCAN_CUDA=OFF -DLONGSCAN_PCH=ON"
  options="$options -DCMAKE_CXX_FLAGS=-march=x86-64-v3"
  LONGSCAN_BUILD=build-avx2 LONGSCAN_CMAKE_ARGS=$options scripts/build.sh longscan_tests
  ctest --test-dir build-avx2 --no-tests=error --output-on-failure -L 'unit|conformance' \
    -j "$(nproc)"
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
step "unit and conformance tests with AVX2" avx2_tests
echo "== tests"
exec scripts/test.sh  # its last lines are the last ones here
