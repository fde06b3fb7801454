"""Batch prediction jobs: a table of requests or operators in, the same with answers out, in parts that survive any end.

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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import feather

from predictor.boosters import is_light, load_xgboost, released_roots
from predictor.errors import InvalidRequest
from predictor.estimators.bundle import MANIFEST as BUNDLE_MANIFEST, Bundle, load_bundle
from predictor.estimators.operators import UNSEEN
from predictor.files import sha256_of, whole_file
from predictor.hardware.prices import own_prices, price_list
from predictor.prediction.jobs.backends import LOKY, Place, place_of, spread
from predictor.prediction.jobs.lock import held
from predictor.prediction.jobs.parts import cut
from predictor.prediction.jobs.storage import (
    Output,
    Source,
    check_apart,
    check_writable,
    copy_out,
    joined,
    output_of,
    source_of,
    write,
)
from predictor.prediction.jobs.sweep import Grid
from predictor.prediction.op_tables import OP_COLUMNS, OP_RESULTS, OP_ROWS, answer_ops
from predictor.prediction.pool_tables import POOL_COLUMNS, POOL_RESULTS, POOL_ROWS, answer_pools
from predictor.prediction.rows import ROWS, answer_table
from predictor.workloads.request import columns, misspelt_note
from predictor.workloads.results import BOTH, RESULTS

MANIFEST = "manifest.json"
KINDS_SHOWN = 60  # characters of an error that make it the same kind as another


def _whole(table: pa.Table) -> Iterator[pa.Table]:
    yield table


class Kind(NamedTuple):
    """What the rows of a table are. rows_per_part: some seconds of work, some MB of memory; cut: what is a part of so
    many rows, by how long they take. reads: the columns that answers depend on; results: those that are added."""

    answer: Callable[[pa.Table, Bundle], pa.Table]
    rows_per_part: int
    cut: Callable[[pa.Table], Iterator[pa.Table]]
    reads: tuple[str, ...]
    results: tuple[str, ...]


REQUESTS, OPERATORS, POOLS = "requests", "operators", "pools"
KINDS: Mapping[str, Kind] = {
    REQUESTS: Kind(
        answer_table, ROWS, cut, tuple(c.name for c in columns()), tuple(name for name in RESULTS if name != BOTH)
    ),
    OPERATORS: Kind(answer_ops, OP_ROWS, _whole, OP_COLUMNS, OP_RESULTS),
    POOLS: Kind(answer_pools, POOL_ROWS, _whole, POOL_COLUMNS, POOL_RESULTS),
}


class Part(NamedTuple):
    """What became of one part. rows: asked; failed: with an error; unseen: answers for GPUs that nobody measured.

    dropped: "unfit" or "invalid" → how many rows were left out of the file; kinds: kind of error → its rows;
    damaged: it was there and is made anew, because it is not what its receipt says.
    """

    number: int
    rows: int
    failed: int
    unseen: int
    kinds: dict[str, int]
    dropped: dict[str, int]
    sha256: str
    kept: bool = False
    damaged: bool = False


@dataclass(slots=True)
class Summary:
    """What became of a job. kept: parts that an earlier run had finished; kinds: how often each kind of error came;
    dropped: why rows are not in the output, and how many; damaged: parts that had to be made anew; total: rows that
    there are, None where the input does not say; made: rows of this run; folder: of the parts, where they are copied to
    a URL in the end; note: what is strange about the columns of the input, "" where nothing is."""

    rows: int = 0
    failed: int = 0
    unseen: int = 0
    parts: int = 0
    kept: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    damaged: int = 0
    made: int = 0
    total: int | None = None
    folder: Path | None = None
    note: str = ""

    def add(self, part: Part) -> None:
        """Count a part."""
        self.rows, self.failed, self.unseen = (
            self.rows + part.rows,
            self.failed + part.failed,
            self.unseen + part.unseen,
        )
        self.parts, self.kept = self.parts + 1, self.kept + part.kept
        self.damaged, self.made = self.damaged + part.damaged, self.made + (0 if part.kept else part.rows)
        self.kinds.update(part.kinds)
        self.dropped.update(part.dropped)


class Job(NamedTuple):
    """A job as a worker sees it.

    folder: of the parts. version: of this package where the job was started. drop: answers that are left out, "unfit"
    or "invalid". light: its processes do nothing else, and need no scikit-learn. prices: a user's own file, "": none.
    """

    folder: Path
    bundle: str
    strict: bool
    version: str = ""
    kind: str = REQUESTS
    drop: tuple[str, ...] = ()
    light: bool = False
    prices: str = ""


def run(
    source: str | Grid,
    out: str | Path,
    *,
    bundle: str = "",
    strict: bool = False,
    n_jobs: int = 0,
    rows_per_part: int = 0,
    kind: str = REQUESTS,
    prices: str | Path = "",
    backend: str = LOKY,
    scheduler: str = "",
    address: str = "",
    seen: Callable[[Summary], None] = lambda summary: None,
) -> Summary:
    """Answers every row of `source` (a Parquet or CSV file, a folder of them, an fsspec URL, a sweep) in `out`.

    out: a .parquet or .csv, or a folder of parts, or an fsspec URL of either, to which the answers are copied in the
    end from a folder of the working directory; never what is read. A row that cannot be answered says why in `error`;
    with strict the first such row ends the job with InvalidRequest, as a column does whose name is nearly that of one
    that is read. n_jobs: processes, 0: one for each core. rows_per_part: 0: as many as suit the kind, and fewer of rows
    that are answered one by one. kind: what a row is, a request or an operator call. prices: as in `plan`. backend:
    what the processes are, loky, dask or ray; scheduler, address: of a cluster of Dask or Ray, otherwise one is started
    here. seen: called first and after each part. Started again, it goes on; with another bundle, version, kind, prices
    or input it is refused, as it is while another job writes there.
    """
    own = str(Path(prices).absolute()) if prices else ""
    price_list(own)  # a wrong one fails here
    place = place_of(backend, n_jobs, scheduler, address)
    read, output = source_of(source) if isinstance(source, str) else source, output_of(out)
    check_apart(source if isinstance(source, str) else "", read, output)
    note = _check_columns(read.schema, KINDS[kind], strict)
    check_writable(read.schema, output)
    folder, opened = output.folder, load_bundle(bundle)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder):
            asked = {"kind": kind, "prices": sha256_of(Path(own)) if own else None}
            _begin(folder, _identity(read, str(opened.path), rows_per_part) | asked)
            summary = Summary(total=read.rows, folder=folder if output.url else None, note=note)
            seen(summary)
            light = place.backend == LOKY and is_light()
            job = Job(
                folder.absolute(), _bundle_name(opened), strict, version("gpu-predictor"), kind, read.drop, light, own
            )
            for part in _parts(_tables(read, KINDS[kind], rows_per_part), job, place):
                summary.add(part)
                seen(summary)
            _deliver(output, [folder / _name(number) for number in range(summary.parts)])
    except OSError as error:
        where = error.filename or folder
        raise InvalidRequest(
            f"{where} cannot be used ({error.strerror or error}); finished parts are kept: mend that and start again."
        ) from None
    return summary


def _check_columns(schema: pa.Schema, kind: Kind, strict: bool) -> str:
    """What is strange about the columns of a table; raises InvalidRequest where one is a result, strict where one is
    misspelt."""
    if clash := [name for name in kind.results if name in schema.names]:
        raise InvalidRequest(f"the table already has a column {clash[0]}, which is a result; rename it.")
    note = misspelt_note(schema.names, kind.reads)
    if note and strict:
        raise InvalidRequest(f"{note} Rename them, or leave out --strict.")
    return note


def _tables(source: Source | Grid, kind: Kind, rows: int) -> Iterator[pa.Table]:
    """The rows of each part."""
    if rows:
        yield from source.chunks(rows)
        return
    for chunk in source.chunks(kind.rows_per_part):
        yield from kind.cut(chunk)


def _deliver(output: Output, parts: list[Path]) -> None:
    """Put the finished parts where they are wanted."""
    if output.file:
        joined(parts, output.file)
    if output.url:
        copy_out(output, parts)
    if output.file or output.url:
        shutil.rmtree(output.folder)


def _identity(source: Source | Grid, bundle: str, rows_per_part: int) -> dict[str, Any]:
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
        if strange := next((other.name for other in folder.iterdir() if not other.name.startswith(".")), ""):
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


def _parts(tables: Iterator[pa.Table], job: Job, place: Place) -> Iterator[Part]:
    """Every part in order of being done: those there already, and those that workers make."""
    tasks = enumerate(tables)
    if place.is_here:
        yield from (_part(job, number, table) for number, table in tasks)
        return
    kept: list[Part] = []
    try:
        for part in spread(_waiting_part, _calls(job, tasks, kept), place):
            _waiting(job, part.number).unlink(missing_ok=True)
            yield from _taken(kept)
            yield part
        yield from _taken(kept)
    finally:
        _remove_drafts(job.folder)  # of workers that were killed, and of parts that nobody will make


def _waiting(job: Job, number: int) -> Path:
    return job.folder / f".{_name(number)}.rows"


def _calls(job: Job, tasks: Iterable[tuple[int, pa.Table]], kept: list[Part]) -> Iterator[tuple[Job, int, int]]:
    """The parts that workers have to make; those that an earlier run finished are put into `kept`."""
    for number, table in tasks:
        if (part := _receipt(job.folder / _name(number), number, table.num_rows)) is not None:
            kept.append(part)
        else:
            yield _written(job, number, table)


def _taken(parts: list[Part]) -> Iterator[Part]:
    while parts:
        yield parts.pop(0)


def _written(job: Job, number: int, table: pa.Table) -> tuple[Job, int, int]:
    """A part as a task of paths, which costs nothing to send or to send again: its rows wait in a file."""
    feather.write_feather(table, _waiting(job, number), compression="uncompressed")
    return job, number, table.num_rows


def _waiting_part(job: Job, number: int, rows: int) -> Part:
    """Make one part on whatever machine; a second time it is kept."""
    if job.light:
        load_xgboost()
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
    damaged = file.with_suffix(".json").exists()
    gc.disable()  # nothing here makes circles, and collecting would take a tenth of the time
    try:
        with own_prices(job.prices):
            answers = KINDS[job.kind].answer(table, load_bundle(job.bundle))
    finally:
        gc.enable()
    kinds = _kinds(answers)
    answers, dropped = _without(answers, job.drop)
    failed = pc.is_valid(answers["error"])
    if job.strict and pc.any(failed).as_py():
        at = pc.index(failed, True).as_py()
        raise InvalidRequest(f"row {at + 1} of part {number}: {answers['error'][at]}")
    write(answers, file)
    part = Part(
        number=number,
        rows=table.num_rows,
        failed=pc.sum(failed).as_py() or 0,
        unseen=pc.sum(pc.equal(answers["basis"], UNSEEN)).as_py() or 0,
        kinds=kinds,
        dropped=dropped,
        sha256=sha256_of(file),
    )
    _write_json(file.with_suffix(".json"), part._asdict())
    return part._replace(damaged=damaged)


def _kinds(table: pa.Table) -> dict[str, int]:
    """How often each kind of error came."""
    beginnings = pc.utf8_slice_codeunits(table["error"].drop_null(), 0, KINDS_SHOWN)
    return {kind["values"]: kind["counts"] for kind in pc.value_counts(beginnings).to_pylist()}


def _without(table: pa.Table, drop: tuple[str, ...]) -> tuple[pa.Table, dict[str, int]]:
    """The answers that are not left out, and how many are."""
    dropped = {}
    for reason in drop:
        bad = pc.is_valid(table["error"]) if reason == "invalid" else pc.equal(table["fits"], False)
        kept = table.filter(pc.invert(pc.fill_null(bad, False)))
        dropped[reason], table = table.num_rows - kept.num_rows, kept
    return table, dropped


def _receipt(file: Path, number: int, rows: int) -> Part | None:
    """The finished part, where its file is there and still what the receipt says."""
    try:
        part = Part(**json.loads(file.with_suffix(".json").read_text(encoding="utf-8")))
        whole = part.number == number and part.rows == rows and part.sha256 == sha256_of(file)
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


def _write_json(file: Path, content: Any) -> None:
    with whole_file(file) as draft:
        draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
