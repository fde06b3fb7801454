"""Pictures of answers: what they show adds up, and what cannot be drawn is said before any work."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from predictor import load_bundle, predict, predict_training
from predictor.cli import main
from predictor.errors import InvalidRequest
from predictor.estimators.bundle import Bundle
from predictor.latency.explain import explained
from predictor.planning.ranking import compare
from predictor.plotting.answers import MOST_GPUS, answers_picture, check_gpus, times_of
from predictor.plotting.canvas import HATCHES, MARKERS, check_plot
from predictor.plotting.errors import HELD_OUT, error_table, errors_picture
from predictor.plotting.loads import lines_of, loads_picture
from predictor.plotting.memory import KINDS, parts_of
from predictor.plotting.roofline import FAMILIES, points_of
from predictor.plotting.waterfall import LIMITED, PARTS, steps_of
from predictor.prediction.footprint import footprint
from predictor.prediction.rows import answer_rows
from predictor.prediction.single import resolve
from predictor.workloads.request import Request

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle()


def needs_matplotlib() -> None:
    pytest.importorskip("matplotlib", reason="pip install 'gpu-predictor[plot]'")


def texts(file: Path) -> list[str]:
    return ["".join(text.itertext()).strip() for text in ET.parse(file).iter(f"{SVG}text")]


# What they show


@pytest.mark.parametrize(
    "columns",
    [{"batch": 8}, {"tp": 4, "batch": 4}, {"concurrency": 16}, {"dtype": "fp8", "request_rate": 2.0}],
    ids=str,
)
def test_the_bars_of_a_serving_time_add_up_to_it(columns: dict[str, object], bundle: Bundle) -> None:
    report = predict("Llama-3.1-8B", "H100", bundle=bundle, **columns)
    times, _ = times_of(report, bundle)
    assert [name for name, _, _ in times] == ["TTFT", "TPOT"]
    assert [whole for _, whole, _ in times] == [report.ttft_s, report.tpot_s]
    for _, whole, steps in times:
        assert sum(step.seconds for step in steps) == pytest.approx(whole.value)
        assert len(steps) <= PARTS
        assert {step.limiter for step in steps} <= set(LIMITED)


def test_the_bars_of_a_training_step_add_up_to_it(bundle: Bundle) -> None:
    report = predict_training("Qwen3-8B", "A100", bundle=bundle, n_gpus=8, zero_stage=3)
    ((name, whole, steps),), _ = times_of(report, bundle)
    assert name == "step" and whole == report.step_s
    assert sum(step.seconds for step in steps) == pytest.approx(report.step_s.value)


def test_small_parts_come_together_and_keep_their_time(bundle: Bundle) -> None:
    lines = [
        line for line in explained(predict("Llama-3.1-8B", "H100", bundle=bundle), bundle) if line.phase == "decode"
    ]
    steps = steps_of(lines)
    assert sum(step.seconds for step in steps) == pytest.approx(sum(line.latency_s.value for line in lines))
    assert sum(step.bound_s for step in steps) <= sum(step.seconds for step in steps)


def test_no_point_is_above_its_roof(bundle: Bundle) -> None:
    report = predict("Llama-3.1-8B", "H100", bundle=bundle, batch=32)
    points, apart = points_of(explained(report, bundle))
    assert len(points) >= 10 and 0 <= apart < 0.2
    assert all(point.flop_per_s <= report.gpu.peak_at_max_clock("bf16") for point in points)
    assert {point.family for point in points} <= set(FAMILIES)
    for phase in ("prefill", "decode"):
        assert sum(point.share for point in points if point.phase == phase) <= 1 + 1e-9


@pytest.mark.parametrize("columns", [{"batch": 8}, {"phase": "train", "method": "full"}, {"engine": "torch"}], ids=str)
def test_the_bars_of_memory_add_up_to_the_total(columns: dict[str, object], bundle: Bundle) -> None:
    need = footprint(resolve(Request.of({"model": "Qwen3-8B", "gpu": "H100", **columns})), bundle)
    assert 1e9 * sum(parts_of(need).values()) == pytest.approx(need.memory.total_bytes)


def test_a_line_is_what_differs_beside_the_load() -> None:
    row = dict.fromkeys(("dtype", "tokens_per_s")) | {"model": "m"}
    rows = [row | {"gpu": gpu, "concurrency": load} for gpu in ("A", "B") for load in (8, 1, 64)]
    load, lines = lines_of(rows)
    assert load == "concurrency" and list(lines) == ["A", "B"]
    assert [row["concurrency"] for row in lines["A"]] == [1, 8, 64]
    with pytest.raises(InvalidRequest, match="of which none has several values"):
        lines_of(rows[:1])


def test_grey_tells_apart_what_colours_do() -> None:
    """What shares a picture has a hatch or a marker of its own, or a colour of another lightness."""
    for marks in (FAMILIES, {name: (color, hatch) for name, (color, hatch, _) in LIMITED.items()}):
        assert len(set(marks.values())) == len(marks)
    assert len({(color, hatch) for color, hatch, _ in KINDS.values()}) == len(KINDS)
    assert len(set(MARKERS)) == len(MARKERS) and len(set(HATCHES)) == len(HATCHES)


def test_the_heat_map_has_the_mean_of_each_cell(bundle: Bundle) -> None:
    from predictor.learning.evaluate import read_ledger

    ledger = read_ledger(bundle)
    cells = ledger[(ledger["slice"] == "all") & (ledger["protocol"] == "gpu-out")]
    table = error_table(cells, "estimator")
    one = cells[(cells["gpu"] == "H100-SXM-80GB") & (cells["estimator"] == "gemm")]
    assert table.loc["H100-SXM-80GB", "gemm"] == pytest.approx(one["mape"].mean())
    assert set(table.index) == set(cells["gpu"])


# Files


def test_pictures_of_all_kinds_are_written(tmp_path: Path, bundle: Bundle) -> None:
    needs_matplotlib()
    from predictor.learning.evaluate import read_ledger

    answers_picture([predict("Llama-3.1-8B", "H100", bundle=bundle)], bundle, tmp_path / "a.png")
    rows = [{"model": "Llama-3.1-8B", "gpu": gpu, "batch": batch} for gpu in ("L4", "H100") for batch in (1, 8)]
    assert loads_picture(list(answer_rows(rows, bundle)), tmp_path / "l.png") == 4
    ledger = read_ledger(bundle)
    whole = ledger[ledger["slice"] == "all"]
    filled = sum(len(whole[whole["protocol"] == name].groupby(["gpu", "estimator"])) for name in HELD_OUT)
    assert errors_picture(whole, "estimator", "ledger", bundle.id, tmp_path / "e.png") == filled
    for file in tmp_path.iterdir():
        start = file.read_bytes()[:24]
        assert start.startswith(b"\x89PNG") and min(struct.unpack(">II", start[16:24])) > 300


def test_the_same_answer_gives_the_same_svg(tmp_path: Path, bundle: Bundle) -> None:
    needs_matplotlib()
    report = predict("Llama-3.1-8B", "H100", bundle=bundle)
    for name in ("a.svg", "b.svg"):
        answers_picture([report], bundle, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    shown = texts(tmp_path / "a.svg")
    assert "total" in shown and "arithmetic intensity, FLOP per byte" in shown and "time, ms" in shown
    assert any(bundle.id in text and f"{bundle.level:.0%}".removesuffix("%") in text for text in shown)


def test_rankings_and_plans_name_their_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs_matplotlib()
    file = tmp_path / "compare.svg"
    assert main(["compare", "Llama-3.1-8B", "--gpus", "H100,L4,H200", "--plot", str(file)]) == 0
    assert {"H100-SXM-80GB", "L4", "H200-SXM-141GB", "TPOT, ms", "USD per million tokens"} <= set(texts(file))
    asked = ["--request-rate", "2", "--input-len", "500", "--output-len", "100", "--tpot", "0.05"]
    file = tmp_path / "plan.svg"
    assert main(["plan", "Llama-3.1-8B", "--gpus", "H100,L4", *asked, "--plot", str(file)]) == 0
    shown = texts(file)
    assert {"TTFT p99, ms", "TPOT, ms", "USD per hour, whole instances", "what is promised"} <= set(shown)
    assert any(text.startswith("1: ") for text in shown)
    assert f"Picture: {file}" in capsys.readouterr().out.replace("\n", "")


def test_json_stays_json_beside_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs_matplotlib()
    import json

    file = tmp_path / "m.svg"
    assert main(["memory", "Llama-3.1-8B", "--gpu", "H100", "--gpu", "L4", "--json", "--plot", str(file)]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert {"weights", "KV cache", "what the GPU has", "H100-SXM-80GB", "L4"} <= set(texts(file))


def test_a_sweep_is_drawn_from_what_it_wrote(tmp_path: Path) -> None:
    needs_matplotlib()
    spec = tmp_path / "s.toml"
    spec.write_text('[request]\nmodel = "Llama-3.1-8B"\ngpu = ["H100", "L4"]\nbatch = [1, 4, 16]\n', encoding="utf-8")
    out, file = tmp_path / "o.parquet", tmp_path / "s.svg"
    assert main(["sweep", str(spec), "--out", str(out), "--quiet", "--jobs", "1", "--plot", str(file)]) == 0
    assert {"H100", "L4", "1", "4", "16", "tokens per second"} <= set(texts(file))


# What cannot be drawn


@pytest.mark.parametrize("command", ["predict", "memory"])
def test_a_wrong_ending_is_said_before_any_work(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "no such model", "--gpu", "no such GPU", "--plot", "x.jpg"]) == 2
    assert capsys.readouterr().err == 'error: --plot is "x.jpg"; its name must end in .png or .svg.\n'


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="create it or choose another --plot"):
        check_plot(tmp_path / "no" / "x.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InvalidRequest, match="is a folder; give a file"):
        check_plot(tmp_path / "folder.png")


def test_without_matplotlib_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("predictor.plotting.canvas.find_spec", lambda name: None)
    assert main(["predict", "Llama-3.1-8B", "--gpu", "H100", "--plot", "x.png"]) == 2
    assert capsys.readouterr().err == "error: plots need matplotlib; pip install 'gpu-predictor[plot]'.\n"


def test_too_many_gpus_for_rows_are_sent_to_compare() -> None:
    check_gpus(MOST_GPUS)
    with pytest.raises(InvalidRequest, match="predictor compare --plot"):
        check_gpus(MOST_GPUS + 1)


def test_a_ranking_without_prices_says_so(tmp_path: Path, bundle: Bundle) -> None:
    from predictor.plotting import ranking_picture

    ranked = compare("Llama-3.1-8B", "H100", bundle=bundle)
    without = [type(one)(one.gpu, {**one.row, "usd_per_mtok": None}, None) for one in ranked]
    with pytest.raises(InvalidRequest, match="no GPU has both usd_per_mtok and a latency"):
        ranking_picture("m", without, "usd_per_mtok", bundle.id, bundle.level, tmp_path / "x.png")
