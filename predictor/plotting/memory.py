"""The picture of `predictor memory`: what takes memory on each GPU, beside what it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from predictor.plotting.canvas import BLACK, BLUE, GREEN, ORANGE, PINK, RED, SKY, YELLOW, drawn, mark, patch, say_below

if TYPE_CHECKING:
    from predictor.prediction.footprint import Footprint

GIGA = 1e9
# Kind of byte → colour, hatch and name; kinds that no run has together share colours, not hatches.
KINDS: Mapping[str, tuple[str, str, str]] = {
    "weights_bytes": (BLUE, "", "weights"),
    "kv_cache_bytes": (ORANGE, "////", "KV cache"),
    "gradients_bytes": (ORANGE, "....", "gradients"),
    "optimizer_bytes": (GREEN, "\\\\\\\\", "optimizer state"),
    "autocast_bytes": (SKY, "oo", "16-bit copies of weights"),
    "gathered_bytes": (YELLOW, "xxxx", "gathered weights"),
    "activations_bytes": (SKY, "", "activations"),
    "logits_bytes": (PINK, "////", "logits and loss"),
    "temporary_bytes": (RED, "----", "temporaries of the step"),
    "cuda_graphs_bytes": (GREEN, "++++", "CUDA graphs"),
    "runtime_bytes": ("#BBBBBB", "", "CUDA context, buffers"),
    "fragmentation_bytes": ("#BBBBBB", "xxxx", "fragmentation"),
    "correction_bytes": ("white", "....", "learned correction"),
    "reused_bytes": ("white", "\\\\\\\\", "not alive at once"),
}
LEAST_SHARE = 1e-3  # of the memory of a GPU, below which a kind has no field


def parts_of(need: Footprint) -> dict[str, float]:
    """GB of each kind, which add up to the total; below zero what takes from it."""
    kinds = {name: getattr(need.memory, name, 0.0) / GIGA for name in KINDS}
    kinds["reused_bytes"] *= -1
    return kinds


def memory_picture(needs: Sequence[Footprint], title: str, file: Path) -> None:
    """Write the picture: a bar for each GPU, stacked by kind, with the interval of the whole and the GPU's capacity."""
    with drawn(file, 9.0, 1.9 + 0.62 * len(needs)) as figure:
        axes = figure.subplots()
        used: dict[str, None] = {}
        furthest = 0.0
        for row, need in enumerate(needs):
            memory = need.memory
            kinds = {
                name: size
                for name, size in parts_of(need).items()
                if abs(size) * GIGA >= LEAST_SHARE * memory.capacity_bytes
            }
            reached = widest = 0.0
            for name, size in sorted(kinds.items(), key=lambda pair: pair[1] < 0):
                color, hatch, _ = KINDS[name]
                level, height = (row, 0.56) if size > 0 else (row + 0.14, 0.28)
                axes.barh(level, size, height, reached, color=color, hatch=hatch, edgecolor="black", linewidth=0.5)
                reached += size
                widest = max(widest, reached)
                used[name] = None
            total, low, high = (end / GIGA for end in (memory.total_bytes, memory.low_bytes, memory.high_bytes))
            axes.errorbar([total], [row], xerr=[[total - low], [high - total]], color=BLACK, capsize=4, linewidth=1.4)
            has = memory.capacity_bytes / GIGA
            axes.plot([has, has], [row - 0.4, row + 0.4], color=RED, linewidth=2.6)
            furthest = max(furthest, has, high, widest)
            axes.annotate(
                f"{total:.1f} of {has:.1f} GB\nP(OOM) {_chance(memory.p_oom)}",
                (max(has, high, widest), row),
                (7, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
            )
        axes.set_yticks(range(len(needs)), [_gpus(need) for need in needs])
        axes.set_ylim(len(needs) - 0.45, -0.55)
        axes.set_xlim(0, furthest * 1.2)
        axes.set_xlabel("memory of each GPU, GB (10⁹ bytes)")
        axes.set_title(title, loc="left", fontsize=11)
        axes.grid(axis="x", alpha=0.25)
        fields = [
            patch(text, facecolor=color, hatch=hatch, edgecolor="black", linewidth=0.5)
            for name, (color, hatch, text) in KINDS.items()
            if name in used
        ]
        figure.legend(handles=[*fields, mark("what the GPU has", color=RED, linewidth=2.6)], loc="outside right center")
        say_below(figure, "gpu-predictor; the whisker is the interval of the whole at the 80 % level.")


def _chance(p_oom: float) -> str:
    return "< 0.1 %" if p_oom < 1e-3 else "> 99.9 %" if p_oom > 0.999 else f"{100 * p_oom:.1f} %"


def _gpus(need: Footprint) -> str:
    return need.gpu.name if need.n_gpus == 1 else f"{need.n_gpus} × {need.gpu.name}"
