"""Fits what the hosts of engines cost and what kernels reach that nobody timed, of predictor/catalog/engines.toml.

    .venv/bin/python training/host_constants.py serving|qwen|llamacpp|gaudi [--without COLUMN[=VALUE] [--all]]
    .venv/bin/python training/host_constants.py intervals
    each with [--truth ../shared/truth] [--bundle NAME]

On published figures. serving: vLLM, SGLang and TensorRT-LLM under load; qwen: Transformers and vLLM before 0.8 at
batch 1; llamacpp: rates by backend, with the spread of their errors, every GPU as much as any; gaudi: rates of HPU
graphs, every model and number of GPUs as much as any. One constant after the other takes the value of least error on
the half that predictor/learning/validation names (`fitted`), in two rounds.
--without model, version or gpu: fits once more without the rows of each value of that column, or of one (such as
version=0.12.0), and tells the errors of those of its rows that chose no constant, as users get them, with the shipped
constants and so. Rows of serving tell model, gpu, engine and version, of qwen model, gpu and engine, of llamacpp and
gaudi model and gpu. --all: every row of the others chooses, and every row that was left out is told.
intervals: what makes intervals under load hold 80 %, of models with experts and without, of those with layers that
nobody timed (predictor/latency/serving/load.py) and of disaggregated pools: the mean over groups of model, GPU, engine,
version and format, and what is then covered of each group.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from operator import attrgetter
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
from predictor.learning.validation import alcf, disaggregated, inferencex, llamacpp, qwen, serving
from predictor.learning.validation.replay import Replay
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
GAUDI, HPU, HABANA = "vllm-gaudi", "hpu", "Habana Gaudi2"
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


class Simulated(NamedTuple):
    """What the simulation of a configuration needs; steps: of the GPU alone."""

    gpu: Gpu
    workload: Workload
    load: Load
    room: float
    steps: StepTime


@dataclass(frozen=True, eq=False)
class Case:
    """A configuration under load. Equal to itself alone, so that what was simulated of it is kept."""

    row: Mapping[str, Any]
    bundle: Bundle

    @property
    def fitted(self) -> bool:
        """Whether it chose constants."""
        return serving.fitted(self.row)

    @cached_property
    def simulated(self) -> Simulated | None:
        """None of an engine that does not start."""
        resolved = resolve(Request.of(serving.request_of(self.row)))
        workload, _ = served_workload(resolved.request, resolved.model, resolved.gpu)
        try:
            engine, load = served_by(workload, resolved.gpu), load_of(resolved)
            room = room_for(workload, resolved.gpu, load, engine)
        except PredictorError:
            return None
        times = step_times(workload, resolved.gpu, self.bundle, engine.max_batched_tokens, engine.max_sequences)
        return Simulated(resolved.gpu, workload, load, room, times.value)


def fit_serving(cases: Sequence[Case], bundle: Bundle) -> None:
    """Prints and sets the constants of each engine that serves under load."""
    for engine in sorted({case.row["engine"] for case in cases}):
        part = [case for case in cases if case.row["engine"] == engine and case.simulated]

        def loss(_: str, constants: Mapping[str, float], part: Sequence[Case] = part) -> float:
            return sum(_serving_loss(case, *(constants[name] for name in SERVING_GRID)) for case in part) / len(part)

        best = least(SERVING_GRID, SERVING_START, loss)
        _set_host(engine, best)
        print(engine, best)


@cache
def _serving_loss(case: Case, *constants: float) -> float:
    """Absolute log error of TPOT and a share of TTFT's; constants: as in SERVING_GRID."""
    gpu, workload, load, room, steps = case.simulated
    changed: dict[str, Any] = dict(zip(SERVING_GRID, constants, strict=True))
    groups, engine = groups_of(workload), workload.as_set(replace(get_engine(workload.engine), **changed), gpu)
    part = replace(load, concurrency=-(-load.concurrency // groups), requests=-(-load.requests // groups))
    served = simulate(part, steps, engine, room)
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


def fit_qwen(runs: Sequence[qwen.Generation], bundle: Bundle) -> None:
    """Prints and sets the constants of Transformers and of vLLM before 0.8.

    What a format adds goes by the rows of that format, all else by those of 16 bits.
    """
    for engine, grid in QWEN_GRIDS.items():
        part = [(run, *_without_host(run, bundle)) for run in runs if run.engine.name == engine]
        formats = get_engine(engine).linear_s

        def loss(constant: str, constants: Mapping[str, float], part: Any = part, formats: Any = formats) -> float:
            dtype = constant if constant in formats else "bf16"
            losses = [_qwen_loss(*timed, constants) for timed in part if timed[0].workload.dtype == dtype]
            return sum(losses) / len(losses)

        best = least(grid, {}, loss)
        narrow = {name: value for name, value in best.items() if name in formats}
        _set_host(engine, {name: value for name, value in best.items() if name not in formats}, narrow)
        print(engine, best)


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


def fit_llamacpp(rows: Sequence[llamacpp.Speed], bundle: Bundle) -> None:
    """Prints and sets the rates of each backend, and their errors."""
    for backend, grid in RATES_GRIDS.items():
        part = [row for row in rows if _backend(row) == backend]
        if not part:
            print(f"{backend}: no row is left; its rates stay")
            continue

        def loss(
            _: str, rates: Mapping[str, float], backend: str = backend, part: list[llamacpp.Speed] = part
        ) -> float:
            _set_rates(llamacpp.ENGINE, backend, rates)
            told = llamacpp.replay_of(part, bundle).frame()
            errors = np.log(told["predicted"] / told["measured"]).abs().clip(upper=WORST)
            return float(errors.groupby([told["phase"], told["gpu"]]).mean().mean())

        best = least(grid, _rates_now(llamacpp.ENGINE, backend, grid), loss)
        _set_rates(llamacpp.ENGINE, backend, best)
        print(backend, best)


def fit_gaudi(rows: Sequence[Mapping[str, Any]], bundle: Bundle) -> None:
    """Prints and sets the rates of HPU graphs."""

    def loss(_: str, rates: Mapping[str, float]) -> float:
        _set_gaudi(rates)
        told = alcf.replay_of(rows, bundle).frame()
        errors = np.log(told["predicted"] / told["measured"]).abs().clip(upper=WORST)
        return float(errors.groupby([told["model"], told["n_gpus"]]).mean().mean())

    now = _rates_now(GAUDI, HPU, {name: () for name in GAUDI_GRID if name != "launch_s"})
    best = least(GAUDI_GRID, {"launch_s": get_engine(GAUDI).launch_s, **now}, loss)
    _set_gaudi(best)
    print(best)


def _set_gaudi(constants: Mapping[str, float]) -> None:
    rates = dict(constants)
    _set_host(GAUDI, {"launch_s": rates.pop("launch_s")})
    _set_rates(GAUDI, HPU, rates)


def _set_host(engine: str, constants: Mapping[str, float], linear_s: Mapping[str, float] | None = None) -> None:
    """Sets constants of an engine in memory, and what formats add to its linear layers."""
    tables: dict[str, Any] = engine_tables.tables()[engine]  # type: ignore[assignment]
    tables.update(constants)
    tables.setdefault("linear_s", {}).update(linear_s or {})
    engines.cache_clear()


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


class Fit(NamedTuple):
    """A published table whose rows choose constants. choose: prints and sets them in memory. says: the columns of a
    row that can be left out."""

    rows: Callable[[Path, Bundle], Sequence[Any]]
    fitted: Callable[[Any], bool]
    says: Callable[[Any], Mapping[str, Any]]
    choose: Callable[[Sequence[Any], Bundle], None]
    replay_of: Callable[[Sequence[Any], Bundle], Replay]


FITS = {
    "serving": Fit(
        rows=lambda truth, bundle: [Case(row, bundle) for row in serving.configurations(truth)[0]],
        fitted=attrgetter("fitted"),
        says=attrgetter("row"),
        choose=fit_serving,
        replay_of=lambda cases, bundle: serving.replay_of([case.row for case in cases], bundle),
    ),
    "qwen": Fit(
        rows=lambda truth, _: [run for run in qwen.generations(truth)[0] if run.engine.name in QWEN_GRIDS],
        fitted=attrgetter("fitted"),
        says=lambda run: {"model": run.row["model"], "gpu": run.gpu.name, "engine": run.engine.name},
        choose=fit_qwen,
        replay_of=qwen.replay_of,
    ),
    "llamacpp": Fit(
        rows=lambda truth, _: llamacpp.speeds(truth),
        fitted=attrgetter("fitted"),
        says=attrgetter("request"),
        choose=fit_llamacpp,
        replay_of=llamacpp.replay_of,
    ),
    "gaudi": Fit(
        rows=lambda truth, _: [row for row in alcf.configurations(truth)[0] if row["gpu_raw"] == HABANA],
        fitted=alcf.fitted,
        says=lambda row: row,
        choose=fit_gaudi,
        replay_of=alcf.replay_of,
    ),
}


def refit(fit: Fit, rows: Sequence[Any], bundle: Bundle) -> None:
    """Prints the constants of the half that chooses them, and the errors of both halves with them."""
    halves = [[row for row in rows if fit.fitted(row) == chose] for chose in (True, False)]
    fit.choose(halves[0], bundle)
    for title, part in zip(("rows that chose", "others"), halves, strict=True):
        print_errors(title, fit.replay_of(part, bundle).frame())


def leave_out(fit: Fit, rows: Sequence[Any], bundle: Bundle, left_out: str, whole: bool = False) -> None:
    """Prints the errors of rows that chose no constant: as shipped, and with constants that no row of the same value
    of a column chose. left_out: a column, or one of its values behind an equals sign. whole: all rows choose and are
    told."""
    column, _, only = left_out.partition("=")
    said = [str(fit.says(row)[column]) for row in rows]
    with_and_without: list[tuple[pd.DataFrame, pd.DataFrame]] = []
    for value in [only] if only else sorted(set(said)):
        own = [row for row, name in zip(rows, said, strict=True) if name == value and (whole or not fit.fitted(row))]
        others = [row for row, name in zip(rows, said, strict=True) if name != value and (whole or fit.fitted(row))]
        if not own:
            print(f"{column} {value}: every row chose constants; no error to tell")
            continue
        shipped = fit.replay_of(own, bundle).frame()
        fit.choose(others, bundle)
        with_and_without.append((shipped, fit.replay_of(own, bundle).frame()))
        as_shipped()
        for title, frame in zip(("as shipped", "left out"), with_and_without[-1], strict=True):
            print_errors(f"{column} {value or 'not told'}, {title}", frame)
    for title, frames in zip(("as shipped", "left out"), zip(*with_and_without, strict=True), strict=True):
        print_errors(f"every {column}, {title}", pd.concat(frames, ignore_index=True))


def as_shipped() -> None:
    """Reads the constants of engines.toml again."""
    for kept in (engine_tables.tables, engine_tables.operators_of, engine_tables.rates_of, engines):
        kept.cache_clear()


def print_errors(title: str, rows: pd.DataFrame) -> None:
    """Errors of figures by metric, and by phase and table where those tell: absolute ones of predictions over
    measurements, the median of the log, and the share that most lie within either way."""
    kinds = [name for name in ("table", "phase") if name in rows and "phase" in rows]
    for kind, part in rows.groupby(["metric", *kinds]):
        log = np.log(part["predicted"] / part["measured"])
        sizes, inside = np.expm1(log).abs(), part["measured"].between(part["low"], part["high"])
        print(
            f"{title}: {' '.join(kind)}: {len(part)} rows, median {sizes.median():.3f}, mean {sizes.mean():.3f}, "
            f"signed {log.median():+.3f}, {SHARE:.0%} within {math.expm1(log.abs().quantile(SHARE)):.3f}, in the "
            f"interval {inside.mean():.0%}",
            flush=True,
        )


def main() -> None:
    """Prints the constants of least error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=(*FITS, "intervals"))
    parser.add_argument("--truth", type=Path, default=Path(os.environ.get("PREDICTOR_TRUTH", "../shared/truth")))
    parser.add_argument("--bundle", default="")
    parser.add_argument("--without", default="", metavar="COLUMN[=VALUE]", help="what no constant may see")
    parser.add_argument("--all", action="store_true", help="not the half that chooses, but all rows")
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    if options.table == "intervals":
        fit_intervals(options.truth, bundle)
        return
    fit = FITS[options.table]
    rows = fit.rows(options.truth, bundle)
    if options.without:
        leave_out(fit, rows, bundle, options.without, options.all)
    else:
        refit(fit, rows, bundle)


if __name__ == "__main__":
    main()
