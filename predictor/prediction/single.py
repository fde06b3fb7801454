"""One request → its answer: the one door through which Python, the command line and tables of requests come in."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.gpu import Gpu, catalogue, resolve_gpu
from predictor.hardware.interconnect import check_link, link_note
from predictor.hardware.lint import lint
from predictor.hardware.prices import usual_offer
from predictor.latency.report import OpLine, Report
from predictor.latency.static_batch import Times, composed, static_times
from predictor.latency.steps import Steps, basis_of, doubts_of, limiter_of, op_lines
from predictor.latency.training import TrainingReport, energy_note, training_notes, training_step
from predictor.memory.capacity import Room, TrainingRoom, room, training_room
from predictor.memory.closed_form import memory, start_note
from predictor.memory.host import host_note
from predictor.memory.training import training_memory
from predictor.workloads.architectures.decoder import Decoder
from predictor.workloads.architectures.layered import LayeredDecoder
from predictor.workloads.images import image_tokens, sized
from predictor.workloads.models import Model, get_model, model_note
from predictor.workloads.request import Request, check_names, clients_note
from predictor.workloads.requested import kept_setting, served_workload, training_setting, unread_note, with_engine
from predictor.workloads.workload import Workload, phases, prompt_and_middle_phases

if TYPE_CHECKING:
    from predictor.latency.serving.clients import Load
    from predictor.latency.serving.load import Serving
    from predictor.latency.serving.traces import Trace


def predict(
    model: str | Path | Model,
    gpu: str | Gpu,
    *,
    bundle: str | Path | Bundle = "",
    n_gpus: int = 0,
    engine: str = "",
    scheduling: str = "",
    batch: int = 1,
    concurrency: int = 0,
    request_rate: float = 0.0,
    trace: str = "",
    input_len: int = 1024,
    output_len: int = 128,
    length_spread: float | None = None,
    num_prompts: int = 0,
    warmup: int | None = None,
    turns: int = 1,
    shared_prefix_len: int = 0,
    images: int = 0,
    image_size: int = 0,
    weights: str = "",
    dtype: str = "",
    kv_dtype: str = "",
    kv_block: int = 0,
    ubatch: int = 0,
    tp: int = 0,
    pp: int = 1,
    dp: int = 0,
    ep: int = 1,
    attention_dp: int = 1,
    link: str = "",
    node_link: str = "",
    prefix_cache_hit_rate: float = 0.0,
    draft_tokens: int = 0,
    acceptance: float | None = None,
    draft_model: str = "",
    beam_width: int = 1,
    engine_version: str = "",
    max_num_seqs: int = 0,
    max_num_batched_tokens: int = 0,
    gpu_memory_utilization: float = 0.0,
    max_model_len: int = 0,
    max_seq_len_to_capture: int = 0,
    enforce_eager: bool | None = None,
    enable_chunked_prefill: bool | None = None,
    async_scheduling: bool | None = None,
    offline: bool = False,
    batch_wait_timeout_iters: int = 0,
    api_server_count: int = 0,
    tokenizer_worker_num: int = 0,
    enable_two_batch_overlap: bool = False,
    usd_per_hour: float = 0.0,
    **others: Any,
) -> Report:
    """What serving `model` on `gpu` takes: TTFT, TPOT, E2E, throughput and memory, with the bundle's intervals.

    Keywords are the columns of a Request, which says what each is; times are seconds. Raises PredictorError for what
    cannot be answered.
    others: none; phase="train" and its settings are the spelling of before 0.2.0 for `predict_training`.

    >>> predict("Llama-3.1-8B", "H100", batch=8, dtype="fp8").memory.fits
    True
    """
    columns = _columns(locals())
    check_names(others)
    if others.get("phase") == "train":
        warnings.warn("predict(phase='train') is predict_training() since 0.2.0.", DeprecationWarning, stacklevel=2)
        return _answer(model, gpu, bundle, columns | others)  # type: ignore[return-value]  # as it was
    if training := [name for name in others if name != "phase"]:
        raise InvalidRequest(f"{training[0]} is a setting of training. Use predict_training().")
    report = _answer(model, gpu, bundle, columns | others)
    assert isinstance(report, Report)
    return report


def predict_training(
    model: str | Path | Model,
    gpu: str | Gpu,
    *,
    bundle: str | Path | Bundle = "",
    n_gpus: int = 0,
    trainer: str = "",
    method: str = "full",
    optimizer: str = "adamw",
    micro_batch: int = 1,
    grad_accum: int = 0,
    global_batch: int = 0,
    seq_len: int = 2048,
    mean_seq_len: int = 0,
    length_spread: float | None = None,
    checkpointing: str = "none",
    checkpoint_every: int = 1,
    zero_stage: int = 0,
    lora_rank: int = 16,
    lora_targets: str = "all",
    lora_dropout: float | None = None,
    adapter_dtype: str = "",
    use_dora: bool = False,
    train_embeddings: bool = False,
    quantization: str = "nf4",
    double_quant: bool = True,
    bitsandbytes_version: str = "",
    precision: str = "",
    grad_dtype: str = "",
    attention: str = "flash2",
    kernels: str = "",
    loss: str = "",
    loss_chunks: int = 1,
    sequence_parallel: int = 0,
    offload: str = "none",
    optimizer_in_backward: bool = False,
    no_sync: bool = False,
    prefetch: bool = True,
    reshard_after_forward: bool = True,
    load: str = "sharded",
    packing: bool = True,
    padding: str = "",
    expandable_segments: bool = False,
    max_model_len: int = 0,
    train_tokens: float = 0.0,
    dataset_rows: int = 0,
    epochs: float = 1.0,
    pue: float = 1.0,
    dtype: str = "",
    tp: int = 0,
    pp: int = 1,
    vp: int = 1,
    cp: int = 1,
    cp_comm_type: str = "p2p",
    ep: int = 1,
    expert_tp: int = 0,
    dp: int = 0,
    moe_token_dispatcher_type: str = "alltoall",
    moe_expert_capacity_factor: float = 0.0,
    dp_replicate: int = 1,
    overlap_tp: bool = False,
    overlap_ep: bool = False,
    gradient_accumulation_fusion: bool = False,
    host_waits: bool = False,
    cuda_graphs: bool = False,
    gpus_per_node: int = 8,
    link: str = "",
    node_link: str = "",
    image_size: int = 0,
    usd_per_hour: float = 0.0,
) -> TrainingReport:
    """What an optimizer step of `model` on `gpu` takes: its time and parts, MFU, throughput and memory.

    Keywords are the columns of a Request, which says what each is; times are seconds. Raises PredictorError for what
    cannot be answered.

    >>> predict_training("Qwen3-8B", "A100", method="lora", seq_len=1024).step_s.value < 1
    True
    """
    report = _answer(model, gpu, bundle, _columns(locals()) | {"phase": "train"})
    assert isinstance(report, TrainingReport)
    return report


def _columns(given: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a request among the arguments of a function."""
    return {name: value for name, value in given.items() if name not in ("model", "gpu", "bundle", "others")}


def _answer(
    model: str | Path | Model, gpu: str | Gpu, bundle: str | Path | Bundle, columns: dict[str, Any]
) -> Report | TrainingReport:
    network = get_model(model) if isinstance(model, str | Path) else model
    name = str(model) if isinstance(model, str | Path) else model.name
    request = Request(model=name, gpu=gpu.name if isinstance(gpu, Gpu) else gpu, **columns)
    return answer(resolve(request, network, gpu if isinstance(gpu, Gpu) else None), bundle)


class Resolved(NamedTuple):
    """A request whose names were looked up. notes: what to say of the GPU and the model. price_usd: of a GPU's hour.

    price_source: whose price that is, when it was listed and where.
    trace: of the requests that clients send, whose means are then the request's lengths.
    """

    request: Request
    model: Model
    gpu: Gpu
    notes: tuple[str, ...]
    price_usd: float | None
    trace: Trace | None = None
    price_source: str = ""


def resolve(request: Request, model: Model | None = None, gpu: Gpu | None = None) -> Resolved:
    """The request with its model and GPU, by their names in it unless they are given.

    Raises PredictorError where there are none such.
    """
    device, note = (gpu, "") if gpu else resolve_gpu(request.gpu)
    check_link(request.link, device)
    doubts = [] if device.name in catalogue() or device.partition else lint(device)
    network = sized(model or get_model(request.model), request)
    request, chosen = with_engine(request, network, device)
    named = model_note(request.model, request.dtype)
    told = (note, named, *doubts, link_note(request.link, device), *network.notes, clients_note(request), chosen)
    trace, price_usd, price_source = None, request.usd_per_hour or None, "given" if request.usd_per_hour else ""
    if not price_usd and (offer := usual_offer(device, request.n_gpus, request.n_gpus // max(request.dp, 1))):
        price_usd, price_source = offer.usd_per_gpu_hour, offer.told
    if request.trace:
        from predictor.latency.serving.traces import read_trace

        trace = read_trace(request.trace)
        prompt, output = trace.mean_len
        request = replace(request, input_len=prompt, output_len=output)
        told = (*told, trace.note)
    return Resolved(request, network, device, tuple(text for text in told if text), price_usd, trace, price_source)


def answer(
    request: Request | Resolved,
    bundle: str | Path | Bundle = "",
    model: Model | None = None,
    gpu: Gpu | None = None,
) -> Report | TrainingReport:
    """The answer to one request; its bundle by default the newest.

    model, gpu: the spelling of before 0.2.0 for `answer(resolve(request, model, gpu), bundle)`.
    """
    if model or gpu:
        warnings.warn(
            "answer(request, bundle, model, gpu) is answer(resolve(request, model, gpu), bundle) since 0.2.0.",
            DeprecationWarning,
            stacklevel=2,
        )
    resolved = request if isinstance(request, Resolved) else resolve(request, model, gpu)
    opened = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    if resolved.request.phase == "train":
        return training_report(resolved, opened)
    task = serving_task(resolved, *served_workload(resolved.request, resolved.model, resolved.gpu))
    phases_of, device, engine, links = task.steps
    return serving_report(task, op_lines(phases_of, device, engine, opened, links), opened)


class ServingTask(NamedTuple):
    """A request to serve, or a column of such, before its operators are predicted."""

    resolved: Resolved
    workload: Workload
    note: str
    steps: Steps


def serving_task(resolved: Resolved, workload: Workload, note: str = "") -> ServingTask:
    """What a request, or a column of requests, runs. note: what to say of the workload."""
    shown = prompt_and_middle_phases if resolved.request.scheduling == "continuous" else phases
    return ServingTask(resolved, workload, note, Steps(shown(workload), resolved.gpu, workload.engine, workload.links))


def serving_report(task: ServingTask, lines: list[list[OpLine]], bundle: Bundle) -> Report:
    """The report of a task whose steps have these lines."""
    resolved, workload, note, _ = task
    times: Times | Serving
    more: dict[str, Any] = {}
    if resolved.request.scheduling == "continuous":
        from predictor.latency.serving.load import serve

        load = load_of(resolved)
        served = serve(workload, resolved.gpu, bundle, load, warmup=resolved.request.warmup)
        times, note_of_load = Times(*(getattr(served, name) for name in Times._fields)), served.notes
        at_once = replace(workload, batch=max(round(served.batch), 1))
        need = memory(at_once, resolved.gpu, served.peak_tokens, load.held)
        more = {"served": served}
    else:
        times, note_of_load = static_times(workload, resolved.gpu, bundle, lines), ()
        need = memory(workload, resolved.gpu)
    start = start_note(workload, resolved.gpu, need)
    return composed(
        workload,
        resolved.gpu,
        bundle,
        lines,
        times,
        memory=need,
        notes=tuple(text for text in (*resolved.notes, note, *note_of_load, start) if text),
        price_usd=resolved.price_usd,
        price_source=resolved.price_source,
        request=resolved.request,
        **more,
    )


def load_of(resolved: Resolved) -> Load:
    """What clients send under continuous scheduling; raises InvalidRequest for a model that is no decoder."""
    from predictor.latency.serving.clients import Load

    request = resolved.request
    if not isinstance(resolved.model, Decoder | LayeredDecoder):
        raise InvalidRequest(f"scheduling is continuous; {resolved.model.name} is no decoder. Set it to static.")
    trace = resolved.trace
    if trace and (request.concurrency or request.request_rate):  # which say when, whatever the file says
        trace = trace._replace(arrivals_s=None)
    seen = image_tokens(request, resolved.model)  # which all requests have alike
    return Load(
        input_len=request.input_len + seen,
        output_len=request.output_len,
        rate=request.request_rate,
        concurrency=request.clients,
        requests=request.num_prompts,
        spread=(request.length_spread or 0.0) * request.input_len / (request.input_len + seen),
        turns=request.turns,
        shared=request.shared_prefix_len,
        trace=trace,
        prefix_cache_hit_rate=request.prefix_cache_hit_rate,
        draft_tokens=request.draft_tokens,
        acceptance=request.acceptance or 0.0,
        beams=request.beam_width,
    )


def training_report(resolved: Resolved, bundle: Bundle) -> TrainingReport:
    """The report of a training step."""
    request = resolved.request
    setting = training_setting(request, resolved.model)
    step = training_step(resolved.model, resolved.gpu, setting, bundle)
    near, doubts = doubts_of(step.lines, resolved.gpu, bundle)
    need = training_memory(resolved.model, resolved.gpu, kept_setting(request, setting))
    unread, host = unread_note(request, resolved.model), host_note(need.host_held_bytes)
    told = (unread, host, *training_notes(resolved.gpu, setting), energy_note(step, request))
    return TrainingReport(
        request=request,
        model=resolved.model.name,
        gpu=resolved.gpu,
        step=step,
        memory=need,
        limiter=limiter_of(step.lines, resolved.gpu),
        basis=basis_of([line.basis for line in step.lines]),
        nearest_gpu=near,
        bundle=bundle.id,
        level=bundle.level,
        notes=(*resolved.notes, *(text for text in told if text), *doubts),
        price_usd=resolved.price_usd,
        price_source=resolved.price_source,
    )


def room_of(resolved: Resolved) -> Room | TrainingRoom:
    """What the GPU has room for, the request as it is otherwise."""
    request, model, gpu = resolved.request, resolved.model, resolved.gpu
    if request.phase == "train":
        return training_room(model, gpu, kept_setting(request, training_setting(request, model)))
    return room(served_workload(request, model, gpu)[0], gpu)
