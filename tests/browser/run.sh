#!/usr/bin/env bash
# A small sweep and a run, their report, and the page in a browser. Status 77 where there is none.
# usage: run.sh LONGSCAN CHECK_PAGE.PY
set -euo pipefail
longscan=$1 check=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
base="task: {name: mqar, variant: continuous, vocab: 64, width: 16, train: [{pairs: 4}],
         test: [{pairs: 2, examples: 20}, {pairs: 4, examples: 20}, {pairs: 8, examples: 20}]}
  models:
    - {name: gated DeltaNet, width: 16, channel: none, layers: [{name: gated_deltanet, heads: 1, head_dim: 4}]}
    - {name: attention with a long name that needs room, width: 16, channel: none,
       layers: [{name: attention, heads: 1}]}
  steps: 6
  batch: 4
  eval: {every: 3}"
printf 'name: small\nbase:\n  name: small\n  %s\naxes:\n  models.0.layers.0.head_dim: [4, 8]\nrates: [1e-3, 1e-2]\nseeds: [0, 1, 2]\n' \
  "$base" >sweep.yaml
printf 'name: run\n%s\nseeds: [0, 1]\n' "$(sed 's/^  //' <<<"$base")" >run.yaml
"$longscan" sweep sweep.yaml --workers 1 >log 2>&1 || { cat log; exit 1; }
"$longscan" train run.yaml >log 2>&1 || { cat log; exit 1; }
"$longscan" report runs --output out
exec python3 "$check" out/report.html ${LONGSCAN_SHOTS:+--shots "$LONGSCAN_SHOTS"}
