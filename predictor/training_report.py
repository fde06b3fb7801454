"""What a prediction of training says, and how it reads as one flat row."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from predictor.gpu import Gpu
from predictor.report import Interval, OpLine
from predictor.request import Request
from predictor.training_memory import TrainingMemory
from predictor.training_step import TrainingStep


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """The answer for one training step of `model` on n_gpus × `gpu`."""

    request: Request
    model: str
    gpu: Gpu
    step: TrainingStep
    memory: TrainingMemory
    limiter: str
    basis: str
    nearest_gpu: str
    bundle: str
    level: float
    notes: tuple[str, ...]
    price_usd: float | None = None

    @property
    def n_gpus(self) -> int:
        """GPUs that train together."""
        return self.step.setting.n_gpus

    @property
    def step_s(self) -> Interval:
        """Seconds of one optimizer step."""
        return self.step.step_s

    @property
    def tokens_per_s(self) -> Interval:
        """Trained tokens per second over all GPUs."""
        return self.step.tokens_per_s

    @property
    def mfu(self) -> float:
        """Model FLOPs over the time at the dense peak."""
        return self.step.mfu

    @property
    def usd_per_mtok(self) -> float | None:
        """Price of training on a million tokens; None where the price of the GPU is not known."""
        if self.price_usd is None:
            return None
        return self.price_usd * self.n_gpus / 3600 / self.tokens_per_s.value * 1e6

    @property
    def ops(self) -> tuple[OpLine, ...]:
        """The lines of forward, backward, optimizer and communication."""
        return self.step.lines

    def time_for_tokens(self, tokens: float) -> Interval:
        """Seconds to train on that many tokens."""
        return self.step.time_for_tokens(tokens)

    def to_dict(self) -> dict[str, Any]:
        """One flat row with the columns of an answer; those of serving are None."""
        row: dict[str, Any] = asdict(self.request) | {"model": self.model, "gpu": self.gpu.name, "n_gpus": self.n_gpus}
        row |= {f"{name}{end}": None for name in ("ttft_s", "tpot_s", "e2e_s") for end in ("", "_low", "_high")}
        for name in ("step_s", "tokens_per_s"):
            interval: Interval = getattr(self, name)
            row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
        row |= {"tokens_per_s_per_gpu": self.tokens_per_s.value / self.n_gpus, "mfu": self.mfu}
        row |= self.memory.row() | {"peak_phase": self.memory.peak_phase, "usd_per_mtok": self.usd_per_mtok}
        if self.request.train_tokens:
            whole = self.time_for_tokens(self.request.train_tokens)
            row |= {"train_s": whole.value, "train_s_low": whole.low, "train_s_high": whole.high}
        row |= {
            name: getattr(self.step, name)
            for name in ("forward_s", "backward_s", "optimizer_s", "communication_s", "bubble_s")
        }
        row |= {
            "limiter": self.limiter,
            "basis": self.basis,
            "nearest_gpu": self.nearest_gpu,
            "bundle": self.bundle,
            "interval_level": self.level,
        }
        return row | {"notes": list(self.notes), "error": None}
