"""Answers to questions, made in a process of their own: each the JSON that its command prints."""

from __future__ import annotations

import csv
import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from predictor.boosters import load_xgboost
from predictor.errors import InvalidRequest
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.gpu import Gpu, catalogue, get_gpu, resolve_gpu
from predictor.hardware.price_files import read_prices
from predictor.hardware.price_rows import chosen_prices, price_row
from predictor.hardware.prices import OWN_PRICES, price_list
from predictor.hardware.sheet import sheet
from predictor.latency.serving.disaggregated import plan as pooled
from predictor.latency.serving.traces import read_trace
from predictor.measurements.schema import op_type
from predictor.planning.columns import listed, listed_tps
from predictor.planning.deployment import plan as planned
from predictor.planning.evaluations import UntoldModel, read_evaluations
from predictor.planning.fleet import Some, fleet
from predictor.planning.launch.folder import files_of
from predictor.planning.local import local as locally, machine_of
from predictor.planning.quality import quality as judged
from predictor.planning.ranking import compare as compared
from predictor.planning.upgrade import mix_of, upgrade as upgraded
from predictor.prediction.op_calls import op_of, op_rows
from predictor.prediction.refusals import Refusal
from predictor.prediction.rows import answer_rows
from predictor.prediction.several import report_row, reports, rooms
from predictor.prediction.single import Resolved, resolve
from predictor.units import GB
from predictor.web.questions import MOST, MOST_VARIED
from predictor.workloads.engine_tables import LOCAL, SERVES
from predictor.workloads.models import get_model, models as known_models, names_file
from predictor.workloads.passes.calls import Layout
from predictor.workloads.request import Request

Given = Mapping[str, Any]
Answer = Callable[[Given, Bundle], Any]
ERRORS = ("mape", "median_ape", "p90_ape", "signed_median", "coverage", "width", "bound_mape")  # of the ledger
VALIDATED = ("median", "mean", "covered", "level")
MOST_FLEETS = 8  # that are considered at once
MOST_FIGURES = 50_000  # scores of an answer


def opened(bundle: str) -> Bundle:
    """The bundle, with what predicts from it, loaded and used once."""
    load_xgboost()
    found = load_bundle(bundle)
    planned("Qwen3-8B", "H100", bundle=found, concurrency=4, input_len=500, output_len=50, shown=1, vary=False)
    return found


def answered(question: str, given: Given, bundle: Bundle) -> Any:
    """The answer, of plain objects; raises PredictorError for what cannot be answered."""
    return {**ANSWERS, **SAID}[question](given, bundle)


def _resolved(given: Given, **fixed: Any) -> list[Resolved]:
    """The requests of a question, one for each GPU."""
    network = get_model(given["model"])
    settings = {name: value for name, value in given.items() if name not in ("gpu", "explain", "mode")} | fixed
    return [resolve(Request(gpu=name, **settings), network) for name in given["gpu"]]


def predict(given: Given, bundle: Bundle) -> Any:
    """As `predictor predict --json`."""
    requests = _resolved(given)
    name, explain = get_model(given["model"]).name, bool(given.get("explain"))
    return [report_row(pair, name, bundle, explain) for pair in reports(requests, bundle)]


def train(given: Given, bundle: Bundle) -> Any:
    """As `predictor predict --phase train --json`."""
    return predict({**given, "phase": "train"}, bundle)


def memory(given: Given, bundle: Bundle) -> Any:
    """As `predictor memory --json`."""
    mode = given.get("mode", "inference")
    fixed = {"phase": "serve"} if mode == "inference" else {"phase": "train", "method": mode}
    name = get_model(given["model"]).name
    answers = rooms(_resolved(given, **fixed), bundle)
    return [one.row(model=name, mode=mode) if isinstance(one, Refusal) else one.row() for one in answers]


def compare(given: Given, bundle: Bundle) -> Any:
    """As `predictor compare --json`."""
    return [one.to_dict() for one in compared(**{"gpus": "all", **given}, bundle=bundle)]


def plan(given: Given, bundle: Bundle) -> Any:
    """As `predictor plan --json`; with `files` each plan has those that --write writes."""
    stated = dict(given)
    model, gpus = stated.pop("model"), stated.pop("gpus", "all")
    names = {"ttft_p99": "ttft_p99_s", "tpot": "tpot_s", "e2e": "e2e_s", "budget": "usd_per_hour", "top": "shown"}
    own = {other: stated.pop(name) for name, other in names.items() if name in stated}
    lists: dict[str, Any] = {f"{name}s": listed(stated.pop(name)) for name in ("dtype", "engine") if name in stated}
    tps = listed_tps(stated.pop("tp", ""))
    if own.get("shown", 1) < 1:
        raise InvalidRequest(f"top is {own['shown']}; it must be at least 1.")
    with_files = stated.pop("files", False)
    found = planned(model, gpus, **own, **lists, tps=tps, bundle=bundle, **stated)
    answer = found.to_dict()
    for row, one in zip(answer["plans"] if with_files else (), found.plans, strict=False):
        row["files"] = {name: text for name, text in files_of(one, found).items() if name != "plan.json"}
    return answer


def _check_counts(fleets: Sequence[Some]) -> None:
    for some in fleets:
        if some.n_gpus > MOST["n_gpus"]:
            raise InvalidRequest(f"{some.text} are {some.n_gpus} GPUs; at most {MOST['n_gpus']} are answered at once.")


def _check_answers(count: int) -> None:
    if count > MOST_VARIED:
        raise InvalidRequest(f"{count} answers are asked for; at most {MOST_VARIED} are given at once.")


def quality(given: Given, bundle: Bundle) -> Any:
    """As `predictor quality --json`; no file is of this machine."""
    asked = dict(given)
    files, gpus = asked.pop("scores"), ",".join(asked.pop("gpu"))
    fleets = fleet(gpus)
    _check_counts(fleets)
    _check_answers(len(files) * len(fleets))
    tasks, stated = asked.pop("task", ()), asked.pop("as", ())
    found = judged(files, gpus, tasks=tasks, stated=stated, elsewhere=True, bundle=bundle, **asked)
    if (count := sum(len(row.evaluated.scores) for row in found.rows)) > MOST_FIGURES:
        raise InvalidRequest(
            f"the answer has {count} scores; at most {MOST_FIGURES} are given at once. Name fewer GPUs."
        )
    return found.to_dict()


def sweep(given: Given, bundle: Bundle) -> Any:
    """The rows of `predictor sweep`."""
    varied = {name: value for name, value in given.items() if isinstance(value, list)}
    _check_answers(math.prod(map(len, varied.values())))
    get_model(given["model"])
    resolve_gpu(given["gpu"])
    combinations = itertools.product(*varied.values())
    return list(answer_rows([{**given, **dict(zip(varied, values, strict=True))} for values in combinations], bundle))


def upgrade(given: Given, bundle: Bundle) -> Any:
    """As `predictor upgrade --json`."""
    others = fleet(given["consider"])
    if len(others) > MOST_FLEETS:
        raise InvalidRequest(f"consider names {len(others)} fleets; at most {MOST_FLEETS} are answered at once.")
    _check_counts([*others, *fleet(given["have"])[:1]])
    return [one.row() for one in upgraded(given["have"], others, mix_of(given["work"]), bundle=bundle)]


def local(given: Given, bundle: Bundle) -> Any:
    """As `predictor local --json`."""
    lengths = {"input_len": given.get("input_len", 1024), "output_len": given.get("output_len", 256)}
    found = locally(
        machine_of(given.get("gpu", "")),
        given.get("model", ()),
        engine=given.get("engine", LOCAL),
        dtypes=listed(given.get("dtype", "")),
        bundle=bundle,
        **lengths,
    )
    return [one.row | {"model": _called(one.row["model"]), "fits": one.fits} for one in found]


def _called(name: str) -> str:
    """A name as people say it, of a file that of its model."""
    return get_model(name).name if names_file(name) else name


def disaggregated(given: Given, bundle: Bundle) -> Any:
    """As `predictor disaggregated --json`."""
    asked = {"input_len": 1024, "output_len": 128, "engine": SERVES, **given}
    degrees = ("tp", "pp", "ep", "attention_dp")
    for pool in ("prefill", "decode"):
        asked[pool] = Layout(**{name: asked.pop(f"{pool}_{name}", 1) for name in degrees})
    link = asked.pop("link_gb_per_s", 0.0) * GB
    return pooled(**asked, link_bytes_per_s=link, bundle=bundle).to_dict()


def op(given: Given, bundle: Bundle) -> Any:
    """As `predictor op FAMILY --json`."""
    asked = {"engine": SERVES, **given}
    family, names, engine = asked.pop("family"), asked.pop("gpu"), asked.pop("engine")
    answers = op_rows(op_of(op_type(family), asked), names, engine, bundle)
    return [one.row(family=family) if isinstance(one, Refusal) else one for one in answers]


def trace(given: Given, bundle: Bundle) -> Any:
    """What a trace that was dropped says of its requests."""
    read = read_trace(given["trace"])
    span_s = read.arrivals_s[-1] if read.arrivals_s else 0.0
    input_len, output_len = read.mean_len
    return {
        "requests": len(read.input_len),
        "arrivals": read.arrivals_s is not None,
        "requests_per_s": len(read.input_len) / span_s if span_s > 0 else None,
        "input_len": input_len,
        "output_len": output_len,
        "note": read.note,
    }


def gpus(given: Given, bundle: Bundle) -> Any:
    """As `predictor gpus --json`."""
    if given.get("gpu"):
        return sheet(resolve_gpu(given["gpu"])[0])
    vendor, segment = (given.get(name, "").casefold() for name in ("vendor", "segment"))
    chosen = [
        gpu
        for gpu in catalogue().values()
        if (not vendor or gpu.vendor.casefold() == vendor) and (not segment or gpu.segment == segment)
    ]
    if given.get("short"):
        return [{name: getattr(gpu, name) for name in ("name", "vendor", "segment", "mem_bytes")} for gpu in chosen]
    return [sheet(gpu) for gpu in chosen]


def models(given: Given, bundle: Bundle) -> Any:
    """As `predictor models --json`."""
    chosen = [get_model(given["model"])] if given.get("model") else list(known_models().values())
    if given.get("short"):
        return [{"name": model.name, "parameters": model.parameters()} for model in chosen]
    rows = [asdict(model) | {"parameters": model.parameters()} for model in chosen]
    return rows[0] if given.get("model") else rows


def prices(given: Given, bundle: Bundle) -> Any:
    """As `predictor prices --json`."""
    listed, n_gpus = price_list(""), max(int(given.get("n_gpus", 1)), 1)
    named = (given.get(name, "") for name in ("provider", "region", "kind"))
    return [price_row(price, listed, n_gpus) for price in chosen_prices(listed, given.get("gpu", ()), *named)]


def own_prices(given: Given, bundle: Bundle) -> Any:
    """What a file of prices that was dropped adds or replaces."""
    own = read_prices(Path(os.environ[OWN_PRICES]))
    price_list("")
    return {"rows": len(own.prices), "gpus": sorted({price.gpu for price in own.prices}), "replace": own.replace}


def scores(given: Given, bundle: Bundle) -> Any:
    """Of which model a result file that was dropped is, in which number format, by which tasks; None where nobody can
    tell, which the question then says by `as`."""
    try:
        (one,) = read_evaluations([given["scores"]], elsewhere=True)
    except UntoldModel:
        return {"model": None, "dtype": None, "tasks": None}
    return {"model": one.name, "dtype": one.format, "tasks": list(one.heads)}


def ledger(given: Given, bundle: Bundle) -> Any:
    """Means over the cells of the ledger, by what was held out; [] for a GPU that is in none."""
    wanted = get_gpu(given["gpu"]).name if given.get("gpu") else ""
    chosen: dict[str, list[dict[str, str]]] = {}
    with (bundle.path / "ledger.csv").open(encoding="utf-8", newline="") as lines:
        for cell in csv.DictReader(lines):
            if (
                cell["slice"] == "all"
                and wanted in ("", cell["gpu"])
                and given.get("family", "") in ("", cell["family"])
            ):
                chosen.setdefault(cell["protocol"], []).append(cell)
    return [
        {"held_out": name, "gpu": wanted, "bundle": bundle.id, "cells": len(cells)}
        | {"rows": sum(int(cell["rows"]) for cell in cells), "gpus": len({cell["gpu"] for cell in cells})}
        | {figure: mean(float(cell[figure]) for cell in cells) for figure in ERRORS}
        for name, cells in chosen.items()
    ]


def validated(given: Given, bundle: Bundle) -> Any:
    """What whole answers of the bundle reached on runs that others measured; [] where nobody did."""
    path = bundle.path / "validated.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as lines:
        rows = [
            dict[str, Any](row) | {name: float(row[name]) for name in VALIDATED} | {"runs": int(row["runs"])}
            for row in csv.DictReader(lines)
            if all(given.get(name, "") in ("", row[name]) for name in ("engine", "phase"))
        ]
    if not given.get("gpu"):
        return rows
    gpu = get_gpu(given["gpu"])
    own = [row for row in rows if row["gpu"] == gpu.name]
    return own or [row for row in rows if _alike(get_gpu(row["gpu"]), gpu)]


def _alike(one: Gpu, other: Gpu) -> bool:
    return (one.generation, one.segment) == (other.generation, other.segment)


ANSWERS: Mapping[str, Answer] = {
    one.__name__: one
    for one in (
        *(predict, train, memory, compare, plan, quality, sweep, upgrade, local, disaggregated, op),
        *(gpus, models, prices, ledger, validated),
    )
}
# What a file that was sent says.
SAID: Mapping[str, Answer] = {"trace": trace, "own_prices": own_prices, "scores": scores}
