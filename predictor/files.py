"""Files that appear whole or not at all, and their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from predictor.errors import InvalidRequest


def needs_folder(out: Path, option: str = "--out") -> None:
    """Raise where the folder of a file that is to be written does not exist."""
    if not out.absolute().parent.is_dir():
        raise InvalidRequest(f"{out.parent} is not a folder; create it or choose another {option}.")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place once it is complete."""
    partial = path.with_name(path.name + ".partial")
    yield partial
    partial.replace(path)


def sha256_of(file: Path) -> str:
    """Digest of a file's content."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
