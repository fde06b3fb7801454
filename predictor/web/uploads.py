"""Files that were dropped on the page: a config.json, or the header of a .gguf. They are parsed, never run."""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from predictor.errors import InvalidRequest

MOST_CONFIG_BYTES = 2 * 2**20
MOST_GGUF_BYTES = 32 * 2**20  # of a header; published vocabularies have below 20 MB
MOST_KEPT = 16
MAGIC = b"GGUF"


class Dropped(NamedTuple):
    """A file. id: what it is asked by. name: of the model, from that of the file."""

    id: str
    name: str
    content: bytes

    @property
    def is_gguf(self) -> bool:
        """Whether it is the header of a .gguf."""
        return self.content.startswith(MAGIC)

    def lay(self, folder: Path) -> str:
        """Write it below a folder that is the working directory; returns the path by which a model is asked."""
        own = folder / self.id
        path = own / f"{self.name}.gguf" if self.is_gguf else own / self.name / "config.json"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.content)
        return f"./{(path if self.is_gguf else path.parent).relative_to(folder).as_posix()}"


def dropped(content: bytes, name: str) -> Dropped:
    """The file; raises InvalidRequest for what is neither a JSON object nor the header of a .gguf, or too large."""
    plain = re.sub(r"[^\w.-]+", "-", re.sub(r"\.(json|gguf)$", "", name[-120:]))[:80].strip("-.") or "dropped"
    if not content.startswith(MAGIC):
        if len(content) > MOST_CONFIG_BYTES:
            raise InvalidRequest(f"the file has {len(content)} bytes; a config.json has at most {MOST_CONFIG_BYTES}.")
        try:
            parsed = json.loads(content)
        except (ValueError, RecursionError):
            raise InvalidRequest(
                "the file is neither JSON nor GGUF; drop the config.json of a model, or a .gguf."
            ) from None
        if not isinstance(parsed, dict):
            raise InvalidRequest("the file holds no JSON object; drop the config.json of a model.")
    return Dropped(f"dropped-{hashlib.sha256(plain.encode() + content).hexdigest()[:12]}", plain, content)


class Shelf:
    """The last files, by id; the oldest goes first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Dropped] = OrderedDict()

    def put(self, one: Dropped) -> None:
        """Keep a file."""
        self._kept[one.id] = one
        self._kept.move_to_end(one.id)
        while len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)

    def get(self, name: str) -> Dropped | None:
        """The file of an id; None for a name that is no id. Raises InvalidRequest for one that is not kept any more."""
        if not re.fullmatch(r"dropped-[0-9a-f]{12}", name):
            return None
        if name not in self._kept:
            raise InvalidRequest(f'model is "{name}"; that file is not kept any more. Drop it again.')
        self._kept.move_to_end(name)
        return self._kept[name]
