"""From a request to its answer: the one door through which Python, the command line and tables of requests come in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.gpu import Gpu, catalogue, resolve_gpu
from predictor.hardware.lint import lint
from predictor.hardware.prices import usd_per_hour
from predictor.latency.report import OpLine, Report
from predictor.latency.serving.load import serve
from predictor.latency.serving.scheduler import Load
from predictor.latency.static_batch import composed
from predictor.latency.steps import Asked, basis_of, doubts_of, limiter_of, op_lines
from predictor.latency.training import TrainingReport, training_step
from predictor.memory.capacity import Room, TrainingRoom, room, training_room
from predictor.memory.training import training_memory
from predictor.workloads.architectures.convnet import ConvNet
from predictor.workloads.architectures.decoder import Decoder
from predictor.workloads.architectures.encoder import VisionEncoder
from predictor.workloads.architectures.layered import LayeredDecoder
from predictor.workloads.models import Model, get_model
from predictor.workloads.request import Request, check_names
from predictor.workloads.requested import kept_setting, served_workload, training_setting
from predictor.workloads.workload import Workload, phases


def predict(
    model: str | Path | Model, gpu: str | Gpu, *, bundle: str | Path | Bundle = "", **settings: Any
) -> Report | TrainingReport:
    """What `model` does on `gpu`: TTFT, TPOT, E2E, throughput and memory, with intervals at the bundle's level.

    settings: any column of predictor.workloads.request.Request, such as batch=8, input_len=2048, dtype="fp8", tp=2.
    Times are seconds.
    """
    check_names(settings)
    named = model.name if not isinstance(model, str | Path) else str(model)
    request = Request(model=named, gpu=gpu.name if isinstance(gpu, Gpu) else gpu, **settings)
    found = get_model(model) if isinstance(model, str | Path) else model
    return answer(request, bundle, found, gpu if isinstance(gpu, Gpu) else None)


def answer(
    request: Request, bundle: str | Path | Bundle = "", model: Model | None = None, gpu: Gpu | None = None
) -> Report | TrainingReport:
    """The answer to one request; `model` and `gpu` replace the names in it."""
    asked = understood(request, bundle if isinstance(bundle, Bundle) else load_bundle(bundle), model, gpu)
    return trained(asked) if request.phase == "train" else _serve(asked)


class Understood(NamedTuple):
    """A request whose names were looked up."""

    request: Request
    model: Model
    gpu: Gpu
    bundle: Bundle
    notes: tuple[str, ...]
    price_usd: float | None


def understood(request: Request, bundle: Bundle, model: Model | None, gpu: Gpu | None) -> Understood:
    """The request with its model and GPU; raises PredictorError where there are none such."""
    known, note = (gpu, "") if gpu else resolve_gpu(request.gpu)
    doubts = [] if known.name in catalogue() or known.partition else lint(known)
    found = _sized(model or get_model(request.model), request.image_size)
    notes = tuple(text for text in (note, *doubts, *found.notes) if text)
    return Understood(request, found, known, bundle, notes, request.usd_per_hour or usd_per_hour(known))


def _serve(asked: Understood) -> Report:
    found = prepared(asked, *served_workload(asked.request, asked.model, asked.gpu))
    return served(found, op_lines(*found.steps, asked.bundle))


def served(prepared: Prepared, lines: list[list[OpLine]]) -> Report:
    """The report of a request, or of a column of requests, whose steps have these lines."""
    asked, workload, note, _ = prepared
    found = composed(workload, asked.gpu, asked.bundle, lines, tuple(text for text in (*asked.notes, note) if text))
    found = replace(found, request=asked.request, price_usd=asked.price_usd)
    return _under_load(found, asked) if asked.request.scheduling == "continuous" else found


class Prepared(NamedTuple):
    """A request to serve, before its operators are predicted."""

    asked: Understood
    workload: Workload
    note: str
    steps: Asked


def prepared(asked: Understood, workload: Workload, note: str = "") -> Prepared:
    """What a request, or a column of requests, runs."""
    return Prepared(asked, workload, note, Asked(phases(workload), asked.gpu, workload.engine))


def _sized(model: Model, image_size: int) -> Model:
    """The model for images of image_size × image_size pixels; 0: as it is."""
    if not image_size:
        return model
    if not isinstance(model, VisionEncoder | ConvNet):
        raise InvalidRequest(f"image_size is {image_size}; {model.name} takes no images. Leave it out.")
    return replace(model, image=image_size)


def _under_load(found: Report, asked: Understood) -> Report:
    """The report with the times of the engine's scheduler at the asked concurrency or rate of requests."""
    request = asked.request
    if not isinstance(asked.model, Decoder | LayeredDecoder):
        raise InvalidRequest(f"scheduling is continuous; {asked.model.name} is no decoder. Set it to static.")
    load = Load(
        input_len=request.input_len,
        output_len=request.output_len,
        rate=request.request_rate,
        concurrency=0 if request.request_rate else request.batch,
        prefix_cache_hit_rate=request.prefix_cache_hit_rate,
        draft_tokens=request.draft_tokens,
        acceptance=request.acceptance,
    )
    served = serve(found.workload, asked.gpu, asked.bundle, load)
    names = ("ttft_s", "tpot_s", "e2e_s", "tokens_per_s")
    more = {name: getattr(served, name) for name in served._fields[:-1] if name not in names}
    return replace(found, **{name: getattr(served, name) for name in names}, percentiles=more)


def trained(asked: Understood) -> TrainingReport:
    """The report of a training step."""
    request = asked.request
    setting = training_setting(request, asked.model)
    step = training_step(asked.model, asked.gpu, setting, asked.bundle)
    near, doubts = doubts_of(step.lines, asked.gpu, asked.bundle)
    return TrainingReport(
        request=request,
        model=asked.model.name,
        gpu=asked.gpu,
        step=step,
        memory=training_memory(asked.model, asked.gpu, kept_setting(request, setting)),
        limiter=limiter_of(step.lines),
        basis=basis_of([line.basis for line in step.lines]),
        nearest_gpu=near,
        bundle=asked.bundle.id,
        level=asked.bundle.level,
        notes=(*asked.notes, *doubts),
        price_usd=asked.price_usd,
    )


def room_of(request: Request, model: Model, gpu: Gpu) -> Room | TrainingRoom:
    """What the GPU has room for, the request as it is otherwise."""
    if request.phase == "train":
        return training_room(model, gpu, kept_setting(request, training_setting(request, model)))
    return room(served_workload(request, model, gpu)[0], gpu)
