#!/usr/bin/env bash
# Formats the C++ sources in place; with --check only tells which differ.
# usage: scripts/format.sh [--check] [FILE]...     without files: all that git tracks
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mode=(-i)
if [ "${1:-}" = --check ]; then
  mode=(--dry-run --Werror)
  shift
fi
# One version, since the next formats differently.
tool=$(command -v clang-format-14 || command -v clang-format || true)
case "$([ -n "$tool" ] && "$tool" --version)" in
  *"version 14."*) ;;
  *) echo "format: clang-format 14 is wanted (package clang-format-14)" >&2; exit 1 ;;
esac
if [ $# -gt 0 ]; then
  exec "$tool" "${mode[@]}" --style="file:$root/.clang-format" "$@"
fi
cd "$root"
git ls-files -z '*.h' '*.cpp' '*.cu' '*.cuh' | xargs -0 -r "$tool" "${mode[@]}"
# Comments are broken by hand.
if git grep -nE '^.{101,}' -- '*.h' '*.cpp' '*.cu' '*.cuh'; then
  echo "format: the lines above have more than 100 columns" >&2
  exit 1
fi
