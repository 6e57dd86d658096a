#!/usr/bin/env bash
# failures.sh MPIRUN PROGRAM: every way in which a run of several ranks may fail ends it soon, with a
# status other than 0 and one message, of one line, that names what is to blame.
set -uo pipefail
mpirun=$1
program=$2
faults=0

# expect MODE STATUS PATTERN...: STATUS "nonzero" or a number; every PATTERN is in the one message.
# Without a pattern there is no message.
expect() {
  local mode=$1 wanted=$2
  shift 2
  local output status started=$SECONDS seconds pattern complaint=""
  output=$(timeout 60 "$mpirun" -n 3 "$program" --fail="$mode" 2>&1)
  status=$?
  seconds=$((SECONDS - started))
  if [ "$wanted" = nonzero ]; then
    [ "$status" -ne 0 ] || complaint+=" status 0;"
  else
    [ "$status" -eq "$wanted" ] || complaint+=" status $status, expected $wanted;"
  fi
  [ "$status" -ne 124 ] || complaint+=" timed out;"
  [ "$seconds" -le 20 ] || complaint+=" took $seconds s;"
  [ "$(grep -c . <<<"$output")" -eq $(($# > 0)) ] || complaint+=" not one message;"
  for pattern in "$@"; do
    grep -qF -- "$pattern" <<<"$output" || complaint+=" '$pattern' is missing;"
  done
  if [ -n "$complaint" ]; then
    faults=$((faults + 1))
    printf 'FAILED %s:%s\n%s\n' "$mode" "$complaint" "$output"
  else
    printf 'passed %s (%d s)\n' "$mode" "$seconds"
  fi
}

expect throw nonzero "rank 1 of 3 failed: disk is full"
expect throw_everywhere nonzero "of 3 failed: bad config"
expect throw_after_the_others_returned nonzero "rank 1 of 3 failed: disk is full"
expect throw_in_thread nonzero "rank 1 of 3 failed: disk is full"
expect return_early nonzero "all_reduce(sum of 10 f32)" "rank 1 has returned and will not come"
expect different_lengths nonzero "all_reduce(sum of" "expected"
expect killed nonzero "SIGKILL"
expect status 3
export LONGSCAN_COMM_TIMEOUT=2
expect hang nonzero "all_reduce(sum of 10 f32)" "no answer for 2 s" "rank 1 has not communicated"
expect different_calls nonzero "no answer for 2 s" "rank 1 waits in barrier" \
       "waits in all_reduce(sum of 10 f32)"
export LONGSCAN_COMM_TIMEOUT=soon
expect status nonzero "LONGSCAN_COMM_TIMEOUT is 'soon'"
exit $((faults > 0))
