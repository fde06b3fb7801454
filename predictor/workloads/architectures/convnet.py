"""Convolutional networks over square images: ResNets and what else is a chain of blocks of convolutions.

A convolution is a predictor.ops.Conv. Batch norms are folded into it for inference and apart in training and in eager
PyTorch; an engine runs the activation in the convolution, eager PyTorch apart. Pooling and additions are passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from predictor.errors import InvalidRequest, InvalidSpec, UnsupportedDtype
from predictor.ops import Conv
from predictor.values import show, whole_number
from predictor.workloads.architectures.encoder import WEIGHT_DTYPES, check_choices, check_sizes, formats
from predictor.workloads.architectures.single_pass import SinglePass
from predictor.workloads.passes.calls import Layout, OpCall, Step
from predictor.workloads.passes.eager import convolution, linear, merged, passes

SHORTCUTS = ("", "identity", "project")
BLOCKS = ("basic", "bottleneck")
QUANTISED = ("int8", "fp8")
CONVOLVED = ("fp32", "tf32", "fp16", "bf16", *QUANTISED)  # formats that libraries convolve in; others hold weights
ADDED_ON_THE_WAY = 1 / 3  # of an addition's bytes: engines that quantise read one operand in the convolution before it


class ConvLayer(NamedTuple):
    """A convolution, its batch norm and its activation; padding keeps the image's side but for the stride.

    pool: stride of the max-pooling after it, 0: none.
    """

    out_channels: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    norm: bool = True
    bias: bool = False
    activation: bool = True
    pool: int = 0


class Block(NamedTuple):
    """Layers one after the other.

    shortcut: their input is added: "project" by a 1 x 1 convolution where shapes differ, "identity" only where they do
    not, "" never.
    """

    layers: tuple[ConvLayer, ...]
    shortcut: str = ""


class Shaped(NamedTuple):
    """A layer with what goes in: channels and side of the image. place: its name; closes: a residual ends here."""

    place: str
    layer: ConvLayer
    channels: int
    size: int
    closes: bool = False

    @property
    def out_size(self) -> int:
        """Side of the image that the convolution makes."""
        kernel = self.layer.kernel
        return (self.size + 2 * (kernel // 2) - kernel) // self.layer.stride + 1

    @property
    def parameters(self) -> int:
        """Weights, bias, and scale and shift of the batch norm."""
        layer = self.layer
        weights = layer.kernel**2 * self.channels // layer.groups * layer.out_channels
        return weights + layer.out_channels * (layer.bias + 2 * layer.norm)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvNet(SinglePass):
    """A chain of blocks, mean pooling to pool_size × pool_size pixels, linear layers, a classifier.

    image: side of the images it was trained on. linear: widths of the layers before the classifier (VGG).

    >>> resnet("ResNet-50", (3, 4, 6, 3), "bottleneck", "arXiv:1512.03385").parameters()
    25557032
    """

    name: str
    blocks: tuple[Block, ...]
    source: str
    linear: tuple[int, ...] = ()
    pool_size: int = 1
    classes: int = 1000
    channels: int = 3
    image: int = 224
    dtype: str = "fp32"

    def __post_init__(self) -> None:
        """Checks every field, the blocks by walking through them."""
        check_sizes(self, ("pool_size", "classes", "channels", "image"))
        check_choices(self, {"dtype": WEIGHT_DTYPES}, ())
        if not self.blocks or not all(isinstance(block, Block) and block.layers for block in self.blocks):
            raise InvalidSpec(f"blocks of {self.name} is {show(self.blocks)}; give at least one Block with layers.")
        for block in self.blocks:
            if block.shortcut not in SHORTCUTS:
                listed = ", ".join(f'"{value}"' for value in SHORTCUTS)
                raise InvalidSpec(f"shortcut of {self.name} is {show(block.shortcut)}; it must be one of {listed}.")
            for layer in block.layers:
                self._check_layer(layer)
        for shaped in self.convolutions(self.image):
            if shaped.channels % shaped.layer.groups:
                raise InvalidSpec(
                    f"groups of {self.name} is {shaped.layer.groups}; it must divide the {shaped.channels} channels of "
                    f"{shaped.place}."
                )

    def _check_layer(self, layer: ConvLayer) -> None:
        for field in ("out_channels", "kernel", "stride", "groups", "pool"):
            value, least = getattr(layer, field), 0 if field == "pool" else 1
            if type(value) is not int or not least <= value <= 2**16:
                raise InvalidSpec(
                    f"{field} of a layer of {self.name} is {show(value)}; it must be a whole number from {least} to "
                    f"{2**16}."
                )
        if layer.out_channels % layer.groups:
            raise InvalidSpec(
                f"groups of {self.name} is {layer.groups}; it must divide the {layer.out_channels} output channels."
            )

    @property
    def hidden(self) -> int:
        """Channels of the last block."""
        return self.blocks[-1].layers[-1].out_channels

    @property
    def layers(self) -> int:
        """Convolutions on the longest way, and linear layers."""
        return sum(len(block.layers) for block in self.blocks) + len(self.linear) + 1

    @property
    def vocab(self) -> int:
        """There are no logits of tokens."""
        return 0

    @property
    def max_len(self) -> int:
        """An image counts as one token."""
        return self.fixed_len

    @property
    def fixed_len(self) -> int:
        """An image counts as one token."""
        return 1

    @property
    def attention(self) -> str:
        """What a list of models shows instead."""
        return "convolutions"

    def widest(self, layout: Layout) -> int:
        """Elements of an image in and out of the convolution that needs most."""
        return max(
            shaped.channels * shaped.size**2 + shaped.layer.out_channels * shaped.out_size**2
            for shaped in self.convolutions(self.image)
        )

    def forward_ops(self, step: Step) -> tuple[OpCall, ...]:
        """The ops of a fused engine over step.batch images; without prompt_len as in training."""
        return self.pass_ops(step.batch, dtype=step.dtype, half=step.act_dtype, training=not step.prompt_len)

    def convolutions(self, image: int) -> Iterator[Shaped]:
        """Every convolution with what goes in, those of shortcuts too, for images of image × image pixels."""
        channels, size = self.channels, image
        for number, block in enumerate(self.blocks, 1):
            before = channels, size
            for place, layer in enumerate(block.layers, 1):
                shaped = Shaped(f"block{number}.conv{place}", layer, channels, size)
                channels, size = layer.out_channels, shaped.out_size
                same = before == (channels, size)
                last = place == len(block.layers)
                closes = last and (block.shortcut == "project" or (block.shortcut == "identity" and same))
                yield shaped._replace(closes=closes)
                if layer.pool:
                    size = -(-size // layer.pool)
            if block.shortcut == "project" and before != (channels, size):
                bridge = ConvLayer(channels, kernel=1, stride=max(round(before[1] / size), 1), activation=False)
                yield Shaped(f"block{number}.shortcut", bridge, *before)

    def parameters(self) -> int:
        """All parameters: batch norms with scale and shift, not their running statistics."""
        widths = [self._flat(), *self.linear, self.classes]
        head = sum((n + 1) * m for n, m in pairwise(widths))
        return sum(shaped.parameters for shaped in self.convolutions(self.image)) + head

    def _flat(self) -> int:
        return self.hidden * self.pool_size**2

    def pass_ops(
        self,
        batch: int,
        image: int = 0,
        dtype: str = "",
        *,
        half: str = "",
        eager: bool = False,
        training: bool = False,
    ) -> tuple[OpCall, ...]:
        """The ops of one forward pass on one GPU over `batch` images of image × image pixels, 0 for self.image.

        dtype: of convolutions and linear layers, "" as published. half: of other passes beside 8-bit ones, "" bf16.
        training: batch norms take the batch's statistics.
        """
        batch, image = whole_number("batch", batch), whole_number("image", image or self.image)
        dtype, act = formats(dtype or self.dtype)
        if dtype not in CONVOLVED:
            raise UnsupportedDtype(f"dtype is {dtype}; convolutions run in {', '.join(CONVOLVED)}.")
        act, narrow = half or act, dtype in QUANTISED
        share = 0.5 if narrow else 1.0  # of the bytes of 16 bits
        apart = eager or training
        calls, size = list[OpCall](), image
        for shaped in self.convolutions(image):
            layer, size = shaped.layer, shaped.out_size
            if size < 1:
                raise InvalidRequest(
                    f"image is {image}; nothing is left of it at {shaped.place} of {self.name}. Raise it."
                )
            calls.append(_convolution(shaped, batch, dtype))
            rows, cols = batch * layer.out_channels, size**2
            if layer.norm and apart:
                kind = "layer_norm" if training else "relu"
                calls.append(passes("batch_norm", kind, rows, cols, act, 1.0))
            if shaped.closes:
                calls.append(
                    passes("residual_add", "add", rows, cols, act, ADDED_ON_THE_WAY * share if narrow else 1.0)
                )
            if layer.activation and apart:
                calls.append(passes("relu", "relu", rows, cols, act, 1.0))
            if layer.pool:
                calls.append(passes("max_pool", "copy", rows, cols, act, (1 + 1 / layer.pool**2) / 2 * share))
        calls.append(passes("mean_pool", "copy", batch * self.hidden, size**2, act, 0.5 * share))
        widths = [self._flat(), *self.linear, self.classes]
        for number, (k, n) in enumerate(pairwise(widths), 1):
            calls.append(linear(f"linear{number}", batch, n, k, dtype, 1.0))
        return merged(calls)


def _convolution(shaped: Shaped, batch: int, dtype: str) -> OpCall:
    """A layer under a name that equal ones of other blocks share."""
    layer = shaped.layer
    op = Conv(
        batch=batch,
        in_channels=shaped.channels,
        out_channels=layer.out_channels,
        size=shaped.size,
        kernel=layer.kernel,
        stride=layer.stride,
        padding=layer.kernel // 2,
        groups=layer.groups,
        dtype=dtype,
    )
    sides = f"conv{layer.kernel}x{layer.kernel} {shaped.channels}->{layer.out_channels} /{layer.stride} @{shaped.size}"
    return convolution(sides, op, 1.0)


def resnet(
    name: str,
    depths: tuple[int, ...],
    block: str,
    source: str,
    *,
    groups: int = 1,
    group_width: int = 64,
    **fields: Any,
) -> ConvNet:
    """A residual network: a 7 × 7 stem with max-pooling, then depths[i] blocks of 64·2^i channels in stage i.

    block: "basic" (two 3 × 3) or "bottleneck" (1 × 1, 3 × 3 with the stride, 1 × 1 to four times as many channels).
    groups, group_width: of the 3 × 3 in a bottleneck (ResNeXt; wide ResNets have 128).
    He et al., arXiv:1512.03385, table 1; strides as in torchvision/models/resnet.py. Further fields as in ConvNet.
    """
    if block not in BLOCKS:
        raise InvalidSpec(f"block of {name} is {show(block)}; it must be one of {', '.join(BLOCKS)}.")
    blocks = [Block((ConvLayer(64, kernel=7, stride=2, pool=2),))]
    for stage, depth in enumerate(depths):
        planes = 64 * 2**stage
        for index in range(depth):
            stride = 2 if stage and index == 0 else 1
            layers: tuple[ConvLayer, ...]
            if block == "basic":
                layers = (ConvLayer(planes, stride=stride), ConvLayer(planes))
            else:
                width = planes * group_width // 64 * groups
                middle = ConvLayer(width, stride=stride, groups=groups)
                layers = (ConvLayer(width, kernel=1), middle, ConvLayer(4 * planes, kernel=1))
            blocks.append(Block(layers, "project"))
    return ConvNet(name=name, blocks=tuple(blocks), source=source, **fields)


def convnet_from_entry(name: str, entry: Mapping[str, Any]) -> ConvNet:
    """A network as the catalogue writes it: `depths` and `block` of a ResNet, or `plain`, a list of 3 × 3 widths in
    which "pool" halves the image (VGG)."""
    fields = {key: entry[key] for key in entry if key not in ("depths", "plain")}
    if "depths" in entry:
        return resnet(name, tuple(entry["depths"]), **fields)
    if "plain" not in entry:
        raise InvalidSpec(f"{name} has neither depths nor plain; give the blocks of each stage, or a list of widths.")
    layers = list[ConvLayer]()
    for width in entry["plain"]:
        if width == "pool" and layers:
            layers[-1] = layers[-1]._replace(pool=2)
        else:
            layers.append(ConvLayer(width, norm=False, bias=True))
    fields["linear"] = tuple(fields.get("linear", ()))
    return ConvNet(name=name, blocks=tuple(Block((layer,)) for layer in layers), **fields)
