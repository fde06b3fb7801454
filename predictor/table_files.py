"""Bounds of tables that users give, looked at before they are read: a few bytes can stand for many gigabytes."""

from __future__ import annotations

import csv
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predictor.errors import PredictorError

if TYPE_CHECKING:
    import pandas as pd

MOST_COLUMNS = 10_000
HEAD_CHARACTERS = 2**20  # of a CSV, in which its first lines end
MOST_UNPACKED = 2 * 2**30  # bytes of a Parquet file that unpacks to more than MOST_RATIO of its size
MOST_RATIO = 1000  # measurements, which differ from row to row, have 2 to 50


def check_csv(head: str, where: Path | str, invalid: type[PredictorError]) -> None:
    """Raise `invalid` for a CSV with a line of very many cells, or a name twice in its header.

    head: its first HEAD_CHARACTERS, or all.
    """
    lines = head[:HEAD_CHARACTERS].split("\n")
    if (most := max(line.count(",") for line in lines) + 1) > MOST_COLUMNS or len(lines[0]) >= HEAD_CHARACTERS:
        raise invalid(
            f"{where} has a line of {most:,} cells; a CSV has at most {MOST_COLUMNS:,}, each line within 1 MiB."
        )
    if (twice := repeated(lines[0])) is not None:
        raise invalid(f"{where} has two columns {twice}; drop one.")


def repeated(header: str) -> str | None:
    """A name that stands twice in the first line of a CSV, None where each stands once."""
    try:
        names = [name.strip() for name in next(csv.reader([header]), [])]
    except csv.Error:
        return None  # which whoever reads it says better
    return next((name for name, count in Counter(names).items() if name and count > 1), None)


def read_csv(source: Any, where: Path | str, invalid: type[PredictorError], **how: Any) -> pd.DataFrame:
    """A CSV as pandas.read_csv reads it `how`, but `invalid` is raised for one whose lines have more cells than its
    header has names: pandas would take the first cells for names of rows, and every other for that of its neighbour.

    Raises what pandas does for one that is broken.
    """
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # of lines that are cut to the header
        try:
            frame: pd.DataFrame = pd.read_csv(source, index_col=False, **how)
        except pd.errors.ParserWarning:
            raise invalid(
                f"{where} has lines of more cells than its header has names; name each column, quote cells "
                "with commas, and end no line with one."
            ) from None
    return frame


def csv_head(path: Path | str) -> str:
    """The first HEAD_CHARACTERS bytes of a file as text."""
    with Path(path).open("rb") as file:
        return file.read(HEAD_CHARACTERS).decode("utf-8", "replace")


def check_parquet(file: Any, where: Path | str, size: int, invalid: type[PredictorError], rows: int = 2**62) -> None:
    """Raise `invalid` for a Parquet file that unpacks to far more than it holds, or has very many columns.

    file: a path or an open file of `size` bytes, which stays where it stood. rows: in memory at once, by default all.
    Raises what Arrow does for one that is broken.
    """
    import pyarrow.parquet as pq

    opened = pq.ParquetFile(file)
    metadata = opened.metadata
    if metadata.num_columns > MOST_COLUMNS:
        raise invalid(f"{where} has {metadata.num_columns:,} columns; at most {MOST_COLUMNS:,} are read.")
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    held = min(rows, metadata.num_rows)
    pages = max((group.total_byte_size for group in groups), default=0)
    unpacked = max(pages, 8 * held * metadata.num_columns, held * _longest_text(file, opened, held))
    if unpacked > MOST_UNPACKED and unpacked > MOST_RATIO * size:
        raise invalid(
            f"{where} has {size:,} bytes that unpack to {unpacked:,}, more than {MOST_RATIO} times as many; "
            "write its rows anew, or fewer."
        )


def _longest_text(file: Any, opened: Any, rows: int) -> int:
    """Bytes of the longest text in columns where texts may be too long for so many rows; each is held once."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    metadata, longest = opened.metadata, 0
    for number, field in enumerate(opened.schema_arrow):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)):
            continue
        place = next((n for n in range(metadata.num_columns) if metadata.schema.column(n).path == field.name), number)
        chunks = [metadata.row_group(n).column(place).total_uncompressed_size for n in range(metadata.num_row_groups)]
        if rows * max(chunks, default=0) <= MOST_UNPACKED:
            continue
        table = pq.ParquetFile(file, read_dictionary=[field.name])
        for batch in table.iter_batches(batch_size=2**16, columns=[field.name]):
            texts = batch.column(0)
            texts = texts.dictionary if pa.types.is_dictionary(texts.type) else texts
            longest = max(longest, pc.max(pc.binary_length(texts)).as_py() or 0)
    return longest
