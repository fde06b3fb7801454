"""Images in a prompt: what of a request says them, who takes none, and the pass of the tower that makes their tokens.

No tower was measured: its operators are predicted as those of any network. What the host does to pixels is left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from predictor.elementwise import greater, lesser
from predictor.errors import InvalidRequest
from predictor.ops.dtypes import out_bytes
from predictor.values import show, whole_number
from predictor.workloads.architectures.convnet import ConvNet
from predictor.workloads.architectures.encoder import VisionEncoder
from predictor.workloads.architectures.tower import PREFIX
from predictor.workloads.passes.calls import OpCall

if TYPE_CHECKING:
    from predictor.workloads.architectures.tower import VisionTower
    from predictor.workloads.models import Model
    from predictor.workloads.request import Request
    from predictor.workloads.workload import Workload

MOST_IMAGES = 4096
UNSEEN = ("trace", "turns", "shared_prefix_len", "prefix_cache_hit_rate")  # with images, whose prompts they change


def sized(model: Model, request: Request) -> Model:
    """The model for the request's images; raises InvalidRequest where it takes none, or none of that size."""
    images, size = request.images, request.image_size
    if isinstance(model, VisionEncoder | ConvNet):
        if images:
            raise InvalidRequest(f"images is {images}; {model.name} takes an image for an input. Set batch instead.")
        return replace(model, image=size) if size else model
    if images:
        for name, value in request.stated(UNSEEN).items():
            raise InvalidRequest(
                f"images is {images} and {name} {show(value)}; which of them bring images, and which are cached, is "
                "not known. Leave one of them out."
            )
        decoder: Any = model  # nothing else has a tower
        return replace(decoder, tower=_tower(model, images).sized(size))  # type: ignore[no-any-return]
    if size and getattr(model, "tower", None):
        raise InvalidRequest(f"image_size is {size} and images 0; {model.name} is given none. Set images to serve.")
    if size:
        raise InvalidRequest(f"image_size is {size}; {model.name} takes no images. Leave it out.")
    return model


def _tower(model: Model, images: int) -> VisionTower:
    """The vision tower of a model; raises InvalidRequest where there is none, or none that is known."""
    if tower := getattr(model, "tower", None):
        return tower  # type: ignore[no-any-return]
    if any("tower" in note or "not counted: weights" in note for note in model.notes):
        raise InvalidRequest(
            f"images is {images}; how {model.name} takes images is not known, or it takes none. Leave images out, and "
            "add their tokens to input_len."
        )
    raise InvalidRequest(
        f"images is {images}; {model.name} is known as a language model alone, as all of the catalogue. Give the "
        "config.json of a vision-language model, or leave images out."
    )


def check_images(workload: Workload) -> None:
    """Raises InvalidRequest where the images of a workload cannot be, or their time is not known."""
    if workload.images == 0:
        return
    images = whole_number("images", workload.images)
    tower = _tower(workload.model, images)
    if images > MOST_IMAGES:
        raise InvalidRequest(f"images is {images}; it must be at most {MOST_IMAGES}. Lower it.")
    if tower.asks_size:
        raise InvalidRequest(
            f"images is {images}; {workload.model.name} takes images of any size. Set image_size, such as 1024."
        )
    if workload.pp > 1:
        raise InvalidRequest(
            f"images is {images} and pp {workload.pp}; the time of a vision tower before stages of layers is not "
            "predicted. Set pp to 1."
        )
    if workload.pass_tokens:
        raise InvalidRequest(
            f"images is {images}; {workload.engine} runs a vision tower in kernels whose time is not known. Set engine "
            "to vllm, or leave images out."
        )


def image_tokens(request: Request, model: Model) -> int:
    """Tokens that the images of a request add to each prompt."""
    return request.images * _tower(model, request.images).tokens if request.images else 0


def images_note(request: Request, model: Model) -> str:
    """What to say of the images of a request; "" of none."""
    if not request.images:
        return ""
    tower = _tower(model, request.images)
    return (
        f"{tower.tokens} image tokens an image ({tower.size_note}) are added to the prompt of {request.input_len}. No "
        "vision tower was measured: its time is that of its operators, doubted by half, without what the host does to "
        "the pixels."
    )


def image_ops(workload: Workload) -> tuple[OpCall, ...]:
    """The ops of the vision tower before a prompt, over all images of a group of GPUs; () of none."""
    if not workload.images:
        return ()
    tower = _tower(workload.model, workload.images)
    return tower.pass_ops(workload.local_batch * workload.images, workload.act_dtype, workload.tp)


def image_launches(workload: Workload) -> float:
    """Operators of the tower that the host issues. A residual counts with the norm after it, as in decoders, where one
    operator does both and of which the host's time for each is known."""
    return sum(call.count for call in image_ops(workload) if call.name != f"{PREFIX}residual_add")


def images_bytes(workload: Workload, most_tokens: Any) -> tuple[Any, Any]:
    """(peak of a pass of the tower, tokens that it leaves) in bytes on one GPU; 0 of none.

    most_tokens: of images that the engine takes at once, at least one image; the rest waits.
    """
    if not workload.images:
        return 0.0, 0.0
    tower, element = _tower(workload.model, workload.images), float(out_bytes(workload.act_dtype))
    images = lesser(workload.local_batch * workload.images, greater(most_tokens // tower.tokens, 1))
    encoder = tower.encoder
    width = 2 * encoder.hidden + encoder.widest(workload.layout)
    kept = images * tower.tokens * workload.model.hidden * tower.mergers * element
    return images * tower.patches * width * element, kept
