#!/usr/bin/env bash
# Installs what is missing, builds everything and runs every test that needs no GPU, MPI's included.
# usage: scripts/test.sh [ARGUMENT OF ctest]...     e.g. scripts/test.sh -L unit
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup.sh"
"$root/scripts/build.sh"
exec ctest --test-dir "${LONGSCAN_BUILD:-$root/build}" --no-tests=error --output-on-failure \
  -LE gpu -j "$(nproc)" "$@"
