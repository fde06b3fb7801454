"""From a request to its answer: the one door through which Python, the command line and tables of requests come in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from predictor.bundle import Bundle, load_bundle
from predictor.errors import InvalidRequest, PredictorError
from predictor.gpu import Gpu, catalogue, resolve_gpu
from predictor.gpu_lint import lint
from predictor.prediction import report
from predictor.report import Report
from predictor.request import RESULTS, Request, check_names
from predictor.workloads.base import Workload
from predictor.workloads.models import Model, get_model


def predict(model: str | Path | Model, gpu: str | Gpu, *, bundle: str | Path | Bundle = "", **settings: Any) -> Report:
    """What `model` does on `gpu`: TTFT, TPOT, E2E, throughput and memory, with intervals at the bundle's level.

    settings: any column of predictor.request.Request, such as batch=8, input_len=2048, dtype="fp8", tp=2. Times are
    seconds.
    """
    check_names(settings)
    named = model.name if not isinstance(model, str | Path) else str(model)
    request = Request(model=named, gpu=gpu.name if isinstance(gpu, Gpu) else gpu, **settings)
    found = get_model(model) if isinstance(model, str | Path) else model
    return answer(request, bundle, found, gpu if isinstance(gpu, Gpu) else None)


def answer(
    request: Request, bundle: str | Path | Bundle = "", model: Model | None = None, gpu: Gpu | None = None
) -> Report:
    """The answer to one request; `model` and `gpu` replace the names in it."""
    known, note = (gpu, "") if gpu else resolve_gpu(request.gpu)
    doubts = [] if known.name in catalogue() or known.partition else lint(known)
    opened = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    workload = Workload(
        model=model or get_model(request.model),
        batch=request.batch,
        input_len=request.input_len,
        output_len=request.output_len,
        dtype=request.dtype,
        kv_dtype=request.kv_dtype,
        tp=request.tp,
        pp=request.pp,
        dp=request.dp,
        ep=request.ep,
        attention_dp=request.attention_dp,
        engine=request.engine,
    )
    notes = (note, *doubts, *workload.model.notes)
    found = report(workload, known, opened, tuple(text for text in notes if text))
    return replace(found, request=request, price_usd=request.usd_per_hour or found.price_usd)


def answer_row(row: Mapping[str, Any], bundle: Bundle) -> dict[str, Any]:
    """The row with the columns of RESULTS after its own, which come back unchanged and in order.

    What cannot be answered is said in `error`, and the other results are None. A column that already has the name of a
    result raises InvalidRequest.
    """
    if clash := [name for name in RESULTS if name in row]:
        raise InvalidRequest(f"the table already has a column {clash[0]}, which is a result; rename it.")
    try:
        found = answer(Request.of(row), bundle).to_dict()
    except PredictorError as error:
        found = {"error": str(error)}
    return {**row, **{name: found.get(name) for name in RESULTS}}
