"""Checked measurement tables as training sets: features, targets, and who measured what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from predictor.estimators.features import PER_CALL, Features, Setting, features
from predictor.hardware.gpu import Gpu, get_gpu
from predictor.hardware.roofline import roofline
from predictor.measurements.schema import groups, op_of, op_type
from predictor.ops import Op
from predictor.ops.dtypes import Array


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Rows of one estimator. table: features. latency_s, bound_s: (n,). who: the measured call (schema columns) with
    canonical gpu and its generation."""

    estimator: str
    table: Features
    latency_s: Array
    bound_s: Array
    who: pd.DataFrame

    @property
    def gpus(self) -> np.ndarray[Any, Any]:
        """Canonical name of the GPU of each row, (n,)."""
        return self.who["gpu"].to_numpy(dtype=object)

    @property
    def one_plateau(self) -> bool:
        """As the op of the rows says it."""
        return op_type(str(self.who["family"].iloc[0])).one_plateau

    def calls(self, rows: Any) -> tuple[Op, Setting]:
        """The calls at positions or mask `rows` as one op, and who ran them."""
        part = self.who.loc[rows]
        return op_of(part, part["family"].iloc[0], part["phase"].iloc[0]), setting_of(part)

    def by_gpu(self) -> Iterator[tuple[np.ndarray[Any, Any], Gpu, Op, Setting]]:
        """Mask of the rows of each GPU, the GPU, their calls and who ran them."""
        for name in sorted(set(self.gpus.tolist())):
            own = self.gpus == name
            yield own, get_gpu(name), *self.calls(own)

    def take(self, rows: Any) -> TrainingSet:
        """The rows at positions or mask `rows`."""
        return TrainingSet(
            self.estimator,
            self.table.take(rows),
            self.latency_s[rows],
            self.bound_s[rows],
            self.who.loc[rows].reset_index(drop=True),
        )


def training_sets(frame: pd.DataFrame) -> Mapping[str, TrainingSet]:
    """One set per estimator from a conformed, checked table whose rows are all usable."""
    parts: dict[str, list[TrainingSet]] = {}
    for (family, phase, gpu_name), rows in groups(frame):
        part = frame.iloc[rows]
        gpu = get_gpu(gpu_name)
        op = op_of(part, family, phase)
        latency_s = part["latency_s"].to_numpy(dtype=np.float64)
        kept = ["family", "phase", "dtype", "engine", "engine_version", "kernel_name", "timing", "source"]
        part = part[list(dict.fromkeys(kept + [field.name for field in fields(op)]))]
        texts = part.select_dtypes("category").columns
        who = part.astype(dict.fromkeys(texts, object)).assign(gpu=gpu.name, generation=gpu.generation)
        made = TrainingSet(
            op.estimator,
            features(op, gpu, setting_of(part)),
            latency_s,
            roofline(op, gpu).latency_s,
            who.reset_index(drop=True),
        )
        parts.setdefault(op.estimator, []).append(made)
    return {name: _join(name, sets) for name, sets in parts.items()}


def setting_of(frame: pd.DataFrame) -> Setting:
    """Who ran the rows of a measurement table."""
    return Setting(*(frame[name].to_numpy(dtype=object) for name in ("engine", "kernel_name", "timing")))


def _join(name: str, sets: list[TrainingSet]) -> TrainingSet:
    joined: dict[str, Any] = {column: np.concatenate([getattr(s.table, column) for s in sets]) for column in PER_CALL}
    return TrainingSet(
        name,
        sets[0].table._replace(**joined),
        np.concatenate([s.latency_s for s in sets]),
        np.concatenate([s.bound_s for s in sets]),
        pd.concat([s.who for s in sets], ignore_index=True),
    )
