"""One operator call on a GPU, asked by its fields and answered as a flat row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

import numpy as np

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import Bundle
from predictor.estimators.extrapolation import nearest
from predictor.estimators.features import Setting
from predictor.estimators.operators import predict_op
from predictor.hardware.gpu import Gpu, resolve_gpu
from predictor.hardware.roofline import rate_notes
from predictor.ops import Op
from predictor.ops.base import names_of
from predictor.prediction.refusals import Refusal, answers_of


def op_of(kind: type[Op], given: Mapping[str, Any]) -> Op:
    """The call with these fields, of which those that are None are left out; InvalidRequest where one is missing, or is
    no field of the family."""
    if unknown := [name for name in given if name not in names_of(kind)]:
        raise InvalidRequest(f"{kind.family} has no {', '.join(unknown)}; its fields are {', '.join(names_of(kind))}.")
    missing = [field.name for field in fields(kind) if field.default is MISSING and given.get(field.name) is None]
    if missing:
        flags = ", ".join("--" + name.replace("_", "-") for name in missing)
        raise InvalidRequest(f"{kind.family} lacks {flags}; `predictor op {kind.family} --help` says what they are.")
    return kind(**{name: value for name, value in given.items() if value is not None})


def op_rows(op: Op, names: Sequence[str], engine: str, bundle: Bundle) -> list[dict[str, Any] | Refusal]:
    """The answer of each GPU, or why it has none; an unknown name raises UnknownGpu."""
    gpus = [resolve_gpu(name) for name in names]
    return answers_of([gpu.name for gpu, _ in gpus], lambda place: _row(op, *gpus[place], engine, bundle))


def _row(op: Op, gpu: Gpu, note: str, engine: str, bundle: Bundle) -> dict[str, Any]:
    """One GPU's answer, flat; rates are those reached, over bytes of memory or, for collectives, of the link."""
    setting, before = Setting(engine=engine), dict[str, float]()
    prediction = predict_op(op, gpu, setting, bundle)
    if gpu.name in bundle.calibrated:
        before["uncalibrated_s"] = float(predict_op(op, gpu, setting, bundle.uncalibrated()).latency_s[0])
    latency_s, low_s, high_s, bound_s = (
        float(np.ravel(x)[0]) for x in (prediction.latency_s, prediction.low_s, prediction.high_s, prediction.bound_s)
    )
    beyond = rate_notes([op], gpu)
    beyond += [f"{', '.join(prediction.outside)} outside what was measured; the interval is wider."] * bool(
        prediction.outside
    )
    moved = op.link_bytes() if op.family == "collective" else op.bytes_moved()
    return {
        "family": op.family,
        **{field.name: getattr(op, field.name) for field in fields(op)},
        "gpu": gpu.name,
        "engine": engine,
        "latency_s": latency_s,
        "latency_s_low": low_s,
        "latency_s_high": high_s,
        "bound_s": bound_s,
        "utilization": bound_s / latency_s,
        "limiter": str(np.ravel(prediction.limiter)[0]),
        "flop_per_s": float(np.ravel(op.flops())[0]) / latency_s,
        "bytes_per_s": float(np.ravel(moved)[0]) / latency_s,
        "basis": prediction.basis,
        **before,
        "bundle": bundle.id,
        "interval_level": bundle.level,
        "nearest_gpu": nearest(gpu, tuple(bundle.manifest["gpus"])),
        "notes": [note] * bool(note) + beyond,
        "error": None,
    }
