#!/usr/bin/env bash
# mpirun for one machine: scripts/mpirun.sh -n RANKS PROGRAM [ARGUMENT]...
# Works as root and with more ranks than cores, uses no network, and leaves the program's own message
# as the only one when a run fails. Ctrl-C, SIGTERM, SIGUSR1 and SIGUSR2 go to the ranks, whose exit status
# this script has: 130, 143, 138 and 140 from a training run that saved. LONGSCAN_MPIRUN names another mpirun.
set -uo pipefail

if [ $# -lt 3 ] || [ "$1" != -n ]; then
  echo "usage: mpirun.sh -n RANKS PROGRAM [ARGUMENT]..." >&2
  exit 2
fi
mpirun=${LONGSCAN_MPIRUN:-mpirun}
if ! command -v "$mpirun" >/dev/null; then
  echo "mpirun.sh: no $mpirun here; install openmpi-bin" >&2
  exit 127
fi
if ! command -v "$3" >/dev/null; then  # the quiet mpirun would not say
  echo "mpirun.sh: $3 is not a program" >&2
  exit 127
fi

signal_ranks=1  # mpirun kills its ranks a second after it passes a signal on, and returns 1
case $("$mpirun" --version 2>/dev/null | head -n 1) in
  *"Open MPI"*" 4."*)
    # Processes on this machine only: no remote shell, nothing but the loopback interface.
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    options=(--quiet --oversubscribe --bind-to none --mca plm isolated
             --mca oob_tcp_if_include lo --mca pml ob1 --mca btl self,vader
             --mca mpi_yield_when_idle 1)
    ;;
  *"Open MPI"*)
    export PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1
    options=(--map-by :OVERSUBSCRIBE --bind-to none --mca pml ob1 --mca btl self,sm
             --mca mpi_yield_when_idle 1)
    ;;
  *) options=() signal_ranks=0 ;;  # MPICH and its kin need nothing
esac

passed_on=""
pass_on() {  # SIGNAL
  local file line fields ranks=()
  if [ -z "${!:-}" ]; then
    exit $((128 + $(kill -l "$1")))
  fi
  for file in /proc/[0-9]*/stat; do
    { read -r line <"$file"; } 2>/dev/null || continue
    read -ra fields <<<"${line##*) }"  # behind the name: state, parent
    [ "${fields[1]}" != $! ] || [ $signal_ranks = 0 ] || ranks+=("${line%% *}")
  done
  passed_on=$1
  kill -"$1" "${ranks[@]:-$!}" 2>/dev/null
}
for signal in INT TERM USR1 USR2; do
  trap "pass_on $signal" $signal
done
trap "pass_on TERM" HUP

# In a session of its own: the terminal's Ctrl-C reaches this script and not mpirun.
[ ! -t 0 ] || exec </dev/null
setsid setpriv --pdeathsig TERM "$mpirun" ${options[@]+"${options[@]}"} "$@" <&0 &
job=$!
wait $job
status=$?
while kill -0 $job 2>/dev/null; do  # the wait was cut short by a signal that was passed on
  wait $job
  status=$?
done
# The quiet mpirun does not tell of a rank that died without a word.
if [ $status -gt 128 ] && name=$(kill -l $((status - 128)) 2>/dev/null) &&
  [ "$name" != "$passed_on" ]; then
  echo "mpirun.sh: a rank was ended by signal $((status - 128)) (SIG$name)" >&2
fi
exit $status
