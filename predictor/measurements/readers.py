"""What the readers of public sources share: `ROOT --out TABLE.parquet`, a record of what was left out, a summary.

A reader is `read(root, unread) -> table`. It maps files and rows to the schema; what it cannot map it hands to
`unread`, with the reason, so that nothing disappears in silence.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from predictor.errors import InvalidTable, PredictorError, UnknownGpu
from predictor.hardware.gpu import get_gpu
from predictor.measurements.schema import ARROW_SCHEMA, COLUMNS, conform, write_table

SIZES_OF_A_DOUBLING = 32  # of messages that are kept
LFS_POINTER = b"version https://git-lfs"


class Unread:
    """What a reader leaves out: files and rows, and what it says of rows that it reads (remarks), counted by
    reason.

    seconds: of kernels that were left out for a reason. seen_s: of all kernels. notes: what else is to be said, a line
    each.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.seconds: dict[str, float] = {}
        self.seen_s = 0.0
        self.files: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.remarks: Counter[str] = Counter()

    def file(self, reason: str) -> None:
        """Count one file that is not read."""
        self.files[reason] += 1

    def keep(self, frame: pd.DataFrame, mask: Any, reason: str) -> pd.DataFrame:
        """The rows of frame where mask holds; the others are counted under reason."""
        dropped = len(frame) - int(mask.sum())
        if dropped:
            self.rows[reason] += dropped
        return frame[mask] if dropped else frame

    def gpu(self, alias: str) -> str | None:
        """Catalogue name of a source's GPU; an unknown one is counted as a file and None."""
        try:
            return get_gpu(alias).name
        except UnknownGpu as error:
            self.file(f"unknown GPU: {error}")
            return None

    def known(self, frame: pd.DataFrame, column: str, names: Mapping[str, str], into: str) -> pd.DataFrame:
        """frame with the schema's names of `column` in `into`; rows whose name is not in names are counted."""
        text = frame[column].astype("category")
        for name in text.cat.categories:
            if str(name) not in names:
                rows = int((text == name).sum())
                if rows:
                    self.rows[f'unknown {column} "{name}"'] += rows
        mapped = text.astype(object).map({name: names.get(str(name)) for name in text.cat.categories})
        empty = text.isna()
        if empty.any():
            self.rows[f"{column} is empty"] += int(empty.sum())
        good = mapped.notna()
        return frame[good].assign(**{into: pd.Categorical(mapped[good])})

    def positive(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows with a latency above 0; the others are counted."""
        return self.keep(frame, frame["latency_s"] > 0, "latency is empty or not above 0")

    def lines(self) -> list[str]:
        """The record as lines of text: notes, then what was left out, largest first."""
        files = [f"not read, {count} file{'s' * (count > 1)}: {why}" for why, count in self.files.most_common()]
        rows = [self._line(count, why) for why, count in self.rows.most_common()]
        remarks = [f"read, {count:,} row{'s' * (count > 1)}: {why}" for why, count in self.remarks.most_common()]
        return self.notes + files + rows + remarks

    def _line(self, count: int, why: str) -> str:
        if why not in self.seconds:
            return f"not read, {count:,} row{'s' * (count > 1)}: {why}"
        share = self.seconds[why] / self.seen_s if self.seen_s else 0.0
        return f"not read, {count:,} kernel{'s' * (count > 1)}, {100 * share:.1f} % of their time: {why}"


Read = Callable[[Path, Unread], pd.DataFrame]


def folder(root: Path, *candidates: str, url: str) -> Path:
    """The first of candidates that is a folder below root; none of them raises."""
    for candidate in candidates:
        if (root / candidate).is_dir():
            return root / candidate
    raise InvalidTable(f'{root} has no folder "{candidates[0]}"; give the root of a clone of {url}.')


def read_columns(path: Path, columns: Sequence[str], unread: Unread, optional: Sequence[str] = ()) -> pd.DataFrame:
    """Those columns of a Parquet or CSV file; empty, and counted in unread, where the file cannot give them.

    A column of `optional` that is absent is left out.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(len(LFS_POINTER))
        if head == LFS_POINTER:
            unread.file("a git-lfs pointer instead of data: run `git lfs pull` in the clone")
            return pd.DataFrame()
        if path.suffix == ".parquet":
            names = list(pq.read_schema(path).names)
        else:
            names = list(pd.read_csv(path, nrows=0).columns)
        missing = [name for name in columns if name not in names]
        if missing:
            unread.file(f"{path.name} has no column {', '.join(missing)}")
            return pd.DataFrame()
        wanted = [*columns, *(name for name in optional if name in names)]
        if path.suffix == ".parquet":
            frame: pd.DataFrame = pq.read_table(path, columns=wanted).to_pandas()
            return frame
        return pd.read_csv(path, usecols=wanted, low_memory=False)[wanted]
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError covers pandas' parser and decoding errors
        unread.file(f"{path.name} cannot be read ({str(error).splitlines()[0]})")
        return pd.DataFrame()


def stack(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Frames of schema columns, one below the other, as one conformed table; text stays categorical."""
    tables = [
        pa.Table.from_pandas(conform(frame), schema=ARROW_SCHEMA, preserve_index=False)
        for frame in frames
        if len(frame)
    ]
    if not tables:
        return conform(pd.DataFrame({name: [] for name in COLUMNS}))
    whole = pa.concat_tables(tables).unify_dictionaries()
    tables.clear()
    frame: pd.DataFrame = whole.to_pandas(split_blocks=True, self_destruct=True)
    return frame


def median_of_repeats(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per call: rows that differ in latency only become one, with the median."""
    keys = [name for name in frame.columns if name != "latency_s" and frame[name].notna().any()]
    middle = frame.groupby(keys, observed=True, dropna=False, sort=False)["latency_s"].median()
    return conform(middle.reset_index())


def thinned_sizes(frame: pd.DataFrame, unread: Unread) -> pd.DataFrame:
    """Collectives (num_workers, size in bytes) in order, the first of each 32nd of a doubling."""
    rows = frame.sort_values(["num_workers", "size"]).assign(
        step=np.floor(np.log2(frame["size"]) * SIZES_OF_A_DOUBLING)
    )
    return unread.keep(rows, ~rows.duplicated(["num_workers", "step"]), "a size next to another")


def summary(table: pd.DataFrame) -> str:
    """Rows per family, GPU and engine."""
    counts = table.groupby(["family", "gpu", "engine"], observed=True).size()
    wide = counts.unstack("family", fill_value=0).reset_index()
    return str(wide.to_string(index=False))


def run_reader(read: Read, card: str, arguments: Sequence[str] | None = None) -> None:
    """The command line of a reader: read ROOT, write the table, print what was read and what was not.

    card: the reader's docstring. Exits with 2 and one line on stderr where ROOT cannot be read.
    """
    parser = argparse.ArgumentParser(description=card, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="ROOT", help="a clone of the source's repository")
    parser.add_argument("--out", type=Path, required=True, metavar="TABLE.parquet", help="measurement table to write")
    chosen = parser.parse_args(arguments)
    unread = Unread()
    try:
        if not chosen.root.is_dir():
            raise InvalidTable(f"{chosen.root} is not a folder; give a clone of the repository named in --help.")
        if not chosen.out.absolute().parent.is_dir():
            raise InvalidTable(f"{chosen.out.parent} is not a folder; create it or choose another --out.")
        table = read(chosen.root, unread)
        for line in unread.lines():
            print(line, file=sys.stderr)
        if table.empty:
            raise InvalidTable(f"no measurement could be read from {chosen.root}; the reasons are above.")
        write_table(table, chosen.out)
    except (PredictorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(summary(table))
    print(f"{len(table):,} rows in {chosen.out}")
