"""Readers of configs whose layers keep a state of fixed size: Mamba, Mamba-2, RG-LRU, short convolutions, lightning
attention; and of Gemma 3n, whose last layers share the cache of earlier ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from predictor.errors import InvalidSpec
from predictor.workloads.architectures.feed_forward import DenseFeedForward, FeedForward
from predictor.workloads.architectures.mixers import LinearAttention
from predictor.workloads.architectures.recurrences import Projection, Recurrence, Together
from predictor.workloads.architectures.sparse_mixers import Mixer
from predictor.workloads.configs.fields import Fields, show
from predictor.workloads.configs.layered_fields import GQA, Family, by_type, dense, experts_of, grouped, mamba_2

ANY_LEN = 2**31  # a recurrence has no longest sequence


def _mamba(fields: Fields, state: str, conv: str, expand: str, rank: str, *, normed: bool = False) -> Recurrence:
    """Mamba-1 (arXiv:2312.00752): convolution, a selective scan with `state` numbers per channel."""
    hidden, size = fields.size("hidden_size"), fields.size(state)
    channels, kernel = fields.size(expand) * hidden, fields.size(conv)
    stated = fields.get(rank)
    steps = -(-hidden // 16) if stated == "auto" else fields.size(rank)
    inner = (Projection("x_proj", steps + 2 * size, channels, True), Projection("dt_proj", channels, steps))
    projections = (Projection("in_proj", 2 * channels, 0), *inner, Projection("out_proj", 0, channels, True))
    plain = channels * (kernel + 1 + size + 2) + (steps + 2 * size if normed else 0)
    return Recurrence(
        kind="Mamba", channels=channels, projections=projections, plain=plain, state=size, conv=kernel - 1
    )


def _mamba_2(fields: Fields, prefix: str = "mamba_", **others: Any) -> LinearAttention:
    """Mamba-2 under the keys of Bamba, Granite 4 and Falcon-H1."""
    heads, stated = fields.size(f"{prefix}n_heads"), fields.get(f"{prefix}d_head")
    wide = fields.size(f"{prefix}expand") * fields.size("hidden_size")
    head_dim = wide // heads if stated == "auto" else fields.size(f"{prefix}d_head")
    sizes = (fields.size(f"{prefix}{name}") for name in ("n_groups", "d_state", "d_conv"))
    return mamba_2(heads, head_dim, *sizes, **others)


def _mamba_mixers(fields: Fields, layers: int) -> list[Mixer | None]:
    return [_mamba(fields, "state_size", "conv_kernel", "expand", "time_step_rank")] * layers


def _mamba_2_mixers(fields: Fields, layers: int) -> list[Mixer | None]:
    names = ("num_heads", "head_dim", "n_groups", "state_size", "conv_kernel")
    return [mamba_2(*map(fields.size, names))] * layers


def _none(fields: Fields, layers: int) -> list[FeedForward | None]:
    return [None] * layers


def _periodic(fields: Fields, layers: int, kind: str) -> list[bool]:
    """Layers whose number is kind_layer_offset modulo kind_layer_period (Jamba)."""
    period, offset = fields.size(f"{kind}_layer_period"), fields.count(f"{kind}_layer_offset")
    return [layer % period == offset for layer in range(layers)]


def _jamba_mixers(fields: Fields, layers: int) -> list[Mixer]:
    mamba = _mamba(fields, "mamba_d_state", "mamba_d_conv", "mamba_expand", "mamba_dt_rank", normed=True)
    full = grouped(fields)
    return [full if attends else mamba for attends in _periodic(fields, layers, "attn")]


def _jamba_experts(fields: Fields, layers: int) -> list[FeedForward]:
    plain = DenseFeedForward(inter=fields.size("intermediate_size"))
    if fields.size("num_experts") == 1:
        return [plain] * layers
    routed = experts_of(fields, "num_experts", "intermediate_size")
    return [routed if is_routed else plain for is_routed in _periodic(fields, layers, "expert")]


def _bamba_mixers(fields: Fields, layers: int) -> list[Mixer]:
    """Attention in attn_layer_indices, Mamba-2 elsewhere."""
    mamba, full, named = _mamba_2(fields), grouped(fields), fields.get("attn_layer_indices") or []
    if "layer_types" in fields.config and fields.absent("attn_layer_indices"):
        return _granite_mixers(fields, layers)
    if not isinstance(named, list) or not all(type(layer) is int for layer in named):
        raise InvalidSpec(f"attn_layer_indices in config.json is {show(named)}; it must list layers.")
    return [full if layer in named else mamba for layer in range(layers)]


def _falcon_h1_mixers(fields: Fields, layers: int) -> list[Mixer]:
    """Mamba-2 and attention side by side; mamba_d_ssm: width of the former."""
    heads = fields.size("mamba_n_heads")
    wide = fields.size("mamba_d_ssm", none_is=fields.size("mamba_expand") * fields.size("hidden_size"))
    normed = wide if fields.flag("mamba_rms_norm") else 1
    return [Together(parts=(_mamba_2(fields, value_dim=wide // heads, normed_dim=normed), grouped(fields)))] * layers


def _granite_mixers(fields: Fields, layers: int) -> list[Mixer]:
    """Granite 4: layer_types says mamba or attention; all are mamba where it is absent."""
    mamba, full = _mamba_2(fields), grouped(fields)
    key = "layers_block_type" if "layers_block_type" in fields.config else "layer_types"
    if fields.absent(key):
        return [mamba] * layers
    kinds: dict[str, Mixer] = {"mamba": mamba, "attention": full, "linear_attention": mamba, "full_attention": full}
    return by_type(fields, layers, kinds, key)


def _granite_feed_forward(fields: Fields, layers: int) -> list[FeedForward]:
    """A shared feed-forward, with routed experts beside it where there are any."""
    shared = fields.count("shared_intermediate_size")
    if fields.count("num_local_experts") == 0:
        return [DenseFeedForward(inter=shared)] * layers
    return [experts_of(fields, "num_local_experts", "intermediate_size", shared_inter=shared)] * layers


def _recurrent_gemma_mixers(fields: Fields, layers: int) -> list[Mixer]:
    """RG-LRU (Griffin, arXiv:2402.19427) and attention with a window, as block_types repeat."""
    width, kernel, heads = fields.size("lru_width"), fields.size("conv1d_width"), fields.size("num_attention_heads")
    gates = [Projection(name, width, width // heads) for name in ("input_gate", "recurrent_gate")]
    around = Projection("linear_y", width, 0), Projection("linear_x", width, 0)
    recurrent = Recurrence(
        kind="RG-LRU",
        channels=width,
        projections=(*around, *gates, Projection("linear_out", 0, width, True)),
        plain=width * (kernel + 1 + 5) + fields.size("hidden_size"),
        state=1,
        conv=kernel - 1,
    )
    window = grouped(fields, window=fields.size("attention_window_size"), o_bias=True)
    kinds: Mapping[str, Mixer] = {"recurrent": recurrent, "attention": window}
    types = fields.get("block_types")
    if not isinstance(types, list) or not types or not all(isinstance(kind, str) and kind in kinds for kind in types):
        raise InvalidSpec(f"block_types in config.json is {show(types)}; it must list recurrent or attention.")
    return [kinds[types[layer % len(types)]] for layer in range(layers)]


def _recurrent_gemma_feed_forward(fields: Fields, layers: int) -> list[FeedForward]:
    """intermediate_size counts gate and up together."""
    return [DenseFeedForward(inter=fields.size("intermediate_size") // 2)] * layers


def _lfm_mixers(fields: Fields, layers: int) -> list[Mixer]:
    """LFM2: a gated short convolution over conv_L_cache tokens, attention in layer_types or full_attn_idxs."""
    hidden, kernel = fields.size("hidden_size"), fields.size("conv_L_cache")
    conv = Recurrence(
        kind="convolution",
        channels=hidden,
        projections=(Projection("in_proj", 3 * hidden, 0), Projection("out_proj", 0, hidden, True)),
        plain=hidden * kernel,
        state=0,
        conv=kernel - 1,
    )
    full = grouped(fields, qk_norm=True)
    if "layer_types" in fields.config:
        return by_type(fields, layers, {"conv": conv, "full_attention": full})
    named = fields.config.get("full_attn_idxs")
    if named is not None and not isinstance(named, list):
        raise InvalidSpec(f"full_attn_idxs in config.json is {show(named)}; it must list layers.")
    return [full if named is None or layer in named else conv for layer in range(layers)]


def _lfm_feed_forward(fields: Fields, layers: int) -> list[FeedForward]:
    """Two thirds of the width, times a factor, rounded up to a multiple (Lfm2MLP)."""
    inter = fields.size("intermediate_size" if fields.absent("block_ff_dim") else "block_ff_dim")
    if fields.flag("block_auto_adjust_ff_dim"):
        times, multiple = fields.get("block_ffn_dim_multiplier"), fields.size("block_multiple_of")
        if isinstance(times, bool) or not isinstance(times, int | float) or not 0 < times < 100:
            raise InvalidSpec(f"block_ffn_dim_multiplier in config.json is {show(times)}; it must be above 0.")
        inter = -(-int(times * int(2 * inter / 3)) // multiple) * multiple
    return [DenseFeedForward(inter=inter)] * layers


def _minimax_mixers(fields: Fields, layers: int) -> list[Mixer]:
    """MiniMax-01 (arXiv:2501.08313): lightning attention, and softmax attention by attn_type_list or layer_types."""
    heads, full = fields.size("num_attention_heads"), grouped(fields)
    width = heads * full.head_dim
    lightning = Recurrence(
        kind="lightning",
        channels=width,
        projections=(
            Projection("qkv_proj", 3 * width, 0),
            Projection("output_gate", width, 0),
            Projection("out_proj", 0, width, True),
        ),
        plain=width,
        state=full.head_dim,
    )
    if not fields.absent("attn_type_list"):
        kinds: Mapping[Any, Mixer] = {0: lightning, 1: full}
        return by_type(fields, layers, kinds, "attn_type_list")
    if "layer_types" in fields.config:
        return by_type(fields, layers, {"linear_attention": lightning, "full_attention": full})
    return [lightning if (layer + 1) % 2 else full for layer in range(layers)]


def _all_experts(fields: Fields, layers: int) -> list[FeedForward]:
    return [experts_of(fields, "num_local_experts", "intermediate_size")] * layers


def _gemma_3n_attention(fields: Fields, layers: int) -> list[Mixer]:
    """The last num_kv_shared_layers read keys and values of earlier layers (Gemma3nTextConfig)."""
    sliding, full = grouped(fields, qk_norm=True, window=fields.size("sliding_window")), grouped(fields, qk_norm=True)
    shared = fields.count("num_kv_shared_layers")
    if "layer_types" in fields.config:
        mixers = by_type(fields, layers, {"sliding_attention": sliding, "full_attention": full})
    else:
        mixers = [full if (layer + 1) % 5 == 0 else sliding for layer in range(layers)]
    if shared >= layers:
        raise InvalidSpec(f"num_kv_shared_layers in config.json is {shared}; it must be below the {layers} layers.")
    return borrowing(mixers, shared)


def borrowing(mixers: list[Mixer], shared: int) -> list[Mixer]:
    """The last `shared` layers without keys and values of their own."""
    own = len(mixers) - shared
    return mixers[:own] + [replace(mixer, borrowed_kv=True) for mixer in mixers[own:]]  # type: ignore[arg-type]


def _gemma_3n_feed_forward(fields: Fields, layers: int) -> list[FeedForward]:
    """intermediate_size is one width, or one for each layer."""
    inter = fields.get("intermediate_size")
    if isinstance(inter, list):
        if len(inter) != layers or not all(type(width) is int and 1 <= width <= 2**20 for width in inter):
            raise InvalidSpec(f"intermediate_size in config.json is {show(inter)}; it must list {layers} widths.")
        return [DenseFeedForward(inter=width) for width in inter]
    return [DenseFeedForward(inter=fields.size("intermediate_size"))] * layers


def _gemma_3n_beside(fields: Fields, layers: int) -> int:
    """Per-layer embeddings, AltUp and Laurel (modeling_gemma3n.py)."""
    hidden, per_layer = fields.size("hidden_size"), fields.size("hidden_size_per_layer_input")
    inputs, rank = fields.size("altup_num_inputs"), fields.size("laurel_rank")
    tables = fields.size("vocab_size_per_layer_input") * layers * per_layer + layers * per_layer * hidden + per_layer
    altup = inputs * (inputs + inputs**2 + hidden) + 2 * hidden
    layer = altup + 2 * rank * hidden + hidden + 2 * per_layer * hidden + hidden
    return tables + 2 * (inputs - 1) * hidden**2 + layers * layer


MAMBA: Mapping[str, Any] = {
    "vocab_size": 50280,
    "max_position_embeddings": ANY_LEN,
    "state_size": 16,
    "conv_kernel": 4,
    "expand": 2,
    "time_step_rank": "auto",
    "tie_word_embeddings": True,
}
MAMBA_2: Mapping[str, Any] = {**MAMBA, "state_size": 128, "n_groups": 8, "tie_word_embeddings": False}
MAMBA_2_KEYS: Mapping[str, Any] = {
    **GQA,
    "num_key_value_heads": 8,
    "mamba_n_groups": 1,
    "mamba_d_head": "auto",
    "mamba_d_conv": 4,
    "mamba_d_state": 256,
    "mamba_expand": 2,
    "attn_layer_indices": None,
}
GRANITE: Mapping[str, Any] = {**MAMBA_2_KEYS, "num_key_value_heads": None, "num_local_experts": 8}
JAMBA: Mapping[str, Any] = {
    **GQA,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": "auto",
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "num_experts": 16,
}
RECURRENT_GEMMA: Mapping[str, Any] = {
    **GQA,
    "num_key_value_heads": None,
    "tie_word_embeddings": True,
    "max_position_embeddings": ANY_LEN,
    "conv1d_width": 4,
    "attention_window_size": 2048,
    "block_types": ["recurrent", "recurrent", "attention"],
}
LFM: Mapping[str, Any] = {
    **GQA,
    "tie_word_embeddings": True,
    "conv_L_cache": 3,
    "block_auto_adjust_ff_dim": True,
    "block_ffn_dim_multiplier": 1.0,
    "block_multiple_of": 256,
}
GEMMA_3N: Mapping[str, Any] = {
    **GQA,
    "tie_word_embeddings": True,
    "altup_num_inputs": 4,
    "laurel_rank": 64,
    "hidden_size_per_layer_input": 256,
    "vocab_size_per_layer_input": 262144,
    "num_kv_shared_layers": 15,
}
MINIMAX = Family(GQA, _minimax_mixers, _all_experts)

HYBRID: Mapping[str, Family] = {
    "mamba": Family(MAMBA, _mamba_mixers, _none),
    "falcon_mamba": Family(MAMBA, _mamba_mixers, _none),
    "mamba2": Family(MAMBA_2, _mamba_2_mixers, _none),
    "jamba": Family(JAMBA, _jamba_mixers, _jamba_experts),
    "bamba": Family(MAMBA_2_KEYS, _bamba_mixers, dense),
    "falcon_h1": Family({**MAMBA_2_KEYS, "mamba_rms_norm": False, "mamba_d_ssm": 1024}, _falcon_h1_mixers, dense),
    "granitemoehybrid": Family(GRANITE, _granite_mixers, _granite_feed_forward),
    "recurrent_gemma": Family(RECURRENT_GEMMA, _recurrent_gemma_mixers, _recurrent_gemma_feed_forward),
    "lfm2": Family(LFM, _lfm_mixers, _lfm_feed_forward),
    "minimax": MINIMAX,
    "minimax_text_01": MINIMAX,
    "minimax_m1": MINIMAX,
    "MiniMaxText01": MINIMAX,
    "gemma3n_text": Family(GEMMA_3N, _gemma_3n_attention, _gemma_3n_feed_forward, 4, _gemma_3n_beside),
}
