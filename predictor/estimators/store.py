"""The store of champions: a folder with a copy of every promoted bundle and decisions.jsonl, a line for each decision.

The champion is the bundle that was promoted last and not rolled back; before any, the released default. Lines are only
ever added, under a lock, and the file is replaced as a whole.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from predictor.errors import InvalidStore
from predictor.files import copy_folder, draft_folder, read_content, refusal, whole_file

CHAMPION = "champion"  # what --bundle calls it
STORE = "PREDICTOR_STORE"  # environment variable
DECISIONS = "decisions.jsonl"
BUNDLES = "bundles"
LOCK = "decisions.lock"
PATIENCE_S = 60.0
NAMES = ("candidate", "before", "after")
PROMOTE, REFUSE, ROLLBACK = "promote", "refuse", "rollback"


@dataclass(frozen=True, slots=True)
class Name:
    """A bundle as a decision names it. sha256: of its manifest, which has that of every file."""

    id: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.id} ({self.sha256[:8]})"

    @property
    def folder(self) -> str:
        """Folder of its copy."""
        return re.sub(r"[^A-Za-z0-9_.+-]", "_", f"{self.id}-{self.sha256[:8]}")


@dataclass(frozen=True, slots=True)
class Decision:
    """A line of the store. before, after: the champion; the same where a candidate was refused.

    time: UTC. path: the candidate as it was given. coverage: least and most. data: the table that both were judged on
    besides, by name and sha256. cells: how many were compared. reasons: every rule that a cell broke. forced: why the
    candidate was promoted all the same. registry: name, version and server where MLflow keeps the champion too.
    """

    time: str
    action: str
    candidate: Name
    before: Name
    after: Name
    package: str
    path: str = ""
    margin: float | None = None
    coverage: tuple[float, float] | None = None
    data: Mapping[str, str] | None = None
    cells: int = 0
    reasons: tuple[Mapping[str, Any], ...] = ()
    forced: str = ""
    note: str = ""
    registry: Mapping[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """A strict JSON object."""
        return asdict(self)


def store_folder(given: str | Path = "") -> Path:
    """Where the store is: as given, else by PREDICTOR_STORE, else in the user's folder of data."""
    if chosen := given or os.environ.get(STORE, ""):
        return Path(chosen).expanduser()
    data = os.environ.get("XDG_DATA_HOME", "")
    return (Path(data) if data else Path.home() / ".local" / "share") / "gpu-predictor"


def decisions(store: Path) -> tuple[Decision, ...]:
    """Every decision, oldest first; none where nothing was ever decided."""
    file = store / DECISIONS
    try:
        if not file.exists():
            return ()
        text = read_content(file, "restore it from a copy", InvalidStore).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidStore(f"{file} cannot be read ({reason}); restore it from a copy.") from None
    return tuple(_decision(line, f"{file}, line {number}") for number, line in enumerate(text.splitlines(), 1))


def _decision(line: str, where: str) -> Decision:
    try:
        stored = json.loads(line)
        names = {key: Name(str(stored[key]["id"]), str(stored[key]["sha256"])) for key in NAMES}
        made = Decision(**{**stored, **names, "reasons": tuple(stored.get("reasons", ()))})
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InvalidStore(f"{where} is cut off or no decision; remove that line or restore the file.") from None
    if made.action not in (PROMOTE, REFUSE, ROLLBACK):
        raise InvalidStore(f"{where} has action {made.action!r}; this version knows promote, refuse and rollback.")
    return made


def champions(store: Path) -> list[Name]:
    """The champion last, and before it those that rollback returns to; none where nothing is promoted."""
    names: list[Name] = []
    for number, decision in enumerate(decisions(store), 1):
        if decision.action == PROMOTE:
            names.append(decision.after)
        elif decision.action == ROLLBACK:
            if not names:
                raise InvalidStore(f"{store / DECISIONS}, line {number} rolls back what no line promoted; restore it.")
            names.pop()
    return names


def folder_of(name: Name, store: Path) -> Path:
    """The copy of a promoted bundle."""
    folder = store / BUNDLES / name.folder
    if not folder.is_dir():
        raise InvalidStore(f"{folder} of the promoted bundle {name} is missing; restore it from a copy.")
    return folder


def keep(source: Path, name: Name, store: Path) -> Path:
    """Copy a bundle into the store, whole or not at all; one that is there already is kept."""
    folder = store / BUNDLES / name.folder
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with draft_folder(folder) as copy:
            copy_folder(source, copy)
            if not folder.is_dir():
                copy.rename(folder)
    except OSError as error:
        raise InvalidStore(
            f"{store} cannot take {name} ({refusal(error)}); mend that or give another --store."
        ) from None
    return folder


@contextmanager
def locked(store: Path) -> Iterator[None]:
    """Only one process decides at a time."""
    from filelock import FileLock, Timeout

    file = store / LOCK
    lock = FileLock(file, timeout=PATIENCE_S)
    try:
        store.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InvalidStore(f"another process holds {file}; try again when it has ended.") from None
    except OSError as error:
        raise InvalidStore(
            f"{store} cannot be written ({refusal(error)}); mend that or give another --store."
        ) from None
    try:
        yield
    finally:
        lock.release()


def record(decision: Decision, store: Path) -> None:
    """Add a decision; the caller holds the lock."""
    file = store / DECISIONS
    line = json.dumps(decision.to_json(), allow_nan=False)
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        with whole_file(file) as draft:
            draft.write_text("\n".join([*lines, line]) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidStore(f"{file} cannot be written ({error.strerror}); nothing is decided. Mend that.") from None
