#!/usr/bin/env bash
# Everything that needs a GPU: builds the program and its tests, runs the kernels of every op on the
# cases of that op and on reference results, and trains one model on both devices. Prints a short report.
# usage: scripts/gpu_check.sh [FOLDER OF REFERENCE RESULTS]
# SANITIZE=1 repeats the cases under compute-sanitizer.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=${LONGSCAN_BUILD:-build}
golden=${1:-tests/golden}
report=$build/gpu_check
mkdir -p "$report"
failed=0

part() {  # NAME COMMAND...
  local started=$SECONDS rc=0
  "${@:2}" >"$report/$1.txt" 2>&1 || rc=$?
  echo "$1: $([ $rc = 0 ] && echo ok || echo "FAILED ($rc)"), $((SECONDS - started)) s"
  [ $rc = 0 ] || failed=1
}

part build scripts/build.sh longscan longscan_tests gpu_bench
program=$build/longscan
tests=$build/tests/longscan_tests
[ -x "$program" ] && [ -x "$tests" ] || { tail -n 40 "$report/build.txt"; exit 1; }
part info "$program" info
grep -h "^device" "$report/info.txt"
export LONGSCAN_CUDA_POISON=1
part cases "$tests" "-tc=*on a GPU"
# What fails on the processor as well, such as an op that there is none of, is no fault of the GPU.
golden_check() {  # DTYPE
  local device
  for device in cpu cuda; do
    "$program" check --device $device --dtype "$1" -q "$golden"/*.h5 \
      >"$report/golden_$1_$device.txt" 2>&1
    awk '/FAILED/ {print $1, $2}' "$report/golden_$1_$device.txt" >"$report/failed_$device.txt"
  done
  tail -n 1 "$report/golden_$1_cuda.txt"
  diff "$report/failed_cpu.txt" "$report/failed_cuda.txt"
}
for dtype in f64 f32 bf16; do
  part "golden_$dtype" golden_check "$dtype"
  head -n 1 "$report/golden_$dtype.txt"
done
part bench "$build/tests/gpu_bench"
cat "$report/bench.txt"
if [ "${SANITIZE:-0}" = 1 ]; then
  for tool in memcheck racecheck initcheck synccheck; do
    part "$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 "$tests" "-tc=ops on a GPU"
  done
fi
exit $failed
