"""Two-dimensional convolution."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from predictor.errors import InvalidOp
from predictor.ops.base import Op, meaning
from predictor.ops.dtypes import Number, Text, act_bytes, weight_bytes

WINOGRAD = {2: 25 / 64, 3: 0.25}  # side of the kernel → multiplications of F(4x4, side x side) over the direct ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv(Op):
    """(batch, in_channels, size, size) images with square kernels to out_channels feature maps.

    FLOPs 2·kernel²·in·out per output pixel (Sze et al., Proc. IEEE 2017, III). `least_flops` is what a fast
    algorithm may get away with.

    >>> Conv(batch=1, in_channels=3, out_channels=64, size=224, kernel=7, stride=2, padding=3).flops()
    236027904.0
    """

    family: ClassVar[str] = "conv"
    floor_cycles: ClassVar[float] = 10_000
    growing: ClassVar[str] = "batch"
    at_least_zero: ClassVar[frozenset[str]] = frozenset({"padding"})
    batch: Number = field(metadata=meaning("calls", "images"))
    in_channels: Number = field(metadata=meaning("count"))
    out_channels: Number = field(metadata=meaning("count"))
    size: Number = field(metadata=meaning("pixels", "side of the square image"))
    kernel: Number = field(metadata=meaning("pixels", "side of the square kernel"))
    stride: Number = field(default=1.0, metadata=meaning("pixels"))
    padding: Number = field(default=0.0, metadata=meaning("pixels"))
    groups: Number = field(default=1.0, metadata=meaning("count"))
    dtype: Text = "bf16"

    def __post_init__(self) -> None:
        Op.__post_init__(self)
        if np.any(np.asarray(self.size + 2 * self.padding) < self.kernel):
            raise InvalidOp("kernel is wider than the padded image; it must be at most size + 2 * padding.")

    def out_size(self) -> Number:
        """Side of the output image in pixels."""
        side = np.floor((self.size + 2 * self.padding - self.kernel) / self.stride) + 1
        return side if np.ndim(side) else float(side)

    def flops(self) -> Number:
        pixels = self.batch * self.out_size() ** 2
        return 2.0 * pixels * self.kernel**2 * self.in_channels / self.groups * self.out_channels

    def least_flops(self) -> Number:
        """FLOPs of Winograd at stride 1, else those of the direct method.

        F(4x4, 3x3) needs a quarter, F(4x4, 2x2) 25 of 64; a larger kernel is several of these, the last one padded.
        Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.

        >>> conv = Conv(batch=1, in_channels=8, out_channels=8, size=28, kernel=5, padding=2)
        >>> conv.least_flops() / conv.flops()
        0.36
        """
        kernel = np.asarray(self.kernel)
        pieces = [share * (side * np.ceil(kernel / side) / kernel) ** 2 for side, share in WINOGRAD.items()]
        fast = (kernel > 1) & (np.asarray(self.stride) == 1)
        least = np.where(fast, np.min(pieces, axis=0), 1.0) * self.flops()
        return least if least.ndim else float(least)

    def bytes_moved(self) -> Number:
        touched = self.out_size() * self.kernel  # a kernel narrower than its stride steps over pixels
        side = np.where(np.asarray(self.kernel) < self.stride, np.minimum(touched, self.size), self.size)
        image = self.batch * self.in_channels * (side if side.ndim else float(side)) ** 2 * act_bytes(self.dtype)
        weights = self.kernel**2 * self.in_channels / self.groups * self.out_channels * weight_bytes(self.dtype)
        # What goes on to the next layer in 8 bits is quantised before it is written (TensorRT, cuDNN).
        output = self.batch * self.out_channels * self.out_size() ** 2 * act_bytes(self.dtype)
        return image + weights + output
