#!/usr/bin/env bash
# From a bare machine to trained models: installs what is missing, builds, trains
# configs/runs/quickstart.yaml, prints the table and where everything was written.
# usage: scripts/quickstart.sh [ARGUMENT OF longscan train]...     e.g. --set seeds=[0,1]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup.sh"
"$root/scripts/build.sh" longscan
cd "$root"
exec "${LONGSCAN_BUILD:-$root/build}/longscan" train configs/runs/quickstart.yaml --fresh "$@"
