"""Readers of configs whose layers differ in ways of their own: searched widths, sparse and compressed attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from predictor.errors import InvalidSpec
from predictor.workloads.architectures.feed_forward import DenseFeedForward, FeedForward
from predictor.workloads.architectures.mixers import LatentAttention, LinearAttention
from predictor.workloads.architectures.sparse_mixers import BlockSparseAttention, CompressedAttention, Mixer
from predictor.workloads.configs.fields import Fields, show
from predictor.workloads.configs.layered_fields import GQA, LATENT, Family, by_type, experts_of, grouped, marks


def _step_attention(fields: Fields, layers: int) -> list[Mixer]:
    """Sliding layers with the heads of attention_other_setting. layer_types lists multi-token-prediction layers too."""
    shared: dict[str, Any] = {"qk_norm": True, "head_gate": fields.flag("use_head_wise_attn_gate")}
    groups = "num_key_value_heads" if fields.absent("num_attention_groups") else "num_attention_groups"
    full, options = grouped(fields, groups, **shared), dict[str, Any]()
    if not fields.absent("attention_other_setting"):
        other = _part(fields, "attention_other_setting")
        if other.get("attention_type") != "sliding_attention":
            raise InvalidSpec("attention_type of attention_other_setting in config.json must be sliding_attention.")
        options = {"heads": other.size("num_attention_heads"), "head_dim": other.size("head_dim")}
        options["kv_heads"] = other.size("num_attention_groups")
    sliding = replace(full, window=fields.size("sliding_window"), **options)
    kinds: Mapping[str, Mixer] = {"full_attention": full, "sliding_attention": sliding}
    types = fields.get("layer_types")
    ahead = 0 if fields.absent("num_nextn_predict_layers") else fields.count("num_nextn_predict_layers")
    listed = layers + ahead if isinstance(types, list) and len(types) == layers + ahead else layers
    return by_type(fields, listed, kinds)[:layers]


def _step_experts(fields: Fields, layers: int) -> list[FeedForward]:
    """Routed experts beside a shared one in the layers of moe_layers_enum, "3,4,5", or after the first dense ones."""
    keys = ("moe_num_experts", "moe_intermediate_size", "moe_top_k")
    if fields.absent("moe_num_experts"):
        keys = ("num_experts", "moe_intermediate_size", "num_experts_per_tok")
    routed = experts_of(fields, *keys, shared_inter=fields.size("share_expert_dim"))
    dense = DenseFeedForward(inter=fields.size("intermediate_size"))
    if fields.absent("moe_layers_enum"):
        first = fields.dense_layers(layers)
        return [dense] * first + [routed] * (layers - first)
    named, known = fields.get("moe_layers_enum"), [str(layer) for layer in range(layers)]
    if not isinstance(named, str) or not {*named.split(",")} <= {*known}:
        raise InvalidSpec(f'moe_layers_enum in config.json is {show(named)}; it must be layers of {layers}: "3,4,5".')
    return [routed if layer in named.split(",") else dense for layer in known]


def _minimax_attention(fields: Fields, layers: int) -> list[Mixer]:
    """Dense where sparse_attention_freq of sparse_attention_config is 0, over chosen blocks where it is 1."""
    dense = grouped(fields, qk_norm=True, rotary_dim=fields.size("rotary_dim"))
    sparse = _part(fields, "sparse_attention_config")
    chosen = BlockSparseAttention(
        dense=dense,
        keys=sparse.size("sparse_topk_blocks") * sparse.size("sparse_block_size"),
        index_heads=sparse.size("sparse_num_index_heads"),
        index_dim=sparse.size("sparse_index_dim"),
    )
    return [chosen if is_sparse else dense for is_sparse in marks(sparse, "sparse_attention_freq", layers)]


def _minimax_experts(fields: Fields, layers: int) -> list[FeedForward]:
    shared = fields.size("shared_intermediate_size") * fields.count("n_shared_experts")
    routed = experts_of(fields, "num_local_experts", "moe_intermediate_size", shared_inter=shared)
    dense = DenseFeedForward(inter=fields.size("dense_intermediate_size"))
    return [routed if is_routed else dense for is_routed in marks(fields, "moe_layer_freq", layers)]


def _kimi_mixers(fields: Fields, layers: int) -> list[Mixer]:
    """Kimi delta attention, and latent attention in the layers that full_attn_layers counts from 1 on."""
    config = _part(fields, "linear_attn_config", {"use_full_rank_gate": False})
    heads, dim = config.size("num_heads"), config.size("head_dim")
    linear = LinearAttention(
        key_heads=heads,
        value_heads=heads,
        key_dim=dim,
        value_dim=dim,
        conv_kernel=config.size("short_conv_kernel_size"),
        scalars=1,
        decay_rank=dim,
        gate_rank=0 if config.flag("use_full_rank_gate") else dim,
    )
    latent = LatentAttention(
        heads=fields.size("num_attention_heads"),
        q_rank=fields.size("q_lora_rank") if fields.get("q_lora_rank") else 0,
        kv_rank=fields.size("kv_lora_rank"),
        nope_dim=fields.size("qk_nope_head_dim"),
        rope_dim=fields.size("qk_rope_head_dim"),
        v_dim=fields.size("v_head_dim"),
        gated=fields.flag("mla_use_output_gate"),
    )
    full, delta = config.get("full_attn_layers"), config.get("kda_layers")
    if not (isinstance(full, list) and isinstance(delta, list) and sorted([*full, *delta]) == [*range(1, layers + 1)]):
        raise InvalidSpec(
            f"full_attn_layers and kda_layers of linear_attn_config in config.json are {show(full)} and {show(delta)}; "
            f"together they must name each of the layers 1 to {layers} once."
        )
    return [latent if layer in full else linear for layer in range(1, layers + 1)]


def _kimi_experts(fields: Fields, layers: int) -> list[FeedForward]:
    inter, first = fields.size("moe_intermediate_size"), fields.dense_layers(layers)
    latent = 0 if fields.absent("routed_expert_hidden_size") else fields.size("routed_expert_hidden_size")
    options: dict[str, Any] = {"shared_inter": inter * fields.count("num_shared_experts"), "latent": latent}
    routed = experts_of(fields, "num_experts", "moe_intermediate_size", "num_experts_per_token", **options)
    return [DenseFeedForward(inter=fields.size("intermediate_size"))] * first + [routed] * (layers - first)


def _deepseek_attention(fields: Fields, layers: int) -> list[Mixer]:
    """compress_ratios: 0 the window only, 4 chosen compressed keys, more: all of them. It lists MTP layers too."""
    ratios = fields.get("compress_ratios")
    if not isinstance(ratios, list) or len(ratios) < layers or not all(type(value) is int for value in ratios):
        raise InvalidSpec(f"compress_ratios in config.json is {show(ratios)}; it must list one for each layer.")
    return [_compressed(fields, ratio) for ratio in ratios[:layers]]


def _compressed(fields: Fields, ratio: int) -> CompressedAttention:
    chosen = 0 < ratio <= 4
    return CompressedAttention(
        heads=fields.size("num_attention_heads"),
        head_dim=fields.size("head_dim"),
        rope_dim=fields.size("qk_rope_head_dim"),
        q_rank=fields.size("q_lora_rank"),
        o_groups=fields.size("o_groups"),
        o_rank=fields.size("o_lora_rank"),
        window=fields.size("sliding_window"),
        ratio=ratio,
        index_heads=fields.size("index_n_heads") if chosen else 0,
        index_dim=fields.size("index_head_dim") if chosen else 0,
        index_topk=fields.size("index_topk") if chosen else 0,
        streams=fields.size("hc_mult"),
    )


def _deepseek_experts(fields: Fields, layers: int) -> list[FeedForward]:
    shared = fields.size("moe_intermediate_size") * fields.count("n_shared_experts")
    return [experts_of(fields, "n_routed_experts", "moe_intermediate_size", shared_inter=shared)] * layers


def _searched_blocks(fields: Fields, layers: int) -> list[tuple[Fields, Fields]]:
    """Attention and feed-forward of each of block_configs (configuration_decilm.py)."""
    blocks = fields.get("block_configs")
    if not isinstance(blocks, list) or len(blocks) != layers or not all(isinstance(block, Mapping) for block in blocks):
        raise InvalidSpec(f"block_configs in config.json is {show(blocks)}; it must describe each of {layers} layers.")
    pairs = [(_part(Fields(block, {}), "attention"), _part(Fields(block, {}), "ffn")) for block in blocks]
    for part in (part for pair in pairs for part in pair):
        if part.flag("replace_with_linear"):
            raise InvalidSpec("not yet supported: replace_with_linear of block_configs in config.json.")
    return pairs


def _searched_attention(fields: Fields, layers: int) -> list[Mixer | None]:
    heads, hidden = fields.size("num_attention_heads"), fields.size("hidden_size")
    mixers: list[Mixer | None] = []
    for attention, _ in _searched_blocks(fields, layers):
        kv_heads = 0 if attention.flag("no_op") else heads // attention.size("n_heads_in_group")
        mixers.append(grouped(fields, kv_heads=kv_heads, head_dim=hidden // heads) if kv_heads else None)
    return mixers


def _searched_feed_forward(fields: Fields, layers: int) -> list[FeedForward | None]:
    """Width 2/3 · ffn_mult · hidden, rounded up to a multiple of 256 (modeling_decilm.py)."""
    feed_forwards: list[FeedForward | None] = []
    for _, ffn in _searched_blocks(fields, layers):
        times = ffn.config.get("ffn_mult")
        if ffn.flag("no_op"):
            feed_forwards.append(None)
            continue
        if isinstance(times, bool) or not isinstance(times, int | float) or not 0 < times < 100:
            raise InvalidSpec(f"ffn_mult of block_configs in config.json is {show(times)}; it must be above 0.")
        width = int(2 * times * fields.size("hidden_size") / 3)
        feed_forwards.append(DenseFeedForward(inter=-(-width // 256) * 256))
    return feed_forwards


def _part(fields: Fields, key: str, defaults: Mapping[str, Any] | None = None) -> Fields:
    """An object inside a config."""
    part = fields.get(key)
    if not isinstance(part, Mapping):
        raise InvalidSpec(f"{key} in config.json is {show(part)}; it must be an object.")
    return Fields(part, defaults or {})


KIMI: Mapping[str, Any] = {**LATENT, "mla_use_output_gate": False}
STEP = Family({**GQA, "use_head_wise_attn_gate": False}, _step_attention, _step_experts)
DEEPSEEK_V4 = Family(GQA, _deepseek_attention, _deepseek_experts)

RECENT: Mapping[str, Family] = {
    "step3p5": STEP,
    "step3p7": STEP,
    "minimax_m3": Family(GQA, _minimax_attention, _minimax_experts),
    "kimi_linear": Family(KIMI, _kimi_mixers, _kimi_experts),
    "deepseek_v4": DEEPSEEK_V4,
    "deepseek_ref": DEEPSEEK_V4,  # the name that SGLang's FP8 copies carry
    "nemotron-nas": Family({**GQA, "num_key_value_heads": 1}, _searched_attention, _searched_feed_forward),
}
