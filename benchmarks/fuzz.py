"""Feeds every reader of what users and strangers send with inputs that are wrong, and says which end in no answer.

    .venv/bin/python benchmarks/fuzz.py [TARGET ...] [--inputs N] [--seed S] [--list]

An input must end in an answer or in one PredictorError of one short line, within LONGEST_S and MOST_BYTES of memory.
Each target runs in a process of its own. Each distinct failure is printed once, by kind and place, with the smallest
input that showed it, kept below --keep.
"""

from __future__ import annotations

import argparse
import mmap
import os
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # small inputs: threads of XGBoost and Arrow wait for each other
from fuzz_mutations import mutated
from fuzz_targets import TARGETS, Target

from predictor.errors import LONGEST, PredictorError

LONGEST_S = 5.0
STUCK_S = 60.0  # without any progress, as code outside Python does not see the alarm
MOST_BYTES = 3 * 2**30  # beyond what the process has when it starts
MUCH_BYTES = 400 * 2**20  # that the peak may rise by at one input


class TooSlow(BaseException):
    """Above Exception, so that no reader takes it for a broken file."""


@dataclass
class Failure:
    """kind: what was raised, and where. content: the smallest input. count: inputs that showed it."""

    kind: str
    name: str
    content: bytes
    count: int = 1


@dataclass
class Tally:
    """What became of the inputs of a target."""

    inputs: int = 0
    answers: int = 0
    errors: int = 0
    failures: dict[str, Failure] = field(default_factory=dict)

    def failed(self, kind: str, name: str, content: bytes) -> None:
        """Count a failure; the smallest input is kept."""
        known = self.failures.get(kind)
        if known is None:
            self.failures[kind] = Failure(kind, name, content)
            return
        known.count += 1
        if len(content) < len(known.content):
            known.name, known.content = name, content


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"by default all: {', '.join(TARGETS)}")
    parser.add_argument("--inputs", type=int, default=1000, help="of each target; at a target's weight")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9, help="for each target at most")
    parser.add_argument("--list", action="store_true", help="name the targets, and what share of --inputs each gets")
    parser.add_argument("--keep", type=Path, default=None, help="folder for the inputs that failed")
    given = parser.parse_args()
    if unknown := [name for name in given.targets if name not in TARGETS]:
        parser.error(f"there is no target {unknown[0]}; they are {', '.join(TARGETS)}.")
    if given.list:
        print("\n".join(f"{name:22} {target.weight:g}" for name, target in TARGETS.items()))
        return 0
    whole, bad = Tally(), 0
    print(f"{'target':22} {'inputs':>9} {'answers':>8} {'errors':>9} {'failures':>8} {'a second':>9}", flush=True)
    for name in given.targets or TARGETS:
        began = time.monotonic()
        tally = _apart(name, TARGETS[name], given)
        rate = tally.inputs / max(time.monotonic() - began, 1e-9)
        shown = sum(failure.count for failure in tally.failures.values())
        print(f"{name:22} {tally.inputs:9,} {tally.answers:8,} {tally.errors:9,} {shown:8,} {rate:9,.0f}", flush=True)
        for number, failure in enumerate(tally.failures.values()):
            print(f"  {failure.count} x {failure.kind}\n    {failure.name} {failure.content[:160]!r}", flush=True)
            if given.keep:
                given.keep.mkdir(parents=True, exist_ok=True)
                (given.keep / f"{name}-{number}-{failure.name}").write_bytes(failure.content)
        whole.inputs, bad = whole.inputs + tally.inputs, bad + len(tally.failures)
    print(f"{whole.inputs:,} inputs, {bad} kinds of failure")
    return int(bad > 0)


def _apart(name: str, target: Target, given: Any) -> Tally:
    """The tally of a target that runs in processes of its own; one that dies is a failure, and another goes on."""
    import pickle

    tally, wanted = Tally(), max(1, int(given.inputs * target.weight))
    ends = time.monotonic() + given.seconds
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        folder, progress = Path(place), mmap.mmap(-1, 8)
        while tally.inputs < wanted and time.monotonic() < ends:
            if (child := os.fork()) == 0:
                status = 1  # of a fault of the harness, which nothing here may clean up after
                try:
                    part = _run(target, folder, tally.inputs, wanted, given.seed, ends, progress)
                    (folder / "tally").write_bytes(pickle.dumps(part))
                    status = 0
                except BaseException:
                    traceback.print_exc(file=sys.__stderr__)
                finally:
                    os._exit(status)
            died = _awaited(child, progress)
            if died == "status 1":
                raise SystemExit(f"{name} cannot be run; see above.")
            if (folder / "tally").is_file():
                part = pickle.loads((folder / "tally").read_bytes())
                (folder / "tally").unlink()
            else:  # what came before is lost, but for its number
                done = struct.unpack("Q", progress[:8])[0]
                part = Tally(inputs=done + 1)
                last = next((folder / "in").glob("*.*"), None)
                part.failed(f"the process ended: {died}", last.name if last else "", last.read_bytes() if last else b"")
            tally.inputs, tally.answers = tally.inputs + part.inputs, tally.answers + part.answers
            tally.errors += part.errors
            for kind, failure in part.failures.items():
                tally.failed(kind, failure.name, failure.content)
                tally.failures[kind].count += failure.count - 1
    return tally


def _awaited(child: int, progress: mmap.mmap) -> str:
    """How a process ended; one that makes no progress is ended."""
    seen, since = b"", time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return f"status {os.waitstatus_to_exitcode(status)}"
        if progress[:8] != seen:
            seen, since = progress[:8], time.monotonic()
        elif time.monotonic() - since > STUCK_S:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"stuck for {STUCK_S:g} s"
        time.sleep(0.05)


def _run(target: Target, folder: Path, start: int, wanted: int, seed: int, ends: float, progress: mmap.mmap) -> Tally:
    warnings.simplefilter("ignore")
    random, tally = Random(f"{seed} {target.name} {start}"), Tally()
    seeds, read = target.seeds(), target.reader()
    inputs = folder / "in"
    inputs.mkdir(exist_ok=True)
    for left in inputs.iterdir():
        left.unlink()
    signal.signal(signal.SIGALRM, _slow)
    right = Tally()
    for name, content, wrap in seeds[: target.warmed]:  # as they are, so that all is imported
        _tried(read, inputs, name, wrap(content) if wrap else content, right, STUCK_S)
    tally.failures.update(right.failures)
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # as long as the process lives
    resource.setrlimit(resource.RLIMIT_AS, (_size() + MOST_BYTES, resource.RLIM_INFINITY))
    pool = [content for _, content, _ in seeds]
    while start + tally.inputs < wanted and time.monotonic() < ends:
        name, content, wrap = random.choice(seeds)
        content = mutated(content, pool, random)
        if wrap and random.random() < 0.9:
            content = wrap(content)
            content = mutated(content, pool, random) if random.random() < 0.05 else content
        progress[:8] = struct.pack("Q", tally.inputs)
        _tried(read, inputs, name, content, tally)
    return tally


def _tried(
    read: Callable[[Path], Any], folder: Path, name: str, content: bytes, tally: Tally, most_s: float = LONGEST_S
) -> None:
    """Give an input to a reader, and count how it ended."""
    path = folder / name
    path.write_bytes(content)
    tally.inputs += 1
    os.utime(path, ns=(tally.inputs, tally.inputs))  # each another, as readers keep what they read by name and time
    peak, began = _peak(), time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, most_s)
    try:
        read(path)
        tally.answers += 1
    except PredictorError as error:
        tally.errors += 1
        if len(str(error)) > LONGEST:
            tally.failed(f"a message of many characters: {_where(error)}", name, content)
        elif not str(error).isprintable() or not str(error):
            tally.failed(f"a message that is no plain line: {_where(error)}", name, content)
    except (Exception, TooSlow) as error:
        said = re.sub(r"\d+", "N", str(error)[:100])
        tally.failed(f"{type(error).__name__}: {_where(error)}: {said!r}", name, content)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        path.unlink(missing_ok=True)
    if time.monotonic() - began > most_s:
        tally.failed("slow, and no alarm came", name, content)
    if _peak() - peak > MUCH_BYTES and most_s == LONGEST_S:
        tally.failed(f"much memory: by {(_peak() - peak) >> 20 >> 8 << 8} MiB and more", name, content)


def _slow(number: int, frame: FrameType | None) -> None:
    raise TooSlow


def _where(error: BaseException) -> str:
    """The last place in this package, and the last of all."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/predictor/" in frame.filename] or frames[-1:]
    place = f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}"
    return place if own[-1] is frames[-1] else f"{place} > {Path(frames[-1].filename).name}:{frames[-1].lineno}"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _size() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())
