#!/usr/bin/env bash
# Unit and conformance tests under AddressSanitizer and UndefinedBehaviorSanitizer.
# usage: scripts/sanitize.sh [DOCTEST ARGUMENTS ...]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export LONGSCAN_BUILD="${LONGSCAN_BUILD:-$root/build-sanitize}"
export LONGSCAN_CMAKE_ARGS="-DLONGSCAN_SANITIZE=ON"
"$root/scripts/setup.sh" test
"$root/scripts/build.sh" longscan_tests
# Libraries that keep one allocation for the life of the process are not ours to free.
printf 'leak:libgomp\nleak:libdnnl\nleak:libmpi\nleak:libopen-\n' > "$LONGSCAN_BUILD/leaks.txt"
export LSAN_OPTIONS="suppressions=$LONGSCAN_BUILD/leaks.txt:print_suppressions=0"
export ASAN_OPTIONS="detect_stack_use_after_return=1:strict_string_checks=1"
export UBSAN_OPTIONS="print_stacktrace=1"
exec "$LONGSCAN_BUILD/tests/longscan_tests" -ts=unit,conformance "$@"
