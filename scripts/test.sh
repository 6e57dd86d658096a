#!/usr/bin/env bash
# Installs what is missing, builds everything and runs every test that needs no GPU, MPI included.
# usage: scripts/test.sh [CTEST ARGUMENTS ...]     e.g. scripts/test.sh -L unit
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup.sh" test
"$root/scripts/build.sh"
exec ctest --test-dir "${LONGSCAN_BUILD:-$root/build}" --output-on-failure "$@"
