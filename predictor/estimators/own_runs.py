"""What a user's own whole runs say of the predictions of others: a factor of times, and how sure it is.

The error of a run, log(measured / predicted), has a part that runs of the same model share on a GPU and engine, and one
that those of the same version, layout and number formats share besides; the rest is of its load alone. SHARES says how
much of the variance each part has, so the error of another run is known as far as it shares parts with those that were
measured. Loads have none in common: the factor is the same for all of them, so that times rise with sizes as before.
Runs of other models, engines, GPUs or schedulings say nothing: corrected by them, held-out errors do not fall
(training/own_runs.py).

The scale of errors is that of the intervals of the runs; where runs lie outside of them the interval grows (Shah et
al., "Student-t Processes as Alternatives to Gaussian Processes", AISTATS 2014).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from predictor.boosters import verified
from predictor.errors import InvalidBundle
from predictor.files import parse_json
from predictor.hardware.gpu import Gpu
from predictor.workloads.workload import Workload

Part = Literal["prompt", "pace"]  # of a run: TTFT, and TPOT or whatever whole time is mostly decode
PARTS: tuple[Part, ...] = get_args(Part)
STATIC, CONTINUOUS = "static", "continuous"
# Parts of the variance of errors that runs share, by scheduling: those of one model, and of one model, version, layout
# and formats besides. By training/own_runs.py, on the rows that constants may be fitted on; of a model 0, and all of
# its setup, where errors on the other rows do not fall. Under load the prompt's is beside that of the pace.
SHARES: Mapping[tuple[str, Part], tuple[float, float]] = {
    (STATIC, "prompt"): (0.0, 0.57),
    (STATIC, "pace"): (0.34, 0.23),
    (CONTINUOUS, "prompt"): (0.0, 0.73),
    (CONTINUOUS, "pace"): (0.0, 0.64),
}
# Whose intervals hold too little of the other rows when they narrow.
AS_WIDE: frozenset[tuple[str, Part]] = frozenset({(CONTINUOUS, "prompt")})
FREEDOM = 5.0  # degrees of freedom of the t distribution
REPEATS = 0.02  # of the variance, by which two runs of one load differ; judged


class Setup(NamedTuple):
    """What runs may have in common. version: of the engine, "" where nobody says."""

    gpu: str
    engine: str
    scheduling: str
    version: str
    model: str
    formats: str
    layout: str

    def shared(self, other: Setup, shares: tuple[float, float]) -> float:
        """Share of the variance of their errors that two have in common."""
        if (self[:3], self.model) != (other[:3], other.model):
            return 0.0
        of_model, of_setup = shares
        return of_model + (of_setup if self == other else 0.0)


def setup_of(workload: Workload, gpu: Gpu, scheduling: str) -> Setup:
    """The setup of a workload, or of a column of such. Replicas are all alike."""
    layout = " ".join(f"{name}={value}" for name, value in workload.layout._asdict().items() if name != "dp")
    formats = f"{workload.dtype}/{workload.expert_dtype or workload.dtype}/{workload.cache_dtype}"
    version = workload.settings.engine_version
    return Setup(gpu.name, workload.engine, scheduling, version, workload.model.name, formats, layout)


class Error(NamedTuple):
    """log: of measured over predicted time. spread: the standard deviation that the prediction gave it, in nats."""

    log: float
    spread: float


class OwnRun(NamedTuple):
    """A run and how far the prediction was off. load: its sizes, as text. source: the file it is from. date: when that
    was written. prompt, pace: None where the run says nothing of it."""

    setup: Setup
    load: str
    prompt: Error | None
    pace: Error | None
    source: str = ""
    date: str = ""


class Shift(NamedTuple):
    """log: of the factor of times. width: of the half of an interval, in nats, over that without runs."""

    log: float = 0.0
    width: float = 1.0


class Correction(NamedTuple):
    """Of a prompt and of the pace; under load the prompt's comes on top of that of the pace. runs: on the GPU and
    engine, and those of the model among them."""

    prompt: Shift = Shift()
    pace: Shift = Shift()
    runs: int = 0
    of_model: int = 0

    @property
    def applies(self) -> bool:
        """Whether it changes anything."""
        return (self.prompt, self.pace) != (Shift(), Shift())


NO_CORRECTION = Correction()


@dataclass(frozen=True)
class OwnRuns:
    """The runs of a bundle, in the order they were given. made_with: the release whose answers their errors are of."""

    runs: tuple[OwnRun, ...] = ()
    made_with: str = ""
    _known: dict[Setup, Correction] = field(default_factory=dict, repr=False, compare=False)

    def correction(self, asked: Setup) -> Correction:
        """What the runs say of a setup; of an engine whose version is not stated, as that of the last run there."""
        if not self.runs:
            return NO_CORRECTION
        if asked not in self._known:
            near = [run for run in self.runs if run.setup[:3] == asked[:3]]
            stated = asked if asked.version or not near else asked._replace(version=near[-1].setup.version)
            prompt, pace = (_shift(near, stated, part) for part in PARTS)
            of_model = sum(run.setup.model == asked.model for run in near)
            self._known[asked] = Correction(prompt, pace, len(near), of_model)
        return self._known[asked]

    def told(self) -> list[str]:
        """A line per GPU, engine and version: how many runs, of which files and dates."""
        groups: dict[tuple[str, str, str], list[OwnRun]] = {}
        for run in self.runs:
            groups.setdefault((run.setup.gpu, run.setup.engine, run.setup.version), []).append(run)
        lines = []
        for (gpu, engine, version), runs in groups.items():
            files = ", ".join(dict.fromkeys(f"{run.source} ({run.date})" for run in runs))
            many = "s" * (len(runs) > 1)
            lines.append(f"{len(runs)} run{many} on {gpu} with {' '.join(filter(None, (engine, version)))}: {files}")
        return lines


def _shift(runs: Sequence[OwnRun], asked: Setup, part: Part) -> Shift:
    told = [(run, error) for run in runs if (error := getattr(run, part))]
    if not told:
        return Shift()
    shares = SHARES[asked.scheduling, part]
    known = np.array([[_together(one, two, shares) for two, _ in told] for one, _ in told])
    known += REPEATS * np.eye(len(told))
    reach = np.array([run.setup.shared(asked, shares) for run, _ in told])
    if not reach.any():
        return Shift()
    logs = np.array([error.log for _, error in told])
    weights = np.linalg.solve(known, reach)
    ratios = logs / np.array([error.spread for _, error in told])
    surprise = (FREEDOM + ratios @ np.linalg.solve(known, ratios)) / (FREEDOM + len(told))
    width = math.sqrt(max(1 - weights @ reach, 0.0) * max(surprise, 1.0))
    return Shift(float(weights @ logs), max(width, 1.0) if (asked.scheduling, part) in AS_WIDE else width)


def _together(one: OwnRun, two: OwnRun, shares: tuple[float, float]) -> float:
    """Correlation of the errors of two runs."""
    alike = one.setup == two.setup and one.load == two.load
    return 1.0 if alike else one.setup.shared(two.setup, shares)


NO_RUNS = OwnRuns()


@lru_cache(maxsize=4)
def read_own_runs(folder: Path, file: str, sha256: str) -> OwnRuns:
    """The runs of a file of a bundle; raises InvalidBundle where it is not what the manifest says."""
    return from_json(verified(folder, {"file": file, "sha256": sha256}), str(folder / file))


def to_json(runs: OwnRuns) -> str:
    """The runs as the text of a file."""
    rows = [{**run._asdict(), "setup": run.setup._asdict()} for run in runs.runs]
    rows = [row | {part: row[part] and row[part]._asdict() for part in PARTS} for row in rows]
    return json.dumps({"predictor": runs.made_with, "runs": rows}, indent=1) + "\n"


def from_json(content: bytes, where: str) -> OwnRuns:
    """The runs of such a file; raises InvalidBundle."""
    told = parse_json(content, where, "calibrate the bundle again", InvalidBundle)
    try:
        return OwnRuns(tuple(_run(row) for row in told["runs"]), str(told["predictor"]))
    except (ValueError, OverflowError, LookupError, TypeError, AttributeError) as error:
        raise InvalidBundle(f"{where} holds no runs ({error}); calibrate the bundle again.") from error


def _run(row: Mapping[str, Any]) -> OwnRun:
    setup = Setup(**{name: str(row["setup"][name]) for name in Setup._fields})
    if setup.scheduling not in (STATIC, CONTINUOUS):
        raise ValueError(f"scheduling {setup.scheduling}")
    errors = {part: row[part] and Error(*(float(row[part][name]) for name in Error._fields)) for part in PARTS}
    for error in filter(None, errors.values()):
        if not (math.isfinite(error.log) and 0 < error.spread < math.inf):
            raise ValueError(f"error {error}")
    return OwnRun(setup, str(row["load"]), **errors, source=str(row["source"]), date=str(row["date"]))
