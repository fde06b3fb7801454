"""Files: those of users read, ours written whole or not at all, and their digests."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import Any

from predictor.errors import InvalidRequest, PredictorError

MOST_BYTES = 32 * 2**20  # of a file of text that is read whole


def is_regular(path: Path | str) -> bool:
    """Whether a path is a file of bytes: a pipe would block who reads it, and a device has no end."""
    try:
        return S_ISREG(Path(path).stat().st_mode)
    except (OSError, ValueError):  # or a path that no file system has
        return False


def read_content(
    path: Path | str, cure: str, invalid: type[PredictorError], absent: type[PredictorError] | None = None
) -> bytes:
    """The bytes of a file that a user gave, MOST_BYTES at most.

    cure: what to give where it cannot be read, which raises `absent`, by default as what is too large: `invalid`.
    """
    try:
        if (size := Path(path).stat().st_size) > MOST_BYTES:
            raise invalid(f'"{path}" has {size:,} bytes; at most {MOST_BYTES:,} are read. Shorten it.')
        if not is_regular(path):
            raise (absent or invalid)(f'cannot read "{path}" (no regular file); {cure}.')
        with Path(path).open("rb") as file:
            return file.read(MOST_BYTES)
    except (OSError, ValueError) as error:  # or a path that no file system has
        reason = getattr(error, "strerror", None) or error
        raise (absent or invalid)(f'cannot read "{path}" ({reason}); {cure}.') from error


def read_toml(
    path: Path | str, cure: str, invalid: type[PredictorError], absent: type[PredictorError] | None = None
) -> dict[str, Any]:
    """The tables of a file that a user gave; see read_content for what is raised."""
    return parse_toml(read_content(path, cure, invalid, absent), path, invalid)


def parse_toml(content: bytes, path: Path | str, invalid: type[PredictorError]) -> dict[str, Any]:
    """The tables of a file's content."""
    import tomllib  # a command that is given no such file starts without

    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # no TOML, or no UTF-8
        raise invalid(f'"{path}" is not valid TOML: {_reason(error)}; correct the file.') from None


def read_json(path: Path | str, cure: str, invalid: type[PredictorError]) -> Any:
    """The value of a file that a user gave; see read_content for what is raised."""
    return parse_json(read_content(path, cure, invalid), path, cure, invalid)


def parse_json(content: bytes | str, path: Path | str, cure: str, invalid: type[PredictorError]) -> Any:
    """The value of a file's content; a key that stands twice in an object raises as what is no JSON."""
    try:
        return json.loads(content, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:  # no JSON, or no Unicode
        raise invalid(f'"{path}" is not valid JSON: {_reason(error)}; {cure}.') from None


def repeated_key(pairs: list[tuple[str, Any]]) -> str | None:
    """The key that most often stands in an object of JSON, None where each stands once."""
    if len(dict(pairs)) == len(pairs):
        return None
    return Counter(name for name, _ in pairs).most_common(1)[0][0]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (twice := repeated_key(pairs)) is not None:
        raise ValueError(f"{twice[:60]!r} appears twice")
    return dict(pairs)


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def needs_folder(out: Path, option: str = "--out") -> None:
    """Raise where the folder of a file that is to be written does not exist."""
    if not out.absolute().parent.is_dir():
        raise InvalidRequest(f"{out.parent} is not a folder; create it or choose another {option}.")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A draft beside `path` to write to, which is at `path` whole when the block ends, or not at all.

    An OSError that the system gave names `path`.
    """
    with _draft(path) as draft:
        try:
            yield draft
            with draft.open("r+b") as written:  # Windows syncs only what may be written
                os.fsync(written.fileno())
            draft.replace(path)
        except OSError as error:
            if error.errno and error.filename in (None, str(draft)):
                error.filename = str(path)
            raise


@contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, which is gone when the block ends unless it was renamed."""
    with _draft(path) as draft:
        draft.mkdir()
        yield draft


_DRAFTS = set[Path]()  # of this process
_OWNER = re.compile(r"[0-9a-f]{8}\.(\d{1,9})-([0-9a-f]{8})")


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """A name beside `path` that nobody else uses; what is there is removed when the block ends.

    It says which process of which machine writes it, so that the next one removes what a process left that was killed.
    """
    _remove_left(path)
    draft = path.absolute().with_name(f".{path.name}.{secrets.token_hex(4)}.{os.getpid()}-{_machine()}")
    _DRAFTS.add(draft)
    try:
        yield draft
    finally:
        _remove(draft)
        _DRAFTS.discard(draft)


def _remove_left(path: Path) -> None:
    """Remove drafts of `path` whose process is dead. Not on Windows, which cannot ask without harm."""
    beginning, folder = f".{path.name}.", path.absolute().parent
    if os.name == "nt" or not folder.is_dir():
        return
    for name in [each.name for each in os.scandir(folder) if each.name.startswith(beginning)]:
        owner = _OWNER.fullmatch(name.removeprefix(beginning))
        if owner and owner[2] == _machine() and _is_dead(int(owner[1]), folder / name):
            _remove(folder / name)


def _is_dead(process: int, draft: Path) -> bool:
    if process == os.getpid():
        return draft not in _DRAFTS  # of one before that had the same number, as in a container
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False


def _remove(draft: Path) -> None:
    """Remove a file or folder if it is there."""
    if draft.is_dir():
        from shutil import rmtree

        rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)


def _machine() -> str:
    """Eight digits for the name of this machine."""
    return f"{zlib.crc32(os.fsencode(socket.gethostname())):08x}"


def needs_place(out: Path) -> None:
    """Raise where no folder can be written at `out`, before time is spent on what goes into it."""
    if out.exists() and not out.is_dir():
        raise InvalidRequest(f"{out} is a file; give a folder.")
    from tempfile import TemporaryDirectory

    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    with _disk(out), TemporaryDirectory(dir=place):
        pass


@contextmanager
def whole_folder(out: Path, last: str, over: bool = False) -> Iterator[Path]:
    """A folder beside `out` to write to, which takes its place once it is complete.

    What `out` holds already stays; then the file `last` is moved in after all others, and before it is there the
    folder is not what it is to be. over: a finished folder is written over; otherwise one that another process
    finished meanwhile raises InvalidRequest and stays as it is.
    """
    from shutil import copytree

    with _disk(out):
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with draft_folder(out) as folder:
            yield folder
            if out.is_dir() and any(out.iterdir()):
                if not over and (out / last).exists():
                    raise InvalidRequest(f"{out} was finished by another process meanwhile; give another folder.")
                (out / last).unlink(missing_ok=True)
                copytree(folder, out, dirs_exist_ok=True, ignore=lambda _, names: {last} & set(names))
                (folder / last).replace(out / last)
            else:
                if out.is_dir():
                    out.rmdir()
                folder.rename(out)


def copy_folder(source: Path, into: Path, *left_out: str) -> None:
    """Copy a folder into one that is there, but names like those of left_out; links stand for the files they point to.

    What else is in it raises InvalidRequest: a pipe would block, a device has no end, a link to a folder may lead back.
    """
    from shutil import copytree, ignore_patterns

    patterns = ignore_patterns(*left_out)

    def ignored(folder: str, names: list[str]) -> set[str]:
        left = patterns(folder, names)
        for path in (Path(folder, name) for name in sorted({*names} - left)):
            if not is_regular(path) and (path.is_symlink() or not path.is_dir()):
                raise InvalidRequest(f"{path} is no file and no folder, and is not copied; remove it.")
        return left

    copytree(source, into, dirs_exist_ok=True, ignore=ignored)


@contextmanager
def _disk(out: Path) -> Iterator[None]:
    """Says what the disk refuses as an error of this package."""
    try:
        yield
    except OSError as error:
        raise InvalidRequest(f"{out} cannot be written ({refusal(error)}); give another folder.") from None


def refusal(error: OSError) -> str:
    """What a disk refuses, in its words; of a folder that was copied the first file's."""
    from shutil import Error

    if isinstance(error, Error) and error.args and isinstance(error.args[0], list):
        return re.sub(r"^\[Errno \d+\] |: '.*", "", str(error.args[0][0][-1]))
    return error.strerror or str(error)


def sha256_of(file: Path) -> str:
    """Digest of a file's content."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
