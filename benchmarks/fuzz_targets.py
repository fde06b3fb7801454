"""The readers that are fed with wrong inputs: one line each in TARGETS, the shape of what they read in fuzz_seeds."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import fuzz_seeds as seeds

Read = Callable[[Path], Any]
Wrap = Callable[[bytes], bytes] | None
Seed = tuple[str, bytes, Wrap]
GIVEN = {"model": "Llama-3.1-8B", "gpu": "H100", "engine": "vllm", "dtype": "bf16", "input_len": "512"}


class Target(NamedTuple):
    """name: of the line. seeds: inputs that are right. reader: makes what reads one, imports included. weight: of the
    inputs that are asked for, less where a reader is slow."""

    name: str
    seeds: Callable[[], list[Seed]]
    reader: Callable[[], Read]
    weight: float
    warmed: int = 20  # seeds that are read as they are first


def header(content: bytes) -> bytes:
    """The length of a header before it, as safetensors has it."""
    return struct.pack("<Q", len(content)) + content


def parquet(content: bytes) -> bytes:
    """JSON of columns as a Parquet file; what makes no table comes back as it is."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    made = io.BytesIO()
    if max(content.count(b"[["), content.count(b'{"a":{"a"')) > 100:  # Arrow writes what is so deep with gigabytes
        return content
    try:
        columns = {str(name): list(cells) for name, cells in json.loads(content).items()}
        pq.write_table(pa.table(columns), made)
    except Exception:  # whatever Arrow does not take
        return content
    return made.getvalue()


def gguf(content: bytes) -> bytes:
    """JSON of [metadata, tensors] as the header of a .gguf."""
    try:
        metadata, tensors = json.loads(content)
        made = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
        for key, value in metadata.items():
            made += _text(key) + _entry(value)
        at = 0
        for name, (kind, shape, size) in tensors.items():
            made += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, at)
            at += -(-size // 32) * 32
        return made
    except (ValueError, TypeError, AttributeError, struct.error, RecursionError):
        return content


def _text(value: Any) -> bytes:
    content = str(value).encode("utf-8", "replace")
    return struct.pack("<Q", len(content)) + content


def _entry(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<IQ", 10, value) if value >= 0 else struct.pack("<Iq", 11, value)
    if isinstance(value, float):
        return struct.pack("<Id", 12, value)
    if isinstance(value, list):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    return struct.pack("<I", 8) + _text(value)


def _named(name: str, *contents: str, wrap: Wrap = None) -> list[Seed]:
    return [(name, content.encode(), wrap) for content in contents]


def _config() -> Read:
    from predictor.memory.sizes import weights_bytes
    from predictor.workloads.models import model_from_config
    from predictor.workloads.workload import Workload

    def read(path: Path) -> Any:
        model = model_from_config(path)
        model.parameters()
        return weights_bytes(Workload(model=model)) if hasattr(model, "vocab") else None

    return read


def _whole() -> Read:
    """A config to a whole answer."""
    from predictor.estimators.bundle import load_bundle
    from predictor.prediction.rows import answer_row

    bundle, asked = load_bundle(), {"gpu": "H100", "batch": 2, "output_len": 8}

    def read(path: Path) -> Any:
        images = {"images": 1} if b"vision_config" in path.read_bytes() else {}
        return answer_row({"model": str(path), **asked, **images}, bundle)

    return read


def _imported(module: str, name: str, *more: Any, **named: Any) -> Callable[[], Read]:
    """A function that takes a path."""

    def made() -> Read:
        from importlib import import_module

        function = getattr(import_module(f"predictor.{module}"), name)
        return lambda path: function(path, *more, **named)

    return made


def _trace() -> Read:
    from predictor.latency.serving.traces import read_trace

    return lambda path: read_trace(str(path))


def _sweep() -> Read:
    from predictor.prediction.jobs.sweep import read_spec

    def read(path: Path) -> Any:
        grid = read_spec(path)
        return grid.schema, grid.rows, next(iter(grid.chunks(50)), None)

    return read


def _ingested() -> Read:
    from predictor.measurements.ingest import Unread, ingest

    def read(path: Path) -> Any:
        unread = Unread()
        return ingest([path], columns=GIVEN, unread=unread), unread.lines()

    return read


def _mapped() -> Read:
    from predictor.measurements.ingest import column_map, ingest

    def read(path: Path) -> Any:
        return ingest([Path(seeds.csv_file())], mapping=column_map(path), columns={"gpu": "T4"})

    return read


def _requests() -> Read:
    from predictor.estimators.bundle import load_bundle
    from predictor.prediction.jobs.storage import source_of
    from predictor.prediction.rows import answer_table

    bundle = load_bundle()

    def read(path: Path) -> Any:
        """All rows are read and the first ones answered; the others are as good as the same again."""
        source = source_of(str(path))
        parts = list(source.chunks(20))
        return source.schema, source.rows, [answer_table(part, bundle) for part in parts[:1]]

    return read


def _cells() -> Read:
    """A row of a table as a request, without an answer."""
    from predictor.prediction.single import resolve
    from predictor.workloads.request import Request, misspelt_note

    def read(path: Path) -> Any:
        row = _object(path)
        misspelt_note(row)
        return resolve(Request.of(row))

    return read


def _object(path: Path) -> dict[str, Any]:
    """What JSON says, {} where it is no object: it stands for rows that a library made."""
    try:
        row = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _names() -> Read:
    from predictor.hardware.gpu import resolve_gpu
    from predictor.planning.fleet import fleet
    from predictor.workloads.models import get_model

    os.environ["HF_HUB_OFFLINE"] = "1"

    def read(path: Path) -> Any:
        text = path.read_bytes().decode("utf-8", "replace")
        readers = (resolve_gpu, fleet) if text.startswith((".", "/", "~")) else (resolve_gpu, fleet, get_model)
        return readers[zlib.crc32(text.encode()) % len(readers)](text)  # one of them: each looks for near names

    return read


def _bundle() -> Read:
    from predictor.estimators.bundle import load_bundle
    from predictor.estimators.operators import predict_op
    from predictor.hardware.gpu import get_gpu
    from predictor.ops import Gemm

    gpu, op = get_gpu("H100"), Gemm(m=64, n=4096, k=4096)

    def read(path: Path) -> Any:
        folder = path.parent / "bundle"
        folder.mkdir(exist_ok=True)
        for name, content in seeds.few_trees().items():
            if not (folder / name).exists():
                (folder / name).write_bytes(content)
        path.replace(folder / "bundle.json")
        bundle = load_bundle(folder)
        _ = bundle.id, bundle.level, bundle.calibrated, bundle.measured_runs
        for name in bundle.manifest["estimators"]:
            bundle.prior(name)
            bundle.kinship(name, gpu)
        return predict_op(op, gpu, bundle=bundle)

    return read


def _booster() -> Read:
    import numpy as np
    import xgboost

    from predictor.boosters import load_booster

    def read(path: Path) -> Any:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        booster = load_booster(path.parent, {"file": path.name, "sha256": digest})
        return booster.inplace_predict(np.zeros((2, 3), dtype=np.float32)), xgboost

    return read


def _booster_seeds() -> list[Seed]:
    import numpy as np
    import xgboost

    rows = np.random.default_rng(0).normal(size=(60, 3))
    made = xgboost.train({"max_depth": 2}, xgboost.DMatrix(rows, rows.sum(axis=1)), 2)
    return [("a.ubj", bytes(made.save_raw("ubj")), None)]


def _corrections() -> Read:
    from predictor.estimators.correction.stored import read_corrections

    return lambda path: read_corrections(path.read_bytes(), path, {}, {})


def _corrections_seeds() -> list[Seed]:
    import io

    import numpy as np

    made = io.BytesIO()
    np.savez(made, gpus=np.array(["T4"]), **{"0.place": np.zeros((2, 3)), "0.trust": np.ones(1)})
    return [("a.npz", made.getvalue(), None)]


def _own_runs() -> Read:
    from predictor.estimators.own_runs import from_json

    return lambda path: from_json(path.read_bytes(), path.name)


def _store() -> Read:
    from predictor.estimators.store import champions, decisions

    return lambda path: (decisions(path.parent), champions(path.parent))


def _quality() -> Read:
    from predictor.planning.evaluations import read_evaluations

    return lambda path: read_evaluations([path])


def _plan() -> Read:
    from predictor.planning.launch.verify import columns_of, read_plan

    return lambda path: columns_of(read_plan(path))


def _query() -> Read:
    """A question as the page takes it, before anything is computed."""
    from predictor.web.questions import questions

    def read(path: Path) -> Any:
        name, _, query = path.read_bytes().decode("utf-8", "replace").partition("?")
        question = questions().get(name, questions()["predict"])
        given = question.understood(parse_qsl(query, keep_blank_values=True))
        return question.is_slow(given)

    return read


def _answered() -> Read:
    """A quick question to its JSON."""
    from predictor.estimators.bundle import load_bundle
    from predictor.web.answers import answered
    from predictor.web.questions import questions
    from predictor.web.workers import Job, _answer

    bundle = load_bundle()
    os.environ["HF_HUB_OFFLINE"] = "1"

    def read(path: Path) -> Any:
        name, _, query = path.read_bytes().decode("utf-8", "replace").partition("?")
        question = questions().get(name, questions()["predict"])
        given = question.understood(parse_qsl(query, keep_blank_values=True))
        if question.is_slow(given):
            return None
        kind, content = _answer(Job(question.name, given), bundle, path.parent, answered)
        if kind == "broken":
            raise RuntimeError(content.decode())
        return content

    return read


def _dropped() -> Read:
    """A file that is dropped on the page, read as its process reads it."""
    from predictor.estimators.bundle import load_bundle
    from predictor.web.answers import answered
    from predictor.web.app import SAID_BY
    from predictor.web.uploads import dropped
    from predictor.web.workers import Job, _answer

    bundle = load_bundle()

    def read(path: Path) -> Any:
        kind = path.name.split(".")[0]
        one = dropped(path.read_bytes(), path.name, kind)
        os.chdir(path.parent)
        try:
            way, content = _answer(Job(SAID_BY.get(kind, kind), {kind: one.id}, (one,)), bundle, path.parent, answered)
        finally:
            for left in path.parent.glob("dropped-*"):
                for file in sorted(left.rglob("*"), reverse=True):
                    file.rmdir() if file.is_dir() else file.unlink()
                left.rmdir()
        if way == "broken":
            raise RuntimeError(content.decode())
        return content

    return read


def _dropped_seeds() -> list[Seed]:
    return [
        *_named("model.json", *seeds.configs()),
        *_named("model.gguf", seeds.GGUF, wrap=gguf),
        *_named("trace.csv", *seeds.TRACES_CSV),
        *_named("trace.jsonl", *seeds.TRACES_JSONL),
        *_named("trace.parquet", *seeds.TRACES_COLUMNS, wrap=parquet),
        *_named("prices.toml", seeds.PRICES),
        *_named("prices.csv", seeds.PRICES_CSV),
        *_named("scores.json", *seeds.QUALITY),
    ]


def _results() -> list[Seed]:
    """Benchmark files of every format, profiles and tables of one's own."""
    parts: Mapping[str, tuple[str, ...]] = seeds.results()
    return [seed for name, contents in parts.items() for seed in _named(name, *contents)]


def _traces() -> list[Seed]:
    return [
        *_named("a.csv", *seeds.TRACES_CSV),
        *_named("a.jsonl", *seeds.TRACES_JSONL),
        *_named("a.json", *seeds.TRACES_JSON),
        *_named("a.parquet", *seeds.TRACES_COLUMNS, wrap=parquet),
    ]


def _tables() -> list[Seed]:
    return [
        *_named("r.csv", *seeds.REQUESTS_CSV),
        *_named("r.parquet", *seeds.REQUESTS_COLUMNS, wrap=parquet),
    ]


def _measured() -> list[Seed]:
    return [
        *_named("m.csv", *seeds.TABLES_CSV),
        *_named("m.parquet", *seeds.TABLES_COLUMNS, wrap=parquet),
    ]


def _of(name: str, *contents: str, wrap: Wrap = None) -> Callable[[], list[Seed]]:
    return partial(_named, name, *contents, wrap=wrap)


_WEIGHTS = _imported("workloads.weights", "stored_weights")
_LINES: tuple[tuple[str, Callable[[], list[Seed]], Callable[[], Read], float], ...] = (
    ("config", lambda: _named("config.json", *seeds.configs()), _config, 1.0),
    ("config-answered", lambda: _named("config.json", *seeds.configs()), _whole, 0.02),
    ("gguf-config", _of("a.gguf", seeds.GGUF, wrap=gguf), _config, 1.0),
    ("gguf", _of("a.gguf", seeds.GGUF, wrap=gguf), _WEIGHTS, 1.0),
    ("safetensors", _of("a.safetensors", *seeds.SAFETENSORS, wrap=header), _WEIGHTS, 1.0),
    ("safetensors-index", _of("a.safetensors.index.json", *seeds.INDEX), _WEIGHTS, 0.5),
    ("gpu", _of("gpu.toml", *seeds.GPUS), _imported("hardware.gpu", "gpu_from_toml"), 0.5),
    ("sweep", _of("sweep.toml", *seeds.SWEEPS), _sweep, 0.3),
    ("mix", _of("mix.toml", *seeds.MIXES), _imported("planning.upgrade", "read_mix"), 0.5),
    ("prices", _of("prices.toml", seeds.PRICES), _imported("hardware.price_files", "read_prices"), 0.5),
    ("prices-csv", _of("prices.csv", seeds.PRICES_CSV), _imported("hardware.price_files", "read_prices"), 0.5),
    ("recipe", _of("recipe.toml", seeds.RECIPE), _imported("learning.recipe", "read_recipe"), 0.5),
    ("column-map", _of("map.toml", seeds.MAP), _mapped, 0.05),
    ("requests", _tables, _requests, 0.02),
    ("request-cells", _of("row.json", *seeds.ROWS), _cells, 1.0),
    ("names", _of("name.txt", *seeds.NAMES), _names, 0.1),
    ("bundle", lambda: _named("bundle.json", seeds.manifest()), _bundle, 0.05),
    ("booster", _booster_seeds, _booster, 0.5),
    ("corrections", _corrections_seeds, _corrections, 0.5),
    ("own-runs", _of("runs.json", seeds.OWN_RUNS), _own_runs, 1.0),
    ("store", _of("decisions.jsonl", seeds.DECISIONS), _store, 1.0),
    ("plan", _of("plan.json", seeds.PLAN), _plan, 1.0),
    ("results", _results, _ingested, 0.1),
    ("measured", _measured, _imported("measurements.schema", "read_shapes"), 0.05),
    ("runs", _measured, _imported("measurements.runs", "read_runs"), 0.05),
    ("load-trace", _traces, _trace, 0.2),
    ("quality", _of("results.json", *seeds.QUALITY), _quality, 1.0),
    ("query", _of("query.txt", *seeds.QUERIES), _query, 1.0),
    ("api", _of("query.txt", *seeds.QUERIES), _answered, 0.01),
    ("dropped", _dropped_seeds, _dropped, 0.1),
)
TARGETS: Mapping[str, Target] = {name: Target(name, *parts) for name, *parts in _LINES}  # type: ignore[arg-type]
