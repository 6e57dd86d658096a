#!/usr/bin/env bash
# Unit and conformance tests under AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer.
# usage: scripts/sanitize.sh [ARGUMENT OF ctest]...     e.g. scripts/sanitize.sh -R unit_core
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export LONGSCAN_BUILD=${LONGSCAN_BUILD:-$root/build-sanitize}
export LONGSCAN_CMAKE_ARGS="-DLONGSCAN_SANITIZE=ON ${LONGSCAN_SANITIZE_ARGS--DLONGSCAN_TESTS=ON}"
"$root/scripts/setup.sh"
"$root/scripts/build.sh" longscan_tests

export ASAN_OPTIONS="detect_stack_use_after_return=1:strict_string_checks=1:check_initialization_order=1:detect_leaks=1"
export LSAN_OPTIONS="suppressions=$root/scripts/lsan.txt:print_suppressions=0"
export UBSAN_OPTIONS="print_stacktrace=1"
exec ctest --test-dir "$LONGSCAN_BUILD" --no-tests=error --output-on-failure -L 'unit|conformance' \
  -j "$(nproc)" "$@"
