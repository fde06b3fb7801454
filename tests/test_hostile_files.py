"""Files that are made to hurt: each ends in one short line, soon and in little memory, whoever reads it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from predictor import table_files
from predictor.boosters import load_booster
from predictor.errors import LONGEST, InvalidBundle, InvalidRequest, InvalidSpec, InvalidTable, PredictorError
from predictor.estimators.bundle import load_bundle
from predictor.estimators.correction import stored
from predictor.estimators.correction.stored import read_corrections
from predictor.estimators.own_runs import from_json
from predictor.estimators.store import decisions
from predictor.files import copy_folder, parse_json, read_json
from predictor.hardware.gpu import gpu_from_toml
from predictor.hardware.price_files import read_prices
from predictor.latency.serving.traces import read_trace
from predictor.learning.evaluate import read_ledger
from predictor.learning.recipe import read_recipe
from predictor.measurements.ingest import Unread, content, ingest
from predictor.measurements.ingest.aten import Recorded, row_of
from predictor.measurements.ingest.figures import lengths_of, spread_of
from predictor.measurements.schema import read_table
from predictor.planning.evaluations import read_evaluations
from predictor.planning.launch.verify import read_plan
from predictor.planning.upgrade import read_mix
from predictor.prediction.jobs.storage import source_of
from predictor.prediction.jobs.sweep import read_spec
from predictor.prediction.rows import requests_of
from predictor.ubjson import check_booster
from predictor.workloads.configs.fields import Fields
from predictor.workloads.models import model_from_config
from predictor.workloads.weights import stored_weights

READERS: dict[str, Callable[[Path], Any]] = {
    "a.json": lambda path: ingest([path], columns={"gpu": "H100"}),
    "trace.json": lambda path: read_trace(str(path)),
    "quality.json": lambda path: read_evaluations([path]),
    "plan.json": read_plan,
    "config.json": model_from_config,
    "own.json": lambda path: from_json(path.read_bytes(), path.name),
    "gpu.toml": gpu_from_toml,
    "sweep.toml": read_spec,
    "mix.toml": read_mix,
    "prices.toml": read_prices,
    "prices.csv": read_prices,
    "recipe.toml": read_recipe,
    "m.csv": read_table,
    "m.parquet": read_table,
    "r.csv": lambda path: list(source_of(str(path)).chunks(10)),
    "r.parquet": lambda path: list(source_of(str(path)).chunks(10)),
    "w.safetensors": stored_weights,
    "w.gguf": stored_weights,
}
FILES = [name for name in READERS if name != "own.json"]  # that one is read by its bundle
DEEP = {"json": "[" * 100_000, "toml": "a = " + "[" * 100_000}


def refused(reader: Callable[[Path], Any], path: Path) -> str:
    """What a reader says, as a line."""
    with pytest.raises(PredictorError) as error:
        reader(path)
    said = str(error.value)
    assert said.isprintable() and len(said) <= LONGEST
    return said


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_a_device_and_a_folder_are_refused(name: str, tmp_path: Path):
    """A pipe would block for ever, and /dev/zero fill the memory."""
    pipe, folder, device = (tmp_path / part / name for part in ("pipe", "folder", "device"))
    for path in (pipe, folder, device):
        path.parent.mkdir()
    os.mkfifo(pipe)
    folder.mkdir()
    device.symlink_to("/dev/zero")
    for path in (pipe, folder, device):
        refused(READERS[name], path)


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith((".json", ".toml"))])
def test_what_is_nested_deeply_is_refused(name: str, tmp_path: Path):
    path = tmp_path / name
    path.write_text(DEEP[path.suffix[1:]])
    refused(READERS[name], path)


def test_an_error_is_one_short_line_whatever_it_names():
    said = str(InvalidRequest("a\x1b[2J\u202e\n\x00b" + "x" * 10**6 + "; cure."))
    assert said.startswith("a\\x1b[2J\\u202e \\x00bxx") and said.endswith("xx; cure.") and len(said) == LONGEST


def test_a_key_that_stands_twice_is_no_guess(tmp_path: Path):
    path = tmp_path / "plan.json"
    path.write_text('{"a": 1, "a": 2}')
    assert "'a' appears twice" in refused(lambda path: read_json(path, "give another", InvalidTable), path)
    with pytest.raises(InvalidTable, match="appears twice"):
        parse_json(json.dumps({str(n): n for n in range(10**5)})[:-1] + ', "5": 1}', "x", "give another", InvalidTable)


@pytest.mark.parametrize(
    "change",
    [
        {"configs": {"mmlu": []}},
        {"group_subtasks": {"mmlu": 5}},
        {"group_subtasks": {"mmlu": [["a"], {}]}},
        {"group_subtasks": {"mmlu": ["a"], "a": ["b"], "b": ["a", "mmlu"]}},  # a circle
        {"results": {"mmlu": {"acc": 10**400, "f1": 0.5}}},
    ],
)
def test_results_of_the_wrong_shape_are_read_or_refused(change: dict[str, Any], tmp_path: Path):
    path = tmp_path / "results.json"
    whole = {"results": {"mmlu": {"acc": 0.5}}, "config": {"model_args": "pretrained=Qwen/Qwen3-8B"}}
    path.write_text(json.dumps(whole | change))
    assert read_evaluations([path])[0].scores[0].value == 0.5


@pytest.mark.parametrize(
    "change",
    [{"layer_types": [{}] * 4}, {"layer_types": [["full_attention"]] * 4}],
)
def test_kinds_of_layers_that_are_no_text_are_refused(change: dict[str, Any]):
    config = {"model_type": "gpt_oss", "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4}
    config |= {"sliding_window": 128, "num_key_value_heads": 4, "num_local_experts": 4, "intermediate_size": 64}
    with pytest.raises(PredictorError, match="layer_types"):
        model_from_config(config | {"vocab_size": 100, "torch_dtype": "bfloat16", "head_dim": 16} | change)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("recipe.toml", "level = 1" + "0" * 400),
        ("prices.toml", "[electricity]\nusd_per_kwh = 1" + "0" * 400),
        ("prices.csv", "provider,gpu,n_gpus\nus,H100," + "9" * 400),
        (
            "sweep.toml",
            '[request]\nmodel = "Qwen3-8B"\ngpu = "H100"\nbatch = {from = 1, to = 1' + "0" * 400 + ", step = 1}",
        ),
        ("sweep.toml", '[request]\nmodel = "Qwen3-8B"\ngpu = "H100"\nbatch = {from = nan, to = 4, step = 1}'),
        ("m.csv", "family,gpu,latency_s,m\ngemm,H100,1e-5,x" + "9" * 400),
        ("r.csv", "model,gpu\xcd\n".encode("latin-1").decode("latin-1") + "a,b\n"),
    ],
)
def test_numbers_beyond_all_measure_are_refused(name: str, text: str, tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(text.encode("latin-1"))
    refused(READERS[name], path)


def test_what_unpacks_to_brackets_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(content, "MOST_OBJECTS", 1000)
    bomb = tmp_path / "a.json.gz"
    bomb.write_bytes(gzip.compress(b"[" + b"[]," * 2000 + b"1]"))
    assert "2,001 lists and objects; at most 1,000 are read" in refused(READERS["a.json"], bomb)


@pytest.mark.parametrize("name", ["m.csv", "trace.csv"])
def test_a_csv_of_a_million_columns_is_refused(name: str, tmp_path: Path):
    path = tmp_path / name
    path.write_text("family,gpu,latency_s,input_len,output_len," + ",".join(f"c{n}" for n in range(200_000)) + "\n")
    assert "each line within 1 MiB" in refused(READERS.get(name, READERS["trace.json"]), path)


@pytest.mark.parametrize("name", ["m.parquet", "r.parquet", "trace.parquet"])
@pytest.mark.parametrize("kind", ["rows", "texts"])
def test_a_parquet_file_that_unpacks_to_gigabytes_is_refused(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(table_files, "MOST_UNPACKED", 2**20)
    rows = 10_000
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * 20_000]))
    many = {name: pa.array(np.ones(10 * rows)) for name in ("latency_s", "input_len", "output_len")}
    path = tmp_path / name
    pq.write_table(
        pa.table(many if kind == "rows" else {"model": texts, "gpu": texts}),
        path,
        compression="zstd",
        store_schema=False,
    )
    if (kind, name) == ("rows", "r.parquet"):  # is read in pieces
        assert sum(len(part) for part in READERS[name](path)) == 10 * rows
    else:
        assert "bytes that unpack to" in refused(READERS.get(name, READERS["trace.json"]), path)


def test_a_measured_table_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table_files, "MOST_UNPACKED", 2**10)
    path = tmp_path / "m.parquet"
    rows = 2000
    table = {"family": ["gemm"] * rows, "gpu": ["H100"] * rows, "engine": ["torch"] * rows, "dtype": ["bf16"] * rows}
    table |= {"latency_s": np.random.default_rng(0).random(rows), "m": [1] * rows, "n": [1] * rows, "k": [1] * rows}
    pq.write_table(pa.table(table), path, compression="zstd")
    assert len(read_table(path)) == rows


def test_arrays_that_unpack_to_gigabytes_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stored, "MOST_BYTES", 2**16)
    made = io.BytesIO()
    np.savez_compressed(made, gpus=np.zeros(2**18))
    with pytest.raises(InvalidBundle, match="bytes unpacked, of which at most"):
        read_corrections(made.getvalue(), Path("x"), {}, {})
    lie = io.BytesIO()
    with zipfile.ZipFile(lie, "w") as packed, packed.open("gpus.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (2**50,)})
    for broken in (lie.getvalue(), made.getvalue()[:100]):
        with pytest.raises(InvalidBundle, match="is no zip of NumPy arrays"):
            read_corrections(broken, Path("x"), {}, {})


@pytest.fixture(scope="module")
def booster() -> bytes:
    import xgboost

    rows = np.random.default_rng(0).normal(size=(60, 3))
    made = xgboost.train({"max_depth": 2}, xgboost.DMatrix(rows, rows.sum(axis=1)), 2)
    return bytes(made.save_raw("ubj"))


def test_a_booster_that_is_changed_ends_no_process(booster: bytes, tmp_path: Path):
    """XGBoost itself ends with a segmentation fault at some of them, by indices and lengths beyond a tree."""
    check_booster(booster)
    random, refusals = Random(0), 0
    for _ in range(300):
        content = bytearray(booster)
        for _ in range(random.choice((1, 4))):
            content[random.randrange(len(content))] = random.randrange(256)
        try:
            check_booster(bytes(content))
        except ValueError:
            refusals += 1
            continue
        path = tmp_path / "a.ubj"
        path.write_bytes(content)
        try:
            read = load_booster(tmp_path, {"file": path.name, "sha256": hashlib.sha256(content).hexdigest()})
            read.inplace_predict(np.zeros((2, 3), dtype=np.float32))
        except InvalidBundle:
            refusals += 1
    assert refusals > 200


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [("left_children", 0, 10**6), ("left_children", 1, 0), ("split_indices", 0, 3), ("parents", 1, 77)],
)
def test_indices_beyond_a_tree_are_refused(name: str, place: int, value: int, booster: bytes):
    at = booster.index(name.encode() + b"[$l#L") + len(name) + 13 + 4 * place
    with pytest.raises(ValueError, match=r"a node|a split"):
        check_booster(booster[:at] + struct.pack(">i", value) + booster[at + 4 :])


@pytest.mark.parametrize("file", ["../gemm.ubj", "/etc/passwd", "a/b.ubj"])
def test_a_bundle_reads_nothing_beside_it(file: str, tmp_path: Path):
    manifest = json.loads((load_bundle().path / "bundle.json").read_text())
    manifest["estimators"]["gemm"]["transfer"]["file"] = file
    (tmp_path / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(InvalidBundle, match="it must lie in the bundle's folder"):
        load_bundle(tmp_path)


def test_a_yaml_runs_nothing(tmp_path: Path):
    path = tmp_path / "a.yaml"
    for text in (
        f'!!python/object/apply:os.system ["touch {tmp_path}/ran"]\n',
        "[" * 50_000,
        "a: 2001-13-45\n",
        "a: !!int zz\n",
        "benchmarks: &a [*a]\n",
        "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}1]\n" for n in range(1, 30)).replace("*a0", "1"),
    ):
        path.write_text(text)
        refused(READERS["a.json"], path)
    assert not (tmp_path / "ran").exists()


LLAMA = {"build_commit": "a", "model_filename": "Qwen3-8B-Q4_K_M.gguf", "model_type": "qwen3 8B Q4_K - Medium"}
LLAMA |= {"gpu_info": "NVIDIA H100 80GB HBM3", "n_prompt": 512, "n_gen": 0, "avg_ns": 60_000_000}


@pytest.mark.parametrize("end", ["", '\n  "build_commit": "a",\n  "model_filename": "Qwen', '\n  "build_commit": "a"'])
def test_a_test_of_llama_bench_that_is_cut_is_counted(end: str, tmp_path: Path):
    path = tmp_path / "bench.txt"
    path.write_text(f"load_backend: loaded\n[\n{json.dumps(LLAMA, indent=1)},\n  {{{end}")
    unread = Unread()
    assert len(ingest([path], unread=unread)) == 1
    assert dict(unread.rows) == {"test or speed cannot be read": 1}
    path.write_text("x avg_ns n_prompt n_gen model_filename {\n" + "{" * 5000)
    refused(READERS["a.json"], path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "family,gpu,latency_s,m,n,k\ngemm,H100,1e-5,16,64,64,1\n"),
        ("trace.csv", "input_len,output_len\n0,20,5\n1,30,6\n"),
        ("trace.csv", "input_len,output_len\n100,20,5\n200,30,6\n"),
        ("a.json", "family,gpu,latency_s,m,n,k\ngemm,H100,1e-5,16,64,64,,\n"),
    ],
)
def test_a_csv_with_more_cells_than_names_is_no_guess(name: str, text: str, tmp_path: Path):
    """pandas takes the first cells for names of rows, and 20 for the input_len of the trace."""
    path = tmp_path / name
    path.write_text(text)
    assert "has lines of more cells than its header has names" in refused(
        READERS.get(name, READERS["trace.json"]), path
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "family,gpu,latency_s,m,m,n,k\ngemm,H100,1e-5,16,32,64,64\n"),
        ("a.json", "family,gpu,latency_s,m,m,n,k\ngemm,H100,1e-5,16,32,64,64\n"),
        ("trace.csv", 'input_len,"input_len",output_len\n100,7,5\n'),
        ("prices.csv", "provider,gpu,n_gpus,n_gpus,usd_per_hour\nx,H100,1,8,2.0\n"),
        ("r.csv", "model,gpu,batch,batch\nQwen3-8B,H100,1,2\n"),
    ],
)
def test_a_column_that_stands_twice_is_no_guess(name: str, text: str, tmp_path: Path):
    path = tmp_path / name
    path.write_text(text)
    readers = READERS | {"trace.csv": READERS["trace.json"]}
    readers["r.csv"] = lambda path: [requests_of(part) for part in source_of(str(path)).chunks(10)]
    assert "has two columns" in refused(readers[name], path)


def test_a_comma_at_the_end_of_each_line_of_a_trace_is_no_column(tmp_path: Path):
    path = tmp_path / "trace.csv"
    path.write_text("input_len,output_len\n100,20,\n200,30,\n")
    assert read_trace(str(path)).input_len == (100, 200)


def test_a_parquet_file_of_requests_that_arrow_calls_a_broken_file_is_refused(tmp_path: Path):
    value: Any = 1
    for _ in range(900):
        value = {"a": value}
    path = tmp_path / "r.parquet"
    pq.write_table(pa.table({"model": [value]}), path)
    for read in (
        READERS["r.parquet"],
        lambda path: source_of(str(path)).schema,
        lambda path: source_of(str(path)).rows,
    ):
        told = refused(read, path)
        assert "nested" in told or "cannot be read" in told, "versions of Arrow differ in what they say"


@pytest.mark.parametrize(
    "ratio", [[0.5], {"a": 0.5}, "x", "/dev/zero", None, True, 0, -0.5, 1e-300, float("nan"), 10**400]
)
@pytest.mark.parametrize("name", ["downsample_ratio", "pixel_shuffle_ratio"])
def test_a_ratio_of_a_tower_that_is_no_share_is_refused(name: str, ratio: Any):
    with pytest.raises(InvalidSpec, match=f"{name} in config.json is .+; it must be a number from 0.001 to 1"):
        Fields({name: ratio}, {}).ratio(name)
    assert Fields({name: 1}, {}).ratio(name) == 1.0


def test_a_report_that_lacks_a_column_it_is_known_by_is_refused(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text('Name,"x Projected Duration (ns)",RangeId\n":aten::mm",1,2\n')
    said = refused(lambda path: ingest([path], columns={"gpu": "H100", "dtype": "bf16"}), path)
    assert "the report has no column Projected Duration" in said


def test_a_test_of_llama_bench_of_endless_tokens_is_counted(tmp_path: Path):
    path, unread = tmp_path / "a.jsonl", Unread()
    path.write_text(
        "log\n" + json.dumps([LLAMA, LLAMA | {"n_prompt": 1e999}, LLAMA | {"n_gpu_layers": 10**400}], indent=1)
    )
    assert len(ingest([path], unread=unread)) == 2
    assert unread.rows["test or speed cannot be read"] == 1


@pytest.mark.parametrize("sizes", ["9" * 5000, [1] * 5000])
def test_a_tensor_of_thousands_of_dimensions_is_refused(sizes: Any):
    with pytest.raises(InvalidTable, match="its recorded inputs do not fit the operator"):
        row_of(Recorded("aten::add_", [[4096, 4096], sizes], ["c10::BFloat16"] * 2))


def test_lengths_of_nothing_are_no_spread():
    unread = Unread()
    assert spread_of({"input_len": 0.0, "output_len": 8.0}, {"input_len": 0.0, "output_len": 8.0}, unread) == {
        "input_len": 1,
        "output_len": 8,
        "length_spread": 0.0,
    }
    told = {"completed": 2, "total_input_tokens": 20, "total_output_tokens": 8, "input_lens": [10**400, None]}
    assert lengths_of(told | {"output_lens": ["x", {}]}, {}, unread)["input_len"] == 10


@pytest.fixture
def bundle(booster: bytes, tmp_path: Path) -> Path:
    """A bundle of GEMMs alone, whose trees are those of another."""
    manifest = json.loads((load_bundle().path / "bundle.json").read_text())
    entry = {"file": "a.ubj", "sha256": hashlib.sha256(booster).hexdigest()}
    manifest["estimators"] = {"gemm": manifest["estimators"]["gemm"] | {"transfer": entry, "reference": entry}}
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "a.ubj").write_bytes(booster)
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


def estimator_of(folder: Path) -> Any:
    return load_bundle(folder).estimator("gemm")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda whole, gemm: gemm["ranges"].update(hidden=[1, 2]), "has range 'hidden' from 1 to 2"),
        (lambda whole, gemm: gemm["ranges"].update(dtype=[1, 2]), "has range 'dtype' from 1 to 2"),
        (lambda whole, gemm: gemm["ranges"].update(m=[2, 1]), "has range 'm' from 2 to 1"),
        (lambda whole, gemm: gemm["references"].update({"H100-SXM-80GB": ["x"]}), "has group 'x', which is none"),
        (lambda whole, gemm: gemm["ranges"].update(m=[1, 10**40]), "has invalid numbers"),
        (lambda whole, gemm: gemm.update(references={}), "has invalid numbers"),
        (lambda whole, gemm: gemm["log_offsets"].pop("far"), "has invalid numbers"),
        (lambda whole, gemm: gemm.update(worst_share=0.0), "has invalid numbers"),
        (lambda whole, gemm: gemm.update(correlation=float("nan")), "has invalid numbers"),
        (lambda whole, gemm: whole.update(level=80.0), "has level 80; it must lie between 0 and 1"),
    ],
)
def test_a_manifest_that_answers_cannot_be_made_of_is_refused(change: Any, said: str, bundle: Path):
    assert estimator_of(bundle).name == "gemm"
    whole = json.loads((bundle / "bundle.json").read_text())
    change(whole, whole["estimators"]["gemm"])
    (bundle / "bundle.json").write_text(json.dumps(whole))
    assert said in refused(estimator_of, bundle)


def test_links_in_a_bundle_stand_for_the_files_they_point_to(bundle: Path, booster: bytes):
    """What they point to is hashed as all else: a link tells nothing that the manifest does not know."""
    outside, secret = bundle.parent / "outside.ubj", bundle.parent / "secret"
    (bundle / "a.ubj").rename(outside)
    secret.write_bytes(b"secret")
    (bundle / "a.ubj").symlink_to(outside)
    assert estimator_of(bundle).name == "gemm"
    (bundle / "a.ubj").unlink()
    (bundle / "a.ubj").symlink_to(secret)
    os.utime(bundle / "bundle.json", ns=(1, 1))
    said = refused(estimator_of, bundle)
    assert "is corrupt (sha256 differs" in said and "secret" not in said


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "nothing", "itself"])
@pytest.mark.parametrize("name", ["a.ubj", "ledger.csv", "bundle.json"])
def test_what_is_no_file_in_a_bundle_is_refused_and_not_copied(kind: str, name: str, bundle: Path, tmp_path: Path):
    path = bundle / name
    path.unlink(missing_ok=True)
    links = {"device": "/dev/zero", "nothing": "gone", "itself": name}
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(links[kind])
    refused(lambda folder: read_ledger(load_bundle(folder)) if name == "ledger.csv" else estimator_of(folder), bundle)
    (tmp_path / "copy").mkdir()
    if kind != "folder":
        assert "is no file and no folder" in refused(lambda folder: copy_folder(folder, tmp_path / "copy"), bundle)


def test_a_folder_that_links_back_is_not_copied(bundle: Path, tmp_path: Path):
    (bundle / "gpus").symlink_to(bundle)
    (tmp_path / "copy").mkdir()
    assert "gpus is no file and no folder" in refused(lambda folder: copy_folder(folder, tmp_path / "copy"), bundle)


def test_decisions_in_a_pipe_are_refused(tmp_path: Path):
    assert decisions(tmp_path) == ()
    os.mkfifo(tmp_path / "decisions.jsonl")
    assert "no regular file" in refused(decisions, tmp_path)


def test_the_fuzzer_runs(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    folder = Path(__file__).resolve().parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    import fuzz

    monkeypatch.setattr(sys, "argv", ["fuzz.py", "recipe", "store", "safetensors", "--inputs", "40"])
    assert fuzz.main() == 0
    assert "100 inputs, 0 kinds of failure" in capfd.readouterr().out
