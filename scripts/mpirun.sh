#!/usr/bin/env bash
# mpirun for one machine: scripts/mpirun.sh -n RANKS PROGRAM [ARGUMENT]...
# Works as root and with more ranks than cores, uses no network, and leaves the program's own message
# as the only one when a run fails. LONGSCAN_MPIRUN names another mpirun.
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
  *) options=() ;;  # MPICH and its kin need nothing
esac

"$mpirun" ${options[@]+"${options[@]}"} "$@" <&0 &
job=$!
trap 'kill -TERM $job 2>/dev/null' TERM
trap 'kill -INT $job 2>/dev/null' INT
wait $job
status=$?
while kill -0 $job 2>/dev/null; do  # the wait was cut short by a signal that was passed on
  wait $job
  status=$?
done
# The quiet mpirun does not tell of a rank that died without a word.
if [ $status -gt 128 ] && name=$(kill -l $((status - 128)) 2>/dev/null); then
  echo "mpirun.sh: a rank was ended by signal $((status - 128)) (SIG$name)" >&2
fi
exit $status
