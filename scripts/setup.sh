#!/usr/bin/env bash
# Installs what is missing to build, test and run Longscan on Debian 12 or Ubuntu 24.04.
# usage: scripts/setup.sh [run|test]     run: to build and train; test: also what the tests need
# Sourced or called by quickstart.sh and test.sh; does nothing, at once, when everything is there.
set -euo pipefail

need=(
  "g++:compiles the program"
  "cmake:configures the build"
  "ninja-build:runs the build"
  "git:records the commit with every result"
  "libfmt-dev:text formatting"
  "libeigen3-dev:small matrix algebra"
  "libyaml-cpp-dev:reads configs"
  "libhdf5-dev:checkpoints and reference files"
  "libcli11-dev:command line"
  "nlohmann-json3-dev:results as JSON"
)
want=(
  "libdnnl-dev:oneDNN, the fastest matrix products on the CPU"
  "libopenmpi-dev:runs on several ranks"
  "openmpi-bin:mpirun"
  "gnuplot-nox:draws the figures"
  "ccache:rebuilds faster"
  "mold:links faster"
)
if [ "${1:-run}" = test ]; then
  need+=("doctest-dev:unit tests")
fi

installed() { [ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null)" = "ii " ]; }

missing=()
optional=()
for entry in "${need[@]}"; do installed "${entry%%:*}" || missing+=("$entry"); done
for entry in "${want[@]}"; do installed "${entry%%:*}" || optional+=("$entry"); done
[ "${#missing[@]}" -eq 0 ] && [ "${#optional[@]}" -eq 0 ] && exit 0

# Optional packages that could not be had once are not asked for again in this build folder.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
stamp="$root/build/.optional-packages-tried"
if [ "${#missing[@]}" -eq 0 ] && [ -e "$stamp" ]; then
  exit 0
fi

if [ "$(id -u)" -eq 0 ]; then
  as_root=(env DEBIAN_FRONTEND=noninteractive)
elif command -v sudo >/dev/null; then
  as_root=(sudo env DEBIAN_FRONTEND=noninteractive)
else
  echo "setup: these packages are missing and there is neither root nor sudo to install them:" >&2
  for entry in "${missing[@]}"; do echo "  ${entry%%:*}  (${entry#*:})" >&2; done
  [ "${#missing[@]}" -eq 0 ] && exit 0
  exit 1
fi
echo "setup: installing with apt:"
for entry in "${missing[@]}" "${optional[@]}"; do printf '  %-20s %s\n' "${entry%%:*}" "${entry#*:}"; done
"${as_root[@]}" apt-get update -qq
if [ "${#missing[@]}" -gt 0 ]; then
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]%%:*}" >/dev/null
fi
for entry in "${optional[@]}"; do
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${entry%%:*}" >/dev/null 2>&1 ||
    echo "setup: ${entry%%:*} could not be installed; going on without it (${entry#*:})"
done
mkdir -p "$root/build"
touch "$stamp"
