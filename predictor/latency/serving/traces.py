"""Traces of requests: when they came and how long they were, from the files that people share.

Columns are known by the names of Mooncake (timestamp in ms, input_length, output_length, hash_ids), Azure's traces
(TIMESTAMP, ContextTokens, GeneratedTokens), BurstGPT (Timestamp, Request tokens, Response tokens), Vidur and
Splitwise (arrived_at, num_prefill_tokens, num_decode_tokens), of vLLM's benchmarks (input_len, output_len) and of
requests here (arrival_s). A file without arrivals is one of lengths: clients or a rate say when. Conversations as in
ShareGPT have no tokens: each turn is counted as a quarter of its characters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from predictor.errors import InvalidRequest
from predictor.table_files import check_csv, check_parquet, csv_head, read_csv
from predictor.values import show

ARRIVALS: Mapping[str, float] = {"arrival_s": 1.0, "arrived_at": 1.0, "arrival_time": 1.0, "timestamp": 1e-3}
INPUTS = (
    *("input_len", "input_length", "input_tokens", "prompt_len", "prompt_tokens", "num_prefill_tokens"),
    *("contexttokens", "context_tokens", "request_tokens", "isl"),
)
OUTPUTS = (
    *("output_len", "output_length", "output_tokens", "completion_tokens", "num_decode_tokens"),
    *("generatedtokens", "generated_tokens", "response_tokens", "osl"),
)
HASHES = "hash_ids"  # of Mooncake: a number for each block of the prompt, equal where all before it is equal too
BLOCK = 512  # tokens of such a block
CHARACTERS_PER_TOKEN = 4
MOST_REQUESTS = 100_000  # of a trace; what comes after is left out
MOST_BYTES = 2**30


class Trace(NamedTuple):
    """Requests in the order of their arrival. cached: prompt tokens that an earlier prompt began with too.

    arrivals_s: seconds after the first, None where the file has none. note: what to say of how it was read.
    """

    input_len: tuple[int, ...]
    output_len: tuple[int, ...]
    cached: tuple[int, ...]
    arrivals_s: tuple[float, ...] | None
    note: str = ""

    def part(self, groups: int) -> Trace:
        """What one of several groups takes that requests go to in turn."""
        arrivals_s = self.arrivals_s and self.arrivals_s[::groups]
        return Trace(self.input_len[::groups], self.output_len[::groups], self.cached[::groups], arrivals_s, self.note)

    @property
    def mean_len(self) -> tuple[int, int]:
        """Tokens of the mean prompt and answer, whole ones."""
        return tuple(max(1, round(sum(column) / len(column))) for column in self[:2])  # type: ignore[return-value]


def read_trace(path: str) -> Trace:
    """The trace in a file; raises InvalidRequest for one that holds none."""
    file = Path(path)
    try:
        known = file.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidRequest(f"trace is {show(path)}, which cannot be read: {reason}. Give a file.") from None
    if not S_ISREG(known.st_mode):
        raise InvalidRequest(f"trace is {show(path)}, which is no file. Give one.")
    return _read(path, known.st_mtime_ns, known.st_size)


@lru_cache(maxsize=16)
def _read(path: str, changed_ns: int, size: int) -> Trace:
    """changed_ns: when the file was written, so that one that changes is read again."""
    suffix = Path(path).suffix.lower()
    if suffix not in READ:
        raise InvalidRequest(f"trace is {path}; it must end in {', '.join(READ)}.")
    if size > MOST_BYTES:
        raise InvalidRequest(f"trace is {path} with {size:,} bytes; it must have at most {MOST_BYTES:,}. Shorten it.")
    try:
        table = READ[suffix](Path(path))
        return _trace(table, path)
    except InvalidRequest:
        raise
    except (
        OSError,
        ArithmeticError,
        MemoryError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        reason = " ".join(str(error).split())[:80]
        raise InvalidRequest(
            f"trace is {path}, which is no {suffix[1:]} of requests: {reason}. Give a whole one."
        ) from None


def _csv(path: Path) -> pd.DataFrame:
    check_csv(csv_head(path), path, InvalidRequest)
    return read_csv(path, path, InvalidRequest, nrows=MOST_REQUESTS)


def _parquet(path: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_parquet(path, path, path.stat().st_size, InvalidRequest, MOST_REQUESTS)
    file = pq.ParquetFile(path)
    known = [name for name in file.schema_arrow.names if _plain(name) in (*ARRIVALS, *INPUTS, *OUTPUTS, HASHES)]
    batch = next(file.iter_batches(batch_size=MOST_REQUESTS, columns=known), None)
    table = file.schema_arrow.empty_table() if batch is None else pa.Table.from_batches([batch])
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _lines(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8") as lines:
        records = [json.loads(line) for _, line in zip(range(MOST_REQUESTS), lines, strict=False) if line.strip()]
    return pd.DataFrame(_flat(records))


def _array(path: Path) -> pd.DataFrame:
    records = json.loads(path.read_text(encoding="utf-8"))
    return pd.DataFrame(_flat(records[:MOST_REQUESTS]))


READ: Mapping[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".jsonl": _lines,
    ".json": _array,
}


def _flat(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Requests as they are, of conversations one for each answer after all that was said before it."""
    return [request for record in records for request in _requests(record)]


def _requests(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if not isinstance(said := record.get("conversations"), list):
        yield record
        return
    before = 0
    for turn in said:
        tokens = len(str(turn.get("value", ""))) // CHARACTERS_PER_TOKEN
        if turn.get("from") in ("gpt", "assistant", "model") and before and tokens:
            yield {"input_len": before, "output_len": tokens, "counted": True}
        before += tokens


def _trace(table: pd.DataFrame, path: str) -> Trace:
    columns = {_plain(name): table[name] for name in table.columns}
    lengths = [_whole(columns, names, what, path) for names, what in ((INPUTS, "prompts"), (OUTPUTS, "answers"))]
    kept = [place for place, pair in enumerate(zip(*lengths, strict=True)) if min(pair) > 0]
    if not kept:
        raise InvalidRequest(f"trace is {path}; it has no request with tokens in and out.")
    arrivals = _arrivals(columns, path)
    if arrivals:
        kept.sort(key=lambda place: arrivals[place])
    prompts, answers = ([column[place] for place in kept] for column in lengths)
    notes = [f"the first {MOST_REQUESTS:,} requests are taken"] if len(table) >= MOST_REQUESTS else []
    notes += [f"{len(table) - len(kept):,} requests without tokens are left out"] if len(kept) < len(table) else []
    if "counted" in columns:
        notes.append(f"tokens of its texts are counted as {CHARACTERS_PER_TOKEN} characters each")
    return Trace(
        tuple(prompts),
        tuple(answers),
        tuple(_cached(columns, kept, prompts)),
        tuple(arrivals[place] - arrivals[kept[0]] for place in kept) if arrivals else None,
        f"of trace {Path(path).name} {' and '.join(notes)}." if notes else "",
    )


def _plain(name: Any) -> str:
    """A column's name as ARRIVALS and the others write it."""
    return str(name).strip().casefold().replace(" ", "_")


def _whole(columns: Mapping[str, pd.Series], names: Sequence[str], what: str, path: str) -> list[int]:
    """Lengths; 0 where a cell holds none."""
    found = [columns[name] for name in names if name in columns]
    if not found:
        raise InvalidRequest(f"trace is {path}; no column says the tokens of {what}, such as {names[0]}. Rename it.")
    numbers = pd.to_numeric(found[0], errors="coerce").fillna(0).clip(0, 2**31)
    return [int(value) for value in numbers.tolist()]


def _arrivals(columns: Mapping[str, pd.Series], path: str) -> list[float]:
    """Seconds; none where the file has no such column."""
    name = next((name for name in ARRIVALS if name in columns), "")
    if not name:
        return []
    column = columns[name]
    if pd.api.types.is_numeric_dtype(column):
        mooncake = HASHES in columns or "input_length" in columns
        seconds_told = name == "timestamp" and not mooncake and not _in_milliseconds(column)
        factor = 1.0 if seconds_told else ARRIVALS[name]
        seconds = column.astype(float) * factor
    else:
        times = pd.to_datetime(column, errors="coerce", utc=True, format="mixed")
        seconds = (times - times.min()).dt.total_seconds()
    odd = ~np.isfinite(seconds.to_numpy(dtype=float))
    if odd.any():
        raise InvalidRequest(f"trace is {path}; {name} of row {int(odd.argmax()) + 1} is no time.")
    return [float(value) for value in seconds.tolist()]


def _in_milliseconds(column: pd.Series) -> bool:
    """Whether timestamps are whole numbers of ms, as Mooncake writes them; BurstGPT's are seconds with fractions or
    whole ones that repeat."""
    return bool(pd.api.types.is_integer_dtype(column) and (column % 100 == 0).mean() > 0.5)


def _cached(columns: Mapping[str, pd.Series], kept: Sequence[int], prompts: Sequence[int]) -> Iterator[int]:
    """Tokens of each prompt in blocks that an earlier one began with too; all stay cached."""
    if HASHES not in columns:
        yield from [0] * len(kept)
        return
    seen: set[Any] = set()
    for place, prompt in zip(kept, prompts, strict=True):
        blocks = list(columns[HASHES].iloc[place])
        first = next((number for number, block in enumerate(blocks) if block not in seen), len(blocks))
        seen.update(blocks)
        yield min(first * BLOCK, prompt - 1)
