"""Kills commands with SIGKILL at random moments, runs them again, and says what was lost, doubled or left behind.

    python benchmarks/kill.py [TARGET ...] [--times 50] [--seed 0]

Each try begins with an empty folder, in a forked process that is the head of a group. A third of them is killed with
the whole group at a random moment of its usual time, a third before a random access to its files (every open, rename
and removal of the process itself is one), and of a third only the process dies, so that its workers live on. What is
there then must be absent or whole. The command is run again to its end, and what it left is compared with that of an
undisturbed run, byte by byte. Ends with status 1 where a try failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parents[1]
sys.path.append(str(REPO / "tests"))  # toy tables

os.environ["OMP_NUM_THREADS"] = "1"  # a fork would not have the threads that a library started before it
PATIENCE_S = 120.0
MOMENT, ACCESS, ALONE = WAYS = ("moment", "access", "alone")
LATE = "late"  # the command had ended
LOADED = (
    *("joblib", "pandas", "pyarrow.csv", "pyarrow.parquet", "sklearn.linear_model", "typer", "xgboost"),
    *("predictor.learning.calibrate", "predictor.learning.train", "predictor.prediction.jobs.batch"),
    *("predictor.registry.promotion", "predictor.learning.continual.warm_start"),
)
LOCK = "decisions.lock"  # may stay; that it is free is tried
State = dict[str, str]


class Target(NamedTuple):
    """inputs: writes what the command reads, once. start: writes what lies in the folder of a try before.

    command: its arguments, from the folders of inputs and of a try. outputs: what appears whole or not at all.
    refused: what a second run may say where the first had ended.
    """

    inputs: Callable[[Path], None]
    command: Callable[[Path, Path], Sequence[str | Path]]
    outputs: Sequence[str]
    refused: str = ""
    start: Callable[[Path, Path], None] = lambda inputs, work: None


def requests(inputs: Path) -> None:
    """A table of requests, the same as a sweep, and small parts."""
    import pandas as pd

    lines = [{"model": "Llama-3.1-8B", "gpu": gpu, "batch": batch} for gpu in ("H100", "L40S") for batch in range(1, 6)]
    pd.DataFrame(lines).assign(input_len=256, output_len=32).to_csv(inputs / "in.csv", index=False)
    values = 'model = "Llama-3.1-8B"\ngpu = ["H100", "L40S"]\nbatch = {from = 1, to = 5, step = 1}\n'
    (inputs / "sweep.toml").write_text(f"[request]\n{values}input_len = 256\noutput_len = 32\n")


def measurements(inputs: Path) -> None:
    """Measured operators, few and small trees to learn them, and whole runs."""
    import pandas as pd
    from toy import quick_recipe, quick_table, toy_table

    from predictor.learning.recipe import recipe_text
    from predictor.measurements.schema import write_table

    write_table(quick_table(), inputs / "operators.parquet")
    more = toy_table(("A10", "L40S"), seed=8).query("family == 'gemm'")
    write_table(more, inputs / "more.parquet")
    write_table(more.head(30), inputs / "own.parquet")
    (inputs / "recipe.toml").write_text(recipe_text(quick_recipe()))
    run = {"model": "Llama-3.1-8B", "gpu": "H100-SXM-80GB", "engine": "vllm", "input_len": 512, "output_len": 64}
    runs = [run | {"batch": batch, "measured_tpot_s": 0.02 + batch / 2000} for batch in (1, 8, 32)]
    pd.DataFrame(runs).to_csv(inputs / "runs.csv", index=False)


def bundles(inputs: Path) -> None:
    """Two bundles that can be judged, of which the second is better."""
    from rewritten import base_bundle, rewritten

    base = base_bundle(inputs)
    rewritten(base, inputs / "better", lambda ledger: ledger.assign(mape=0.05))


def promoted(inputs: Path, work: Path, names: Sequence[str] = ("base",)) -> None:
    """A store whose champion is the last of these."""
    for name in names:
        _ended(["promote", inputs / name, "--store", work / "store", "--force", "start"], work)


def batch(inputs: Path, work: Path, out: str, *options: str) -> Sequence[str | Path]:
    """A job over the table of requests."""
    return ["batch", inputs / "in.csv", "--out", work / out, "--rows-per-part", "2", "--quiet", *options]


def sweep(inputs: Path, work: Path, out: str, *options: str) -> Sequence[str | Path]:
    """The same of a grid."""
    return ["sweep", inputs / "sweep.toml", "--out", work / out, "--rows-per-part", "2", "--quiet", *options]


def train(inputs: Path, work: Path) -> Sequence[str | Path]:
    """A bundle of one estimator."""
    table, recipe = inputs / "operators.parquet", inputs / "recipe.toml"
    return ["train", table, "--recipe", recipe, "--out", work / "bundle", "--no-track"]


def learned_on(inputs: Path, work: Path) -> Sequence[str | Path]:
    """Other rows, learned on from that bundle."""
    table, recipe = inputs / "more.parquet", inputs / "recipe.toml"
    return ["train", table, "--recipe", recipe, "--out", work / "bundle", "--no-track", "--start", inputs / "known"]


def known(inputs: Path) -> None:
    """The measurements and a bundle that was trained on them."""
    measurements(inputs)
    _ended(train(inputs, inputs), inputs)
    (inputs / "bundle").rename(inputs / "known")


def calibrate(inputs: Path, work: Path, data: str, *options: str | Path) -> Sequence[str | Path]:
    """A bundle that knows rows of one's own."""
    return ["calibrate", "--data", inputs / data, "--out", work / "bundle", *options]


def a_note(inputs: Path, work: Path) -> None:
    """A folder that holds something already."""
    (work / "bundle").mkdir()
    (work / "bundle" / "notes.txt").write_text("mine")


def promote(inputs: Path, work: Path) -> Sequence[str | Path]:
    """The better bundle becomes champion."""
    return ["promote", inputs / "better", "--store", work / "store"]


def rollback(inputs: Path, work: Path) -> Sequence[str | Path]:
    """The champion before is champion again."""
    return ["rollback", "--store", work / "store"]


ONE, TWO = ("--jobs", "1"), ("--jobs", "2")
TARGETS: Mapping[str, Target] = {
    "batch": Target(requests, lambda i, w: batch(i, w, "a.parquet", *ONE), ["a.parquet"]),
    "batch-csv": Target(requests, lambda i, w: batch(i, w, "a.csv", *ONE), ["a.csv"]),
    "batch-folder": Target(requests, lambda i, w: batch(i, w, "parts", *ONE), []),
    "batch-processes": Target(requests, lambda i, w: batch(i, w, "a.parquet", *TWO), ["a.parquet"]),
    "sweep": Target(requests, lambda i, w: sweep(i, w, "a.csv", *ONE), ["a.csv"]),
    "sweep-processes": Target(requests, lambda i, w: sweep(i, w, "parts", *TWO), []),
    "train": Target(measurements, train, ["bundle"], "holds a bundle already"),
    "train-beside": Target(measurements, train, [], "holds a bundle already", a_note),
    "train-start": Target(known, learned_on, ["bundle"], "holds a bundle already"),
    "calibrate": Target(
        known, lambda i, w: calibrate(i, w, "own.parquet", "--bundle", i / "known"), ["bundle"], "exists already"
    ),
    "calibrate-runs": Target(measurements, lambda i, w: calibrate(i, w, "runs.csv"), ["bundle"], "exists already"),
    "promote": Target(bundles, promote, [], start=promoted),
    "rollback": Target(bundles, rollback, [], start=partial(promoted, names=("base", "better"))),
    "check": Target(measurements, lambda i, w: ["check", i / "runs.csv", "--out", w / "c.csv"], ["c.csv"]),
}


def main() -> int:
    """Try every target, and print a line of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; by default all")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if wrong := set(options.targets) - set(TARGETS):
        parser.error(f"no target {wrong.pop()}; there are {', '.join(TARGETS)}")
    _load()
    failed = 0
    for name in options.targets or TARGETS:
        with tempfile.TemporaryDirectory() as scratch:
            counts = tried(TARGETS[name], Path(scratch), options.times, random.Random(f"{options.seed} {name}"))
        wrong_ones = {what: count for what, count in counts.items() if what not in (*WAYS, LATE)}
        killed = sum(counts[way] for way in WAYS)
        ways = ", ".join(f"{counts[way]} {way}" for way in WAYS)
        late = f", {counts[LATE]} more too late" if counts[LATE] else ""
        print(f"{name}: killed {killed} times ({ways}{late}), {sum(wrong_ones.values())} failed", flush=True)
        for what, count in wrong_ones.items():
            print(f"  {count:>4}  {what}", flush=True)
        failed += sum(wrong_ones.values())
    return 1 if failed else 0


def _load() -> None:
    """Does once what every command does first."""
    for module in LOADED:
        import_module(module)
    from predictor import predict

    predict("Llama-3.1-8B", "H100", input_len=256, output_len=32)


def tried(target: Target, scratch: Path, times: int, draw: random.Random) -> Counter[str]:
    """How often each way of killing was tried, and how often what was wrong after it."""
    inputs, work = scratch / "inputs", scratch / "work"
    inputs.mkdir()
    _in_child(lambda: target.inputs(inputs), scratch)
    _fresh(target, inputs, work)
    accesses = _undisturbed(target, inputs, work, scratch)
    took, expected = _undisturbed_seconds(target, inputs, work), state(work)
    counts: Counter[str] = Counter()
    while sum(counts[way] for way in WAYS) < times:
        way = WAYS[sum(counts[way] for way in WAYS) % len(WAYS)]
        _fresh(target, inputs, work)
        before = state(work)
        at = draw.randrange(accesses) if way == ACCESS else draw.uniform(0, took)
        in_time = _killed(target.command(inputs, work), work, way, at)
        counts[way if in_time else LATE] += 1
        if wrong := _judged(target, inputs, work, before, expected):
            counts[wrong] += 1
    return counts


def _judged(target: Target, inputs: Path, work: Path, before: State, expected: State) -> str:
    """What is wrong after a kill; "" where nothing is."""
    after = state(work)
    for output in target.outputs:
        there = {name: digest for name, digest in after.items() if name.split("/")[0] == output}
        if there and there != {name: digest for name, digest in expected.items() if name.split("/")[0] == output}:
            return f"{output} is there and not whole"
    if wrong := _store_wrong(work, before, expected):
        return wrong
    ended = all(after.get(name) == digest for name, digest in expected.items())
    if not (ended and target.command(inputs, work)[0] == "rollback"):  # it would go back further
        status, said = _ended(target.command(inputs, work), work)
        if status and not (ended and target.refused and target.refused in said):
            return f"the second run ends with {status}: {said.strip().replace(str(work), '')[-200:]}"
    final = state(work)
    if lost := sorted(set(expected) - set(final)):
        return f"{lost[0]} is missing"
    if other := sorted(name for name in expected if final[name] != expected[name]):
        return f"{other[0]} is not that of an undisturbed run"
    if left := sorted(set(final) - set(expected)):
        shown = left[0].replace(str(os.getpid()), "PID")
        return f"left behind: {''.join('9' if sign.isdigit() else sign for sign in shown.split('/')[0][:30])}…"
    return ""


def _store_wrong(work: Path, before: State, expected: State) -> str:
    """What is wrong with a store of champions, where there is one: its log must be that before or that after."""
    log = "store/decisions.jsonl"
    if log in expected:
        now = state(work).get(log)
        if now not in (before.get(log), expected[log]):
            return "the log is neither that before nor that after"
        status, said = _ended(["champion", "--store", work / "store"], work)
        if status:
            return f"predictor champion ends with {status}: {said.strip()[-200:]}"
    return ""


def state(folder: Path) -> State:
    """Path → digest of every file, and of every empty folder; times of decisions do not count."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        with suppress(FileNotFoundError):  # of a worker that lives on
            if path.is_dir():
                if not any(path.iterdir()):
                    found[f"{name}/"] = ""
            elif path.name != LOCK:
                found[name] = _digest(path)
    return found


def _digest(path: Path) -> str:
    content = path.read_bytes()
    if path.name == "decisions.jsonl":
        lines = [json.loads(line) | {"time": ""} for line in content.splitlines()]
        content = json.dumps(lines).encode()
    return hashlib.sha256(content).hexdigest()


def _fresh(target: Target, inputs: Path, work: Path) -> None:
    """The folder of a try as it is before; what it takes to make it is kept beside."""
    start = work.with_name("start")
    if not start.exists():
        start.mkdir()
        target.start(inputs, start)
    shutil.rmtree(work, ignore_errors=True)
    while work.exists():  # a worker that lives on writes into it
        time.sleep(0.1)
        shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(start, work)


def _undisturbed(target: Target, inputs: Path, work: Path, scratch: Path) -> int:
    """Accesses of a run from its start to its end."""
    counted = scratch / "accesses"
    child = _forked(partial(_counted, target.command(inputs, work), work, counted), scratch / "said")
    if _status(child):
        raise SystemExit(f"{target.command(inputs, work)[0]} ended with an error: {(scratch / 'said').read_text()}")
    return int(counted.read_text())


def _counted(command: Sequence[str | Path], work: Path, counted: Path) -> int:
    total = [0]

    def seen() -> None:
        total[0] += 1

    _watch(work, seen)
    status = _main(command)
    counted.write_text(str(total[0]))
    return status


def _undisturbed_seconds(target: Target, inputs: Path, work: Path) -> float:
    _fresh(target, inputs, work)
    began = time.perf_counter()
    _ended(target.command(inputs, work), work)
    return time.perf_counter() - began


def _killed(command: Sequence[str | Path], work: Path, way: str, at: float) -> bool:
    """Run a command and kill it; returns whether it had not ended. at: seconds, or before which access."""
    said = work.with_name("said")
    if way == ACCESS:
        child = _forked(partial(_suicidal, command, work, int(at)), said)
        return _status(child) == -signal.SIGKILL
    child = _forked(partial(_main, command), said)
    until = time.perf_counter() + at
    while time.perf_counter() < until and _running(child):
        time.sleep(0.001)
    with suppress(ProcessLookupError):
        (os.killpg if way == MOMENT else os.kill)(child, signal.SIGKILL)
    return _status(child) == -signal.SIGKILL


def _suicidal(command: Sequence[str | Path], work: Path, last: int) -> int:
    left = [last]

    def seen() -> None:
        if left[0] == 0:
            os.killpg(0, signal.SIGKILL)
        left[0] -= 1

    _watch(work, seen)
    return _main(command)


def _watch(work: Path, seen: Callable[[], None]) -> None:
    """Calls `seen` before each access of this process to a file in the folder."""
    folder = str(work)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if (event == "open" or event.startswith(("os.", "shutil."))) and folder in str(arguments[:2]):
            seen()

    sys.addaudithook(hook)


def _ended(command: Sequence[str | Path], work: Path) -> tuple[int, str]:
    """Status of a command that is run to its end, and what it said; raises SystemExit where it hangs."""
    said = work.with_name("said")
    child = _forked(partial(_main, command), said)
    until = time.perf_counter() + PATIENCE_S
    while _running(child):
        if time.perf_counter() > until:
            os.killpg(child, signal.SIGKILL)
            _status(child)
            return 1, "it hangs"
        time.sleep(0.002)
    return _status(child), said.read_text()


def _in_child(work: Callable[[], object], scratch: Path) -> None:
    """Does something in a process of its own, which may start threads."""

    def done() -> int:
        work()
        return 0

    if _status(_forked(done, scratch / "said")):
        raise SystemExit((scratch / "said").read_text())


def _main(command: Sequence[str | Path]) -> int:
    from predictor.cli import main as predictor

    return predictor([str(part) for part in command])


def _forked(run: Callable[[], int], said: Path) -> int:
    """Start a process that heads a group of its own and writes into the file `said`; returns its id."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setsid()
        with said.open("wb") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        status = run()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(status)


def _running(child: int) -> bool:
    """Whether a process has not ended; it is not reaped."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _status(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
