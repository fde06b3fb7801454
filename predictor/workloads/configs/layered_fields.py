"""What readers of layered configs share: a family of model types, and parts of a layer as configs spell them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from predictor.errors import InvalidSpec
from predictor.workloads.architectures.feed_forward import DenseFeedForward, Experts, FeedForward
from predictor.workloads.architectures.mixers import GroupedAttention, LinearAttention
from predictor.workloads.architectures.sparse_mixers import Mixer
from predictor.workloads.configs.fields import Fields, show

GQA: Mapping[str, Any] = {"head_dim": None, "tie_word_embeddings": False}
LATENT: Mapping[str, Any] = {"tie_word_embeddings": False}


class Family(NamedTuple):
    """defaults: of the configuration class. mixers, feed_forwards: of each layer, in order. beside: parameters outside
    of mixers, feed-forwards, norms and embeddings."""

    defaults: Mapping[str, Any]
    mixers: Callable[[Fields, int], Sequence[Mixer | None]]
    feed_forwards: Callable[[Fields, int], Sequence[FeedForward | None]]
    norms: int = 2
    beside: Callable[[Fields, int], int] = lambda fields, layers: 0


def grouped(fields: Fields, kv_heads_key: str = "num_key_value_heads", **options: Any) -> GroupedAttention:
    """Grouped-query attention as most configs spell it; options: what this one states otherwise."""
    heads, hidden = fields.size("num_attention_heads"), fields.size("hidden_size")
    head_dim = fields.size("head_dim", none_is=hidden // heads)
    bias = bool(fields.config.get("attention_bias", fields.defaults.get("attention_bias", False)))
    stated: dict[str, Any] = {
        "heads": heads,
        "kv_heads": fields.size(kv_heads_key, none_is=heads),
        "head_dim": head_dim,
        "qkv_bias": bias,
        "o_bias": bias,
        "rotary_dim": fields.rotary_dim(head_dim),
    }
    return GroupedAttention(**(stated | options))


def mamba_2(heads: int, head_dim: int, groups: int, state: int, conv: int, **options: Any) -> LinearAttention:
    """Mamba-2 (arXiv:2405.21060): heads of `head_dim` channels, `groups` of which share `state` numbers per channel."""
    stated: dict[str, Any] = {
        "key_heads": groups,
        "value_heads": heads,
        "key_dim": state,
        "value_dim": head_dim,
        "conv_kernel": conv,
        "scalars": 1,
        "normed_dim": heads * head_dim,
    }
    return LinearAttention(**(stated | options))


def by_type(fields: Fields, layers: int, kinds: Mapping[str, Mixer], key: str = "layer_types") -> list[Mixer]:
    """The mixer of each layer by the list `key`."""
    types = fields.get(key)
    if (
        not isinstance(types, list)
        or len(types) != layers
        or not all(isinstance(kind, str) and kind in kinds for kind in types)
    ):
        raise InvalidSpec(
            f"{key} in config.json is {show(types)}; it must list {' or '.join(kinds)} for each of the {layers} layers."
        )
    return [kinds[kind] for kind in types]


def marks(fields: Fields, key: str, layers: int) -> list[int]:
    """0 or 1 for each layer."""
    listed = fields.get(key)
    if not isinstance(listed, list) or len(listed) != layers or not all(mark in (0, 1) for mark in listed):
        raise InvalidSpec(f"{key} in config.json is {show(listed)}; it must be 0 or 1 for each of the {layers} layers.")
    return listed


def experts_of(fields: Fields, experts: str, inter: str, topk: str = "num_experts_per_tok", **options: Any) -> Experts:
    """Experts; `experts`, `inter` and `topk` are the keys that say how many, how wide and how many of a token."""
    return Experts(experts=fields.size(experts), topk=fields.size(topk), inter=fields.size(inter), **options)


def dense(fields: Fields, layers: int) -> list[FeedForward]:
    """The same dense feed-forward in every layer."""
    return [DenseFeedForward(inter=fields.size("intermediate_size"))] * layers
