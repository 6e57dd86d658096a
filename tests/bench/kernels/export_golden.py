#!/usr/bin/env python3
"""Golden cases as plain numbers, for benches without HDF5: export_golden.py FROM.h5 TO.bin

Lines "case NAME", "attribute NAME VALUE" and "array PATH RANK EXTENTS...", the last followed by
its float64 values.
"""
import sys

import h5py
import numpy as np


def main(source, target):
    with h5py.File(source) as file, open(target, "wb") as out:
        for name, case in file.items():
            out.write(f"case {name}\n".encode())
            for key, value in case.attrs.items():
                if not isinstance(value, (str, bytes)):
                    out.write(f"attribute {key} {float(value)!r}\n".encode())
            for group in case.values():
                for array in group.values():
                    values = np.asarray(array, dtype="<f8")
                    shape = " ".join(str(n) for n in (values.ndim, *values.shape))
                    out.write(f"array {array.name.split('/', 2)[2]} {shape}\n".encode())
                    out.write(values.tobytes() + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
