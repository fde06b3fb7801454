"""Vision towers of multimodal decoders: an encoder over the tiles of an image, and a projector to the decoder's width.

How an image is cut and how many tokens it becomes is that of the processors of transformers 5.24
(src/transformers/models/*/{image_processing,processing}_*.py); the ops are those of predictor.workloads.architectures.
encoder. Images are square. Tokens that only mark where an image or a tile begins are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

from predictor.ops import Attention, Collective, Gemm, Pointwise
from predictor.ops.dtypes import out_bytes
from predictor.workloads.architectures.encoder import VisionEncoder
from predictor.workloads.passes.calls import OpCall
from predictor.workloads.passes.eager import linear, passes

PREFIX = "vision_"  # of the names of a tower's ops
COLUMNS = ("qkv_proj", "up_proj", "gate_up_proj", "activation")  # tp GPUs split their outputs
ROWS = ("o_proj", "down_proj")  # and their inputs, after which they add up
LLAMA_4_TILES = 4  # of a side: max_patches is 16
INTERNVL_TILES = 3  # of a side: max_patches is 12
IDEFICS_TILES = 4  # of a side: longest_edge is four tiles


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionTower:
    """What turns images into tokens of a decoder.

    encoder: layers over the patches of one tile; those that the decoder's tokens need. projector: (outputs, inputs) of
    its linear layers, over each token. mergers: how many such projectors there are (Qwen3-VL).
    merge: patches of a side of the square that becomes one token. pooled: tokens of a tile whatever its patches; 0: by
    merge.
    cut: one of CUTS: how an image becomes tiles. image: pixels of each side of the images; 0: those of the encoder.
    least, most: pixels of a side that an image of "any" size has at least and at most; others are resized.
    ended: sizes are rounded up to whole tokens, and each row of them ends in one more (Pixtral).
    window: patches of a side of the window of attention in all but full_layers layers; 0: none.

    >>> clip = VisionEncoder(name="v", patch=14, image=336, hidden=8, layers=1, heads=1, inter=8, source="")
    >>> VisionTower(encoder=clip, projector=((16, 8),)).tokens
    576
    """

    encoder: VisionEncoder
    projector: tuple[tuple[int, int], ...]
    mergers: int = 1
    merge: int = 1
    pooled: int = 0
    cut: str = "resized"
    image: int = 0
    least: int = 0
    most: int = 0
    ended: bool = False
    window: int = 0
    full_layers: int = 0

    def sized(self, image: int) -> Self:
        """The tower for images of image × image pixels; 0: of its own size."""
        return replace(self, image=image)

    @property
    def asks_size(self) -> bool:
        """Whether images have any size and none is known."""
        return self.cut == "any" and not (self.image or self.encoder.image > self.least)

    @property
    def side(self) -> int:
        """Pixels of a side of a tile as it is encoded."""
        if self.cut != "any":
            return self.encoder.image
        unit, image = self.encoder.patch * self.merge, self.image or self.encoder.image
        if self.ended:
            return -(-min(image, self.most) // unit) * unit
        least, most = (-(-self.least // unit), self.most // unit)
        return min(max(round(image / unit), least), most) * unit

    @property
    def tiles(self) -> int:
        """Tiles of an image, with that of the whole where there are several."""
        count = CUTS[self.cut](self.image or self.encoder.image, self.encoder.image)
        return count**2 + (count > 1)

    @property
    def patches(self) -> int:
        """Patches of an image, over all tiles; class tokens left out."""
        return int(self.tiles * (self.side // self.encoder.patch) ** 2)

    @property
    def tokens(self) -> int:
        """Tokens that an image adds to the prompt."""
        rows = self.side // self.encoder.patch // self.merge
        return self.tiles * (self.pooled or rows**2 + rows * self.ended)

    @property
    def size_note(self) -> str:
        """The images, as they are encoded: "336 × 336 pixels"."""
        each = f"{self.side} × {self.side} pixels"
        return f"{self.tiles} tiles of {each}" if self.tiles > 1 else each

    def shares(self, tp: int) -> int:
        """GPUs of tp that split the layers; 1 where heads or columns do not divide, and each runs all of them."""
        columns = [self.encoder.heads, self.encoder.inter]
        if len(self.projector) == 2:
            columns.append(self.projector[0][0])
        return tp if not any(count % tp for count in columns) else 1

    def pass_ops(self, images: int, dtype: str, tp: int = 1) -> tuple[OpCall, ...]:
        """The ops of one pass over so many images, on one of tp GPUs. dtype: a 16-bit one, fp32 or tf32."""
        calls = self.encoder.pass_ops(images * self.tiles, self.side, dtype)
        tp = self.shares(tp)
        made = [*self._layers(calls, images, tp), *self._projected(images, dtype, tp)]
        return tuple(call._replace(name=f"{PREFIX}{call.name}") for call in made)

    def _layers(self, calls: tuple[OpCall, ...], images: int, tp: int) -> Iterator[OpCall]:
        """The encoder's ops with its windows, as tp GPUs share them."""
        for name, op, count in calls:
            if isinstance(op, Attention):
                op = replace(op, heads=op.heads // tp, kv_heads=op.kv_heads // tp)
                yield from self._windows(OpCall(name, op, count), images)
            elif isinstance(op, Gemm) and tp > 1 and name in ROWS:
                yield OpCall(name, replace(op, k=op.k // tp), count)
                message = float(op.m) * float(op.n) * float(out_bytes(str(op.dtype)))
                yield OpCall("all_reduce", Collective(kind="all_reduce", message_bytes=message, n_gpus=tp), count)
            elif isinstance(op, Gemm) and name in COLUMNS:
                yield OpCall(name, replace(op, n=op.n // tp), count)
            elif isinstance(op, Pointwise) and name in COLUMNS:
                yield OpCall(name, replace(op, cols=op.cols // tp), count)
            else:
                yield OpCall(name, op, count)

    def _windows(self, call: OpCall, images: int) -> Iterator[OpCall]:
        """Attention of the layers that see whole images, and of those that see windows."""
        length, op = self.window**2, call.op
        if not 0 < length < self.patches:
            yield call
            return
        yield call._replace(count=float(self.full_layers))
        windows = images * -(-self.patches // length)
        near = replace(op, batch=windows, q_len=length, kv_len=length)  # type: ignore[call-arg]
        yield OpCall("window_attention", near, call.count - self.full_layers)

    def _projected(self, images: int, dtype: str, tp: int) -> Iterator[OpCall]:
        """Linear layers over the tokens, pooled patches before and activations between them."""
        patches, tokens, times = images * self.patches, images * self.tokens, float(self.mergers)
        if self.ended:  # the ends of rows come from a table
            tokens -= images * (self.side // self.encoder.patch // self.merge)
        if self.pooled:
            yield passes("pooling", "copy", patches, self.encoder.hidden, dtype, 1.0)
        paired = len(self.projector) == 2
        for number, (outputs, inputs) in enumerate(self.projector):
            first = paired and number == 0
            if number:
                cols = inputs // tp if paired else inputs
                yield passes("projector_activation", "gelu", tokens, cols, dtype, times)
            outputs, inputs = (
                outputs // tp if first else outputs,
                inputs // tp if paired and number else inputs,
            )
            yield linear(f"projector_{number + 1}", tokens, outputs, inputs, dtype, times)
        if paired and tp > 1:
            message = tokens * self.projector[-1][0] * float(out_bytes(dtype))
            yield OpCall("all_reduce", Collective(kind="all_reduce", message_bytes=message, n_gpus=tp), times)


def _whole(image: int, tile: int) -> int:
    return 1


def _canvas(image: int, tile: int) -> int:
    """The fewest tiles that hold the image as it is (Llama 4, get_best_fit)."""
    return min(-(-image // tile), LLAMA_4_TILES)


def _grid(image: int, tile: int) -> int:
    """The most tiles that have less than twice the image's pixels (InternVL, get_optimal_tiled_canvas)."""
    return max(count for count in range(1, INTERNVL_TILES + 1) if count == 1 or 2 * image**2 > (count * tile) ** 2)


def _split(image: int, tile: int) -> int:
    """Every image is resized to the same number of tiles (Idefics3, SmolVLM)."""
    return IDEFICS_TILES


# How an image becomes tiles: (pixels of a side of the image, of a tile) → tiles of a side.
CUTS: Mapping[str, Callable[[int, int], int]] = {
    "resized": _whole,
    "any": _whole,
    "canvas": _canvas,
    "grid": _grid,
    "split": _split,
}
