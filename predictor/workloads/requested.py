"""From a request to the workload or the training setting that it asks for."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from predictor.errors import InvalidRequest
from predictor.hardware.architectures import generation
from predictor.hardware.gpu import Gpu
from predictor.hardware.interconnect import stated_network
from predictor.ops.dtypes import GGUF
from predictor.values import show
from predictor.workloads.architectures.convnet import ConvNet
from predictor.workloads.architectures.decoder import Decoder
from predictor.workloads.architectures.encoder import VisionEncoder
from predictor.workloads.architectures.layered import LayeredDecoder
from predictor.workloads.engine_tables import LOCAL, SERVES, TRAINS, untimed_note
from predictor.workloads.engines import Settings, engine_of, engine_with, get_engine, runs_there, version_note
from predictor.workloads.images import image_tokens, images_note, sized
from predictor.workloads.models import Model, get_model
from predictor.workloads.passes.calls import Layout
from predictor.workloads.passes.training import TrainingSetting
from predictor.workloads.request import Request, columns
from predictor.workloads.trainers import TRAINERS
from predictor.workloads.weights.files import stored_weights
from predictor.workloads.weights.gguf import read_gguf
from predictor.workloads.weights.mixtures import stored_types
from predictor.workloads.workload import Workload

OWN_LAYER = "mtp"  # as a draft: multi-token prediction


def as_run_on(workload: Workload, gpu: Gpu) -> Workload:
    """The workload in the formats that engines choose on a GPU.

    Blackwell multiplies MXFP4 experts with MXFP8 activations, older parts widen them to 16 bits.
    """
    run_on = generation(gpu.generation).as_run_on.get(workload.expert_dtype, "")
    return replace(workload, expert_dtype=run_on) if run_on else workload


def with_engine(request: Request, model: Model, gpu: Gpu) -> tuple[Request, str]:
    """The request with the engine that runs it where it names none, and what to say of that choice.

    PyTorch for what takes images alone; else what has the formats of its weights or cache; where SERVES does not run,
    on Apple's GPUs, LOCAL, and PyTorch for what is no decoder.
    """
    if request.engine:
        return request, ""
    dtype = request.dtype or getattr(model, "linear_dtype", "")
    own = "q8_0" if _file(request).endswith(".gguf") else dtype
    owners = [owner for owner in map(engine_with, (own, request.kv_dtype)) if owner]
    served, engine, why = runs_there(get_engine(SERVES), gpu), SERVES, ""
    if isinstance(model, ConvNet | VisionEncoder):
        engine = TRAINS
    elif not isinstance(model, Decoder | LayeredDecoder):
        if not served:
            engine, why = TRAINS, f"{gpu.name} is Apple's"
    elif owners:
        engine, why = owners[0], f"weights or cache are in a format of {get_engine(owners[0]).formats}"
    elif not served:
        engine, why = LOCAL, f"{gpu.name} is Apple's"
    return request.run_by(engine), f"{why}: engine {engine} is taken." if why else ""


def _file(request: Request) -> str:
    """The file of the weights, "" where none is given."""
    return request.weights or (request.model if request.model.endswith(".gguf") else "")


def served_workload(request: Request, model: Model, gpu: Gpu) -> tuple[Workload, str]:
    """What the request runs on the GPU, and what to say of it; weights of a file have the size of that file."""
    request, _ = with_engine(request, model, gpu)
    model = sized(model, request)
    names = ("output_len", "images", "dtype", "kv_dtype", "kv_block", "ubatch", "link", "node_link")
    file = _file(request)
    stated = Workload(
        model=model,
        stored_bytes=stored_weights(file).total_bytes if file else 0.0,
        stored_types=stored_types(read_gguf(Path(file)).tensors) if file.endswith(".gguf") else (),
        batch=request.clients or request.batch,
        input_len=request.input_len + image_tokens(request, model),
        engine=engine_of(request.engine, request.engine_version, gpu),
        draft=draft_of(request, model) if request.draft_model else None,
        beam_width=request.beam_width,
        settings=Settings(**{name: getattr(request, name) for name in Settings._fields}),
        **{name: getattr(request, name) for name in (*names, *Layout._fields)},
    )
    if get_engine(stated.engine).formats == "GGUF":
        workload, note = in_ggml(stated), ""
    else:
        workload, note = in_16_bits_of(as_run_on(stated, gpu), gpu, chosen=bool(request.dtype))
    if not workload.generates and (unread := list(request.stated(OF_CACHE))):
        note = f"nothing reads {', '.join(unread)} ({model.name} is no decoder). {note}".rstrip()
    elif workload.beam_width > 1 and get_engine(workload.engine).beams == "requests":
        asked = (
            f"the server of {workload.engine} asks for each beam of each step as for a request, which its host pays."
        )
        note = f"{asked} {note}".rstrip()
    if workload.longest > model.max_len:
        beyond = f"{model.name} was made for {model.max_len} tokens; max_model_len is {request.max_model_len}."
        note = f"{beyond} {note}".rstrip()
    newer, untimed = version_note(request.engine, request.engine_version), untimed_note(workload.engine, gpu)
    told = (images_note(request, model), newer, _whole_prompts(request), _seats(request, workload, gpu), note, untimed)
    return workload, " ".join(text for text in told if text)


def _whole_prompts(request: Request) -> str:
    """What to say of a limit on the tokens of a step that a static batch does not keep to."""
    if request.scheduling != "static" or not 0 < request.max_num_batched_tokens < request.batch * request.input_len:
        return ""
    return "a static batch takes its prompts in one pass; max_num_batched_tokens is of the memory at start alone."


def _seats(request: Request, workload: Workload, gpu: Gpu) -> str:
    """What to say of a static batch of more sequences than the engine, as it is by default, runs at once."""
    groups, beams = request.dp * request.attention_dp, request.beam_width
    if request.scheduling != "static" or request.batch * beams <= _fewest_seats(workload.engine) * groups:
        return ""
    at_once = workload.engine_on(gpu).most_requests(beams) * groups
    if request.batch <= at_once or not (workload.generates and get_engine(workload.engine).joins):
        return ""
    return (
        f"{workload.engine} runs {at_once} sequences at once (max_num_seqs); others of the {request.batch} wait, and "
        f"the times are of all at once. For those of waves set concurrency and num_prompts to {request.batch} instead."
    )


@cache
def _fewest_seats(name: str) -> int:
    """Sequences that an engine runs at once at least, on whatever GPU and in whatever version."""
    engine = get_engine(name)
    others = (*engine.below_gib.values(), *engine.on_generation.values(), *engine.before.values())
    return min([engine.max_sequences, *(int(other["max_sequences"]) for other in others if "max_sequences" in other)])


def in_ggml(workload: Workload) -> Workload:
    """The workload in fp16 beside its blocks, as ggml calculates. Experts that were published in MXFP4 keep it beside
    any blocks, as GGUFs of gpt-oss do (GptOssModel of convert_hf_to_gguf.py of llama.cpp repacks them).
    """
    own = getattr(workload.model, "expert_dtype", "")
    if workload.dtype in GGUF and own.startswith("mxfp4") and not workload.stored_bytes:
        workload = replace(workload, expert_dtype=own)
    if workload.act_dtype != "bf16":
        return workload
    return replace(workload, dtype="fp16" if workload.dtype == "bf16" else workload.dtype, half="fp16")


def draft_of(request: Request, model: Model) -> Model:
    """The model that proposes tokens: a layer of the model itself, as for multi-token prediction, or another one."""
    if not request.draft_tokens:
        raise InvalidRequest(f'draft_model is "{request.draft_model}" and draft_tokens 0; say how many it proposes.')
    if request.draft_model.casefold() == OWN_LAYER:
        return one_layer_of(model)
    draft = get_model(request.draft_model)
    if getattr(draft, "vocab", 0) < getattr(model, "vocab", 0) / 2:
        raise InvalidRequest(f"draft_model {draft.name} has another vocabulary than {model.name}. Choose its kin.")
    return draft


def one_layer_of(model: Model) -> Model:
    """The last layer of a decoder with its embedding and head."""
    changes: dict[str, Any] = {"name": f"{model.name}, one layer"}
    if isinstance(model, LayeredDecoder):
        return replace(model, layers_of=(replace(model.layers_of[-1], count=1),), **changes)
    if isinstance(model, Decoder):
        return replace(model, layers=1, window_layers=min(model.window_layers, 1), **changes)
    raise InvalidRequest(f"draft_model is {OWN_LAYER}; {model.name} is no decoder. Leave it out.")


def in_16_bits_of(workload: Workload, gpu: Gpu, *, chosen: bool) -> tuple[Workload, str]:
    """The workload with fp16 for bf16 on a GPU without it, and what to say of that.

    chosen: its dtype was asked for. Serving engines refuse bf16 where it has no units (vLLM from compute capability 8.0
    on), so UnsupportedDtype is raised for it; PyTorch and MLX convert.
    """
    if "bf16" in gpu.peak_flop_per_s or workload.act_dtype != "bf16":
        return workload, ""
    if workload.dtype != "bf16":
        return replace(workload, half="fp16"), f"{gpu.name} has no bf16; activations are in fp16."
    if not chosen:
        return replace(workload, dtype="fp16"), f"{gpu.name} has no bf16; fp16 is taken."
    if not ((workload.eager or workload.pass_tokens) and gpu.runs("bf16")):
        gpu.peak("bf16")
    return workload, ""


OF_CACHE = ("kv_dtype", "kv_block", "beam_width", "gpu_memory_utilization", "max_num_seqs")
OF_ADAPTERS = ("lora_rank", "lora_targets", "lora_dropout", "adapter_dtype", "use_dora", "train_embeddings")
OF_QUANTIZED = ("quantization", "double_quant", "bitsandbytes_version")
KEPT_INPUTS_UNTIL = (0, 43, 2)  # bitsandbytes: MatMul4Bit keeps what it reads (release notes of 0.43.2)


def training_setting(request: Request, model: Model) -> TrainingSetting:
    """How the request trains the model."""
    _check_run(request)
    names = {field.name for field in fields(TrainingSetting)} & {column.name for column in columns()}
    settings = {name: getattr(request, name) for name in names}
    settings["seq_len"] = _fixed_len(request, model) or request.seq_len
    settings["sequence_parallel"] = bool(request.sequence_parallel)
    usual = TRAINERS[request.trainer] if request.trainer else {}
    settings |= {name: value for name, value in usual.items() if settings[name] in ("", None)}
    settings["kernels"] = settings["kernels"] or "fused"
    settings["precision"] = settings["precision"] or "mixed"
    settings["described"] = bool(request.kernels and request.loss)
    settings["keeps_quantized_inputs"] = _keeps_inputs(request.bitsandbytes_version)
    if network := stated_network(request.node_link):
        settings["node_link_bytes_per_s"] = network.bytes_per_s * request.gpus_per_node
    settings["dtype"] = request.dtype or model.dtype
    return TrainingSetting(**settings)


def _fixed_len(request: Request, model: Model) -> int:
    """Tokens of an image, 0 of text; raises InvalidRequest where images are said to differ."""
    length: int = getattr(model, "fixed_len", 0)
    unlike = request.stated(("mean_seq_len", "length_spread", "padding")) if length else {}
    for name, value in unlike.items():
        if value:
            raise InvalidRequest(f"{name} is {show(value)}; all images of {model.name} are alike. Leave it out.")
    return length


def _keeps_inputs(version: str) -> bool:
    """Whether so old a bitsandbytes keeps the inputs of 4-bit layers; raises InvalidRequest for what is no version."""
    if version and not re.fullmatch(r"\d+(\.\d+)*", version):
        raise InvalidRequest(f'bitsandbytes_version is "{version}"; it must be a version such as 0.43.2.')
    return bool(version) and tuple(map(int, version.split("."))) < KEPT_INPUTS_UNTIL


def _check_run(request: Request) -> None:
    """Raises InvalidRequest where what is said of the length of a training cannot be."""
    if request.train_tokens and request.dataset_rows:
        raise InvalidRequest(
            f"train_tokens is {request.train_tokens:g} and dataset_rows {request.dataset_rows}; a training has one "
            "length. Give one of them."
        )
    if request.epochs != 1 and not (request.dataset_rows and request.epochs):
        rule = "say dataset_rows too" if request.epochs else "it must be above 0"
        raise InvalidRequest(f"epochs is {request.epochs:g}; {rule}.")
    if request.pue < 1:
        raise InvalidRequest(f"pue is {request.pue:g}; it must be at least 1, the power of the GPUs alone.")
    if request.pue > 1 and not (request.train_tokens or request.dataset_rows):
        raise InvalidRequest(f"pue is {request.pue:g}; say train_tokens or dataset_rows too.")


def unread_note(request: Request, model: Model) -> str:
    """What to say of columns that belong to parts of a training which the request does not have; "" of none."""
    sent = "ep is 1" if model.experts else f"{model.name} has no experts"
    split = request.ep > 1 or request.expert_tp not in (0, request.tp)
    added = request.grad_accum > 1
    parts = (
        (OF_ADAPTERS, request.method != "full", "method is full"),
        (OF_QUANTIZED, request.method == "qlora", f"method is {request.method}"),
        (("checkpoint_every",), request.checkpointing != "none", "checkpointing is none"),
        (("overlap_tp", "sequence_parallel"), request.tp > 1, "tp is 1"),
        (("cp_comm_type",), request.cp > 1, "cp is 1"),
        (("overlap_ep", "moe_token_dispatcher_type"), request.ep > 1, sent),
        (("moe_expert_capacity_factor",), split, sent),
        (("gradient_accumulation_fusion", "no_sync"), added, "grad_accum is 1"),
        (("reshard_after_forward",), request.zero_stage > 2, f"zero_stage is {request.zero_stage}"),
        (("link",), request.n_gpus > 1, "n_gpus is 1"),
        (("node_link",), request.n_gpus > request.gpus_per_node, f"one node has {request.gpus_per_node} GPUs"),
    )
    unread = [(name, why) for names, has, why in parts if not has for name in request.stated(names)]
    return f"nothing reads {', '.join(f'{name} ({why})' for name, why in unread)}." if unread else ""


def kept_setting(request: Request, setting: TrainingSetting) -> TrainingSetting:
    """The setting whose memory is told: eager kernels keep most, and most training runs have them."""
    return setting if request.kernels or request.trainer else replace(setting, kernels="eager")
