"""Whether two versions of the code give the same answers to the last bit: proof that a reorganisation changed none.

    .venv/bin/python benchmarks/same_answers.py ask FOLDER
    .venv/bin/python benchmarks/same_answers.py answer FOLDER --predictor OLD/.venv/bin/predictor --out OLD_ANSWERS
    .venv/bin/python benchmarks/same_answers.py answer FOLDER --predictor .venv/bin/predictor --out ANSWERS
    .venv/bin/python benchmarks/same_answers.py compare OLD_ANSWERS ANSWERS

`ask` writes what questions.py draws. `answer` puts it to an executable, of which it knows the command line only.
`compare` ends with status 1 where a cell, a number in JSON, a text or a status differs or is missing; what only the
second has, a column or a key, is listed and is no difference.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

ASKED = "asked"  # the copy of the questions beside the answers, by which command lines name files
OWN = "own"  # the calibrated bundle
# Output → arguments that write it. Parts are small enough to have several, which must not matter.
TABLES: Mapping[str, str] = {
    "requests": "batch asked/requests.parquet --rows-per-part 700",
    "ops": "batch asked/ops.parquet --ops --rows-per-part 40000",
    "own_requests": "batch asked/own_requests.parquet --bundle own",
    "own_ops": "batch asked/own_ops.parquet --ops --bundle own",
    "sweep": "sweep asked/sweep.toml",
}
COMMANDS = "commands.json"
AT_ONCE = 2
EXAMPLES = 3
# Threads would share the cores anyhow; the width is that of tables which are printed.
QUIET = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


class Difference(NamedTuple):
    """One value that is not the same; relative: of two numbers, NaN of others."""

    where: str
    what: str
    first: Any
    second: Any
    relative: float


# Answers


def answer(folder: Path, predictor: Path, out: Path) -> None:
    """Put the questions of a folder to an executable; everything runs in `out`, so that paths are the same in all."""
    if out.exists() and any(out.iterdir()):
        raise SystemExit(f"{out} is not empty; give another --out, or remove it.")
    shutil.copytree(folder, out / ASKED, dirs_exist_ok=True)
    calibration = _run(predictor, f"calibrate --bundle default --data asked/measured.parquet --out {OWN}", out)
    if calibration["status"]:
        raise SystemExit(f"calibrate ended with status {calibration['status']}: {calibration['stderr']}")
    for name, arguments in TABLES.items():
        began = time.perf_counter()
        said = _run(predictor, f"{arguments} --out {name}.parquet --quiet", out)
        if said["status"] not in (0, 1):  # 1: some rows are wrong, as they were meant to be
            raise SystemExit(f"{arguments} ended with status {said['status']}: {said['stderr']}")
        table = pd.read_parquet(out / f"{name}.parquet")
        wrong = int(table["error"].notna().sum())
        print(f"{name}: {len(table):,} rows, {wrong:,} with an error, {time.perf_counter() - began:.0f} s", flush=True)
    began, lines = time.perf_counter(), json.loads((out / ASKED / COMMANDS).read_text())
    with ThreadPoolExecutor(AT_ONCE) as pool:
        said = dict(zip(lines, pool.map(lambda line: _run(predictor, line, out), lines), strict=True))
    said["calibrate"] = calibration
    (out / COMMANDS).write_text(json.dumps(said, indent=1) + "\n")
    failed = sum(each["status"] != 0 for each in said.values())
    print(f"{len(said)} commands, {failed} not with status 0, {time.perf_counter() - began:.0f} s")


def _run(predictor: Path, line: str, folder: Path) -> dict[str, Any]:
    command = [str(predictor.absolute()), *shlex.split(line)]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **QUIET}, capture_output=True, text=True, check=False)
    return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr if done.returncode else ""}


# Comparison


def compare(first: Path, second: Path) -> int:
    """Print what is equal and what is not; returns 1 where anything differs, else 0."""
    found: list[Difference] = []
    for name in TABLES:
        found += _table_differences(name, *(folder / f"{name}.parquet" for folder in (first, second)))
    found += _command_differences(*(json.loads((folder / COMMANDS).read_text()) for folder in (first, second)))
    found += _bundle_differences(first / OWN, second / OWN)
    _tell(found)
    return int(bool(found))


def _table_differences(name: str, *files: Path) -> list[Difference]:
    one, two = (_by_id(pd.read_parquet(file)) for file in files)
    if missing := one.index.difference(two.index).tolist() + two.index.difference(one.index).tolist():
        return [Difference(name, "rows of one table only", missing[:EXAMPLES], len(missing), np.nan)]
    two = two.loc[one.index]
    if new := [column for column in two if column not in one]:
        print(f"{name}: not compared are new columns {', '.join(new)}")
    found = [Difference(name, column, "a column", "missing", np.nan) for column in one if column not in two]
    shared = [column for column in one if column in two]
    wrong = np.zeros(len(one), dtype=bool)
    for column in shared:
        differs = ~_same(one[column], two[column])
        wrong |= differs
        for row in np.flatnonzero(differs):
            a, b = one[column].iloc[row], two[column].iloc[row]
            found.append(Difference(f"{name} id {one.index[row]}", f"{name}.{column}", a, b, _relative(a, b)))
    cells = len(one) * len(shared)
    print(
        f"{name}: {len(one) - wrong.sum():,} of {len(one):,} rows and {cells - len(found):,} of {cells:,} cells equal"
    )
    return found


def _by_id(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_index("id", verify_integrity=True) if "id" in table else table


def _same(one: pd.Series, two: pd.Series) -> np.ndarray:
    """Whether cells are equal, numbers by their bits; empty equals empty."""
    both_empty = (one.isna() & two.isna()).to_numpy()
    if one.dtype != two.dtype:
        return both_empty
    if one.dtype == np.float64:
        return both_empty | (one.to_numpy().view(np.int64) == two.to_numpy().view(np.int64))
    return both_empty | (one.astype(object).to_numpy() == two.astype(object).to_numpy())


def _relative(one: Any, two: Any) -> float:
    if not all(isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in (one, two)):
        return np.nan
    return abs(one - two) / max(abs(one), abs(two), 5e-324)


def _command_differences(one: dict[str, Any], two: dict[str, Any]) -> list[Difference]:
    found, numbers, new = [], 0, []
    for line, said in one.items():
        if line not in two:
            found.append(Difference(line, "command", "answered", "missing", np.nan))
            continue
        first, second = dict(_values(said)), dict(_values(two[line]))
        new += [f"{place} of {line}" for place in second if place not in first]
        numbers += len(first)
        for place, value in first.items():
            other = second.get(place, "missing")
            if type(value) is not type(other) or value != other:
                what = line.split()[0] + " " + place
                found.append(Difference(line, what, value, other, _relative(value, other)))
    if new:
        print(f"commands: not compared are {len(new)} new values, such as {'; '.join(new[:EXAMPLES])}")
    print(f"commands: {numbers - len(found):,} of {numbers:,} values of {len(one)} command lines equal")
    return found


def _values(said: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(place, value) of everything that a command said, JSON taken apart, other texts by lines."""
    yield from {"status": said["status"], "stderr": said["stderr"]}.items()
    try:
        yield from _leaves("", json.loads(said["stdout"]))
    except ValueError:
        yield from _leaves("line ", said["stdout"].splitlines())


def _leaves(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        yield place, value
        return
    if isinstance(value, list):
        yield f"{place}.length", len(value)
    for name, each in inner:
        yield from _leaves(f"{place}.{name}", each)


def _bundle_differences(one: Path, two: Path) -> list[Difference]:
    """The manifests of the calibrated bundles, number by number."""
    first, second = (dict(_leaves("", json.loads((each / "bundle.json").read_text()))) for each in (one, two))
    found = [
        Difference("own/bundle.json", place, value, second.get(place, "missing"), _relative(value, second.get(place)))
        for place, value in first.items()
        if second.get(place, "missing") != value
    ]
    print(f"calibrated bundle: {len(first) - len(found):,} of {len(first):,} values of its manifest equal")
    return found


def _tell(found: list[Difference]) -> None:
    """Differences by what differs, the most frequent first."""
    if not found:
        print("Everything is equal, to the last bit.")
        return
    grouped = defaultdict(list)
    for each in found:
        grouped[each.what].append(each)
    print(f"\n{len(found):,} values differ, of {len(grouped)} kinds:")
    for what, members in sorted(grouped.items(), key=lambda group: -len(group[1])):
        relative = [each.relative for each in members if not np.isnan(each.relative)]
        largest = f", at most {max(relative):.3g} of the number" if relative else ""
        print(f"  {what}: {len(members):,}{largest}")
        for each in sorted(members, key=lambda each: -np.nan_to_num(each.relative))[:EXAMPLES]:
            print(f"      {each.where}: {str(each.first)[:100]!r} became {str(each.second)[:100]!r}")


def main() -> int:
    """Run one of the three commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    asking = commands.add_parser("ask", help="write the questions")
    asking.add_argument("folder", type=Path)
    answering = commands.add_parser("answer", help="put them to an executable")
    answering.add_argument("folder", type=Path)
    answering.add_argument("--predictor", type=Path, required=True)
    answering.add_argument("--out", type=Path, required=True)
    comparing = commands.add_parser("compare", help="say what differs")
    comparing.add_argument("first", type=Path)
    comparing.add_argument("second", type=Path)
    given = parser.parse_args()
    if given.command == "ask":
        from questions import write_questions  # the other two work without the package

        write_questions(given.folder)
        return 0
    if given.command == "answer":
        answer(given.folder, given.predictor, given.out)
        return 0
    return compare(given.first, given.second)


if __name__ == "__main__":
    raise SystemExit(main())
