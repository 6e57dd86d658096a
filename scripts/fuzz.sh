#!/usr/bin/env bash
# Fuzz targets of config, checkpoint and corpus under AddressSanitizer and UndefinedBehaviorSanitizer,
# side by side; a failure names its case and how to run it again.
# usage: scripts/fuzz.sh [SECONDS [FIRST CASE]]
# Seconds of processor time for each target, an hour by default.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export LONGSCAN_BUILD=${LONGSCAN_BUILD:-$root/build-sanitize}
export LONGSCAN_CMAKE_ARGS="-DLONGSCAN_SANITIZE=ON ${LONGSCAN_SANITIZE_ARGS--DLONGSCAN_TESTS=ON}"
"$root/scripts/setup.sh"
"$root/scripts/build.sh" fuzz

export ASAN_OPTIONS="detect_stack_use_after_return=1:strict_string_checks=1:allocator_may_return_null=0"
export LSAN_OPTIONS="suppressions=$root/scripts/lsan.txt:print_suppressions=0"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1"
# Side by side; what each said is shown in order.
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
declare -A running
for target in config checkpoint corpus; do
  "$LONGSCAN_BUILD/tests/fuzz_$target" "${1:-3600}" "${2:-0}" >"$logs/$target" 2>&1 &
  running[$target]=$!
done
status=0
for target in config checkpoint corpus; do
  wait "${running[$target]}" || status=1
  echo "fuzz: $target"
  cat "$logs/$target"
done
exit $status
