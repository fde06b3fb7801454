"""What closed forms of memory miss: a learned correction, fragmentation, an interval, and the chance to run out.

The part of a run's memory that lives and dies with it (activations, logits, gradients, cache) is multiplied by exp of a
boosted residual, that of the whole by a boosted share of fragmentation, both fitted on simulated allocations
(training/memory_residual.py). What is left is a distribution of log(truth / prediction), conformal and scaled by how
much of the memory is not plain parameters (Vovk et al., Nonparametric predictive distributions, COPA 2017): its
quantiles give the interval, its value at the card's capacity the probability of running out of memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from predictor.boosters import load_booster, released_roots
from predictor.elementwise import chosen, exp, greater, hypot, interpolated, lesser, log
from predictor.errors import InvalidBundle
from predictor.hardware.gpu import Gpu
from predictor.ops import Attention, Gemm, Moe, Pointwise
from predictor.workloads.passes.calls import OpCall

if TYPE_CHECKING:
    import xgboost

BUNDLE = "memory-1"
MANIFEST = "memory.json"
FORMAT = 1
LEVEL = 0.8
VARIED = 1.5  # how much further off where lengths vary, and with them the blocks; judged
# The same where the host's memory holds parts: programs differ in which copies and gradients stay on the GPU. Chosen on
# the 18 published peaks that offload (predictor/learning/validation/training_peaks.py).
OFFLOADED = 2.0
SUREST = 1e-4  # no probability is nearer to 0 or 1: what was never seen can happen
# What the boosters see, in this order. More tokens never need less memory: with those features that change with their
# number both boosters rise, or fall where the feature falls.
FEATURES = (
    "training",
    "lora",
    "qlora",
    "width",
    "eager",
    "scores",
    "checkpointing",
    "logits_share",
    "scores_share",
    "layers",
    "hidden",
    "inter_share",
    "vocab_share",
    "attention_share",
    "kv_share",
    "norms_per_layer",
    "rms_norm",
    "gelu",
    "relu",
    "gated",
    "positions",
    "experts",
    "accumulates",
    "step_share",
    "tokens",
    "dynamic_share",
)
RISING = ("tokens", "dynamic_share", "scores_share")
FALLING = ("logits_share", "checkpointing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Bytes on one GPU: total_bytes and the ends of its interval at the 80 % level, and what the GPU has.

    correction_bytes: what the learned correction adds to the closed form, or takes from it. fragmentation_bytes: held
    by the allocator beyond what is alive. runtime_bytes: CUDA context and communication buffers. p_oom: probability
    that the run needs more than capacity_bytes.
    """

    correction_bytes: float
    fragmentation_bytes: float
    runtime_bytes: float
    total_bytes: float
    low_bytes: float
    high_bytes: float
    capacity_bytes: float
    p_oom: float

    @property
    def fits(self) -> bool:
        """Whether the expected need is no more than the GPU has."""
        return self.total_bytes <= self.capacity_bytes

    def row(self) -> dict[str, Any]:
        """One flat row: memory_bytes with its interval, and every kind of byte by its name.

        closed_form_bytes: the total without what was learned. allocated_bytes: what PyTorch counts as allocated.
        """
        kinds = {field.name: getattr(self, field.name) for field in fields(self)}
        total, low, high = (kinds.pop(name) for name in ("total_bytes", "low_bytes", "high_bytes"))
        closed = total - self.correction_bytes - self.fragmentation_bytes
        ends = {"memory_bytes": total, "memory_bytes_low": low, "memory_bytes_high": high, "fits": self.fits}
        allocated = total - self.runtime_bytes - self.fragmentation_bytes
        return ends | kinds | {"closed_form_bytes": closed, "allocated_bytes": allocated}


class Spread(NamedTuple):
    """Inner quantiles, evenly spaced, of log(truth / prediction) over hypot(dynamic * share, fixed)."""

    dynamic: float
    fixed: float
    quantiles: tuple[float, ...]

    def scale(self, share: Any) -> Any:
        """How far the logarithm is off where `share` of the memory is not plain parameters."""
        return hypot(self.dynamic * share, self.fixed)

    def quantile(self, p: float) -> float:
        """The score below which a share p lies."""
        return float(np.interp(p, _shares(len(self.quantiles)), self.quantiles))

    def above(self, score: Any) -> Any:
        """Probability of a greater score; beyond the outermost quantiles it falls as exp(-3 score)."""
        shares, low, high = _shares(len(self.quantiles)), self.quantiles[0], self.quantiles[-1]
        seldom = (1 - shares[-1]) * exp(-3 * greater(score - high, 0.0))
        often = 1 - shares[0] * exp(-3 * greater(low - score, 0.0))
        between = 1 - interpolated(score, self.quantiles, shares)
        return chosen(score > high, seldom, chosen(score < low, often, between))


@cache
def _shares(count: int) -> tuple[float, ...]:
    """The shares below so many inner quantiles."""
    return tuple(number / (count + 1) for number in range(1, count + 1))


class MemoryModel(NamedTuple):
    """The boosters, and the spread by "training" and "inference" of PyTorch, "training_stated" of settings that
    describe a program, and "serving" by engines."""

    correction: xgboost.Booster
    fragmentation: xgboost.Booster
    spreads: Mapping[str, Spread]

    def factors(self, rows: Sequence[Mapping[str, float]]) -> tuple[list[float], list[float]]:
        """exp of the correction of the dynamic part, and reserved over allocated bytes, of each row of FEATURES."""
        table = np.array([[row[name] for name in FEATURES] for row in rows], dtype=np.float32)
        predictions = (
            np.exp(booster.inplace_predict(table, validate_features=False)).tolist()
            for booster in (self.correction, self.fragmentation)
        )
        corrected, fragmented = predictions
        return corrected, [max(share, 1.0) for share in fragmented]


class ClosedForm(NamedTuple):
    """A peak without what the runtime keeps, of which `dynamic` bytes are not plain parameters.

    kind: whose spread it has. seen: values of FEATURES; None where nothing was learned, as of serving engines.
    segments: of the allocator, "fixed", "varied" where sizes change from step to step, or "expandable".
    offloaded: the host's memory holds parts.
    """

    kind: str
    peak: Any
    dynamic: Any
    runtime: float
    seen: Mapping[str, float] | None
    segments: str = "fixed"
    offloaded: bool = False


def doubted(form: ClosedForm, gpu: Gpu) -> dict[str, Any]:
    """The fields of Need for a closed form."""
    corrected, fragmented = 1.0, 1.0
    if form.seen is not None:
        ((corrected,), (fragmented,)) = memory_model().factors([form.seen])
    if form.segments == "expandable":
        fragmented = 1.0
    alive = form.peak + form.dynamic * (corrected - 1.0)
    total = alive * fragmented + form.runtime
    spread, capacity = released_spreads()[form.kind], float(gpu.mem_bytes)
    scale = spread.scale(form.dynamic / total) * (VARIED if form.segments == "varied" else 1.0)
    scale *= OFFLOADED if form.offloaded else 1.0
    ends = [total * exp(scale * spread.quantile((1 + sign * LEVEL) / 2)) for sign in (-1, 1)]
    return {
        "correction_bytes": alive - form.peak,
        "fragmentation_bytes": alive * (fragmented - 1.0),
        "runtime_bytes": form.runtime,
        "total_bytes": total,
        "low_bytes": lesser(ends[0], total),
        "high_bytes": greater(ends[1], total),
        "capacity_bytes": capacity,
        "p_oom": lesser(greater(spread.above(log(capacity / total) / scale), SUREST), 1 - SUREST),
    }


@lru_cache(maxsize=1)
def memory_model() -> MemoryModel:
    """The released correction; raises InvalidBundle where its files are broken."""
    folder, manifest, spreads = _opened()
    try:
        boosters = [load_booster(folder, entry) for entry in manifest["boosters"]]
    except (InvalidBundle, KeyError, TypeError) as error:
        raise _unusable(folder, error) from None
    for booster in boosters:
        booster.set_param({"nthread": 1})  # a row at a time: threads cost more than they save
    return MemoryModel(boosters[0], boosters[1], spreads)


@lru_cache(maxsize=1)
def released_spreads() -> Mapping[str, Spread]:
    """The spreads of memory_model, without its boosters."""
    return _opened()[2]


def _opened() -> tuple[Path, Mapping[str, Any], Mapping[str, Spread]]:
    """Folder, manifest and spreads of the released correction."""
    folder = next((root / BUNDLE for root in released_roots() if (root / BUNDLE / MANIFEST).is_file()), None)
    if folder is None:
        raise InvalidBundle(f"the released {BUNDLE}/{MANIFEST} is missing; install gpu-predictor again.")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT or tuple(manifest["features"]) != FEATURES:
            raise ValueError("made for another version")
        spreads = {
            name: Spread(float(entry["dynamic"]), float(entry["fixed"]), tuple(map(float, entry["quantiles"])))
            for name, entry in manifest["spreads"].items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unusable(folder, error) from None
    return folder, manifest, spreads


def _unusable(folder: Path, error: Exception) -> InvalidBundle:
    return InvalidBundle(f"{folder / MANIFEST} cannot be used ({error}); install gpu-predictor again.")


def shape_features(calls: Iterable[OpCall], hidden: int, layers: int) -> dict[str, float]:
    """Those that tell the model: widths over the hidden one, and which passes it has."""
    listed = list(calls)
    kinds = [str(call.op.kind) for call in listed if isinstance(call.op, Pointwise)]
    norms = sum(call.count for call in listed if isinstance(call.op, Pointwise) and "norm" in str(call.op.kind))
    width = max((float(c.op.heads * c.op.head_dim) for c in listed if isinstance(c.op, Attention)), default=0.0)
    keys = max((float(c.op.kv_heads * c.op.head_dim) for c in listed if isinstance(c.op, Attention)), default=0.0)
    inner = max((float(c.op.k) for c in listed if isinstance(c.op, Gemm) and c.name == "down_proj"), default=0.0)
    vocab = max((float(c.op.n) for c in listed if isinstance(c.op, Gemm) and c.name == "lm_head"), default=0.0)
    return {
        "layers": float(layers),
        "hidden": log2(max(hidden, 1)),
        "inter_share": inner / hidden,
        "vocab_share": log2(1 + vocab / hidden),
        "attention_share": width / hidden,
        "kv_share": keys / width if width else 0.0,
        "norms_per_layer": norms / layers,
        "rms_norm": float(any("rms_norm" in kind for kind in kinds)),
        "gelu": float("gelu" in kinds),
        "relu": float("relu" in kinds),
        "gated": float("silu_mul" in kinds),
        "positions": float(any(call.name in ("position_embedding", "add_positions") for call in listed)),
        "experts": float(any(isinstance(call.op, Moe) for call in listed)),
    }


def share(part: float, whole: float) -> float:
    """part / whole; 0 of nothing."""
    return part / whole if whole > 0 else 0.0


def tokens_features(tokens: float, dynamic: float, resident: float) -> dict[str, float]:
    """Those that rise with the number of tokens."""
    return {"tokens": log2(max(tokens, 1.0)), "dynamic_share": share(dynamic, dynamic + resident)}
