"""How long a whole training takes, what it costs and how much energy its GPUs need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from predictor.hardware.gpu import Gpu
from predictor.hardware.power import drawn_w
from predictor.latency.report import Interval, OpLine
from predictor.units import HOUR
from predictor.workloads.request import Request
from predictor.workloads.results import ENDS

# Of the mean power, as a step's parts are told: how far boards of one kind, at their limit or not, are apart; judged.
POWER_DOUBT = 0.15
KILO = 1e3


class WholeRun(NamedTuple):
    """A training from start to end, without what interrupts it (evaluation, checkpoints, failures).

    hours: of all GPUs at once. usd: their price; None where it is not known. kwh: energy of all GPUs times the PUE,
    without their hosts; None where the power of the board is not known.
    """

    hours: Interval
    usd: Interval | None
    kwh: Interval | None

    def row(self) -> dict[str, float | None]:
        """Columns of an answer."""
        row: dict[str, float | None] = {}
        for name, interval in self._asdict().items():
            row |= {f"train_{name}{end}": interval[at] if interval else None for at, end in enumerate(ENDS)}
        return row


def trained_tokens(request: Request, sequence_tokens: float) -> float:
    """Tokens of the whole training, whose dataset has rows of so many tokens in the mean. 0: not said."""
    return request.train_tokens or request.dataset_rows * request.epochs * sequence_tokens


def whole_run(seconds: Interval, gpus: int, power_w: float, price_usd: float | None, pue: float) -> WholeRun:
    """A training of so many seconds on `gpus` that draw power_w each in the mean, 0.0 where nobody knows."""
    hours = Interval(*(end / HOUR for end in seconds))
    usd = None if price_usd is None else Interval(*(end * gpus * price_usd for end in hours))
    doubts = (1.0, 1 - POWER_DOUBT, 1 + POWER_DOUBT)
    drawn = [end * gpus * power_w * pue / KILO * doubt for end, doubt in zip(hours, doubts, strict=True)]
    return WholeRun(hours, usd, Interval(*drawn) if power_w else None)


def mean_power_w(lines: Sequence[OpLine], step_s: float, gpu: Gpu) -> float:
    """Watts that a GPU draws over a step of these lines, waiting included; 0.0 where nobody knows its limit."""
    if not gpu.tdp_w:
        return 0.0
    busy_s = sum(line.latency_s.value for line in lines)
    joule = sum(drawn_w(line.op, gpu, line.latency_s.value / line.count) * line.latency_s.value for line in lines)
    waiting_s = max(step_s - busy_s, 0.0)
    return (joule + drawn_w(None, gpu, 1.0) * waiting_s) / (busy_s + waiting_s)


def run_note(power_w: float, gpu: Gpu, pue: float) -> str:
    """What to say of the energy of a training."""
    if not power_w:
        return f"the power limit of {gpu.name} is not known; no energy is told. Give tdp_w in its spec."
    return f"energy is that of the GPUs alone, {power_w:.0f} W each, at a PUE of {pue:g}."
