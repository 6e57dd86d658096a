"""Training speed and memory of `longscan bench` against PyTorch on the same processors.

usage: compare_cpu.py --peer-python PYTHON [--case NAME]... [--dtype f32|bf16]... [--rounds 5]
                      [--seconds 4] [--cpus 0,1] [--longscan build/longscan] [--output DIR] [--decode]

For each case the peers (tests/bench/peers/torch_cpu.py, one living process for eager and one for
torch.compile) are timed twice, and by their better times the fastest of each kind goes on. Then peers and
longscan take turns, A B A B, a few seconds each; the figure is the median over the rounds of longscan's
tokens/s over the peer's just before. All stay on the same processors. Memory is the peak resident set of each
process, PyTorch's that of the eager f32 one. One longscan process is one turn: launch to the end of the first
optimiser step is timed by longscan itself.

Our bf16 keeps f32 parameters, gradients and moments. It is compared with three kinds of PyTorch: f32 (the
bar), autocast (the same recipe) and everything in bf16 (weights and moments too: less exact, and less work).

With --decode writing is timed instead (`longscan bench --decode`), at 1, 8 and 64 rows, against eager f32
with caches; the floor is what reading weights and state once takes, measured by longscan in the same run.

Prints a table in Markdown and writes every reading to DIR/compare_cpu.jsonl.
Exit status 1 when a bar of training is missed (writing has none here), 2 when something could not be run.
"""
import argparse
import collections
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# Least ratio of tokens/s over PyTorch's best.
BARS = {
    ("attention_w128_v8192", "f32"): 1.2,
    ("attention_w128_v8192", "bf16"): 1.8,
    ("attention_w256_bytes", "f32"): 1.2,
    ("attention_w256_bytes", "bf16"): 1.8,
    ("gated_deltanet_w128_v8192", "f32"): 1.6,
    ("gated_deltanet_w256_bytes", "f32"): 1.6,
    ("attention_w64_bytes", "f32"): 1.5,
    ("attention_w64_v8192", "f32"): 2.0,
    ("gated_deltanet_w64_bytes", "f32"): 2.5,
}
DECODE_CASES = ["attention_w256_bytes", "gated_deltanet_w256_bytes", "gated_deltanet_w64_bytes"]
DECODE_SIZES = [(1, 256), (8, 256), (64, 256), (1, 4096)]  # rows, tokens before the first timed one
DECODE_STEPS = 48
MEMORY_BAR = 0.5  # of PyTorch eager's peak
FIRST_STEP_BAR = 1.0  # seconds
# Kinds of peer for each of our types; the first has the bar.
KINDS = {"f32": ["f32"], "bf16": ["f32", "autocast", "bf16"]}
Row = collections.namedtuple(
    "Row", "case dtype peer peer_speed speed ratio spread bar peer_memory memory first_step")


class Failure(Exception):
    pass


class Peer:
    """A PyTorch process that runs steps when told to and sleeps otherwise."""

    def __init__(self, python, case, mode, dtype):
        self.name = f"{mode} {dtype}"
        self.process = subprocess.Popen(
            [python, str(HERE / "peers" / "torch_cpu.py"), "--case", case, "--mode", mode, "--dtype", dtype],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error"})
        self.facts = self.answer()
        warm = self.run(3)
        self.step_seconds = warm["seconds"] / warm["steps"]

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failure(f"the peer {self.name} ended with status {self.process.wait()}")
        return json.loads(line)

    def ask(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def run(self, steps):
        return self.ask("run", steps)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def run_longscan(program, case, dtype, steps):
    config = ROOT / "configs" / "bench" / f"{case}.yaml"
    command = [program, "bench", "--config", str(config), "--steps", str(steps)]
    if dtype == "bf16":
        command += ["--set", "models.0.dtype=bf16"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise Failure(f"{' '.join(command)}: status {done.returncode}")
    return json.loads(lines[-1])


def compare_decoding(options, case, log):
    """Rows of a table in Markdown: what writing costs here and in eager PyTorch."""
    peer, rows = Peer(options.peer_python, case, "eager", "f32"), []
    try:
        for count, context in DECODE_SIZES:
            turns = []
            for _ in range(options.rounds):
                theirs = peer.ask("decode", count, context, DECODE_STEPS)
                command = [options.longscan, "bench", str(ROOT / "configs" / "bench" / f"{case}.yaml"), "--decode",
                           "--rows", str(count), "--context", str(context), "--steps", str(DECODE_STEPS)]
                ours = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
                log.write(json.dumps({"case": case, "theirs": theirs, "ours": ours}) + "\n")
                turns.append((theirs["tokens_per_s"], ours["tokens_per_s"], ours["of_floor"]))
            ratios = sorted(o / t for t, o, _ in turns)
            median = lambda i: statistics.median(turn[i] for turn in turns)
            rows.append(f"| {case} | {count} | {context} | {median(0):,.0f} | {median(1):,.0f} "
                        f"| {statistics.median(ratios):.1f} ({ratios[0]:.1f}-{ratios[-1]:.1f}) "
                        f"| {median(2):.2f} |")
    finally:
        peer.close()
    return rows


def decode_main(options, path):
    print("| case | rows | tokens before | PyTorch eager, tokens/s | longscan tokens/s | ratio, median (range) "
          "| share of the floor |\n| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    with open(path, "w") as log:
        for case in options.case or DECODE_CASES:
            try:
                print("\n".join(compare_decoding(options, case, log)), flush=True)
            except (Failure, OSError, KeyError, ValueError, subprocess.CalledProcessError) as error:
                print(f"{case}: {error}", file=sys.stderr, flush=True)
                return 2
    return 0


def steps_for(seconds, step_seconds):
    return max(2, round(seconds / step_seconds))


def compare(options, case, dtype, log):
    def say(**reading):
        log.write(json.dumps({"case": case, "dtype": dtype, **reading}) + "\n")
        log.flush()

    best = {}  # by kind
    try:
        for kind in KINDS[dtype]:
            for mode in ("eager", "compile"):
                peer = Peer(options.peer_python, case, mode, kind)
                slower = peer
                try:
                    steps = steps_for(options.seconds, peer.step_seconds)
                    trial = min((peer.run(steps) for _ in range(2)), key=lambda t: t["seconds"])
                    peer.step_seconds = trial["seconds"] / trial["steps"]
                    say(peer=peer.name, **peer.facts, trial=trial)
                    if (mode, kind) == ("eager", "f32"):
                        memory = peer.run(2)["peak_rss_bytes"]
                    if kind not in best or peer.step_seconds < best[kind].step_seconds:
                        best[kind], slower = peer, best.get(kind)
                finally:
                    if slower:
                        slower.close()

        ours = run_longscan(options.longscan, case, dtype, 5)
        if ours["params"] != best["f32"].facts["params"]:
            raise Failure(
                f"{case}: {ours['params']} parameters here, {best['f32'].facts['params']} in PyTorch")
        our_steps = steps_for(options.seconds, ours["seconds"] / ours["steps"])
        turns, rounds = [], collections.defaultdict(list)
        for _ in range(options.rounds):
            for kind, peer in best.items():
                theirs = peer.run(steps_for(options.seconds, peer.step_seconds))
                ours = run_longscan(options.longscan, case, dtype, our_steps)
                say(peer=peer.name, theirs=theirs, ours=ours)
                rounds[kind].append((theirs["tokens_per_s"], ours["tokens_per_s"]))
                turns.append(ours)
    finally:
        for peer in best.values():
            peer.close()

    median = lambda values: statistics.median(list(values))
    rows = []
    for kind, pairs in rounds.items():
        ratios = sorted(ours / theirs for theirs, ours in pairs)
        rows.append(Row(case, dtype, best[kind].name, median(t for t, _ in pairs), median(o for _, o in pairs),
                        median(ratios), f"{ratios[0]:.2f}-{ratios[-1]:.2f}",
                        BARS.get((case, dtype)) if kind == "f32" else None, memory,
                        max(o["peak_rss_bytes"] for o in turns), median(o["first_step_s"] for o in turns)))
    return rows


def verdict(value, bar, at_least=True):
    if bar is None:
        return ""
    return "" if (value >= bar if at_least else value <= bar) else " (missed)"


def table(rows):
    lines = ["| case | type | PyTorch, fastest | tokens/s | longscan tokens/s | ratio, median (range) | bar "
             "| peak memory, MB: PyTorch eager, longscan, share | first step, median, s |",
             "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for r in rows:
        share = r.memory / r.peer_memory
        lines.append(
            f"| {r.case} | {r.dtype} | {r.peer} | {r.peer_speed:,.0f} | {r.speed:,.0f} "
            f"| {r.ratio:.2f} ({r.spread}){verdict(r.ratio, r.bar)} | {r.bar or '-'} "
            f"| {r.peer_memory / 1e6:,.0f}, {r.memory / 1e6:,.0f}, {share:.2f}"
            f"{verdict(share, MEMORY_BAR, False)} "
            f"| {r.first_step:.2f}{verdict(r.first_step, FIRST_STEP_BAR, False)} |")
    return "\n".join(lines)


def cpu_model():
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def main():
    names = list(dict.fromkeys(case for case, _ in BARS))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="a Python that has torch and transformers")
    parser.add_argument("--case", action="append", choices=names)
    parser.add_argument("--dtype", action="append", choices=list(KINDS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of a turn")
    parser.add_argument("--cpus", help="processors of both sides, by default the first two allowed")
    parser.add_argument("--longscan", default=str(ROOT / "build" / "longscan"))
    parser.add_argument("--output", default=str(ROOT / "build"))
    parser.add_argument("--decode", action="store_true", help="time writing instead of training")
    options = parser.parse_args()

    allowed = sorted(os.sched_getaffinity(0))
    cpus = [int(c) for c in options.cpus.split(",")] if options.cpus else allowed[:2]
    os.sched_setaffinity(0, cpus)  # children inherit it
    path = pathlib.Path(options.output) / "compare_cpu.jsonl"
    rows, failed = [], False
    print(f"{cpu_model()}, processors {cpus}, {time.strftime('%Y-%m-%d')}, load "
          f"{os.getloadavg()[0]:.2f}", flush=True)
    if options.decode:
        return decode_main(options, path)
    with open(path, "w") as log:
        for case, dtype in BARS:
            if (options.case and case not in options.case) or (options.dtype and dtype not in options.dtype):
                continue
            try:
                rows += (fresh := compare(options, case, dtype, log))
                print("\n".join(table(fresh).splitlines()[2:]), flush=True)
            except (Failure, OSError, KeyError, json.JSONDecodeError) as error:
                failed = True
                print(f"{case} {dtype}: {error}", file=sys.stderr, flush=True)
    print(f"\n{table(rows)}\n\nevery reading: {path}")
    if failed:
        return 2
    missed = any((r.bar and r.ratio < r.bar) or r.memory > MEMORY_BAR * r.peer_memory or
                 r.first_step > FIRST_STEP_BAR for r in rows)
    return 1 if missed else 0


sys.exit(main())
