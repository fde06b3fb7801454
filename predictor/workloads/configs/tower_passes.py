"""The vision tower of a multimodal config as a network: sizes of its layers, its projector, and what images become.

Sizes are those that predictor.workloads.configs.towers counts; limits of processors are of the published
preprocessor_config.json files, where the class of transformers 5.24 has others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from predictor.workloads.architectures.encoder import VisionEncoder
from predictor.workloads.architectures.tower import VisionTower
from predictor.workloads.configs.fields import Fields
from predictor.workloads.configs.towers import KINDS, selected_layers, side_of, tower_fields

# Qwen2-VL and 2.5: min_pixels 3136, max_pixels 12845056; Qwen3-VL: shortest_edge 65536, longest_edge 16777216 (pixels).
QWEN_2_SIDES = (56, 3584)
QWEN_3_SIDES = (256, 4096)


def vision_tower(config: Mapping[str, Any], hidden: int) -> VisionTower | None:
    """The tower of a config whose way of seeing images is known; None of all others. hidden: the decoder's width."""
    kind = str(config.get("model_type"))
    if kind not in TOWERS or not isinstance(config.get(KINDS[kind][0]), Mapping):
        return None
    return TOWERS[kind](*tower_fields(config, kind), hidden)


def _encoder(
    vision: Fields, names: tuple[str, str, str] = ("num_hidden_layers", "num_attention_heads", ""), **more: Any
) -> VisionEncoder:
    """names: keys of layers, heads and width."""
    layers, heads, width = names
    act = str(vision.get("hidden_act"))
    sizes = {"inter": vision.size("intermediate_size")} if "inter" not in more else {}
    if "image" not in more:
        sizes["image"] = side_of(vision, "image_size")
    return VisionEncoder(
        name="vision tower",
        patch=side_of(vision, "patch_size"),
        hidden=vision.size(width or "hidden_size"),
        heads=vision.size(heads),
        activation="silu" if act == "silu" else "gelu_tanh" if "tanh" in act else "gelu",
        source="config.json",
        **{"layers": vision.size(layers), "channels": 3, "extra_tokens": 0, **sizes, **more},
    )


def _seen(vision: Fields, outer: Fields) -> int:
    """Layers that are run: up to the last one whose features the projector takes (vLLM, clip.py)."""
    layers, chosen = vision.size("num_hidden_layers"), outer.config.get("vision_feature_layer", -2)
    taken = chosen if isinstance(chosen, list) and chosen else [chosen]
    ends = [layers + 1 + one if one < 0 else one for one in taken if isinstance(one, int)]
    return min(max(ends, default=layers), layers) or layers


def _two(hidden: int, into: int) -> tuple[tuple[int, int], ...]:
    return ((hidden, into), (hidden, hidden))


def _llava(vision: Fields, outer: Fields, hidden: int) -> VisionTower:
    projector = _two(hidden, vision.size("hidden_size") * selected_layers(outer))
    kind = str(vision.config.get("model_type"))
    if kind == "pixtral":
        return _pixtral(vision, projector, merge=1)
    clip = not kind.startswith("siglip")
    encoder = _encoder(vision, layers=_seen(vision, outer), extra_tokens=int(clip), embedding_norm=clip)
    return VisionTower(encoder=encoder, projector=projector)


def _pixtral(vision: Fields, projector: tuple[tuple[int, int], ...], merge: int) -> VisionTower:
    encoder = _encoder(vision, gated=True, embedding_norm=True, final_norm=False)
    return VisionTower(encoder=encoder, projector=projector, merge=merge, cut="any", most=encoder.image, ended=True)


def _mistral3(vision: Fields, outer: Fields, hidden: int) -> VisionTower:
    width, merge = vision.size("hidden_size"), outer.size("spatial_merge_size")
    projector = ((width, merge**2 * width), *_two(hidden, width * selected_layers(outer)))
    return _pixtral(vision, projector, merge)


def _gemma3(vision: Fields, outer: Fields, hidden: int) -> VisionTower:
    projector, pooled = ((hidden, vision.size("hidden_size")),), outer.size("mm_tokens_per_image")
    return VisionTower(encoder=_encoder(vision), projector=projector, pooled=pooled)


def _paligemma(vision: Fields, outer: Fields, hidden: int) -> VisionTower:
    return VisionTower(encoder=_encoder(vision), projector=((hidden, vision.size("hidden_size")),))


def _qwen(vision: Fields, width: str, out: int, sides: tuple[int, int], **more: Any) -> VisionTower:
    """An image is two equal frames, and a patch has both; sizes are those of the image, in whole tokens."""
    merge = vision.size("spatial_merge_size")
    channels = vision.size("in_channels") * vision.size("temporal_patch_size")
    shape = {name: more.pop(name) for name in ("inter", "gated") if name in more}
    encoder = _encoder(
        vision, ("depth", "num_heads", width), image=sides[0], channels=channels, final_norm=False, **shape
    )
    merged = merge**2 * encoder.hidden
    projector = ((merged, merged), (out, merged))
    return VisionTower(
        encoder=encoder, projector=projector, merge=merge, cut="any", least=sides[0], most=sides[1], **more
    )


def _qwen2_vl(vision: Fields, outer: Fields, hidden: int) -> VisionTower:
    inter = int(vision.size("embed_dim") * vision.size("mlp_ratio"))
    return _qwen(vision, "embed_dim", hidden, QWEN_2_SIDES, inter=inter)


def _qwen2_5_vl(vision: Fields, outer: Fields, hidden: int) -> VisionTower:
    """All but fullatt_block_indexes attend within windows."""
    whole = vision.get("fullatt_block_indexes")
    full = len(whole) if isinstance(whole, list) else 0
    window = vision.size("window_size") // side_of(vision, "patch_size")
    out = vision.size("out_hidden_size")
    return _qwen(vision, "hidden_size", out, QWEN_2_SIDES, gated=True, window=window, full_layers=full)


def _qwen3_vl(vision: Fields, outer: Fields, hidden: int) -> VisionTower:
    """A merger after the last layer and one after each of deepstack_visual_indexes."""
    deep = vision.config.get("deepstack_visual_indexes", vision.defaults.get("deepstack_visual_indexes"))
    mergers = 1 + (len(deep) if isinstance(deep, list) else 0)
    return _qwen(vision, "hidden_size", vision.size("out_hidden_size"), QWEN_3_SIDES, mergers=mergers)


def _internvl(vision: Fields, outer: Fields, hidden: int) -> VisionTower:
    """Every square of 1 / downsample_ratio patches of a side becomes one token."""
    merge = round(1 / outer.ratio("downsample_ratio"))
    encoder = _encoder(vision, extra_tokens=1, layer_scale=True, final_norm=False)
    projector = _two(hidden, merge**2 * encoder.hidden)
    return VisionTower(encoder=encoder, projector=projector, merge=merge, cut="grid")


def _idefics3(vision: Fields, outer: Fields, hidden: int) -> VisionTower:
    merge = outer.size("scale_factor")
    projector = ((hidden, vision.size("hidden_size") * merge**2),)
    return VisionTower(encoder=_encoder(vision), projector=projector, merge=merge, cut="split")


def _llama4(vision: Fields, outer: Fields, hidden: int) -> VisionTower:
    """Pixels are shuffled by pixel_shuffle_ratio; an adapter of two layers, then the projector."""
    into, middle = (vision.size(f"projector_{key}_dim") for key in ("input", "output"))
    adapter = ((into, vision.size("intermediate_size")), (middle, middle))
    merge = round(1 / vision.ratio("pixel_shuffle_ratio"))
    encoder = _encoder(vision, extra_tokens=1, embedding_norm=True)
    projector = (*adapter, (hidden, vision.size("vision_output_dim")))
    return VisionTower(encoder=encoder, projector=projector, merge=merge, cut="canvas")


# model_type of the whole → its tower. LLaVA-NeXT and LLaVA-OneVision cut images in ways of their own.
TOWERS: Mapping[str, Callable[[Fields, Fields, int], VisionTower]] = {
    "llava": _llava,
    "mistral3": _mistral3,
    "gemma3": _gemma3,
    "shieldgemma2": _gemma3,
    "paligemma": _paligemma,
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "qwen3_vl_moe": _qwen3_vl,
    "qwen3_5": _qwen3_vl,
    "qwen3_5_moe": _qwen3_vl,
    "internvl": _internvl,
    "idefics3": _idefics3,
    "smolvlm": _idefics3,
    "llama4": _llama4,
}
