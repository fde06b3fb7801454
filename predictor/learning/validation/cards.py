"""Plain square matrix products on cards that people own: torch.mm, timed on the device.

Source: public reports of one benchmark, typed; `cards/gemm_open.csv` of the truth folder. No table that trains holds
these cards, but P100 and GTX 1080 Ti. Where a card has no units for bf16, PyTorch converts and runs it in fp32.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from predictor.errors import PredictorError
from predictor.estimators.bundle import Bundle
from predictor.estimators.features import Setting
from predictor.estimators.operators import predict_op
from predictor.hardware.gpu import get_gpu
from predictor.latency.report import Interval
from predictor.learning.validation.replay import Figure, Replay, Table
from predictor.ops import Gemm

FILE = "cards/gemm_open.csv"
ENGINE, TIMING = "torch", "device"


def replay(root: Path, bundle: Bundle) -> Replay:
    """A figure per reported call: latency_s of a row that `predictor batch --ops` answers."""
    figures: list[Figure] = []
    skipped = Counter[str]()
    table = pd.read_csv(root / FILE, dtype={"engine_version": str})
    for (name, dtype), rows in table.groupby(["gpu", "dtype"]):
        try:
            figures += _figures(str(name), str(dtype), rows, bundle)
        except PredictorError as error:
            skipped[str(error)] += len(rows)
    return Replay(figures, skipped)


def _figures(name: str, dtype: str, rows: pd.DataFrame, bundle: Bundle) -> list[Figure]:
    gpu, size = get_gpu(name), rows["m"].to_numpy(dtype=np.float64)
    column = predict_op(Gemm(m=size, n=size, k=size, dtype=dtype), gpu, Setting(ENGINE, "", TIMING), bundle)
    return [
        Figure(
            table=FILE,
            gpu=gpu.name,
            model=dtype,
            engine=ENGINE,
            metric="latency_s",
            measured=float(measured),
            predicted=Interval(float(column.latency_s[at]), float(column.low_s[at]), float(column.high_s[at])),
            fitted=False,
            request={
                **{"family": "gemm", "m": size[at], "n": size[at], "k": size[at]},
                **{"dtype": dtype, "gpu": gpu.name, "engine": ENGINE, "timing": TIMING},
            },
            settings={"m": int(size[at]), "dtype": dtype, "bound_s": float(column.bound_s[at]), "version": version},
        )
        for at, (measured, version) in enumerate(zip(rows["latency_s"], rows["engine_version"], strict=True))
    ]


TABLE = Table("cards", "square torch.mm on cards that people own", "truth", replay)
