"""Batch prediction jobs: a table of requests in, the same table with answers out, in parts that survive any end.

A part is rows that follow each other. Its file appears whole, then its receipt; a job that is started again keeps the
parts whose file still matches the receipt. A manifest tells what the job was begun with.
"""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import feather

from predictor.answering import ROWS, answer_rows
from predictor.backends import LOKY, Place, place_of, spread
from predictor.bundle import MANIFEST as BUNDLE_MANIFEST
from predictor.bundle import Bundle, load_bundle
from predictor.errors import InvalidRequest
from predictor.released import released_roots
from predictor.streams import ENDINGS, Source, answered, chunks, drafted, joined, source_of, write

MANIFEST = "manifest.json"
KINDS_SHOWN = 60  # characters of an error that make it the same kind as another


class Part(NamedTuple):
    """What became of one part. rows; failed: rows with an error; unseen: rows on GPUs that nobody measured."""

    number: int
    rows: int
    failed: int
    unseen: int
    kinds: dict[str, int]
    sha256: str
    kept: bool = False


@dataclass(slots=True)
class Summary:
    """What became of a job. kept: parts that an earlier run had finished; kinds: how often each kind of error came."""

    rows: int = 0
    failed: int = 0
    unseen: int = 0
    parts: int = 0
    kept: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, part: Part) -> None:
        """Count a part."""
        self.rows, self.failed, self.unseen = (
            self.rows + part.rows,
            self.failed + part.failed,
            self.unseen + part.unseen,
        )
        self.parts, self.kept = self.parts + 1, self.kept + part.kept
        self.kinds.update(part.kinds)


class Job(NamedTuple):
    """A job as a worker sees it. folder: of the parts; version: of this package where the job was started."""

    folder: Path
    bundle: str
    strict: bool
    version: str = ""


def run(
    source: str,
    out: str | Path,
    *,
    bundle: str = "",
    strict: bool = False,
    n_jobs: int = 0,
    rows_per_part: int = ROWS,
    backend: str = LOKY,
    scheduler: str = "",
    address: str = "",
    seen: Callable[[Summary], None] = lambda summary: None,
) -> Summary:
    """Answers every row of `source` (a Parquet or CSV file, a folder of them, an fsspec URL) in `out`.

    out: a .parquet or .csv, or a folder of parts. A row that cannot be answered says why in `error`; with strict the
    first such row ends the job with InvalidRequest. n_jobs: processes, 0: one for each core. backend: what they are,
    loky, dask or ray; scheduler, address: of a cluster of Dask or Ray, otherwise one is started here. seen: called
    after each part. Started again, it goes on; with another bundle, version or input it is refused.
    """
    place = place_of(backend, n_jobs, scheduler, address)
    target, found = Path(out).expanduser(), source_of(source)
    single = target.suffix in ENDINGS
    folder = target.with_name(f"{target.name}.parts") if single else target
    opened = load_bundle(bundle)
    try:
        if single and target.is_dir():
            raise InvalidRequest(f"{target} is a folder; give another name.")
        folder.mkdir(parents=True, exist_ok=True)
        _begin(folder, _identity(found, str(opened.path), rows_per_part))
        summary = Summary()
        job = Job(folder.absolute(), _bundle_name(opened), strict, version("gpu-predictor"))
        for part in _parts(found, job, place, rows_per_part):
            summary.add(part)
            seen(summary)
        if single:
            joined([folder / _name(number) for number in range(summary.parts)], target)
            shutil.rmtree(folder)
    except OSError as error:
        where = error.filename or folder
        raise InvalidRequest(
            f"{where} cannot be used ({error.strerror or error}); finished parts are kept: mend that and start again."
        ) from None
    return summary


def _identity(source: Source, bundle: str, rows_per_part: int) -> dict[str, Any]:
    """What must be the same for a job to go on."""
    content = (Path(bundle) / BUNDLE_MANIFEST).read_bytes()
    return {
        "version": version("gpu-predictor"),
        "bundle": Path(bundle).name,
        "bundle_sha256": hashlib.sha256(content).hexdigest(),
        "input": [list(file) for file in source.identity],
        "rows_per_part": rows_per_part,
    }


def _begin(folder: Path, identity: dict[str, Any]) -> None:
    """Write the manifest, or compare it with that of a job that was begun here; raises where they differ."""
    file = folder / MANIFEST
    _remove_drafts(folder)  # of a run that was killed
    if not file.exists():
        if strange := next((each.name for each in folder.iterdir() if not each.name.startswith(".")), ""):
            raise InvalidRequest(f"{folder} holds {strange} and no {MANIFEST}; give an empty folder.")
        _write_json(file, identity)
        return
    try:
        begun = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise InvalidRequest(f"{file} is broken; remove {folder} and start anew.") from None
    for name, value in identity.items():
        if not isinstance(begun, dict) or begun.get(name) != value:
            was = begun.get(name) if isinstance(begun, dict) else None
            raise InvalidRequest(
                f"{folder} was begun with another {name} ({str(was)[:80]}, now {str(value)[:80]}); "
                "give another --out, or remove it."
            )


def _parts(source: Source, job: Job, place: Place, rows: int) -> Iterator[Part]:
    """Every part in order of being done: those there already, and those that workers make."""
    tasks = enumerate(chunks(source, rows))
    if place.is_here:
        yield from (_part(job, number, table) for number, table in tasks)
        return
    for part in spread(_waiting_part, (_written(job, number, table) for number, table in tasks), place):
        _waiting(job, part.number).unlink(missing_ok=True)
        yield part
    _remove_drafts(job.folder)  # of workers that were killed


def _waiting(job: Job, number: int) -> Path:
    return job.folder / f".{_name(number)}.rows"


def _written(job: Job, number: int, table: pa.Table) -> tuple[Job, int, int]:
    """A part as a task of paths, which costs nothing to send or to send again: its rows wait in a file."""
    feather.write_feather(table, _waiting(job, number), compression="uncompressed")
    return job, number, table.num_rows


def _waiting_part(job: Job, number: int, rows: int) -> Part:
    """Make one part on whatever machine; a second time it is kept."""
    if not job.folder.is_dir():
        raise InvalidRequest(f"{socket.gethostname()} does not see {job.folder}; give an --out that all workers share.")
    if (own := version("gpu-predictor")) != job.version:
        raise InvalidRequest(f"{socket.gethostname()} has gpu-predictor {own}; install {job.version} on all workers.")
    if (kept := _receipt(job.folder / _name(number), number, rows)) is not None:
        return kept
    return _part(job, number, feather.read_table(_waiting(job, number), memory_map=False))


def _part(job: Job, number: int, table: pa.Table) -> Part:
    """Make one part, or keep the one that is there and whole."""
    file = job.folder / _name(number)
    if (kept := _receipt(file, number, table.num_rows)) is not None:
        return kept
    gc.disable()  # nothing here makes circles, and collecting would take a tenth of the time
    try:
        rows = list(answer_rows(table.to_pylist(), load_bundle(job.bundle)))
    finally:
        gc.enable()
    errors = [(at, str(row["error"])) for at, row in enumerate(rows) if row["error"]]
    if errors and job.strict:
        at, said = errors[0]
        raise InvalidRequest(f"row {at + 1} of part {number}: {said}")
    write(answered(table, rows), file)
    part = Part(
        number=number,
        rows=len(rows),
        failed=len(errors),
        unseen=sum(row["basis"] == "unseen-gpu" for row in rows),
        kinds=dict(Counter(said[:KINDS_SHOWN] for _, said in errors)),
        sha256=_sha256(file),
    )
    _write_json(file.with_suffix(".json"), part._asdict())
    return part


def _receipt(file: Path, number: int, rows: int) -> Part | None:
    """The finished part, where its file is there and still what the receipt says."""
    try:
        part = Part(**json.loads(file.with_suffix(".json").read_text(encoding="utf-8")))
        whole = part.number == number and part.rows == rows and part.sha256 == _sha256(file)
    except (OSError, ValueError, TypeError):
        return None
    return part._replace(kept=True) if whole else None


def _bundle_name(bundle: Bundle) -> str:
    """The id of a released bundle, which other machines have elsewhere; the folder of any other."""
    released = bundle.path.parent in [root.resolve() for root in released_roots()]
    return bundle.path.name if released else str(bundle.path)


def _remove_drafts(folder: Path) -> None:
    for draft in folder.glob(".*.*"):
        draft.unlink(missing_ok=True)


def _name(number: int) -> str:
    return f"part-{number:06}.parquet"


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _write_json(file: Path, content: Any) -> None:
    with drafted(file) as opened:
        opened.write((json.dumps(content, indent=1) + "\n").encode())
