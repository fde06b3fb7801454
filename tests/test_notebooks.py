"""The notebooks run from the first cell to the last, and what is committed of them is clean."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
LARGEST_BYTES = 500_000


def run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **settings: str) -> str:
    """Execute a notebook; returns all that it printed. A cell that fails raises."""
    pytest.importorskip("ipykernel")
    client = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    for variable in ("MLFLOW_TRACKING_URI", "PREDICTOR_GPUS", "PREDICTOR_STORE"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in {"TMPDIR": str(tmp_path), "MPLBACKEND": "agg", **settings}.items():
        monkeypatch.setenv(variable, value)
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    place = {"metadata": {"path": str(NOTEBOOKS)}}
    client.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.get("text", "") for output in outputs)


def test_a_machine_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, extra in (("torch", "torch"), ("mlflow", "train"), ("matplotlib", "train"), ("psutil", "dev")):
        pytest.importorskip(name, reason=f"pip install 'gpu-predictor[{extra}]'")
    settings = {"NOTEBOOK_BUDGET_S": "25", "NOTEBOOK_FAMILIES": "gemm"}
    printed = run("your_own_machine.ipynb", tmp_path, monkeypatch, **settings)
    assert "rows in random.parquet" in printed and "bundle learned-on in learned" in printed
    assert re.search(r"bundle base-\d+\+[0-9a-f]{8} in mine", printed)
    assert "the champion stays" in printed or "promoted:" in printed
    verdicts = re.findall(r"no drift in|drifted: too few rows in their intervals", printed)
    assert len(verdicts) == 2  # which of them depends on how calm the machine was


def test_an_unseen_gpu_without_data_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = run("unseen_gpu.ipynb", tmp_path, monkeypatch, PREDICTOR_DATA=str(tmp_path / "none"))
    assert printed == "no clones: set PREDICTOR_DATA to the folder that holds them\n"


def test_an_unseen_gpu_with_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_root: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'gpu-predictor[train]'")
    settings = {"NOTEBOOK_ROWS": "40", "NOTEBOOK_ROUNDS": "20", "NOTEBOOK_DRAWS": "1"}
    printed = run("unseen_gpu.ipynb", tmp_path, monkeypatch, PREDICTOR_DATA=str(data_root), **settings)
    assert "the three clones are at hand" in printed and "generation-out" in printed


def test_batch_and_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'gpu-predictor[train]'")
    printed = run("03_batch_and_plan.ipynb", tmp_path, monkeypatch)
    assert re.search(r"\d+ combinations fit, \d+ do not", printed)
    assert "predictor predict Qwen3-14B --gpu" in printed and "USD/h (20" in printed


def test_inside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'gpu-predictor[train]'")
    printed = run("04_inside_the_model.ipynb", tmp_path, monkeypatch)
    assert "GPUs were measured; RTX-5090 is none of them" in printed and "features, of which" in printed
    assert "worse than the fitted roofline: " in printed


def test_there_are_four() -> None:
    numbered = ["03_batch_and_plan.ipynb", "04_inside_the_model.ipynb"]
    assert [*numbered, "unseen_gpu.ipynb", "your_own_machine.ipynb"] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_was_executed_and_names_no_machine(name: str) -> None:
    text = (NOTEBOOKS / name).read_text(encoding="utf-8")
    cells: list[dict[str, Any]] = json.loads(text)["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert len(text) < LARGEST_BYTES and len({cell["id"] for cell in cells}) == len(cells)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert outputs and not [output for output in outputs if output["output_type"] == "error" or "\x1b" in str(output)]
    shown = json.dumps([{**output, "data": {**output.get("data", {}), "image/png": ""}} for output in outputs])
    assert not re.search(r"/(home|root|work|tmp|Users)/|stderr", shown)
