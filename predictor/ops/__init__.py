"""What hardware executes. A new family is one file and one entry in FAMILIES."""

from __future__ import annotations

from predictor.ops.attention import Attention
from predictor.ops.base import Op
from predictor.ops.collective import Collective
from predictor.ops.conv import Conv
from predictor.ops.dtypes import DTYPES
from predictor.ops.gemm import Gemm
from predictor.ops.mla import Mla
from predictor.ops.moe import Moe
from predictor.ops.pointwise import Pointwise

FAMILIES: tuple[type[Op], ...] = (Gemm, Attention, Moe, Mla, Pointwise, Conv, Collective)

__all__ = ["DTYPES", "FAMILIES", "Attention", "Collective", "Conv", "Gemm", "Mla", "Moe", "Op", "Pointwise"]
