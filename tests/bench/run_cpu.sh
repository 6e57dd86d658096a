#!/usr/bin/env bash
# Compares training on the CPU with PyTorch: makes an environment with PyTorch of its own (about 6 GB, once,
# in LONGSCAN_PEERS or the cache folder of the user), builds longscan and runs compare_cpu.py.
# usage: tests/bench/run_cpu.sh [ARGUMENT OF compare_cpu.py]...     e.g. --case attention_w64_bytes
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
peers=${LONGSCAN_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/longscan/peers}

if ! "$peers/bin/python" -c 'import torch, transformers' 2>/dev/null; then
  # torch.compile compiles C++ against Python's headers.
  if ! python3 -c 'import ensurepip, os, sys, sysconfig
sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' 2>/dev/null; then
    echo "run_cpu: installing python3-venv and python3-dev with apt"
    as_root=$([ "$(id -u)" -eq 0 ] || echo sudo)
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq || true
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      python3 python3-venv python3-dev >/dev/null
  fi
  echo "run_cpu: installing $(tr '\n' ' ' <"$here/peers/requirements.txt")into $peers"
  mkdir -p "$(dirname "$peers")"
  python3 -m venv "$peers"
  "$peers/bin/python" -m pip install -q --no-cache-dir -r "$here/peers/requirements.txt"
fi
"$root/scripts/setup.sh"
"$root/scripts/build.sh" longscan
exec python3 "$here/compare_cpu.py" --peer-python "$peers/bin/python" \
  --longscan "${LONGSCAN_BUILD:-$root/build}/longscan" --output "${LONGSCAN_BUILD:-$root/build}" "$@"
