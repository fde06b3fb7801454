"""Tables of requests as streams: Parquet and CSV files, folders of them, fsspec URLs; and how answers are written."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from predictor.errors import InvalidRequest, InvalidTable
from predictor.files import is_regular, whole_file
from predictor.table_files import check_parquet

ENDINGS = (".parquet", ".csv")
ROWS_HELD = 10_000  # of a file, at once
UNREAD = (pa.ArrowException, OSError, UnicodeDecodeError)  # Arrow calls some broken files OSErrors


class Source(NamedTuple):
    """Files of one table, in order. identity: name, size and time of change of each, by which a change is noticed."""

    files: tuple[str, ...]
    identity: tuple[tuple[str, int, str], ...]
    filesystem: Any = None

    @property
    def schema(self) -> pa.Schema:
        """Columns and their types; those of CSV are text."""
        try:
            with _opened(self, self.files[0]) as opened:
                if self.files[0].endswith(".parquet"):
                    return pq.ParquetFile(opened).schema_arrow
                return pa.schema([(name, pa.string()) for name in pyarrow.csv.open_csv(opened).schema.names])
        except UNREAD as error:
            raise InvalidTable(_unreadable(self.files[0], error)) from None

    @property
    def rows(self) -> int | None:
        """How many rows there are, where the files say so; None for CSV."""
        if not self.files[0].endswith(".parquet"):
            return None
        count = 0
        for file in self.files:
            try:
                with _opened(self, file) as opened:
                    count += pq.ParquetFile(opened).metadata.num_rows
            except UNREAD as error:
                raise InvalidTable(_unreadable(file, error)) from None
        return count

    @property
    def drop(self) -> tuple[str, ...]:
        """Which answers are left out of the table: none."""
        return ()

    def chunks(self, rows: int) -> Iterator[pa.Table]:
        """The table in pieces of `rows` rows, the last one smaller."""
        return pieces((pa.Table.from_batches([batch]) for batch in _batches(self, rows)), rows)


def source_of(path: str) -> Source:
    """The files of a path or an fsspec URL; raises InvalidTable where there is none, or where their endings differ."""
    filesystem, root = filesystem_of(path)
    if filesystem is None:
        files = _local(Path(root).expanduser())
        stats = [Path(file).stat() for file in files]
        identity = [(file, int(stat.st_size), str(stat.st_mtime_ns)) for file, stat in zip(files, stats, strict=True)]
    else:
        files, identity = _remote(filesystem, root, path)
    if not files:
        raise InvalidTable(f"{path} has no .parquet and no .csv; give a file, a folder or a URL of such.")
    if len({Path(file).suffix for file in files}) > 1:
        raise InvalidTable(f"{path} mixes .parquet and .csv; give a folder of one of them.")
    return Source(tuple(files), tuple(identity), filesystem)


def _remote(filesystem: Any, root: str, path: str) -> tuple[list[str], list[tuple[str, int, str]]]:
    """Files of a URL, and the identity of each."""
    try:
        listed = filesystem.find(root) if filesystem.isdir(root) else [root]
        files = sorted(file for file in listed if file.endswith(ENDINGS))
        infos = [filesystem.info(file) for file in files]
    except Exception as error:  # every file system has its own
        raise InvalidTable(f"{path} cannot be read ({reason_of(error)}); check the URL and your access.") from None
    changed = [str(info.get("etag") or info.get("mtime") or info.get("LastModified")) for info in infos]
    return files, [(f, int(info.get("size") or 0), at) for f, info, at in zip(files, infos, changed, strict=True)]


def reason_of(error: Exception) -> str:
    """What kind of error it is, and the first line of what it says."""
    return f"{type(error).__name__}: {error}".rstrip(": ").splitlines()[0]


def filesystem_of(path: str) -> tuple[Any, str]:
    """The file system of an fsspec URL and the path in it; None and the path itself where it is no URL."""
    if "://" not in path:
        return None, path
    try:
        import fsspec
    except ImportError:
        raise InvalidTable(f"{path} is a URL; pip install fsspec and its file system, or copy it here.") from None
    try:
        filesystem, root = fsspec.core.url_to_fs(path)
    except Exception as error:  # every file system has its own
        raise InvalidTable(f"{path} cannot be opened ({reason_of(error)}); check the URL.") from None
    return filesystem, root


def _local(path: Path) -> list[str]:
    if path.is_dir():
        return sorted(str(file) for file in path.iterdir() if file.suffix in ENDINGS and is_regular(file))
    if not path.exists():
        raise InvalidTable(f"{path} is not there; give a .parquet or .csv file, a folder of such, or a URL.")
    if path.suffix not in ENDINGS:
        raise InvalidTable(f"{path} must end in .parquet or .csv.")
    if not is_regular(path):
        raise InvalidTable(f"{path} is no regular file; give a .parquet or .csv file, a folder of such, or a URL.")
    return [str(path)]


def pieces(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The rows of tables in pieces of `rows` rows, the last one smaller; never more than that and a table in memory."""
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        while count + table.num_rows >= rows:
            yield pa.concat_tables([*held, table.slice(0, rows - count)])
            table, held, count = table.slice(rows - count), [], 0
        if table.num_rows:
            held.append(table)
            count += table.num_rows
    if held:
        yield pa.concat_tables(held)


def _unreadable(file: str, error: Exception) -> str:
    return f"{file} cannot be read ({str(error).splitlines()[0]}); write it again."


def _batches(source: Source, rows: int) -> Iterator[pa.RecordBatch]:
    schema: pa.Schema | None = None
    for file, (_, size, _) in zip(source.files, source.identity, strict=True):
        try:
            with _opened(source, file) as opened:
                if file.endswith(".parquet"):
                    check_parquet(opened, file, size or 2**62, InvalidTable, ROWS_HELD)  # of some URLs nobody knows it
                    opened.seek(0)
                for batch in _of_file(opened, file, rows):
                    if schema is None:
                        schema = batch.schema
                    if batch.schema.names != schema.names:
                        raise InvalidTable(f"{file} has other columns than {source.files[0]}; make them equal.")
                    yield batch.cast(schema) if batch.schema != schema else batch
        except UNREAD as error:
            raise InvalidTable(_unreadable(file, error)) from None


def _opened(source: Source, file: str) -> Any:
    return Path(file).open("rb") if source.filesystem is None else source.filesystem.open(file, "rb")


def _of_file(opened: Any, file: str, rows: int) -> Iterator[pa.RecordBatch]:
    if file.endswith(".parquet"):
        yield from pq.ParquetFile(opened).iter_batches(batch_size=min(rows, ROWS_HELD))
        return
    # Cells stay the texts that they are; a request reads numbers from them.
    names = pyarrow.csv.open_csv(opened).schema.names
    opened.seek(0)
    texts = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    yield from pyarrow.csv.open_csv(opened, convert_options=texts)


def write(table: pa.Table, path: Path) -> None:
    """Write a part."""
    with whole_file(path) as draft, draft.open("wb") as file:
        pq.write_table(table, file)


def joined(parts: Sequence[Path], path: Path) -> None:
    """Write the parts as one file, in order, a part at a time in memory."""
    writer: Any = None
    # Arrow takes opened files: it knows no name that the encoding of the system lacks.
    with whole_file(path) as draft, draft.open("wb") as file:
        for part in parts:
            with part.open("rb") as opened:
                table = pq.read_table(opened)
            if writer is None:
                kind = pyarrow.csv.CSVWriter if path.suffix == ".csv" else pq.ParquetWriter
                writer = kind(file, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()


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
    if filesystem is not None and not _is_local(filesystem):
        return _remote_output(str(out), filesystem, root)
    target = Path(root).expanduser()
    if not _is_file(str(out), target.is_dir()):
        return Output(target, None)
    if target.is_dir():
        raise InvalidRequest(f"{target} is a folder; give another name.")
    return Output(target.with_name(f"{target.name}.parts"), target)


def _is_file(out: str, is_there: bool) -> bool:
    """Whether an output is one file; raises InvalidRequest where its ending is that of neither a file nor a folder."""
    ending = Path(out).suffix
    if ending in ENDINGS or not ending or is_there or out.endswith(("/", os.sep)):
        return ending in ENDINGS
    raise InvalidRequest(
        f"out is {out}; answers are written as {' or '.join(ENDINGS)}, or as a folder of parts, which has no ending. "
        "Give one of these, or a folder with a / at its end."
    )


def check_apart(source: str, read: Any, output: Output) -> None:
    """Raises InvalidRequest where an output would take the place of what is read, or lie among it.

    source: the path or URL as it was given; read: what has the files of a table or of a sweep.
    """
    if _is_local(read.filesystem) and not output.url:
        _check_paths(Path(filesystem_of(source)[1]).expanduser(), bool(source), read.files, output)
    elif output.url and read.filesystem is not None and _protocols(read.filesystem) == _protocols(output.filesystem):
        _check_keys(posixpath.normpath(filesystem_of(source)[1]), read.files, output)


def _check_paths(source: Path, is_table: bool, files: Sequence[str], output: Output) -> None:
    target, wrong = output.file or output.folder, ""
    if any(_is_same(target, Path(file)) for file in files):
        wrong = "which is what is read"
    elif is_table and any(_is_same(output.folder, Path(file).parent) for file in files):
        wrong = "whose parts would lie among what is read"
    elif is_table and output.file and source.is_dir() and _is_same(target.parent, source):
        wrong = "within the folder that is read"
    if wrong:
        raise InvalidRequest(f"out is {target}, {wrong}; give another --out.")


def _check_keys(source: str, files: Sequence[str], output: Output) -> None:
    root = posixpath.normpath(output.root)
    within = any(f"{posixpath.normpath(file)}/".startswith(f"{root}/") for file in files)
    if within or f"{root}/".startswith(f"{source}/"):
        raise InvalidRequest(f"out is {output.url}, where what is read lies; give another --out.")


def _is_same(one: Path, two: Path) -> bool:
    """Whether two paths are one file or folder, by whatever links and spellings."""
    try:
        return one.samefile(two)
    except OSError:  # one of them is not there
        return False


def _is_local(filesystem: Any) -> bool:
    return filesystem is None or "file" in _protocols(filesystem)


def check_writable(schema: pa.Schema, output: Output) -> None:
    """Raises InvalidRequest where a column has cells that a CSV cannot hold."""
    if output.file is None or output.file.suffix != ".csv":
        return
    if nested := [field for field in schema if pa.types.is_nested(field.type)]:
        raise InvalidRequest(
            f"column {nested[0].name} is {nested[0].type}, which CSV cannot hold; write .parquet or drop it."
        )


def _protocols(filesystem: Any) -> tuple[str, ...]:
    named = filesystem.protocol
    return (named,) if isinstance(named, str) else tuple(named)


def _remote_output(url: str, filesystem: Any, root: str) -> Output:
    """Parts of a URL lie in a folder of the working directory, named after it."""
    name = Path(root).name
    folder = Path.cwd() / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}.parts"
    single = _is_file(url, folder.exists())
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
