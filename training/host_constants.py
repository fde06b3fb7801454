"""Fits what the hosts of engines cost and what kernels reach that nobody timed, of predictor/catalog/engines.toml.

    .venv/bin/python training/host_constants.py serving [--truth ../shared/truth] [--bundle NAME]
    .venv/bin/python training/host_constants.py qwen [--truth ../shared/truth] [--bundle NAME]
    .venv/bin/python training/host_constants.py intervals [--truth ../shared/truth] [--bundle NAME]
    .venv/bin/python training/host_constants.py llamacpp [--truth ../shared/truth] [--without GPU]
    .venv/bin/python training/host_constants.py gaudi [--truth ../shared/truth]

On published figures. serving: vLLM, SGLang and TensorRT-LLM under load; qwen: Transformers and vLLM before 0.8 at
batch 1; llamacpp: rates by backend, with the spread of their errors, every GPU as much as any; gaudi: rates of HPU
graphs, every model and number of GPUs as much as any. One constant after the other takes the value of least error on
the half that predictor/learning/validation names (`fitted`), in two rounds.
--without leaves a GPU out and tells its errors.
intervals: what makes intervals under load hold 80 %, of models with experts and without, of those with layers that
nobody timed (predictor/latency/serving/load.py) and of disaggregated pools: the mean over groups of model, GPU, engine,
version and format, and what is then covered of each group.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from predictor.errors import PredictorError
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.gpu import Gpu, get_gpu
from predictor.latency.report import Interval
from predictor.latency.serving.clients import Load
from predictor.latency.serving.disaggregated import FIRST_TOKENS
from predictor.latency.serving.load import DENSE, EXPERTS, UNMEASURED, groups_of, log_errors, room_for, served_by
from predictor.latency.serving.scheduler import simulate
from predictor.latency.serving.step_table import StepTime
from predictor.latency.serving.step_times import step_times
from predictor.latency.static_batch import static_times, with_host
from predictor.latency.steps import op_lines
from predictor.learning.validation import alcf, disaggregated, inferencex, llamacpp, qwen, replay, serving
from predictor.prediction.single import load_of, resolve
from predictor.workloads import engine_tables
from predictor.workloads.engines import engines, get_engine
from predictor.workloads.models import get_model
from predictor.workloads.request import Request
from predictor.workloads.requested import served_workload
from predictor.workloads.workload import Workload, phases

Grid = Mapping[str, Sequence[float]]  # constant → values that are tried

SERVING_GRID: Grid = {
    "launch_s": (1.5e-5, 3e-5, 4.5e-5, 6e-5, 7.5e-5, 9e-5, 1.2e-4),
    "sequence_s": (0.0, 1e-5, 2e-5, 3.5e-5, 5e-5, 7e-5, 9e-5),
    "step_s": (0.0, 4e-4, 7e-4, 1e-3, 1.5e-3, 2e-3, 3e-3),
}
SERVING_START = {"launch_s": 6e-5, "sequence_s": 5e-5, "step_s": 7e-4}
# By engine, host seconds as beside Hopper; names of formats are what their linear layers add.
QWEN_GRIDS: Mapping[str, Grid] = {
    "torch": {
        "launch_s": (4.5e-5, 5.0e-5, 5.5e-5, 6.0e-5, 6.5e-5),
        "fp8_block": (1.8e-4, 2.2e-4, 2.6e-4, 3.0e-4, 3.5e-4),
        "int8_wo": (0.0, 2.0e-5, 3.0e-5, 4.5e-5, 7.0e-5),
    },
    "vllm-v0": {
        "step_s": (0.3e-3, 0.5e-3, 0.7e-3, 0.9e-3, 1.2e-3),
        "launch_s": (1.5e-5, 2.0e-5, 2.5e-5, 3.0e-5),
    },
}
# By backend, rates of llama.cpp; dots lead into tables.
RATES_GRIDS: Mapping[str, Grid] = {
    "cuda": {
        "bandwidth": (0.84, 0.87, 0.9, 0.93, 0.96),
        "call_s": (5e-6, 6e-6, 7e-6, 8e-6, 9e-6, 1e-5),
        "bytes_per_sm_cycle.others": (6.0, 6.5, 7.0, 7.5, 8.0, 9.0),
        "bytes_per_sm_cycle.fp16": (5.0, 5.5, 6.0, 6.5, 7.0, 7.5),
        "cache_bytes_per_sm_cycle": (1.0, 1.2, 1.4, 1.7, 2.0, 2.4),
        "hop_s": (5e-5, 1e-4, 1.5e-4, 2e-4, 3e-4, 4e-4, 6e-4),
        "product": (0.46, 0.5, 0.55, 0.6, 0.66, 0.72, 0.8),
        "quantised_product": (0.46, 0.5, 0.55, 0.6, 0.66, 0.72, 0.8),
        "score_passes": (2.0, 3.0, 4.0, 5.0, 6.0, 8.0),
        "overlap": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    },
    "metal": {
        "bandwidth": (0.8, 0.85, 0.9, 0.95),
        "call_s": (4e-6, 7e-6, 1e-5, 1.3e-5, 1.6e-5, 2e-5),
        "bytes_per_sm_cycle.others": (3.8, 4.2, 4.6, 5.0, 5.5, 6.0),
        "bytes_per_sm_cycle.fp16": (6.0, 7.0, 8.0, 9.0),
        "cache_bytes_per_sm_cycle": (0.7, 1.0, 1.3, 1.7, 2.2),
        "product": (0.65, 0.7, 0.75, 0.8, 0.85),
        "quantised_product": (0.5, 0.55, 0.6, 0.65, 0.7, 0.75),
        "score_passes": (6.0, 8.0, 10.0, 12.0, 14.0, 18.0, 22.0),
    },
    "rocm": {
        "call_s": (7e-6, 1e-5, 1.3e-5, 1.6e-5, 2e-5),
        "bytes_per_sm_cycle.others": (2.4, 2.6, 2.8, 3.0, 3.3),
        "cache_bytes_per_sm_cycle": (0.3, 0.45, 0.7, 1.0, 1.4),
        "hop_s": (5e-5, 1e-4, 2e-4, 3e-4, 4e-4, 6e-4),
        "overlap": (0.3, 0.5, 0.7, 0.85, 1.0),
    },
}
GAUDI, HPU = "vllm-gaudi", "hpu"
GAUDI_GRID: Grid = {
    "launch_s": (0.0, 1.2e-5, 1.4e-5, 1.6e-5, 1.8e-5, 2e-5, 2.2e-5),
    "bandwidth": (0.8, 0.85, 0.9, 0.95, 1.0),
    "call_s": (0.0, 1e-6, 2e-6, 3e-6, 4e-6, 5e-6, 7e-6),
    "hop_s": (1e-5, 3e-5, 5e-5, 8e-5, 1.2e-4, 2e-4),
    "cache_bytes_per_sm_cycle": (20.0, 25.0, 30.0, 35.0, 40.0, 50.0, 60.0),
    "product": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
}
SHARE = 0.8  # of errors that an interval holds
WORST = 0.7  # log error at which a figure is an outlier, so that none decides
WORST_TTFT, TTFT_WEIGHT = 1.0, 0.4
GROUP = ["model", "gpu", "engine", "version", "dtype"]


def least(
    grid: Grid, start: Mapping[str, float], loss: Callable[[str, Mapping[str, float]], float]
) -> dict[str, float]:
    """The constants of least loss, one after the other, twice. loss(constant that changes, all constants)."""
    best = dict(start)
    for constant in (*grid, *grid):
        losses = {value: loss(constant, best | {constant: value}) for value in grid[constant]}
        best[constant] = min(losses, key=lambda value: losses[value])
        print(constant, {value: round(loss, 4) for value, loss in losses.items()}, flush=True)
    return best


class Case(NamedTuple):
    """A configuration and what its simulation needs; steps: of the GPU alone."""

    row: Mapping[str, Any]
    gpu: Gpu
    workload: Workload
    load: Load
    room: float
    steps: StepTime


def fit_serving(truth: Path, bundle: Bundle) -> None:
    """Prints the constants of each engine that serves under load."""
    rows = [row for row in serving.configurations(truth)[0] if serving.fitted(row)]
    cases = list(_cases(rows, bundle))
    for engine in sorted({case.workload.engine for case in cases}):
        part = [case for case in cases if case.workload.engine == engine]

        def loss(_: str, constants: Mapping[str, float], part: Sequence[Case] = part) -> float:
            return sum(_serving_loss(case, constants) for case in part) / len(part)

        print(engine, least(SERVING_GRID, SERVING_START, loss))


def _cases(rows: Sequence[Mapping[str, Any]], bundle: Bundle) -> Iterator[Case]:
    for row in rows:
        resolved = resolve(Request.of(serving.request_of(row)))
        workload, _ = served_workload(resolved.request, resolved.model, resolved.gpu)
        try:
            engine, load = served_by(workload, resolved.gpu), load_of(resolved)
            room = room_for(workload, resolved.gpu, load, engine)
        except PredictorError:  # an engine that does not start
            continue
        times = step_times(workload, resolved.gpu, bundle, engine.max_batched_tokens, engine.max_sequences)
        yield Case(row, resolved.gpu, workload, load, room, times.value)


def _serving_loss(case: Case, constants: Mapping[str, float]) -> float:
    """Absolute log error of TPOT and a share of TTFT's."""
    workload, load, groups = case.workload, case.load, groups_of(case.workload)
    changed: dict[str, Any] = dict(constants)
    engine = workload.as_set(replace(get_engine(workload.engine), **changed), case.gpu)
    part = replace(load, concurrency=-(-load.concurrency // groups), requests=-(-load.requests // groups))
    served = simulate(part, case.steps, engine, case.room)
    longer = served.output_len > 1
    tpot_s = ((served.finished_s - served.first_s)[longer] / (served.output_len[longer] - 1)).mean()
    told = {"ttft_s": float((served.first_s - served.submitted_s).mean()), "tpot_s": float(tpot_s)}
    ttft, tpot = (abs(math.log(told[name] / case.row[name])) for name in ("ttft_s", "tpot_s"))
    return min(tpot, WORST) + TTFT_WEIGHT * min(ttft, WORST_TTFT)


def fit_intervals(truth: Path, bundle: Bundle) -> None:
    """Prints log errors by kind of model and metric, and the share of each group that they cover."""
    replays = (serving.replay, inferencex.replay, disaggregated.replay)
    rows = pd.concat([table(truth, bundle).frame() for table in replays], ignore_index=True)
    pools = rows["table"].str.contains("disaggregated")
    rows = rows[~pools | ((rows["metric"] == "ttft_s") & rows["fitted"])].reset_index(drop=True)
    pools, first = rows["table"].str.contains("disaggregated"), rows["metric"].str.startswith("ttft")
    own = [log_errors(get_model(model), engine) for model, engine in zip(rows["model"], rows["engine"], strict=True)]
    known = np.where(first, [each.ttft for each in own], [each.other for each in own])
    known = np.where(pools, FIRST_TOKENS, known)
    names = {DENSE: "dense", EXPERTS: "experts", UNMEASURED: "not measured"}
    score = pd.Series(np.log(rows["measured"] / rows["predicted"]))
    end = np.where(score > 0, np.log(rows["high"] / rows["predicted"]), np.log(rows["predicted"] / rows["low"]))
    told = rows.assign(
        kind=np.where(pools, "disaggregated", [names[each] for each in own]),
        metric=np.where(first, "ttft_s", "other"),
        group=rows.reindex(columns=GROUP).fillna("").astype(str).agg(" ".join, axis=1),
        score=score.abs(),
        ops=np.sqrt(np.maximum(end**2 - known**2, 0.0)),
    )
    for (kind, metric), part in told.groupby(["kind", "metric"]):
        tried = np.arange(0.0, 3.0, 0.01)
        chosen = float(tried[np.argmin([abs(float(_covered(part, own).mean()) - SHARE) for own in tried])])
        print(f"{kind} {metric}: {chosen:.2f}, by group")
        print(_covered(part, chosen).round(2).to_string())


def _covered(rows: pd.DataFrame, own: float) -> pd.Series:
    """Share of the rows of each group that is inside, with such an error beside that of the ops."""
    return (rows["score"] <= np.hypot(rows["ops"], own)).groupby(rows["group"]).mean()


def fit_qwen(truth: Path, bundle: Bundle) -> None:
    """Prints the constants of Transformers and of vLLM before 0.8.

    What a format adds goes by the rows of that format, all else by those of 16 bits.
    """
    runs = [run for run in qwen.generations(truth)[0] if run.fitted]
    for engine, grid in QWEN_GRIDS.items():
        part = [(run, *_without_host(run, bundle)) for run in runs if run.engine.name == engine]
        formats = get_engine(engine).linear_s

        def loss(constant: str, constants: Mapping[str, float], part: Any = part, formats: Any = formats) -> float:
            dtype = constant if constant in formats else "bf16"
            losses = [_qwen_loss(*timed, constants) for timed in part if timed[0].workload.dtype == dtype]
            return sum(losses) / len(losses)

        print(engine, least(grid, {}, loss))


def _without_host(run: qwen.Generation, bundle: Bundle) -> tuple[Interval, Interval]:
    """TTFT and TPOT of the GPU alone."""
    workload = run.workload
    lines = op_lines(phases(workload), run.gpu, workload.engine, bundle, workload.links)
    bare = static_times(workload, run.gpu, bundle, lines, run.engine.without_host())
    return bare.ttft_s, bare.tpot_s


def _qwen_loss(run: qwen.Generation, ttft: Interval, tpot: Interval, constants: Mapping[str, float]) -> float:
    """Absolute log error of the whole time."""
    engine = get_engine(run.engine.name)
    linear_s = {name: value for name, value in constants.items() if name in engine.linear_s}
    plain: dict[str, Any] = {name: value for name, value in constants.items() if name not in engine.linear_s}
    engine = replace(engine, **plain, graph_len=run.engine.graph_len, linear_s={**engine.linear_s, **linear_s})
    first, following = with_host(run.workload, engine.beside(run.gpu.generation), ttft, tpot)
    predicted = first.value + (run.workload.output_len - 1) * following.value
    return min(abs(math.log(predicted / (run.counted / run.row["speed_tokens_per_s"]))), WORST)


def fit_llamacpp(truth: Path, bundle: Bundle, without: str = "") -> None:
    """Prints the rates of each backend, the doubt of prompts and of all else, and errors of a GPU that was left out.

    without: a GPU; then all rows of the others count.
    """
    rows = [row for row in llamacpp.speeds(truth) if row.request["gpu"] != without and (without or row.fitted)]
    left_out = [row for row in llamacpp.speeds(truth) if row.request["gpu"] == without]
    for backend, grid in RATES_GRIDS.items():
        part = [row for row in rows if _backend(row) == backend]
        if without and not any(_backend(row) == backend for row in left_out):
            continue

        def loss(
            _: str, rates: Mapping[str, float], backend: str = backend, part: list[llamacpp.Speed] = part
        ) -> float:
            _set_rates(llamacpp.ENGINE, backend, rates)
            errors = np.abs(_log_errors(part, bundle)).clip(max=WORST)
            cells = pd.Series(errors).groupby([f"{row.phase} {row.request['gpu']}" for row in part])
            return float(cells.mean().mean())

        best = least(grid, _rates_now(llamacpp.ENGINE, backend, grid), loss)
        _set_rates(llamacpp.ENGINE, backend, best)
        _print_errors(f"{backend}, fitted", part, bundle)
        print(backend, best)
    if left_out:
        _print_errors(f"{without}, left out", left_out, bundle)


def fit_gaudi(truth: Path, bundle: Bundle) -> None:
    """Prints the rates of HPU graphs, and errors of both halves."""
    rows = [row for row in alcf.configurations(truth)[0] if row["gpu_raw"] == "Habana Gaudi2"]

    def errors(part: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
        told = alcf.answered([dict(row) for row in part], bundle)
        known = [(row, answer["e2e_s"]) for row, _, answer in told if not answer["error"]]
        log = [math.log(predicted / row["e2e_latency_s"]) for row, predicted in known]
        return pd.DataFrame({"error": log, "cell": [(row["model"], row["n_gpus"]) for row, _ in known]})

    fitted = [row for row in rows if alcf.fitted(row)]

    def loss(_: str, rates: Mapping[str, float]) -> float:
        _set_gaudi(rates)
        frame = errors(fitted)
        return float(frame["error"].abs().clip(upper=WORST).groupby(frame["cell"]).mean().mean())

    now = _rates_now(GAUDI, HPU, {name: () for name in GAUDI_GRID if name != "launch_s"})
    best = least(GAUDI_GRID, {"launch_s": get_engine(GAUDI).launch_s, **now}, loss)
    _set_gaudi(best)
    print(best)
    for name, part in (("fitted", fitted), ("others", [row for row in rows if not alcf.fitted(row)])):
        sizes = np.expm1((log := errors(part)["error"]).abs())
        print(
            f"{name}: {len(sizes)} rows, median {sizes.median():.3f}, mean {sizes.mean():.3f}, signed "
            f"{log.median():+.3f}, {SHARE:.0%} within {sizes.quantile(SHARE):.3f}"
        )


def _set_gaudi(constants: Mapping[str, float]) -> None:
    rates = dict(constants)
    tables: dict[str, Any] = engine_tables.tables()[GAUDI]  # type: ignore[assignment]
    tables["launch_s"] = rates.pop("launch_s")
    engines.cache_clear()
    _set_rates(GAUDI, HPU, rates)


def _backend(row: llamacpp.Speed) -> str:
    backends = engine_tables.operators_of(llamacpp.ENGINE).backends
    return backends.get(get_gpu(row.request["gpu"]).vendor, backends[engine_tables.OTHERS])


def _tables_of(engine: str, backend: str) -> dict[str, Any]:
    """The rates that the package has in memory."""
    return engine_tables.tables()[engine]["operators"]["rates"][backend]  # type: ignore[no-any-return]


def _rates_now(engine: str, backend: str, names: Mapping[str, Any]) -> dict[str, float]:
    own = _tables_of(engine, backend)
    return {
        name: own[table].get(key, own[table]["others"]) if key else own[table]
        for name in names
        for table, _, key in [name.partition(".")]
    }


def _set_rates(engine: str, backend: str, rates: Mapping[str, float]) -> None:
    own = _tables_of(engine, backend)
    for name, value in rates.items():
        table, _, key = name.partition(".")
        if key:
            own[table][key] = value
        else:
            own[table] = value
    engine_tables.operators_of.cache_clear()
    engine_tables.rates_of.cache_clear()


def _log_errors(rows: Sequence[llamacpp.Speed], bundle: Bundle) -> Any:
    """Log of predicted over measured speed of each row."""
    told = replay.answers([row.request for row in rows], bundle)
    return np.log([llamacpp.predicted(*pair).value / pair[0].measured for pair in zip(rows, told, strict=True)])


def _print_errors(title: str, rows: Sequence[llamacpp.Speed], bundle: Bundle) -> None:
    """Median, mean and the share of errors that hold SHARE of them, by table and phase."""
    frame = pd.DataFrame({"phase": [row.table + " " + row.phase for row in rows], "error": _log_errors(rows, bundle)})
    for phase, errors in frame.groupby("phase")["error"]:
        sizes = np.expm1(errors.abs())
        print(
            f"{title}: {phase}: {len(errors)} rows, median {sizes.median():.3f}, mean {sizes.mean():.3f}, "
            f"signed {errors.median():+.3f}, {SHARE:.0%} within {sizes.quantile(SHARE):.3f}"
        )


def main() -> None:
    """Prints the constants of least error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("serving", "qwen", "intervals", "llamacpp", "gaudi"))
    parser.add_argument("--truth", type=Path, default=Path(os.environ.get("PREDICTOR_TRUTH", "../shared/truth")))
    parser.add_argument("--bundle", default="")
    parser.add_argument("--without", default="", help="GPU that no rate of llama.cpp may see")
    options = parser.parse_args()
    if options.table == "llamacpp":
        fit_llamacpp(options.truth, load_bundle(options.bundle), options.without)
        return
    fit = {"serving": fit_serving, "qwen": fit_qwen, "intervals": fit_intervals, "gaudi": fit_gaudi}[options.table]
    fit(options.truth, load_bundle(options.bundle))


if __name__ == "__main__":
    main()
