#!/usr/bin/env bash
# Times f32 matrix products against OpenBLAS and BLIS of the distribution, installed when they are missing, and
# oneDNN where it is installed: the OpenMP builds, since threads of another kind would compete with ours for the cores.
# usage: tests/bench/run_matmul.sh [ROUNDS]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
for package in libopenblas0-openmp libblis4-openmp; do
  if ! dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii'; then
    as_root=$([ "$(id -u)" -eq 0 ] || echo sudo)
    echo "run_matmul: installing $package with apt"
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null
  fi
done
"$root/scripts/setup.sh"
"$root/scripts/build.sh" matmul_bench
# Where builds with threads of their own are installed too, the system's choice falls on those.
folders=$(dpkg -L libopenblas0-openmp libblis4-openmp | sed -nE 's,/lib(openblas|blis)\.so\.[0-9]+$,,p' | paste -sd:)
# Some systems pin an old kernel of OpenBLAS through the environment. The libraries' threads would spin on for
# milliseconds after a call, on the cores that ours use next.
exec env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE GOMP_SPINCOUNT=1000 LD_LIBRARY_PATH="$folders${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" \
  "${LONGSCAN_BUILD:-$root/build}/tests/matmul_bench" "$@"
