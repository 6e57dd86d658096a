#!/usr/bin/env bash
# Installs with apt what is missing to build, test and run Longscan on Debian 12 or Ubuntu 24.04, as
# root or through sudo, and says what and why. Returns at once when everything is there.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${LONGSCAN_BUILD:-$root/build}

# package | a program that does as well, or - | why
needed=(
  "g++|-|compiles the program"
  "cmake|cmake|configures the build"
  "ninja-build|ninja|runs the build"
  "git|git|tells the commit that every result is stored with"
  "libfmt-dev|-|text formatting"
  "libeigen3-dev|-|small matrix algebra"
  "libyaml-cpp-dev|-|reads configs"
  "libhdf5-dev|-|checkpoints and reference results"
  "libcli11-dev|-|command line"
  "nlohmann-json3-dev|-|metrics and results"
  "doctest-dev|-|tests"
)
optional=(
  "libdnnl-dev|-|oneDNN: the fastest matrix products on most CPUs"
  "libopenmpi-dev|mpicxx|training on several ranks"
  "openmpi-bin|mpirun|starts several ranks"
  "gnuplot-nox|gnuplot|draws the figures"
  "ccache|ccache|rebuilds faster"
  "mold|mold|links faster"
)

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
declare -A installed
find_missing() {
  local entry program
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
while read -r package status; do
  case $status in ii* | hi*) installed[$package]=yes ;; esac
done < <(dpkg-query -W -f='${Package} ${db:Status-Abbrev}\n' "${needed[@]%%|*}" "${optional[@]%%|*}" \
  2>/dev/null || true)

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
  local entry
  for entry in "$@"; do
    echo "setup: going on without $(name "$entry") (${entry##*|})"
    name "$entry" >>"$unavailable"
  done
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
  echo "setup: these packages are missing, and there is neither root nor sudo to install them:" >&2
  describe "${missing_needed[@]}" >&2
  exit 1
fi

echo "setup: installing with apt:"
describe ${missing_needed[@]+"${missing_needed[@]}"} ${missing_optional[@]+"${missing_optional[@]}"}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { "${as_root[@]}" apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" </dev/null >"$log" 2>&1; }
install() { apt install --no-install-recommends "$@"; }

# A source of packages that does not answer matters only if what is needed cannot be had.
if ! apt update; then
  grep -E '^(E|W):' "$log" >&2 || true
fi
names=(${missing_needed[@]+"${missing_needed[@]%%|*}"} ${missing_optional[@]+"${missing_optional[@]%%|*}"})
if install "${names[@]}"; then
  exit 0
fi
if [ ${#missing_needed[@]} -gt 0 ] && ! install "${missing_needed[@]%%|*}"; then
  tail -n 20 "$log" >&2
  echo "setup: could not install ${missing_needed[*]%%|*}" >&2
  echo "setup: (on Ubuntu they come from the component 'universe')" >&2
  exit 1
fi
for entry in ${missing_optional[@]+"${missing_optional[@]}"}; do
  install "$(name "$entry")" || give_up_on_optional "$entry"
done
