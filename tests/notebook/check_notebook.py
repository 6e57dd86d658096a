"""Runs the code of a notebook and compares what it made with metrics.jsonl."""
import json
import os
import sys
from pathlib import Path

cells = json.loads(Path(sys.argv[1]).read_text())["cells"]
scope = {}
for cell in cells:
    if cell["cell_type"] == "code":
        assert not cell["outputs"], "the notebook is kept without outputs"
        exec(compile("".join(cell["source"]), sys.argv[1], "exec"), scope)

folder = Path(os.environ["LONGSCAN_RUN"])
assert (folder / "remade.svg").read_text().count("<svg") == 1
told = {}  # (model, split, slice, from): losses of the seeds
logged = 0
for metrics in sorted(folder.rglob("metrics.jsonl")):
    model = metrics.parent.parent.name
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    logged += sum("eval" not in line for line in lines)
    for line in lines:
        if line.get("eval") and line["step"] == 20:
            for s in line["eval"]:
                for at, loss in zip(s["positions"]["from"], s["positions"]["loss"]):
                    told.setdefault((model, line["split"], s["slice"], at), []).append(loss)
made = scope["curves"].set_index(["model", "split", "slice", "from"]).loss
assert len(made) == len(told) > 8, (len(made), len(told))
for key, losses in told.items():
    assert abs(made[key] - sum(losses) / len(losses)) < 1e-12, key
assert len(scope["log"]) == logged == 16, (len(scope["log"]), logged)
print(f"{len(made)} ranges and {logged} lines of the log as they were told")
