"""Readers of configs with experts in grouped-query attention that differ by the names of their keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from predictor.errors import InvalidSpec
from predictor.workloads.architectures.feed_forward import DenseFeedForward, FeedForward
from predictor.workloads.architectures.sparse_mixers import Mixer
from predictor.workloads.configs.fields import Fields, show
from predictor.workloads.configs.layered_fields import GQA, Family, by_type, experts_of, grouped

MHA: Mapping[str, Any] = {**GQA, "num_key_value_heads": None}
KEYS = ("num_experts", "moe_intermediate_size")


def _attention(**options: Any) -> Callable[[Fields, int], list[Mixer]]:
    """Equal grouped-query attention in every layer."""
    return lambda fields, layers: [grouped(fields, **options)] * layers


def _ernie_attention(fields: Fields, layers: int) -> list[Mixer]:
    bias = fields.flag("use_bias")
    return [grouped(fields, qkv_bias=bias, o_bias=bias)] * layers


def _windowed_attention(fields: Fields, layers: int) -> list[Mixer]:
    """Normalised queries and keys; windows where layer_types says so."""
    full = grouped(fields, qk_norm=True)
    if fields.absent("layer_types"):
        return [full] * layers
    types = fields.get("layer_types")
    windows = isinstance(types, list) and "sliding_attention" in types
    sliding = grouped(fields, qk_norm=True, window=fields.size("sliding_window")) if windows else full
    return by_type(fields, layers, {"full_attention": full, "sliding_attention": sliding})


def _experts(experts: str, inter: str, topk: str = "num_experts_per_tok") -> Callable[[Fields, int], list[FeedForward]]:
    """Experts in every layer."""
    return lambda fields, layers: [experts_of(fields, experts, inter, topk)] * layers


def _shared_experts(fields: Fields, layers: int) -> list[FeedForward]:
    shared = fields.count("shared_intermediate_size")
    return [experts_of(fields, "num_local_experts", "intermediate_size", shared_inter=shared)] * layers


def _aria_experts(fields: Fields, layers: int) -> list[FeedForward]:
    shared = fields.count("moe_num_shared_experts") * fields.size("intermediate_size")
    return [experts_of(fields, "moe_num_experts", "intermediate_size", "moe_topk", shared_inter=shared)] * layers


def _ernie_experts(fields: Fields, layers: int) -> list[FeedForward]:
    """Experts in every moe_layer_interval-th layer from moe_layer_start_index to moe_layer_end_index."""
    inter = fields.size("moe_intermediate_size")
    shared = fields.count("moe_num_shared_experts") * inter
    routed = experts_of(fields, "moe_num_experts", "moe_intermediate_size", "moe_k", shared_inter=shared)
    first, interval = fields.count("moe_layer_start_index"), fields.size("moe_layer_interval")
    stated = fields.get("moe_layer_end_index")
    last = layers - 1 if stated in (None, -1) else fields.count("moe_layer_end_index")
    plain = DenseFeedForward(inter=fields.size("intermediate_size"))
    in_range = [first <= layer <= last and (layer + 1) % interval == 0 for layer in range(layers)]
    return [routed if is_routed else plain for is_routed in in_range]


def _after_dense(experts: str, shared: str) -> Callable[[Fields, int], list[FeedForward]]:
    """Dense in the first layers, then routed experts beside `shared` ones."""

    def feed_forwards(fields: Fields, layers: int) -> list[FeedForward]:
        inter = fields.size("moe_intermediate_size")
        routed = experts_of(fields, experts, "moe_intermediate_size", shared_inter=inter * fields.count(shared))
        plain = DenseFeedForward(inter=fields.size("intermediate_size"))
        if not fields.absent("mlp_layer_types"):
            kinds = fields.get("mlp_layer_types")
            if not isinstance(kinds, list) or len(kinds) != layers or not {*map(str, kinds)} <= {"dense", "sparse"}:
                raise InvalidSpec(f"mlp_layer_types in config.json is {show(kinds)}; it must list dense or sparse.")
            return [routed if kind == "sparse" else plain for kind in kinds]
        first = fields.dense_layers(layers)
        return [plain] * first + [routed] * (layers - first)

    return feed_forwards


ERNIE: Mapping[str, Any] = {
    **GQA,
    "tie_word_embeddings": True,
    "use_bias": False,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": -1,
    "moe_layer_interval": 1,
    "moe_num_shared_experts": 2,
}

MORE_EXPERTS: Mapping[str, Family] = {
    "olmoe": Family(MHA, _attention(qk_norm=True), _experts("num_experts", "intermediate_size")),
    "flex_olmo": Family(MHA, _attention(qk_norm=True), _experts("num_experts", "intermediate_size")),
    "granitemoe": Family(MHA, _attention(), _experts("num_local_experts", "intermediate_size")),
    "granitemoeshared": Family(MHA, _attention(), _shared_experts),
    "phimoe": Family(GQA, _attention(), _experts("num_local_experts", "intermediate_size")),
    "aria_text": Family(MHA, _attention(), _aria_experts),
    "ernie4_5_moe": Family(ERNIE, _ernie_attention, _ernie_experts),
    "exaone_moe": Family(
        {**MHA, "first_k_dense_replace": 1, "num_shared_experts": 1},
        _windowed_attention,
        _after_dense("num_experts", "num_shared_experts"),
    ),
    "hy_v3": Family(
        {**MHA, "first_k_dense_replace": 1, "num_shared_experts": 1},
        _attention(qk_norm=True),
        _after_dense("num_experts", "num_shared_experts"),
    ),
    "dots1": Family(
        {**MHA, "first_k_dense_replace": 0, "n_shared_experts": 0},
        _windowed_attention,
        _after_dense("n_routed_experts", "n_shared_experts"),
    ),
}
