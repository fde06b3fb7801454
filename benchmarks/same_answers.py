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
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

ASKED = "asked"  # the copy of the questions beside the answers, by which command lines name files
TRAIN = "train --recipe asked/recipe.toml --no-track"
# Output → arguments that write it: bundles, then tables, in parts small enough to be several, which must not matter.
BUNDLES: Mapping[str, str] = {
    "own": "calibrate --bundle default --data asked/measured.parquet",
    "small": f"{TRAIN} asked/several.parquet",
    "learned": f"{TRAIN} asked/measured.parquet --start small",
}
TABLES: Mapping[str, str] = {
    "requests": "batch asked/requests.parquet --rows-per-part 700",
    "ops": "batch asked/ops.parquet --ops --rows-per-part 29000",
    "own_requests": "batch asked/own_requests.parquet --bundle own",
    "own_ops": "batch asked/own_ops.parquet --ops --bundle own",
    "learned_ops": "batch asked/own_ops.parquet --ops --bundle learned",
    "sweep": "sweep asked/sweep.toml",
}
COMMANDS = "commands"
ALL = (*BUNDLES, *TABLES, COMMANDS)
AT_ONCE = 2
EXAMPLES = 3
MADE = ("bundle.json", "printed.json")  # the manifest has the sha256 of all other files of a bundle
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


def answer(folder: Path, predictor: Path, out: Path, only: Collection[str]) -> None:
    """Put the questions of a folder to an executable; everything runs in `out`, so that paths are the same in all."""
    if out.exists() and any(out.iterdir()):
        raise SystemExit(f"{out} is not empty; give another --out, or remove it.")
    shutil.copytree(folder, out / ASKED, dirs_exist_ok=True)
    for name, arguments in BUNDLES.items():
        if name in only:
            began, said = time.perf_counter(), _made(predictor, f"{arguments} --out {name}", out)
            (out / name / "printed.json").write_text(json.dumps(said, indent=1) + "\n")
            print(f"bundle {name}: {time.perf_counter() - began:.0f} s", flush=True)
    for name, arguments in TABLES.items():
        if name in only:
            began = time.perf_counter()
            _made(predictor, f"{arguments} --out {name}.parquet --quiet", out)
            table = pd.read_parquet(out / f"{name}.parquet")
            told = f"{len(table):,} rows, {int(table['error'].notna().sum()):,} with an error"
            print(f"{name}: {told}, {time.perf_counter() - began:.0f} s", flush=True)
    if COMMANDS in only:
        began, lines = time.perf_counter(), json.loads((out / ASKED / "commands.json").read_text())
        with ThreadPoolExecutor(AT_ONCE) as pool:
            said = dict(zip(lines, pool.map(lambda line: _run(predictor, line, out), lines), strict=True))
        (out / "commands.json").write_text(json.dumps(said, indent=1) + "\n")
        failed = sum(each["status"] != 0 for each in said.values())
        print(f"{len(said)} commands, {failed} not with status 0, {time.perf_counter() - began:.0f} s")


def _made(predictor: Path, line: str, folder: Path) -> dict[str, Any]:
    """As _run, for what must be answered; status 1: some rows are wrong, as they were meant to be."""
    said = _run(predictor, line, folder)
    if said["status"] not in (0, 1):
        raise SystemExit(f"{line} ended with status {said['status']}: {said['stderr']}")
    return said


def _run(predictor: Path, line: str, folder: Path) -> dict[str, Any]:
    command = [str(predictor.absolute()), *shlex.split(line)]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **QUIET}, capture_output=True, text=True, check=False)
    return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr if done.returncode else ""}


# Comparison


def compare(first: Path, second: Path, only: Collection[str]) -> int:
    """Print what is equal and what is not; returns 1 where anything differs, else 0."""
    found: list[Difference] = []
    for name in TABLES:
        if name in only:
            found += _table_differences(name, *(folder / f"{name}.parquet" for folder in (first, second)))
    for name in BUNDLES:
        if name in only:
            made = ({file: _read(folder / name / file) for file in MADE} for folder in (first, second))
            found += _said_differences(f"bundle {name}", *made)
    if COMMANDS in only:
        found += _said_differences("commands", *(_read(folder / "commands.json") for folder in (first, second)))
    _tell(found)
    return int(bool(found))


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _table_differences(name: str, *files: Path) -> list[Difference]:
    one, two = (_by_id(pd.read_parquet(file)) for file in files)
    if missing := one.index.difference(two.index).tolist() + two.index.difference(one.index).tolist():
        return [Difference(name, "rows of one table only", missing[:EXAMPLES], len(missing), np.nan)]
    two = two.loc[one.index]
    if new := [column for column in two if column not in one]:
        print(f"{name}: not compared are new columns {', '.join(new)}")
    found = [Difference(name, column, "a column", "missing", np.nan) for column in one if column not in two]
    shared = [column for column in one if column in two]
    equal = np.array([_same(one[column], two[column]) for column in shared])
    for column, same in zip(shared, equal, strict=True):
        for row in np.flatnonzero(~same):
            a, b = one[column].iloc[row], two[column].iloc[row]
            found.append(Difference(f"{name} id {one.index[row]}", f"{name}.{column}", a, b, _relative(a, b)))
    rows = f"{equal.all(axis=0).sum():,} of {len(one):,} rows"
    print(f"{name}: {rows} and {equal.sum():,} of {equal.size:,} cells equal")
    return found


def _by_id(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_index("id") if "id" in table else table


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


def _said_differences(name: str, one: dict[str, Any], two: dict[str, Any]) -> list[Difference]:
    """Of what was said to each command line, or stands in each file."""
    found, values, new = [], 0, []
    for source, said in one.items():
        if source not in two:
            found.append(Difference(source, name, "answered", "missing", np.nan))
            continue
        first, second = dict(_values(said)), dict(_values(two[source]))
        new += [f"{place} of {source}" for place in second if place not in first]
        values += len(first)
        for place, value in first.items():
            other = second.get(place, "missing")
            if repr(value) != repr(other):
                found.append(Difference(source, f"{name} {place}", value, other, _relative(value, other)))
    if new:
        print(f"{name}: not compared are {len(new)} new values, such as {'; '.join(new[:EXAMPLES])}")
    print(f"{name}: {values - len(found):,} of {values:,} values equal, of {len(one)} sources")
    return found


def _values(said: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(place, value) of everything that is in JSON; what a command printed is taken apart too, other texts by lines."""
    printed = said.get("stdout")
    if printed is None:
        yield from _leaves("", said)
        return
    yield from {"status": said["status"], "stderr": said["stderr"]}.items()
    try:
        yield from _leaves("", json.loads(printed))
    except ValueError:
        yield from _leaves("line", printed.splitlines())


def _leaves(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        yield place, value
        return
    if isinstance(value, list):
        yield f"{place}.length", len(value)
    for name, each in inner:
        yield from _leaves(f"{place}.{name}", each)


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
    for each in (answering, comparing):
        each.add_argument(
            "--only", nargs="+", choices=ALL, default=ALL, help="by default all; a table or command needs its bundle"
        )
    given = parser.parse_args()
    if given.command == "ask":
        from questions import write_questions  # the other two work without the package

        write_questions(given.folder)
        return 0
    if given.command == "answer":
        answer(given.folder, given.predictor, given.out, given.only)
        return 0
    return compare(given.first, given.second, given.only)


if __name__ == "__main__":
    raise SystemExit(main())
