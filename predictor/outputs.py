"""Where the answers of a job go: a file or a folder here, or an fsspec URL, to which they are copied in the end."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from predictor.errors import InvalidRequest
from predictor.streams import ENDINGS, filesystem_of, reason_of


class Output(NamedTuple):
    """folder: of the parts, always here. file: the one file that they become, None where they stay parts.

    url, filesystem, root: where the answers are copied to in the end, empty where they stay here.
    """

    folder: Path
    file: Path | None
    url: str = ""
    filesystem: Any = None
    root: str = ""


def output_of(out: str | Path) -> Output:
    """The output of a path or URL; raises InvalidRequest where it cannot be written, before any work is done."""
    filesystem, root = filesystem_of(str(out))
    if filesystem is not None and "file" not in _protocols(filesystem):
        return _remote(str(out), filesystem, root)
    target = Path(root).expanduser()
    if target.suffix not in ENDINGS:
        return Output(target, None)
    if target.is_dir():
        raise InvalidRequest(f"{target} is a folder; give another name.")
    return Output(target.with_name(f"{target.name}.parts"), target)


def _protocols(filesystem: Any) -> tuple[str, ...]:
    named = filesystem.protocol
    return (named,) if isinstance(named, str) else tuple(named)


def _remote(url: str, filesystem: Any, root: str) -> Output:
    """Parts of a URL lie in a folder of the working directory, named after it."""
    name = Path(root).name
    folder = Path.cwd() / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}.parts"
    single = Path(name).suffix in ENDINGS
    output = Output(folder, folder / f".{name}" if single else None, url, filesystem, root)
    probe = _beside(root)
    try:
        filesystem.pipe_file(probe, b"")
        filesystem.rm_file(probe)
        there = [] if single or folder.exists() or not filesystem.exists(root) else filesystem.find(root)
    except Exception as error:  # every file system has its own
        raise InvalidRequest(f"{url} cannot be written ({reason_of(error)}); check the URL and your access.") from None
    if there:
        raise InvalidRequest(f"{url} holds {Path(there[0]).name}; give an empty folder.")
    return output


def copy_out(output: Output, parts: Sequence[Path]) -> None:
    """Copy the one file, or the parts, to the URL; each appears there whole."""
    files = {output.file: output.root} if output.file else {part: f"{output.root}/{part.name}" for part in parts}
    try:
        if not output.file:
            output.filesystem.makedirs(output.root, exist_ok=True)
        for file, key in files.items():
            draft = _beside(key)
            output.filesystem.put_file(str(file), draft)
            output.filesystem.mv(draft, key)
    except Exception as error:  # every file system has its own
        raise InvalidRequest(
            f"{output.url} cannot be written ({reason_of(error)}); "
            f"the parts are kept in {output.folder}: mend that and start again."
        ) from None


def _beside(key: str) -> str:
    """A name for a draft of a key."""
    parent, _, name = key.rpartition("/")
    return f"{parent}/.{name}.{os.getpid()}"
