"""predictor memory: its keys, its table, its errors, and that it agrees with predict."""

import json
from pathlib import Path
from typing import Any

import pytest

from predictor.cli import main
from predictor.estimators.bundle import load_bundle
from predictor.prediction.rows import answer_row
from predictor.prediction.single import predict

INFERENCE = (
    *("model", "gpu", "n_gpus", "mode", "weights_bytes", "kv_cache_bytes", "kv_cache_bytes_per_token"),
    *("activations_bytes", "cuda_graphs_bytes", "runtime_bytes", "fragmentation_bytes", "correction_bytes"),
    *("memory_bytes", "memory_bytes_low", "memory_bytes_high", "closed_form_bytes", "capacity_bytes", "p_oom", "fits"),
    *("max_kv_tokens", "max_concurrent_requests", "max_context_len", "max_batch", "min_n_gpus", "min_tp", "fixes"),
)
TRAINING = (
    *("weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes", "logits_bytes", "autocast_bytes"),
    *("gathered_bytes", "reused_bytes", "forward_peak_bytes", "backward_peak_bytes", "step_peak_bytes", "peak_phase"),
    *("memory_bytes", "p_oom", "fits", "max_micro_batch", "max_seq_len", "min_n_gpus", "fixes"),
)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(["memory", *arguments, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_json_names_every_kind_of_byte(capsys: pytest.CaptureFixture[str]) -> None:
    rows = told(capsys, "Llama-3.1-8B", "--gpu", "H100-SXM-80GB", "--gpu", "L4", "--batch", "8")
    assert [row["gpu"] for row in rows] == ["H100-SXM-80GB", "L4"]
    assert all(set(INFERENCE) <= set(row) for row in rows)
    assert rows[0]["kv_cache_bytes_per_token"] == 131_072 and rows[0]["fixes"] == []


@pytest.mark.parametrize("mode", ["full", "lora", "qlora"])
def test_json_of_training(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = told(capsys, "Llama-3.1-8B", "--gpu", "A100", "--mode", mode)
    assert set(TRAINING) <= set(row) and row["mode"] == mode


def test_predict_and_a_table_tell_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = told(capsys, "Llama-3.1-70B", "--gpu", "H100-SXM-80GB", "--dtype", "fp8", "--batch", "4")
    found = predict("Llama-3.1-70B", "H100-SXM-80GB", dtype="fp8", batch=4)
    asked = {"model": "Llama-3.1-70B", "gpu": "H100-SXM-80GB", "dtype": "fp8", "batch": 4}
    cells = answer_row(asked, load_bundle())
    for name in ("memory_bytes", "memory_bytes_low", "memory_bytes_high", "p_oom", "fits"):
        assert row[name] == found.to_dict()[name] == cells[name]


def test_a_fix_can_be_asked_for_as_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = told(capsys, "Llama-3.1-70B", "--gpu", "H100-SXM-80GB", "--batch", "16")
    best = row["fixes"][0]
    assert row["p_oom"] > 0.9 > 0.1 >= best["p_oom"]
    options = [word for name, value in best["settings"].items() for word in (f"--{name}".replace("_", "-"), str(value))]
    (again,) = told(capsys, "Llama-3.1-70B", "--gpu", "H100-SXM-80GB", "--batch", "16", *options)
    assert again["memory_bytes"] == best["memory_bytes"]


def test_the_table_shows_where_the_bytes_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "Llama-3.1-8B", "--gpu", "RTX 4090", "--mode", "lora", "--micro-batch", "4"]) == 0
    shown = capsys.readouterr().out
    for word in ("weights", "activations", "logits and loss", "P(out of memory)", "what would help", "█"):
        assert word in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mode", "lor"], 'mode is "lor"; it must be one of inference, full, lora, qlora.'),
        (["--mode", "full", "--precision", "half"], "precision is"),
        (["--mode", "full", "--sequence-parallel", "2"], "sequence_parallel is 2; it must be from 0 to 1."),
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_errors_are_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "Llama-3.1-8B", "--gpu", "A100", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_file_of_weights_says_its_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 9_000_000_000}, "weight_map": {"a": "x.safetensors"}}))
    (row,) = told(capsys, "Llama-3.1-8B", "--gpu", "A100", "--weights", str(index))
    assert row["weights_bytes"] == 9e9


def test_predict_points_to_what_would_make_it_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "Llama-3.1-70B", "--gpu", "H100"]) == 0
    assert "`predictor memory` with the same options" in capsys.readouterr().out


def test_memory_asks_for_no_link_that_nobody_knows(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = told(capsys, "Llama-3.1-70B", "--gpu", "DGX-Spark")
    (again,) = told(capsys, "Llama-3.1-70B", "--gpu", "DGX-Spark", "--tp", str(row["min_tp"]))
    assert again["fits"] and any("has no known link" in note for note in again["notes"])


@pytest.mark.parametrize(
    ("gpu", "said"), [("Gaudi2, vector_tflops=0", "no fp32 peak"), ("DGX-Spark", "has no known link")]
)
def test_memory_that_does_not_fit_is_told_where_speed_is_unknown(
    gpu: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [] if gpu.startswith("Gaudi2") else ["--tp", "2", "--batch", "100000"]
    (row,) = told(capsys, "Qwen3-Next-80B-A3B-Instruct", "--gpu", gpu, *asked)
    assert row["p_oom"] > 0.9 or row["p_wait"] > 0.9
    assert row["fixes"] == [] and any(said in note for note in row["notes"])
