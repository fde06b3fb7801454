"""Reads a Hugging Face config.json of an encoder.

What the file leaves out takes the default of the model type's own configuration class (transformers 4.50,
src/transformers/models/*/configuration_*.py) and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from predictor.errors import InvalidSpec
from predictor.workloads.architectures.convnet import ConvNet, resnet
from predictor.workloads.architectures.encoder import Encoder, VisionEncoder
from predictor.workloads.architectures.seq2seq import Seq2Seq
from predictor.workloads.configs.fields import Fields, read, short, show

# quick_gelu, x times the sigmoid of 1.702 x, moves the bytes of a GELU.
ACTIVATION_OF: Mapping[str, str] = {
    "gelu": "gelu",
    "quick_gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


class Text(NamedTuple):
    """A text model_type.

    keys: names of hidden, layers, heads, inter and activation in its config. reserved: rows of the position table that
    no token takes.
    """

    defaults: Mapping[str, Any]
    keys: tuple[str, str, str, str, str] = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
    )
    reserved: int = 0
    pooler: bool = True


BASE: Mapping[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
}
BERT: Mapping[str, Any] = {**BASE, "vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2}
DISTIL: Mapping[str, Any] = {
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "dim": 768,
    "n_layers": 6,
    "n_heads": 12,
    "hidden_dim": 3072,
    "activation": "gelu",
    "type_vocab_size": 0,
}
SMALL: Mapping[str, Any] = {
    **BERT,
    "embedding_size": 128,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
}
TEXT: Mapping[str, Text] = {
    "bert": Text(BERT),
    "roberta": Text({**BERT, "vocab_size": 50265}, reserved=2),
    "xlm-roberta": Text(BERT, reserved=2),
    "distilbert": Text(DISTIL, ("dim", "n_layers", "n_heads", "hidden_dim", "activation"), pooler=False),
    "electra": Text(SMALL, pooler=False),
    "mpnet": Text(
        {**BERT, "vocab_size": 30527, "relative_attention_num_buckets": 32, "type_vocab_size": 0}, reserved=2
    ),
}
IMAGE: Mapping[str, Any] = {**BASE, "image_size": 224, "num_channels": 3}
VISION: Mapping[str, Mapping[str, Any]] = {
    "vit": {**IMAGE, "patch_size": 16, "qkv_bias": True},
    "dinov2": {**IMAGE, "patch_size": 14, "qkv_bias": True, "mlp_ratio": 4, "use_swiglu_ffn": False},
    "siglip_vision_model": {**IMAGE, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh"},
    "clip_vision_model": {**IMAGE, "patch_size": 32, "hidden_act": "quick_gelu"},
}
WHOLE: Mapping[str, str] = {"siglip": "siglip_vision_model", "clip": "clip_vision_model"}  # with a vision_config
T5: Mapping[str, Any] = {
    "vocab_size": 32128,
    "num_decoder_layers": None,
    "relative_attention_num_buckets": 32,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
}
SEQ2SEQ: Mapping[str, Mapping[str, Any]] = {
    "t5": T5,
    "mt5": {**T5, "vocab_size": 250112, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}
FEED_FORWARDS: Mapping[str, tuple[bool, str]] = {"relu": (False, "relu"), "gated-gelu": (True, "gelu_tanh")}
CONVNETS: Mapping[str, Mapping[str, Any]] = {
    "resnet": {
        "num_channels": 3,
        "embedding_size": 64,
        "hidden_sizes": [256, 512, 1024, 2048],
        "depths": [3, 4, 6, 3],
        "layer_type": "bottleneck",
    }
}
SUPPORTED = ", ".join((*TEXT, *VISION, *WHOLE, *SEQ2SEQ, *CONVNETS))
# Of shapes or steps that the ops here do not have.
FOREIGN: Mapping[str, str] = {
    "deberta": "disentangled attention",
    "deberta-v2": "disentangled attention",
    "modernbert": "rotary positions and sliding windows",
}


def encoder_from_config(
    source: Mapping[str, Any] | str | Path, name: str = ""
) -> Encoder | VisionEncoder | Seq2Seq | ConvNet:
    """The encoder, encoder-decoder or convolutional network that a config.json describes.

    Raises InvalidSpec naming the field that is missing or not understood.
    source: the parsed file, its path, or a directory that has one. name: for reports. Of CLIP and SigLIP the vision
    part is read.
    """
    origin = "a config mapping"
    if isinstance(source, str | Path):
        path = Path(source)
        source, path = read(path)
        name, origin = name or path.absolute().parent.name, f"{path.name} in {short(path.parent)}"
    if not isinstance(source, Mapping):
        raise InvalidSpec(f"config is a {type(source).__name__}; it must be a JSON object, a mapping or a path.")
    model_type = str(source.get("model_type"))
    if model_type in WHOLE:
        part = source.get("vision_config")
        if not isinstance(part, Mapping):
            raise InvalidSpec(f"vision_config in config.json is {show(part)}; it must be an object.")
        source, model_type = {**part, "model_type": WHOLE[model_type]}, WHOLE[model_type]
    name = "".join(letter for letter in name[:100] if letter.isprintable()) or "custom encoder"
    if model_type in TEXT:
        return _text(_Reader(source, TEXT[model_type].defaults), TEXT[model_type], name, origin)
    if model_type in VISION:
        return _vision(_Reader(source, VISION[model_type]), name, origin)
    if model_type in SEQ2SEQ:
        return _seq2seq(_Reader(source, SEQ2SEQ[model_type]), name, origin)
    if model_type in CONVNETS:
        return _resnet(_Reader(source, CONVNETS[model_type]), name, origin)
    reason = f" ({FOREIGN[model_type]})" if model_type in FOREIGN else ""
    raise InvalidSpec(f"not yet supported: encoder {show(model_type)}{reason}; supported: {SUPPORTED}.")


class _Reader(Fields):
    """A config of an encoder."""

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        super().__init__({key: value for key, value in config.items() if key != "text_config"}, defaults)

    def activation_of(self, key: str) -> str:
        """Our name of an activation."""
        value = self.get(key)
        if not isinstance(value, str) or value not in ACTIVATION_OF:
            raise InvalidSpec(f"{key} in config.json is {show(value)}; one of {', '.join(ACTIVATION_OF)} is known.")
        return ACTIVATION_OF[value]

    def weights(self) -> str:
        """Number format of the weights; a configuration class that is told none loads fp32."""
        return "fp32" if self.absent("torch_dtype", "dtype") else self.dtype()

    def refuse(self, key: str, known: object, meaning: str) -> None:
        """Raises where the file gives a key another value than the one whose ops are here."""
        value = self.config.get(key, known)
        if value is not None and value != known:
            raise InvalidSpec(f"{key} in config.json is {show(value)} ({meaning}); only {show(known)} is supported.")


def _text(config: _Reader, family: Text, name: str, origin: str) -> Encoder:
    config.refuse("position_embedding_type", "absolute", "relative keys")
    config.refuse("is_decoder", False, "a decoder")
    hidden, layers, heads, inter = (config.size(key) for key in family.keys[:4])
    positions = config.size("max_position_embeddings")
    if positions <= family.reserved:
        raise InvalidSpec(
            f"max_position_embeddings in config.json is {positions}; it must be above the {family.reserved} rows that "
            "are reserved."
        )
    width = config.size("embedding_size") if "embedding_size" in family.defaults else hidden
    buckets = "relative_attention_num_buckets"
    return Encoder(
        name=name,
        hidden=hidden,
        layers=layers,
        heads=heads,
        inter=inter,
        vocab=config.size("vocab_size"),
        max_len=positions - family.reserved,
        reserved_positions=family.reserved,
        types=config.count("type_vocab_size") if family.defaults["type_vocab_size"] else 0,
        relative_buckets=config.size(buckets) if buckets in family.defaults else 0,
        embedding_dim=0 if width == hidden else width,
        pooler=family.pooler,
        activation=config.activation_of(family.keys[4]),
        dtype=config.weights(),
        source=origin,
    )


def _vision(config: _Reader, name: str, origin: str) -> VisionEncoder:
    kind = config.model_type
    if "qkv_bias" in config.defaults and not config.flag("qkv_bias"):
        raise InvalidSpec("qkv_bias in config.json is False; only True is supported.")
    hidden, dino = config.size("hidden_size"), kind == "dinov2"
    gated = dino and config.flag("use_swiglu_ffn")
    inter = hidden * config.size("mlp_ratio") if dino else config.size("intermediate_size")
    if gated:  # two thirds of it, rounded up to a multiple of 8 (Dinov2SwiGLUFFN)
        inter = (inter * 2 // 3 + 7) // 8 * 8
    classes = _classes(config) if kind == "vit" else 0
    return VisionEncoder(
        name=name,
        patch=config.size("patch_size"),
        image=config.size("image_size"),
        hidden=hidden,
        layers=config.size("num_hidden_layers"),
        heads=config.size("num_attention_heads"),
        inter=inter,
        channels=config.size("num_channels"),
        extra_tokens=0 if kind.startswith("siglip") else 1,
        classes=classes,
        head="linear" if classes else "attention" if kind.startswith("siglip") else "",
        patch_bias=not kind.startswith("clip"),
        embedding_norm=kind.startswith("clip"),
        layer_scale=dino,
        mask_token=dino,
        pooler=kind == "vit" and not classes,
        gated=gated,
        activation="silu" if gated else config.activation_of("hidden_act"),
        dtype=config.weights(),
        source=origin,
    )


def _seq2seq(config: _Reader, name: str, origin: str) -> Seq2Seq:
    layers, feed = config.size("num_layers"), config.get("feed_forward_proj")
    if not isinstance(feed, str) or feed not in FEED_FORWARDS:
        raise InvalidSpec(
            f"feed_forward_proj in config.json is {show(feed)}; it must be one of {', '.join(FEED_FORWARDS)}."
        )
    gated, activation = FEED_FORWARDS[feed]
    return Seq2Seq(
        name=name,
        hidden=config.size("d_model"),
        layers=layers,
        decoder_layers=config.size("num_decoder_layers", none_is=layers),
        heads=config.size("num_heads"),
        head_dim=config.size("d_kv"),
        inter=config.size("d_ff"),
        vocab=config.size("vocab_size"),
        buckets=config.size("relative_attention_num_buckets"),
        gated=gated,
        tied_embeddings=config.flag("tie_word_embeddings"),
        activation=activation,
        dtype=config.weights(),
        source=origin,
    )


def _resnet(config: _Reader, name: str, origin: str) -> ConvNet:
    kind, depths = config.get("layer_type"), config.get("depths")
    if not isinstance(depths, list) or not all(type(depth) is int and 1 <= depth <= 1000 for depth in depths):
        raise InvalidSpec(f"depths in config.json is {show(depths)}; it must list the blocks of each stage.")
    widths = [(64 if kind == "basic" else 256) * 2**stage for stage in range(len(depths))]
    for key, known in (("hidden_sizes", widths), ("embedding_size", 64)):
        if (value := config.get(key)) != known:
            raise InvalidSpec(f"{key} in config.json is {value!r:.60}; a {show(kind)} ResNet here has {known}.")
    for key, meaning in (("downsample_in_first_stage", "a halved stage 1"), ("downsample_in_bottleneck", "ResNet v1")):
        config.refuse(key, False, meaning)
    labels = config.config.get("id2label")
    classes = len(labels) if isinstance(labels, Mapping) and labels else config.size("num_labels")
    channels = config.size("num_channels")
    return resnet(name, tuple(depths), kind, origin, classes=classes, channels=channels, dtype=config.weights())


def _classes(config: _Reader) -> int:
    """Classes of a classifier; 0 where the architecture named is none."""
    named = config.config.get("architectures")
    if not isinstance(named, list) or not any("ForImageClassification" in str(architecture) for architecture in named):
        return 0
    labels = config.config.get("id2label")
    return len(labels) if isinstance(labels, Mapping) and labels else config.size("num_labels")
