"""What a user's own whole runs correct: by how much, what of, and what they never may."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from predictor.cli import main
from predictor.errors import InvalidBundle, InvalidRequest, InvalidTable
from predictor.estimators.bundle import MANIFEST, OWN_RUNS, Bundle, load_bundle
from predictor.estimators.own_runs import Error, OwnRun, OwnRuns, Setup, Shift, setup_of
from predictor.latency.explain import explained
from predictor.latency.report import Report
from predictor.learning.calibrate import calibrate
from predictor.learning.own_runs import RUNS_FILE, calibrate_by_runs, learned
from predictor.measurements.runs import check, conform
from predictor.planning import plan
from predictor.prediction.rows import answer_rows
from predictor.prediction.single import predict

RUN = {"model": "Llama-3.1-8B", "gpu": "H100-SXM-80GB", "engine": "vllm"}
LOAD = RUN | {"input_len": 512, "output_len": 64}
FIGURES = ("ttft_s", "tpot_s", "e2e_s", "tokens_per_s")


@pytest.fixture(scope="module")
def base() -> Bundle:
    return load_bundle()


def report(bundle: Bundle, **columns) -> Report:
    columns = LOAD | columns
    return predict(columns.pop("model"), columns.pop("gpu"), bundle=bundle, **columns)


def runs(slower: float, *sizes: dict, bundle: Bundle, **columns) -> OwnRuns:
    """Runs that take so many times as long as predicted."""
    return OwnRuns(tuple(learned(table(slower, *sizes, bundle=bundle, **columns), bundle)))


def table(slower: float, *sizes: dict, bundle: Bundle, **columns) -> pd.DataFrame:
    asked = [LOAD | columns | size for size in sizes]
    rows = []
    for one, answer in zip(asked, answer_rows(asked, bundle), strict=True):
        assert not answer["error"]
        measured = {f"measured_{name}": slower * answer[name] for name in ("ttft_s", "tpot_s")}
        rows.append(one | {"scheduling": "continuous" if one.get("concurrency") else "static"} | measured)
    return check(conform(pd.DataFrame(rows)))


BATCHES = [{"batch": 2**n} for n in range(8)]
CLIENTS = [{"concurrency": 2**n} for n in range(1, 6)]


def setup(**changes: str) -> Setup:
    return Setup(*("H100", "vllm", "static", "0.11", "m", "bf16/bf16/bf16", "tp=1"))._replace(**changes)


def own(*loads: str, log: float = 0.2, spread: float = 0.2, **changes: str) -> OwnRuns:
    """Runs of these loads, all as far off."""
    return OwnRuns(tuple(OwnRun(setup(**changes), load, Error(log, spread), Error(log, spread)) for load in loads))


# How much they say


def test_more_runs_say_more_and_none_says_all() -> None:
    told = [own(*"abcdefgh"[:count]).correction(setup()) for count in range(1, 9)]
    logs, widths = ([getattr(one.pace, name) for one in told] for name in ("log", "width"))
    assert logs == sorted(logs) and 0 < logs[0] < logs[-1] < 0.2
    assert widths == sorted(widths, reverse=True) and 0.5 < widths[-1] < widths[0] < 1


def test_a_run_that_is_repeated_is_one_run() -> None:
    once, often = own("a").correction(setup()), own(*"aaaaaaaa").correction(setup())
    assert often.pace.log == pytest.approx(once.pace.log, rel=0.03)
    assert often.pace.width == pytest.approx(once.pace.width, rel=0.03)


@pytest.mark.parametrize(
    "changes", [{"gpu": "H200"}, {"engine": "sglang"}, {"scheduling": "continuous"}, {"model": "n"}]
)
def test_runs_of_others_say_nothing(changes: dict[str, str]) -> None:
    assert not own(*"abc").correction(setup(**changes)).applies


@pytest.mark.parametrize("changes", [{"version": "0.12"}, {"formats": "fp8/fp8/fp8"}, {"layout": "tp=2"}])
def test_runs_of_another_setup_of_the_model_say_less(changes: dict[str, str]) -> None:
    same, other = own(*"abc").correction(setup()), own(*"abc").correction(setup(**changes))
    assert 0 < other.pace.log < same.pace.log and same.pace.width < other.pace.width < 1
    assert other.prompt == Shift()
    under_load = own(*"abc", scheduling="continuous").correction(setup(scheduling="continuous", **changes))
    assert not under_load.applies


def test_a_version_that_is_not_stated_is_that_of_the_last_run() -> None:
    assert own(*"abc").correction(setup(version="")) == own(*"abc").correction(setup())


def test_runs_far_outside_of_their_intervals_widen_them() -> None:
    assert own(*"abc", log=1.5, spread=0.1).correction(setup()).pace.width > 1


def test_intervals_of_first_tokens_under_load_never_narrow() -> None:
    under_load = own(*"abcdefgh", scheduling="continuous").correction(setup(scheduling="continuous"))
    assert under_load.prompt.width >= 1 > under_load.pace.width


# What they correct


@pytest.mark.parametrize("sizes", [BATCHES, CLIENTS])
@pytest.mark.parametrize("slower", [0.8, 1.3])
def test_answers_move_towards_the_runs_and_stay_whole(base: Bundle, sizes: list[dict], slower: float) -> None:
    corrected = base.with_runs(runs(slower, *sizes, bundle=base))
    for size in ({sizes[0].copy().popitem()[0]: 12}, sizes[-1]):
        before, after = report(base, **size), report(corrected, **size)
        assert after.tpot_s.value == pytest.approx(before.tpot_s.value * slower**0.9, rel=0.05)
        assert after.ttft_s.value == pytest.approx(before.ttft_s.value * slower**0.9, rel=0.05)
        following = (after.served.mean_len[2] if after.served else 64) - 1
        parts = after.ttft_s.value + following * after.tpot_s.value
        assert after.e2e_s.value == pytest.approx(parts, rel=1e-9 if "batch" in size else 0.05)
        moved = after.e2e_s.value / before.e2e_s.value
        assert after.tokens_per_s.value == pytest.approx(before.tokens_per_s.value / moved, rel=1e-3)
        for name in FIGURES:
            value, low, high = getattr(after, name)
            assert 0 < low <= value <= high
        width_before, width_after = (math.log(one.tpot_s.high / one.tpot_s.low) for one in (before, after))
        assert width_after < width_before
        (note,) = (note for note in after.notes if "runs of yours" in note)
        assert note.startswith(f"corrected by {len(sizes)} runs of yours on H100-SXM-80GB with vllm: TTFT ")


def test_answers_that_no_run_speaks_of_stay_as_they_were(base: Bundle) -> None:
    corrected = base.with_runs(runs(1.3, *CLIENTS, bundle=base))
    for columns in ({"batch": 4}, {"concurrency": 4, "model": "Qwen3-8B"}, {"concurrency": 4, "gpu": "H200"}):
        assert report(corrected, **columns).to_dict() == report(base, **columns).to_dict()


@pytest.mark.parametrize("sizes", [BATCHES[:4], CLIENTS[:4]])
def test_columns_and_single_answers_agree(base: Bundle, sizes: list[dict]) -> None:
    corrected = base.with_runs(runs(1.3, *sizes, bundle=base))
    rows = [LOAD | size for size in (*sizes, {"batch": 3}, {"batch": 5}, {"batch": 300})]
    together = list(answer_rows(rows, corrected))
    assert together == [next(answer_rows([row], corrected)) for row in rows]
    assert "of yours" in together[0]["notes"]


@pytest.mark.parametrize("slower", [0.3, 1.7])
@pytest.mark.parametrize("load", [False, True])
def test_times_never_beat_the_bound_and_rise_with_sizes(base: Bundle, slower: float, load: bool) -> None:
    """Runs as no GPU makes them: answers stop at what the hardware can do."""
    scheduling = "continuous" if load else "static"
    some = Setup(*setup_of(report(base).workload, report(base).gpu, scheduling))
    error = Error(math.log(slower), 0.2)
    corrected = base.with_runs(OwnRuns(tuple(OwnRun(some, load, error, error) for load in "abcdefgh")))
    sizes = CLIENTS if load else BATCHES
    answers = [report(corrected, **size) for size in sizes]
    for name in ("ttft_s", "tpot_s"):
        values = [getattr(one, name).value for one in answers]
        assert values == sorted(values)
    for one in answers:
        for phase, figure in (("prefill", one.ttft_s), ("decode", one.tpot_s)):
            bound = sum(line.bound_s for line in one.ops if line.phase == phase)
            assert figure.low >= bound * (1 - 1e-9) if not load else figure.value > 0
    alone = report(corrected, **({"concurrency": 1} if load else {"batch": 1}))
    least = sum(line.bound_s for line in report(base, batch=1).ops if line.phase == "decode")
    assert alone.tpot_s.value >= 0.99 * least


@pytest.mark.parametrize("columns", [{"batch": 8}, {"concurrency": 8}])
def test_parts_add_up_with_the_correction_as_one(base: Bundle, columns: dict) -> None:
    corrected = base.with_runs(runs(1.3, *BATCHES[:4], *CLIENTS[:4], bundle=base))
    made = report(corrected, **columns)
    parts = explained(made, corrected)
    for phase, whole in (("prefill", made.ttft_s), ("decode", made.tpot_s)):
        own_parts = [part for part in parts if part.phase == phase]
        assert sum(part.latency_s.value for part in own_parts) == pytest.approx(whole.value)
        assert [part.name for part in own_parts].count("correction") == 1


def test_a_plan_is_made_with_the_correction(base: Bundle) -> None:
    corrected = base.with_runs(runs(3.0, *CLIENTS, bundle=base))
    asked = {
        "concurrency": 64,
        "input_len": 512,
        "output_len": 64,
        "engines": ("vllm",),
        "vary": False,
        "dtypes": ("bf16",),
    }
    before, after = (
        plan("Llama-3.1-8B", "H100", **asked, tpot_s=0.02, bundle=one).plans[0] for one in (base, corrected)
    )
    assert after.deployment.n_gpus > before.deployment.n_gpus


# What is learned of a run


def test_a_run_at_a_rate_tells_the_error_of_its_steps(base: Bundle) -> None:
    """Near the rate that is held, times of requests change more than those of steps."""
    slow = base.with_runs(own_of(base, math.log(1.25)))
    asked = LOAD | {"request_rate": 0.8 * report(base, request_rate=1.0).served.sustainable_rate.value}
    answer = next(answer_rows([asked], slow))
    row = asked | {"scheduling": "continuous", "measured_tpot_s": answer["tpot_s"]}
    (run,) = learned(check(conform(pd.DataFrame([row]))), base)
    assert run.pace.log == pytest.approx(slow.own_runs.correction(run.setup).pace.log, rel=0.15)
    plain = next(answer_rows([asked], base))
    assert math.log(answer["tpot_s"] / plain["tpot_s"]) > 1.3 * run.pace.log


def own_of(base: Bundle, log: float) -> OwnRuns:
    made = report(base, concurrency=2)
    some = setup_of(made.workload, made.gpu, "continuous")
    return OwnRuns(tuple(OwnRun(some, load, None, Error(log, 0.3)) for load in "abcdefgh"))


def test_throughput_alone_tells_the_pace(base: Bundle) -> None:
    rows = table(1.2, {"batch": 4, "output_len": 512}, bundle=base)
    answer = next(answer_rows([LOAD | {"batch": 4, "output_len": 512}], base))
    rows = rows.assign(
        measured_ttft_s=math.nan, measured_tpot_s=math.nan, measured_tokens_per_s=answer["tokens_per_s"] / 1.2
    )
    (run,) = learned(rows, base)
    assert run.prompt is None and run.pace.log == pytest.approx(math.log(1.2))


# Bundles


@pytest.fixture
def data(tmp_path: Path, base: Bundle) -> Path:
    file = tmp_path / "mine.csv"
    table(1.3, *CLIENTS[:3], bundle=base).drop(columns=["status", "reason"]).to_csv(file, index=False)
    return file


def test_a_bundle_keeps_its_runs_and_says_which(base: Bundle, data: Path, tmp_path: Path, capsys) -> None:
    made, lines = calibrate_by_runs(data, base, tmp_path / "one")
    assert made.measured_runs == {"H100-SXM-80GB": 3} and made.id.startswith(f"{base.id}+")
    assert (lines["after"] / lines["measured"] - 1).abs().max() < (lines["before"] / lines["measured"] - 1).abs().min()
    (told,) = made.own_runs.told()
    assert told.startswith("3 runs on H100-SXM-80GB with vllm: mine.csv (20")
    assert made.uncalibrated().id == base.id and not made.uncalibrated().measured_runs
    assert report(made.uncalibrated(), concurrency=4).to_dict() == report(base, concurrency=4).to_dict()
    with pytest.raises(InvalidTable, match=r"holds all runs of .* already"):
        calibrate_by_runs(data, made, tmp_path / "two")
    more = tmp_path / "more.csv"
    table(1.3, {"concurrency": 3}, bundle=base).to_csv(more, index=False)
    assert main(["calibrate", "--data", str(more), "--bundle", str(made.path), "--out", str(tmp_path / "two")]) == 0
    assert "more.csv (20" in capsys.readouterr().out
    assert load_bundle(tmp_path / "two").measured_runs == {"H100-SXM-80GB": 4}
    assert main([*f"predict Llama-3.1-8B --gpu H100 --concurrency 4 --bundle {made.path}".split()]) == 0
    out = capsys.readouterr().out
    assert "corrected by 3 runs of yours on H100-SXM-80GB with vllm" in " ".join(out.split())
    assert "without the calibration" in out


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"measured_tpot_s": 1e-5}, "run 1 of .* is rejected: measured_tpot_s is faster than the roofline bound"),
        ({"gpu": "H1000"}, "run 1 of .* is rejected: .*H1000"),
        ({"model": "Llama-9"}, "run 1 of .* is rejected: .*Llama-9"),
        ({"measured_tpot_s": -1}, "run 1 of .* is rejected: measured_tpot_s is -1; it must be above 0"),
    ],
)
def test_a_run_that_cannot_be_is_refused_and_nothing_written(
    base: Bundle, data: Path, tmp_path: Path, changes: dict, why: str
) -> None:
    frame = pd.read_csv(data)
    for name, value in changes.items():
        frame[name] = [value, *frame[name].iloc[1:]]
    frame.to_csv(data, index=False)
    with pytest.raises(InvalidTable, match=why):
        calibrate_by_runs(data, base, tmp_path / "bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.csv"]


def test_runs_of_another_release_are_said_and_not_added_to(base: Bundle, data: Path, tmp_path: Path) -> None:
    made, _ = calibrate_by_runs(data, base, tmp_path / "bundle")
    older = made.with_runs(replace(made.own_runs, made_with="0.1.9"))
    assert any("answers of release 0.1.9: calibrate anew" in note for note in report(older, concurrency=4).notes)
    with pytest.raises(InvalidRequest, match=r"compared with answers of release 0\.1\.9"):
        calibrate_by_runs(data, older, tmp_path / "other")


def test_operators_come_before_runs(base: Bundle, data: Path, tmp_path: Path) -> None:
    made, _ = calibrate_by_runs(data, base, tmp_path / "bundle")
    operators = tmp_path / "operators.csv"
    operators.write_text("family,gpu,latency_s\n")
    with pytest.raises(InvalidRequest, match="Calibrate the bundle it was made of by operators first"):
        calibrate(operators, made, tmp_path / "other")


def test_a_changed_file_of_runs_is_refused(base: Bundle, data: Path, tmp_path: Path) -> None:
    made, _ = calibrate_by_runs(data, base, tmp_path / "bundle")
    file = made.path / RUNS_FILE
    content = json.loads(file.read_text())
    assert {run["source"] for run in content["runs"]} == {"mine.csv"}
    file.write_text(file.read_text().replace("mine.csv", "other.csv"))
    manifest = json.loads((made.path / MANIFEST).read_text())
    manifest["id"] = "changed"
    (made.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InvalidBundle, match="sha256 differs"):
        predict("Llama-3.1-8B", "H100", bundle=made.path)
    manifest[OWN_RUNS] = {"file": "../x", "sha256": "", "gpus": {}}
    (made.path / MANIFEST).write_text(json.dumps(manifest, indent=2))
    with pytest.raises(InvalidBundle, match="must lie in the bundle's folder"):
        load_bundle(made.path)
