#!/usr/bin/env bash
# Trains a small run and runs the notebook of records on it.
# usage: run.sh LONGSCAN NOTEBOOK
set -euo pipefail
longscan=$1 notebook=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=
for candidate in python3 /usr/bin/python3; do  # the system's has what apt installs
  if "$candidate" -c "import h5py, matplotlib, pandas" 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "skipped: python3 has no h5py, pandas and matplotlib"
  exit 77
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat >run.yaml <<'YAML'
name: small
task: {name: parity, length: 8, test_lengths: [8, 16], test_examples: 40}
models:
  - {layers: [deltanet], width: 8, channel: none, name: one}
  - {layers: [lstm], width: 8, channel: none, name: two}
seeds: [0, 1]
steps: 20
batch: 4
log_every: 5
eval: {every: 10}
YAML
"$longscan" train run.yaml >/dev/null
LONGSCAN_RUN=runs/small "$python" "$here/check_notebook.py" "$notebook"
