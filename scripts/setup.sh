#!/usr/bin/env bash
# Installs with apt what is missing to build, test and run Longscan on Debian 12 or Ubuntu 24.04, as
# root or through sudo, and says what and why. Returns at once when everything is there.
# usage: scripts/setup.sh [--checks]     --checks: also what scripts/ci.sh needs
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${LONGSCAN_BUILD:-$root/build}

# package | a program that does as well, or - | why
needed=(
  "g++|g++|compiles the program"
  "cmake|cmake|configures the build"
  "ninja-build|ninja|runs the build"
  "git|git|tells the commit that every result is stored with"
  "libfmt-dev|-|text formatting"
  "libyaml-cpp-dev|-|reads configs"
  "libhdf5-dev|-|checkpoints and reference results"
  "libcli11-dev|-|command line"
  "nlohmann-json3-dev|-|metrics and results"
  "libeigen3-dev|-|singular values of states"
  "doctest-dev|-|tests"
)
checks=${1:-}
if [ "$checks" = --checks ]; then
  needed+=("clang-format-14|clang-format-14|checks the format of the sources")
fi
optional=(
  "libopenmpi-dev|mpicxx|training on several ranks"
  "openmpi-bin|mpirun|starts several ranks"
  "gnuplot-nox|gnuplot|draws the figures"
  "ccache|ccache|rebuilds faster"
  "mold|mold|links faster"
)
if [ "$checks" = --checks ]; then
  optional+=("python3|python3|drives the browser that reads a report"
    "python3-h5py|-|reads the records of runs in a notebook"
    "python3-pandas|-|the same"
    "python3-matplotlib|-|draws its figure"
    "chromium|chromium|opens a report's page"
    "fonts-dejavu-core|-|text of figures")
fi

# Plotly, which pages of `longscan report` hold: one file of a package of PyPI, checked by its hash.
plotly_file=${XDG_CACHE_HOME:-$HOME/.cache}/longscan/plotly.min.js
plotly_sum=6d21266ce1bd7d9e5ab4e115989c70c20de0382fd973a8f26ab58619eba4d603
fetch_plotly() {
  [ ! -e "$plotly_file" ] && [ ! -e "$build/.no-plotly" ] || return 0
  local folder
  folder=$(mktemp -d)
  if python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --dest "$folder" plotly==5.24.1 >/dev/null 2>&1 &&
    python3 -m zipfile -e "$folder"/plotly-*.whl "$folder" &&
    (cd "$folder/plotly/package_data" && sha256sum --quiet -c <<<"$plotly_sum  plotly.min.js"); then
    mkdir -p "$(dirname "$plotly_file")"
    mv "$folder/plotly/package_data/plotly.min.js" "$plotly_file.$$"
    mv "$plotly_file.$$" "$plotly_file"
  else
    echo "setup: Plotly cannot be had from PyPI with python3 -m pip; reports will show pictures." \
      "Put plotly.min.js at $plotly_file, or set the CMake option LONGSCAN_PLOTLY to it."
    mkdir -p "$build"
    touch "$build/.no-plotly"  # not asked for again until the build folder is removed
  fi
  rm -rf "$folder"
}
fetch_plotly

name() { echo "${1%%|*}"; }
describe() {
  local entry
  for entry in "$@"; do
    printf '  %-20s %s\n' "$(name "$entry")" "${entry##*|}"
  done
}

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "setup: no apt here. Besides what your system calls them, the build needs the first list and"
  echo "can use the second:"
  describe "${needed[@]}"
  echo
  describe "${optional[@]}"
  exit 0
fi

# Sets `missing` to the entries of a list that are not there.
find_missing() {
  local entry program package status
  local -A installed=()
  while read -r package status; do
    case $status in ii* | hi*) installed[$package]=yes ;; esac
  done < <(dpkg-query -W -f='${Package} ${db:Status-Abbrev}\n' "${@%%|*}" 2>/dev/null || true)
  missing=()
  for entry in "$@"; do
    program=${entry#*|}
    program=${program%%|*}
    if [ -z "${installed[${entry%%|*}]:-}" ] &&
      { [ "$program" = - ] || ! command -v "$program" >/dev/null; }; then
      missing+=("$entry")
    fi
  done
}

find_missing "${needed[@]}"
missing_needed=(${missing[@]+"${missing[@]}"})
find_missing "${optional[@]}"
# What could not be had once is not asked for again until the build folder is removed.
unavailable=$build/.unavailable-packages
missing_optional=()
for entry in ${missing[@]+"${missing[@]}"}; do
  if ! grep -qsxF -e "$(name "$entry")" "$unavailable"; then
    missing_optional+=("$entry")
  fi
done
if [ ${#missing_needed[@]} -eq 0 ] && [ ${#missing_optional[@]} -eq 0 ]; then
  exit 0
fi

give_up_on_optional() {
  mkdir -p "$build"
  echo "setup: going on without ${*%%|*}"
  printf '%s\n' "${@%%|*}" >>"$unavailable"
}

environment=(DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a)
if [ "$(id -u)" -eq 0 ]; then
  as_root=(env "${environment[@]}")
elif command -v sudo >/dev/null; then
  as_root=(sudo env "${environment[@]}")
elif [ ${#missing_needed[@]} -eq 0 ]; then
  echo "setup: neither root nor sudo, nothing is installed"
  give_up_on_optional "${missing_optional[@]}"
  exit 0
else
  echo "setup: these required packages are missing, and there is neither root nor sudo to install them:" >&2
  describe "${missing_needed[@]}" >&2
  exit 1
fi

echo "setup: installing with apt:"
describe ${missing_needed[@]+"${missing_needed[@]}"} ${missing_optional[@]+"${missing_optional[@]}"}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { "${as_root[@]}" apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" </dev/null >"$log" 2>&1; }
install() { apt install --no-install-recommends "$@"; }
# Sets `missing` to the entries of a list that cannot be had and `why` to what apt said of one.
install_each() {
  local entry
  for entry in "$@"; do
    install -o Acquire::Retries=0 "$(name "$entry")" ||
      why=$(grep -m 1 '^E:' "$log" || tail -n 1 "$log")
  done
  find_missing "$@"
}

# A source of packages that does not answer matters only if what is needed cannot be had.
apt update || true
names=(${missing_needed[@]+"${missing_needed[@]%%|*}"} ${missing_optional[@]+"${missing_optional[@]%%|*}"})
if install "${names[@]}"; then
  exit 0
fi
if [ ${#missing_needed[@]} -gt 0 ] && ! install "${missing_needed[@]%%|*}"; then
  install_each "${missing_needed[@]}"
  if [ ${#missing[@]} -gt 0 ]; then
    echo "setup: required packages are missing (on Ubuntu they are in the component 'universe'):" >&2
    describe "${missing[@]}" >&2
    echo "setup: apt could not install them: ${why#E: }" >&2
    exit 1
  fi
fi
if [ ${#missing_optional[@]} -gt 0 ]; then
  install_each "${missing_optional[@]}"
  if [ ${#missing[@]} -gt 0 ]; then
    give_up_on_optional "${missing[@]}"
  fi
fi
