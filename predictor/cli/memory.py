"""predictor memory: whether a run fits, how surely, and what to change if it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, Typer

from predictor.cli.common.comparison import end, show_refusals
from predictor.cli.common.display import digits, gigabytes, risk, say, show, show_json, show_notes
from predictor.cli.common.plot_option import Plot, say_plotted
from predictor.cli.common.request_options import add_command
from predictor.errors import InvalidRequest
from predictor.prediction.refusals import Refusal
from predictor.workloads.passes.choices import CHOICES
from predictor.workloads.request import Request
from predictor.workloads.results import ENDS

if TYPE_CHECKING:
    from predictor.prediction.advice import Fix
    from predictor.prediction.footprint import Footprint

MODES = ("inference", *CHOICES["method"])
BAR = 40  # characters of the widest bar
NAMES = {
    "weights_bytes": "weights",
    "kv_cache_bytes": "KV cache",
    "gradients_bytes": "gradients",
    "optimizer_bytes": "optimizer state",
    "autocast_bytes": "16-bit copies of weights",
    "gathered_bytes": "gathered weights",
    "activations_bytes": "activations",
    "logits_bytes": "logits and loss",
    "temporary_bytes": "temporaries of the step",
    "cuda_graphs_bytes": "CUDA graphs",
    "runtime_bytes": "CUDA context, buffers",
    "fragmentation_bytes": "fragmentation",
    "correction_bytes": "learned correction",
    "reused_bytes": "not alive at once",
}
ROOMS = {
    "max_kv_tokens": "tokens in the KV cache",
    "max_concurrent_requests": "requests of this length at once",
    "max_context_len": "longest context at this batch",
    "max_batch": "largest batch",
    "max_micro_batch": "largest micro-batch",
    "max_seq_len": "longest sequence",
    "min_n_gpus": "fewest GPUs",
    "min_tp": "fewest GPUs per layer (tp)",
}


def add(app: Typer) -> None:
    """Add the command, with an option for every column of a request."""
    add_command(app, "memory", _memory, without=("phase", "method"))


def _memory(
    model: Annotated[str, Argument(help="Model name, hub id, or path of a config.json or .gguf.")],
    *,
    gpu: Annotated[list[str], Option(help="GPU name, MIG slice (H100:3g.40gb) or a .toml file; repeat to compare.")],
    mode: Annotated[str, Option(help="inference, or training: full, lora or qlora.")] = "inference",
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    json: Annotated[bool, Option("--json", help="Print a JSON array, one object per GPU.")] = False,
    plot: Plot = None,
    **settings: Any,
) -> None:
    """Whether a run fits in memory, how surely, and what would make it fit."""
    if mode not in MODES:
        raise InvalidRequest(f'mode is "{mode}"; it must be one of {", ".join(MODES)}.')
    from predictor.estimators.bundle import load_bundle
    from predictor.prediction.several import rooms
    from predictor.prediction.single import resolve
    from predictor.workloads.models import get_model

    settings |= {"phase": "serve"} if mode == "inference" else {"phase": "train", "method": mode}
    network = get_model(model)
    requests = [resolve(Request(model=model, gpu=name, **settings), network) for name in gpu]
    opened = load_bundle(bundle)
    answers = rooms(requests, opened)
    rows = [
        answer.row(model=network.name, mode=mode) if isinstance(answer, Refusal) else answer.row() for answer in answers
    ]
    for answer in answers:
        if not json and not isinstance(answer, Refusal):
            _show(*answer)
    if json:
        show_json(rows)
    else:
        show_refusals(answers)
    if plot:
        from predictor.plotting import memory_picture

        needs = [answer[0] for answer in answers if not isinstance(answer, Refusal)]
        memory_picture(needs, f"{network.name} · {mode}", plot)
        say_plotted(plot, json)
    end(answers)


def _room(rooms: dict[str, Any], name: str) -> str:
    """A number that fits, with its interval where it has one."""
    value, low, high = (rooms.get(f"{name}{end}") for end in ENDS)
    if value is None:
        return "–"
    return f"{value:,}" if low is None else f"{value:,} ({low:,}–{high:,})"


def _show(footprint: Footprint, rooms: dict[str, Any], helping: list[Fix]) -> None:
    from predictor.memory.training import TrainingMemory

    need, per = footprint.memory, " on each" if footprint.n_gpus > 1 else ""
    gpus = footprint.gpu.name if footprint.n_gpus == 1 else f"{footprint.n_gpus} × {footprint.gpu.name}"
    kinds = {name: getattr(need, name) for name in NAMES if abs(getattr(need, name, 0.0)) >= 5e5}
    if reused := kinds.pop("reused_bytes", 0.0):
        kinds["reused_bytes"] = -reused
    widest = max(abs(value) for value in kinds.values())
    show(
        ["kind", ">GB", ""],
        [
            [NAMES[name], gigabytes(value), ("░" if value < 0 else "█") * max(round(BAR * abs(value) / widest), 1)]
            for name, value in kinds.items()
        ],
        title=f"{footprint.model} · {footprint.mode} · {gpus}",
    )
    say(
        f"  {gigabytes(need.total_bytes)} GB ({gigabytes(need.low_bytes)}–{gigabytes(need.high_bytes)}) of "
        f"{gigabytes(need.capacity_bytes)} GB{per}; P(out of memory): {risk(need)}",
        "  ",
    )
    if isinstance(need, TrainingMemory):
        loading = f" ({gigabytes(need.host_load_bytes)} GB to load)" if need.host_held_bytes else ", to load"
        print(f"  {'memory of the host of a node':<32}  {gigabytes(need.host_memory_bytes)} GB{loading}")
    for name, text in ROOMS.items():
        if name in rooms:
            print(f"  {text:<32}  {_room(rooms, name)}")
    if helping:
        print()
        at_once = [getattr(fix.memory, "max_concurrent_requests", None) for fix in helping]
        fields = [["what would help", *(fix.change for fix in helping)]]
        fields += [[">GB", *(gigabytes(fix.memory.total_bytes) for fix in helping)]]
        fields += [["P(OOM)", *(risk(fix.memory) for fix in helping)]]
        fields += [[">at once", *(f"{number:,}" for number in at_once)]] if None not in at_once else []
        fields += [[">speed", *(f"{digits(fix.speed)} x" for fix in helping)]]
        heads, *rows = map(list, zip(*fields, strict=True))
        show(heads, rows)
        say("  Speed: tokens per second and GPU, over those of the run as asked.", "  ")
    show_notes(footprint.notes)
