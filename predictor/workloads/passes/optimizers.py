"""What a step of an optimizer moves."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from predictor.ops import Pointwise
from predictor.workloads.passes.calls import OpCall

# Bytes of one fused optimizer step for each parameter that learns: fp32 gradient read, fp32 weight and moments read and
# written (8-bit moments: 4 bytes in all; Adafactor: no moments, the update written and read once more). PyTorch's
# unfused AdamW ("foreach") writes and reads a square root and passes over the weights once more.
OPTIMIZER_BYTES: Mapping[str, float] = {
    "adamw": 28.0,
    "adamw_foreach": 52.0,
    "adamw_8bit": 16.0,
    "adamw_fp8": 16.0,
    "adamw_4bit": 14.0,
    "paged_adamw": 28.0,
    "paged_adamw_8bit": 16.0,
    "galore_adamw": 24.0,
    "lion": 20.0,
    "sgd": 12.0,
    "sgd_momentum": 20.0,
    "adafactor": 24.0,
}
ROWS, COLUMNS = 16384, 4096  # parameters are stepped as tables of this shape, larger than any cache


def sweep(name: str, elements: float, bytes_each: float) -> OpCall:
    """A pass over so many elements that moves so many bytes of each, as calls of the element-wise addition."""
    rows = min(max(ceil(elements / COLUMNS), 1), ROWS)
    table = Pointwise(kind="add", rows=rows, cols=COLUMNS, dtype="fp32")
    return OpCall(name, table, max(elements / (ROWS * COLUMNS), 1.0) * bytes_each / 12.0)
