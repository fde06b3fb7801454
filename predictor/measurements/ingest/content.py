"""A file of measurements as text: unpacked, decoded, and taken for JSON, CSV or Parquet by what is in it."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.errors import InvalidTable
from predictor.files import is_regular
from predictor.measurements.ingest.trace_events import Events
from predictor.table_files import check_csv, read_csv

MOST_BYTES = 2**30  # of an unpacked file, which is read whole
MOST_OBJECTS, MOST = 3 * 10**7, 10**8  # lists and objects, and values, of which a trace of 1 GiB has half as many
CHUNK_BYTES = 2**24
GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
JSON = re.compile(r"\s*[{\[]")
MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))  # what PowerShell writes too


@dataclass(frozen=True, slots=True)
class Content:
    """kind: "parquet", "json" or "csv". documents: of JSON and YAML, one value each line of JSON lines or item of
    a list. missing: values that are written as NaN or Infinity, which are no JSON, and read as missing; an endless
    request_rate is none."""

    path: Path
    kind: str
    text: str = ""
    documents: tuple[Any, ...] = ()
    missing: int = 0

    def has(self, *keys: str) -> bool:
        """Whether the first document is an object with all keys."""
        return bool(self.documents) and isinstance(self.documents[0], dict) and set(keys) <= set(self.documents[0])

    def header(self, *names: str) -> int:
        """Number of the first line of a CSV that has all names, -1 where none has; tools print lines before it."""
        lines = self.text.splitlines() if self.kind == "csv" else []
        return next((n for n, line in enumerate(lines) if all(name in line for name in names)), -1)

    def table(self, start: int = 0) -> pd.DataFrame:
        """The CSV from line `start` on, all cells as text."""
        rest = "\n".join(self.text.splitlines()[start:])
        check_csv(rest, self.path, InvalidTable)
        try:
            how: dict[str, Any] = {"dtype": str, "keep_default_na": False, "skipinitialspace": True}
            frame = read_csv(io.StringIO(rest), self.path, InvalidTable, **how)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
            raise broken(self.path, "CSV", error) from error
        return frame.rename(columns=str.strip)


def broken(path: Path, kind: str, error: Exception) -> InvalidTable:
    """What to raise for a file that is cut or no such file at all."""
    return InvalidTable(f"{path} is broken {kind} ({str(error).splitlines()[0]}); write it again.")


def open_content(path: Path) -> Content:
    """The content of a file, gzip'd or not; a folder, an empty or a broken file raises InvalidTable."""
    if path.is_dir():
        raise InvalidTable(f"{path} is a folder; give the files in it, such as {path}/*.json.")
    if not is_regular(path):
        why = "is no regular file" if path.exists() else "does not exist"
        raise InvalidTable(f"{path} {why}; give a file of measurements.")
    with path.open("rb") as stream:
        head = stream.read(len(PARQUET))
    if head == PARQUET:
        return Content(path, "parquet")
    raw = _unpacked(path, packed=head.startswith(GZIP))
    if raw.startswith(PARQUET):
        return Content(path, "parquet")
    coding = next((name for mark, name in MARKS if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(coding)
    except UnicodeDecodeError as error:
        raise InvalidTable(f"{path} is no text (byte {error.start}); give JSON, CSV or Parquet.") from None
    del raw
    _bounded(path, text)
    if not text or text.isspace():
        raise InvalidTable(f"{path} is empty; give a file of measurements.")
    if path.suffix.casefold() in (".yaml", ".yml"):
        return Content(path, "json", documents=_yaml(path, text))
    if not JSON.match(text):
        return Content(path, "csv", text)
    constants: list[str] = []
    documents = _documents(path, text, constants.append)
    endless = sum(isinstance(one, dict) and "request_rate" in one and one["request_rate"] is None for one in documents)
    return Content(path, "json", documents=documents, missing=max(len(constants) - endless, 0))


def _bounded(path: Path, text: str) -> None:
    """Raise for a text whose values would take many times its memory, as a file that unpacks to brackets has."""
    counts = {"lists and objects": (text.count("[") + text.count("{"), MOST_OBJECTS), "values": (text.count(","), MOST)}
    for what, (count, most) in counts.items():
        if count > most:
            raise InvalidTable(f"{path} has {count:,} {what}; at most {most:,} are read. Split it.")


def _yaml(path: Path, text: str) -> tuple[Any, ...]:
    import yaml  # few files are in it

    try:
        whole = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if (values := _unfolded(whole, {})) > MOST:
            raise ValueError(f"its aliases stand for {float(values):.3g} values; at most {MOST:,} are read")
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise broken(path, "YAML", error) from None
    return tuple(whole) if isinstance(whole, list) else (whole,)


def _unfolded(value: Any, known: dict[int, int]) -> int:
    """Values of a document whose aliases are what they stand for; raises ValueError for one within itself.

    known: what was counted, by id; 0 while it is.
    """
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = 0
        inside = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_unfolded(one, known) for one in inside)
    elif not known[id(value)]:
        raise ValueError("an alias stands within itself")
    return known[id(value)]


def _unpacked(path: Path, packed: bool) -> bytearray:
    """The bytes of a file, gzip'd or not; more than MOST_BYTES raise InvalidTable before they are in memory."""
    raw = bytearray()
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                raw += chunk
                if len(raw) > MOST_BYTES:
                    raise InvalidTable(
                        f"{path} holds more than {MOST_BYTES // 2**20:,} MiB, which would be read whole; "
                        "split it, or record fewer steps and no stacks."
                    )
    except (OSError, EOFError, zlib.error) as error:
        if not packed:
            raise
        raise broken(path, "gzip", error) from error
    return raw


def _documents(path: Path, text: str, constant: Callable[[str], None]) -> tuple[Any, ...]:
    """The values of JSON or JSON lines; constant: told of each NaN and Infinity, which becomes None."""
    events = Events()
    try:
        whole = json.loads(text, object_hook=events.kept, parse_constant=constant)
        return tuple(whole) if isinstance(whole, list) else (whole,)
    except (ValueError, RecursionError) as error:
        try:
            lines = _lines(text)
            return tuple(json.loads(line, object_hook=events.kept, parse_constant=constant) for line in lines)
        except (ValueError, RecursionError):
            raise broken(path, "JSON", error) from None


def _lines(text: str) -> Iterator[str]:
    """The lines that are not blank, one at a time: a broken trace has millions."""
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        line, start = (text[start:], len(text)) if end < 0 else (text[start:end], end + 1)
        if line and not line.isspace():
            yield line
