"""Parameters of what a multimodal config has beside its language model: vision and audio towers and their projectors.

Counted as transformers builds them (src/transformers/models/*/modeling_*.py). Vision towers whose passes are known are
read as networks in predictor.workloads.configs.tower_passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from predictor.workloads.configs.class_defaults import class_defaults
from predictor.workloads.configs.fields import Fields

PARTS = (
    "vision_config",
    "audio_config",
    "vision_tower_config",
    "visual",
    "vision_model_config",
    "sound_config",
    "speech_config",
    "encoder_config",
    "perceiver_config",
    "qformer_config",
    "thinker_config",
    "talker_config",
    "vq_config",
    "vqmodel_config",
    "acoustic_tokenizer_encoder_config",
    "projector_config",
    "mm_vision_tower",
)


def beside_parameters(config: Mapping[str, Any], hidden: int) -> tuple[int, tuple[str, ...]]:
    """(parameters, notes) of a config's towers and projectors; those of no known kind are named in a note.

    hidden: width of the language model.
    """
    named = [part for part in PARTS if config.get(part)]
    if not named:
        return 0, ()
    kind = str(config.get("model_type"))
    if kind not in KINDS or not isinstance(config.get(KINDS[kind][0]), Mapping):
        verb = "are" if len(named) > 1 else "is"
        return 0, (f"{' and '.join(named)} of config.json ({kind[:40]}) {verb} not counted: weights are larger.",)
    part, _, count = KINDS[kind]
    found = count(*tower_fields(config, kind), hidden)
    what = "vision tower" if part == "vision_config" else "audio tower"
    return found, (f"{what} and projector ({found / 1e9:.2f} B parameters) count in memory.",)


def tower_fields(config: Mapping[str, Any], kind: str) -> tuple[Fields, Fields]:
    """The fields of the tower of a config of one of KINDS, and those of the whole beside its language model."""
    part, tower, _ = KINDS[kind]
    inner = config[part]
    named = class_defaults(str(inner.get("model_type", tower)))  # older configs name the whole (qwen2_5_vl)
    return Fields(inner, {**class_defaults(tower), **named, **OWN.get(kind, {})}), _Whole(config)


class _Whole(Fields):
    """A multimodal config without its language model."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config, OUTER)
        self.config = config


def _blocks(width: int, layers: int, inter: int, *, gated: bool = False, biases: int = 6, norms: int = 4) -> int:
    """Parameters of the layers of a tower.

    biases: how many of 4 projections of attention and 2 of the feed-forward have one: 0, 1 (the output of attention), 5
    (not the key) or 6; those of the feed-forward where any has. norms: vectors of width.
    """
    matrices = 4 * width**2 + (3 if gated else 2) * width * inter
    vectors = {0: 0, 1: width, 5: 3 * width, 6: 4 * width}[biases]
    if biases:
        vectors += (2 if gated else 1) * inter + width
    return layers * (matrices + vectors + norms * width)


def _patches(vision: Fields, width: int, frames: int = 1, channels: str = "num_channels") -> int:
    return vision.size(channels) * frames * side_of(vision, "patch_size") ** 2 * width


def side_of(vision: Fields, key: str) -> int:
    """Pixels of a side, which some configs list for both."""
    value = vision.get(key)
    return int(value[0]) if isinstance(value, list) and value and isinstance(value[0], int) else vision.size(key)


def _grid(vision: Fields) -> int:
    return (side_of(vision, "image_size") // side_of(vision, "patch_size")) ** 2


def _clip(vision: Fields) -> int:
    """CLIP: a class token, norms before and after the layers."""
    if vision.config.get("model_type") == "pixtral":
        return _pixtral(vision)
    if str(vision.config.get("model_type")).startswith("siglip"):
        return _siglip(vision)
    width = vision.size("hidden_size")
    layers = _blocks(width, vision.size("num_hidden_layers"), vision.size("intermediate_size"))
    return layers + _patches(vision, width) + (_grid(vision) + 2) * width + 4 * width


def _siglip(vision: Fields) -> int:
    """SigLIP, with the pooling head where its class has one."""
    width, inter = vision.size("hidden_size"), vision.size("intermediate_size")
    layers = _blocks(width, vision.size("num_hidden_layers"), inter)
    head = width + _blocks(width, 1, inter, norms=2) if vision.get("vision_use_head") else 0
    return layers + _patches(vision, width) + width + _grid(vision) * width + 2 * width + head


def _pixtral(vision: Fields) -> int:
    width = vision.size("hidden_size")
    inter = vision.size("intermediate_size")
    layers = _blocks(width, vision.size("num_hidden_layers"), inter, gated=True, biases=0, norms=2)
    return layers + _patches(vision, width) + width


def _whisper(audio: Fields, width: str, layers: str, inter: str) -> int:
    """Two convolutions, a table of positions, layers whose keys have no bias."""
    size, mels = audio.size(width), audio.size("num_mel_bins")
    convolutions = 3 * size * (mels + size) + 2 * size
    blocks = _blocks(size, audio.size(layers), audio.size(inter), biases=5)
    return convolutions + audio.size("max_source_positions") * size + blocks + 2 * size


def selected_layers(outer: Fields) -> int:
    """Layers whose features the projector takes."""
    layers = outer.get("vision_feature_layer")
    return len(layers) if isinstance(layers, list) and layers else 1


def _two(into: int, hidden: int, biased: bool) -> int:
    """Two linear layers."""
    return into * hidden + hidden * hidden + (2 * hidden if biased else 0)


def _llava(vision: Fields, outer: Fields, hidden: int) -> int:
    into = vision.size("hidden_size") * selected_layers(outer)
    return _clip(vision) + _two(into, hidden, outer.flag("multimodal_projector_bias"))


def _llava_next(vision: Fields, outer: Fields, hidden: int) -> int:
    return _llava(vision, outer, hidden) + hidden


def _vipllava(vision: Fields, outer: Fields, hidden: int) -> int:
    layers = outer.config.get("vision_feature_layers")
    into = vision.size("hidden_size") * (len(layers) if isinstance(layers, list) and layers else 5)
    return _clip(vision) + 2 * into + _two(into, hidden, True)


def _mistral3(vision: Fields, outer: Fields, hidden: int) -> int:
    width, merged = vision.size("hidden_size"), outer.size("spatial_merge_size") ** 2
    biased = bool(outer.config.get("multimodal_projector_bias", False))
    return _pixtral(vision) + width + merged * width**2 + _two(width * selected_layers(outer), hidden, biased)


def _gemma3(vision: Fields, outer: Fields, hidden: int) -> int:
    width = vision.size("hidden_size")
    return _siglip(vision) + width * hidden + width


def _paligemma(vision: Fields, outer: Fields, hidden: int) -> int:
    return _siglip(vision) + (vision.size("hidden_size") + 1) * hidden


def _qwen2_vl(vision: Fields, outer: Fields, hidden: int) -> int:
    width, merged = vision.size("embed_dim"), vision.size("spatial_merge_size") ** 2 * vision.size("embed_dim")
    layers = _blocks(width, vision.size("depth"), width * vision.size("mlp_ratio"))
    patches = _patches(vision, width, vision.size("temporal_patch_size"), "in_channels")
    return layers + patches + 2 * width + merged * (merged + hidden) + merged + hidden


def _qwen2_5_vl(vision: Fields, outer: Fields, hidden: int) -> int:
    width, out = vision.size("hidden_size"), vision.size("out_hidden_size")
    merged = vision.size("spatial_merge_size") ** 2 * width
    layers = _blocks(width, vision.size("depth"), vision.size("intermediate_size"), gated=True, norms=2)
    patches = _patches(vision, width, vision.size("temporal_patch_size"), "in_channels")
    return layers + patches + width + merged * (merged + out) + merged + out


def _qwen3_vl(vision: Fields, outer: Fields, hidden: int) -> int:
    """Mergers after the last layer and after each of deepstack_visual_indexes."""
    width, out = vision.size("hidden_size"), vision.size("out_hidden_size")
    merged = vision.size("spatial_merge_size") ** 2 * width
    layers = _blocks(width, vision.size("depth"), vision.size("intermediate_size"))
    patches = _patches(vision, width, vision.size("temporal_patch_size"), "in_channels") + width
    deep = vision.config.get("deepstack_visual_indexes", vision.defaults.get("deepstack_visual_indexes"))
    deepstack = len(deep) if isinstance(deep, list) else 0
    merger = merged * (merged + out) + merged + out
    norms = 2 * width + deepstack * 2 * merged
    return layers + patches + vision.size("num_position_embeddings") * width + (1 + deepstack) * merger + norms


def _internvl(vision: Fields, outer: Fields, hidden: int) -> int:
    """InternViT: a class token, layers scaled twice, biases of query, key and value where attention_bias."""
    width, layers = vision.size("hidden_size"), vision.size("num_hidden_layers")
    biases = 6 if vision.flag("attention_bias") else 1
    normed = 2 if vision.get("norm_type") == "rms_norm" else 4
    blocks = _blocks(width, layers, vision.size("intermediate_size"), biases=biases, norms=normed + 2)
    if vision.flag("use_qk_norm"):
        blocks += 2 * layers * width
    table = (_grid(vision) + 2) * width
    into = int(width / outer.ratio("downsample_ratio") ** 2)
    return blocks + _patches(vision, width) + width + table + 2 * into + _two(into, hidden, True)


def _idefics3(vision: Fields, outer: Fields, hidden: int) -> int:
    return _siglip(vision) + vision.size("hidden_size") * outer.size("scale_factor") ** 2 * hidden


def _llama4(vision: Fields, outer: Fields, hidden: int) -> int:
    width, inter = vision.size("hidden_size"), vision.size("intermediate_size")
    into, middle, out = (vision.size(f"projector_{key}_dim") for key in ("input", "output", "output"))
    layers = _blocks(width, vision.size("num_hidden_layers"), inter)
    adapter = inter * into + middle * out
    table = (_grid(vision) + 2) * width + 4 * width
    return layers + _patches(vision, width) + table + adapter + vision.size("vision_output_dim") * hidden


def _qwen2_audio(audio: Fields, outer: Fields, hidden: int) -> int:
    tower = _whisper(audio, "d_model", "encoder_layers", "encoder_ffn_dim")
    return tower + (audio.size("d_model") + 1) * hidden


def _voxtral(audio: Fields, outer: Fields, hidden: int) -> int:
    tower = _whisper(audio, "hidden_size", "num_hidden_layers", "intermediate_size")
    return tower + _two(audio.size("intermediate_size"), hidden, False)


OUTER: Mapping[str, Any] = {
    "multimodal_projector_bias": True,
    "mm_tokens_per_image": 256,
    "vision_feature_layer": -1,
    "spatial_merge_size": 2,
    "downsample_ratio": 0.5,
    "scale_factor": 2,
}
# What the class of the whole says of its tower, in place of the tower's own class.
OWN: Mapping[str, Mapping[str, Any]] = {
    "paligemma": {"vision_use_head": False},
    "llava_onevision": {"vision_use_head": False},
    "gemma3": {"vision_use_head": True},
    "shieldgemma2": {"vision_use_head": True},
    "idefics3": {"vision_use_head": False},
    "smolvlm": {"vision_use_head": False},
    **{kind: {"vision_use_head": True} for kind in ("llava", "llava_next", "llava_next_video")},
}
Count = Callable[[Fields, Fields, int], int]
# model_type of the whole: where its tower is, the class of the tower where it names none, and what counts it.
KINDS: Mapping[str, tuple[str, str, Count]] = {
    "llava": ("vision_config", "clip_vision_model", _llava),
    "llava_next": ("vision_config", "clip_vision_model", _llava_next),
    "llava_next_video": ("vision_config", "clip_vision_model", _llava_next),
    "llava_onevision": ("vision_config", "siglip_vision_model", _llava_next),
    "vipllava": ("vision_config", "clip_vision_model", _vipllava),
    "mistral3": ("vision_config", "pixtral", _mistral3),
    "lighton_ocr": ("vision_config", "pixtral", _mistral3),
    "gemma3": ("vision_config", "siglip_vision_model", _gemma3),
    "shieldgemma2": ("vision_config", "siglip_vision_model", _gemma3),
    "paligemma": ("vision_config", "siglip_vision_model", _paligemma),
    "qwen2_vl": ("vision_config", "qwen2_vl_vision", _qwen2_vl),
    "qwen2_5_vl": ("vision_config", "qwen2_5_vl_vision", _qwen2_5_vl),
    "qwen3_vl": ("vision_config", "qwen3_vl_vision", _qwen3_vl),
    "qwen3_vl_moe": ("vision_config", "qwen3_vl_vision", _qwen3_vl),
    "qwen3_5": ("vision_config", "qwen3_5_vision", _qwen3_vl),
    "qwen3_5_moe": ("vision_config", "qwen3_5_moe_vision", _qwen3_vl),
    "internvl": ("vision_config", "internvl_vision", _internvl),
    "qianfan_ocr": ("vision_config", "internvl_vision", _internvl),
    "idefics3": ("vision_config", "idefics3_vision", _idefics3),
    "smolvlm": ("vision_config", "smolvlm_vision", _idefics3),
    "llama4": ("vision_config", "llama4_vision_model", _llama4),
    "qwen2_audio": ("audio_config", "qwen2_audio_encoder", _qwen2_audio),
    "voxtral": ("audio_config", "voxtral_encoder", _voxtral),
}
