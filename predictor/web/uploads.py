"""Files that were dropped on the page: a model, a trace of requests, prices, scores. They are parsed, never run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from predictor.errors import InvalidRequest, PredictorError

MAGIC, PARQUET = b"GGUF", b"PAR1"
MOST_CONFIG_BYTES = 2 * 2**20
MOST_BYTES: Mapping[str, int] = {
    "model": 32 * 2**20,  # of the header of a .gguf; published vocabularies have below 20 MB
    "trace": 16 * 2**20,
    "prices": 2**20,
    "scores": 4 * 2**20,  # of a run of many tasks
}
SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "model": (".json", ".gguf"),
    "trace": (".csv", ".parquet", ".jsonl", ".json"),
    "prices": (".toml", ".csv"),
    "scores": (".json",),
}
MOST_KEPT = 16
MOST_KEPT_BYTES = 64 * 2**20  # of all of them
ID = re.compile(r"dropped-[0-9a-f]{12}")


class TooLarge(PredictorError):
    """More than is read of a file."""


class Dropped(NamedTuple):
    """A file. kind: a key of MOST_BYTES. id: what it is asked by. name: of the model, or of the file."""

    id: str
    kind: str
    name: str
    content: bytes

    @property
    def path(self) -> str:
        """Where it lies below a folder that is the working directory; by it a model is asked."""
        if self.kind != "model":
            return f"./{self.id}/{self.name}"
        return f"./{self.id}/{self.name}{'.gguf' if self.content.startswith(MAGIC) else ''}"

    def lay(self, folder: Path) -> str:
        """Write it below a folder, in which few others are kept; returns its path."""
        path = folder / self.path
        if self.kind == "model" and not self.content.startswith(MAGIC):
            path = path / "config.json"
        if not path.is_file():
            own = sorted(folder.glob("dropped-*"), key=lambda one: one.stat().st_mtime_ns)
            for old in own[: max(len(own) + 1 - MOST_KEPT, 0)]:
                shutil.rmtree(old)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.content)
        os.utime(folder / self.id)  # which is asked about goes last
        return self.path


def dropped(content: bytes, name: str, kind: str = "model") -> Dropped:
    """The file; raises InvalidRequest for what is none of its kind by its name, or of a model neither a JSON object nor
    the header of a .gguf, and TooLarge."""
    if len(content) > MOST_BYTES[kind]:
        raise TooLarge(f"the file has {len(content)} bytes; one of {kind} has at most {MOST_BYTES[kind]}.")
    suffix = Path(name[-20:]).suffix.lower()
    stem = name[-120:].removesuffix(name[-len(suffix) :]) if suffix in SUFFIXES[kind] else name[-120:]
    plain = re.sub(r"[^\w.-]+", "-", stem, flags=re.ASCII)[:80].strip("-.") or "dropped"
    if kind == "model":
        _check_model(content)
    elif suffix not in SUFFIXES[kind]:
        raise InvalidRequest(f'the file is called "{name[-80:]}"; it must end in {", ".join(SUFFIXES[kind])}.')
    else:
        plain += suffix
    return Dropped(
        f"dropped-{hashlib.sha256(f'{kind} {plain} '.encode() + content).hexdigest()[:12]}", kind, plain, content
    )


def _check_model(content: bytes) -> None:
    if content.startswith(MAGIC):
        return
    if len(content) > MOST_CONFIG_BYTES:
        raise TooLarge(f"the file has {len(content)} bytes; a config.json has at most {MOST_CONFIG_BYTES}.")
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        raise InvalidRequest(
            "the file is neither JSON nor GGUF; drop the config.json of a model, or a .gguf."
        ) from None
    if not isinstance(parsed, dict):
        raise InvalidRequest("the file holds no JSON object; drop the config.json of a model.")


class Shelf:
    """The last files, by id; the oldest goes first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Dropped] = OrderedDict()

    def put(self, one: Dropped) -> None:
        """Keep a file."""
        self._kept[one.id] = one
        self._kept.move_to_end(one.id)
        while len(self._kept) > MOST_KEPT or sum(len(kept.content) for kept in self._kept.values()) > MOST_KEPT_BYTES:
            self._kept.popitem(last=False)

    def get(self, name: str, kind: str = "model") -> Dropped:
        """The file of an id; raises InvalidRequest for one that is not kept any more, or of another kind."""
        if name not in self._kept:
            raise InvalidRequest(f'{kind} is "{name}"; that file is not kept any more. Drop it again.')
        if self._kept[name].kind != kind:
            raise InvalidRequest(
                f'{kind} is "{name}", which is a file of {self._kept[name].kind}. POST it to /api/{kind}.'
            )
        self._kept.move_to_end(name)
        return self._kept[name]
