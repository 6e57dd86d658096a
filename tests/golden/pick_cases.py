#!/usr/bin/env python3
"""Copies a few small cases of each op from the large golden set into tests/golden.

usage: tests/golden/pick_cases.py LARGE_SET/ops      (Python 3, h5py; no part of the build or the tests)

Of each op that longscan has an adapter for (LS_GOLDEN in experiments/golden) the cases are taken
from the smallest up, each that shows something which no smaller one did: an input, an output, a
setting, or one of TRAITS in its name.
"""
import pathlib
import re
import sys

import h5py

TRAITS = ("initial_state", "packed", "grouped", "gqa", "mqa", "odd", "extreme", "one_step", "tiny",
          "large", "saturated", "window", "cross", "decode", "clip", "lr_changes", "no_warmup")
HAVE = {"feature_map": ("identity", "elu1", "relu", "softmax")}  # all that longscan has of an op
INFORMATION = {"dtype", "rtol", "agreement", "checked_by", "note", "source"}
MOST_BYTES = 4_000_000  # of the folder

here = pathlib.Path(__file__).resolve().parent
root = here.parent.parent


def datasets(group):
    found = {}
    group.visititems(lambda name, item: found.update({name: item})
                     if isinstance(item, h5py.Dataset) else None)
    return found


def features(name, case):
    shown = {trait for trait in TRAITS if trait in name}
    shown |= {path for path in datasets(case) if path.startswith(("inputs/", "outputs/"))}
    for key, value in case.attrs.items():
        if key not in INFORMATION:
            choice = isinstance(value, str) or str(value) in ("0", "1", "True", "False")
            shown.add(f"{key}={value}" if choice else key)
    return shown


def copy(case, target):
    for key, value in case.attrs.items():
        target.attrs[key] = value
    for path, data in datasets(case).items():
        packed = {"compression": "gzip", "compression_opts": 9, "shuffle": True} if (
            data.size * data.dtype.itemsize >= 1024) else {}
        target.create_dataset(path, data=data[()], dtype=data.dtype, track_times=False, **packed)


def main(large):
    ops = set()
    for source in (root / "experiments/golden").glob("*.cpp"):
        ops |= set(re.findall(r'LS_GOLDEN\(\w+, "([^"]+)"', source.read_text()))
    for old in here.glob("*.h5"):
        old.unlink()
    for op in sorted(ops):
        with h5py.File(large / f"{op}.h5") as whole, \
                h5py.File(here / f"{op}.h5", "w", libver=("v110", "v110")) as part:
            for key in ("format", "op", "source", "definition"):
                part.attrs[key] = whole.attrs[key]
            size = {name: sum(d.size for d in datasets(whole[name]).values())
                    for name in HAVE.get(op, whole)}
            shown = set()
            for name in sorted(size, key=lambda name: (size[name], name)):
                new = features(name, whole[name]) - shown
                if new:
                    shown |= new
                    copy(whole[name], part.create_group(name))
            print(f"{op}: {', '.join(part)}")
    total = sum(path.stat().st_size for path in here.glob("*.h5"))
    print(f"{total:,} bytes")
    assert total <= MOST_BYTES, f"more than {MOST_BYTES:,} bytes"


main(pathlib.Path(sys.argv[1]))
