"""Reads a Hugging Face config.json of a decoder with experts, latent attention or linear attention.

What the file leaves out takes the default of the model type's own configuration class (transformers 5.23) and nothing
else. Multi-token-prediction layers and vision towers are not part of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from predictor.errors import InvalidSpec
from predictor.workloads.architectures.feed_forward import DenseFeedForward, Experts, FeedForward
from predictor.workloads.architectures.layered import Layer, LayeredDecoder, unmeasured_notes
from predictor.workloads.architectures.mixers import LatentAttention, LinearAttention
from predictor.workloads.architectures.sparse_mixers import Mixer
from predictor.workloads.configs.fields import Fields, show
from predictor.workloads.configs.layered_experts import MORE_EXPERTS
from predictor.workloads.configs.layered_fields import (
    GQA,
    LATENT,
    Family,
    by_type,
    dense,
    experts_of,
    grouped,
    mamba_2,
    marks,
)
from predictor.workloads.configs.layered_hybrid import HYBRID as STATES, borrowing
from predictor.workloads.configs.layered_recent import RECENT
from predictor.workloads.configs.quantization import published_dtypes

MOST_LAYERS = 2**12  # published models have at most 200


def layered_from_config(config: Mapping[str, Any], name: str, origin: str) -> LayeredDecoder:
    """The decoder of a config whose model_type is in LAYERED."""
    model_type = str(Fields(config, {}).model_type)
    family = LAYERED[model_type]
    fields = Fields(config, family.defaults)
    blocks = fields.config.get("layers_block_type")
    listed = fields.absent("num_hidden_layers") and isinstance(blocks, list)
    count = len(blocks or ()) if listed else fields.size("num_hidden_layers")
    if count > MOST_LAYERS:
        raise InvalidSpec(f"num_hidden_layers in config.json is {count}; it must be at most {MOST_LAYERS}.")
    pairs = zip(family.mixers(fields, count), family.feed_forwards(fields, count), strict=True)
    counts: dict[tuple[Mixer | None, FeedForward | None], int] = {}
    for pair in pairs:
        counts[pair] = counts.get(pair, 0) + 1
    layers = tuple(Layer(count=n, mixer=mixer, feed_forward=after) for (mixer, after), n in counts.items())
    beside = family.beside(fields, count)
    told = f"{beside / 1e9:.2f} B parameters of per-layer embeddings and mixing count in memory; their time does not."
    outside = (told,) if beside else ()
    linear_dtype, expert_dtype, _ = published_dtypes(fields, count)
    return LayeredDecoder(
        name=name,
        hidden=fields.size("hidden_size"),
        vocab=fields.size("vocab_size"),
        max_len=fields.longest(),
        layers_of=layers,
        norms=family.norms,
        tied_embeddings=fields.flag("tie_word_embeddings"),
        dtype="bf16" if fields.absent("torch_dtype", "dtype") and expert_dtype else fields.dtype(),
        linear_dtype=linear_dtype,
        expert_dtype=expert_dtype,
        beside=beside,
        notes=(*unmeasured_notes(layers), *outside),
        source=origin,
    )


def _normed_attention(fields: Fields, layers: int) -> list[Mixer]:
    """Full attention with normalised queries and keys in every layer."""
    return [grouped(fields, qk_norm=True)] * layers


def _qwen2_attention(fields: Fields, layers: int) -> list[Mixer]:
    return [grouped(fields, qkv_bias=True, o_bias=False)] * layers


def _glm4_attention(fields: Fields, layers: int) -> list[Mixer]:
    return [grouped(fields, o_bias=False, qk_norm=fields.flag("use_qk_norm"))] * layers


def _minimax_attention(fields: Fields, layers: int) -> list[Mixer]:
    return [grouped(fields, qk_norm=True, rotary_dim=fields.size("rotary_dim"))] * layers


def _gpt_oss_attention(fields: Fields, layers: int) -> list[Mixer]:
    """Windows in every other layer, the first one included (GptOssConfig)."""
    full, sliding = grouped(fields), grouped(fields, window=fields.size("sliding_window"))
    if fields.absent("layer_types"):
        return [full if layer % 2 else sliding for layer in range(layers)]
    return by_type(fields, layers, {"full_attention": full, "sliding_attention": sliding})


def _llama4_attention(fields: Fields, layers: int) -> list[Mixer]:
    """Three of four layers attend within chunks, the fourth, without positions, to all (Llama4TextConfig)."""
    chunked, full = grouped(fields, window=fields.size("attention_chunk_size")), grouped(fields)
    return [full if (layer + 1) % 4 == 0 else chunked for layer in range(layers)]


def _mixtral_attention(fields: Fields, layers: int) -> list[Mixer]:
    window = fields.config.get("sliding_window")
    return [grouped(fields, window=fields.size("sliding_window") if window else 0)] * layers


def _latent_attention(fields: Fields, layers: int) -> list[Mixer]:
    sparse = "index_topk" in fields.config
    latent = LatentAttention(
        heads=fields.size("num_attention_heads"),
        q_rank=fields.size("q_lora_rank") if fields.get("q_lora_rank") else 0,
        kv_rank=fields.size("kv_lora_rank"),
        nope_dim=fields.size("qk_nope_head_dim"),
        rope_dim=fields.size("qk_rope_head_dim"),
        v_dim=fields.size("v_head_dim"),
        index_heads=fields.size("index_n_heads") if sparse else 0,
        index_dim=fields.size("index_head_dim") if sparse else 0,
        index_topk=fields.size("index_topk") if sparse else 0,
    )
    if fields.absent("indexer_types"):
        if not fields.absent("index_topk_freq") and fields.size("index_topk_freq") > 1:
            raise InvalidSpec("index_topk_freq in config.json needs indexer_types: which layers choose keys.")
        return [latent] * layers
    kinds: Mapping[str, Mixer] = {"full": latent, "shared": replace(latent, index_heads=0, index_dim=0)}
    return by_type(fields, layers, kinds, "indexer_types")


def _hybrid_attention(fields: Fields, layers: int) -> list[Mixer]:
    """Linear attention with a layer of gated full attention in between (Qwen3-Next, Qwen3.5)."""
    linear = LinearAttention(
        key_heads=fields.size("linear_num_key_heads"),
        value_heads=fields.size("linear_num_value_heads"),
        key_dim=fields.size("linear_key_head_dim"),
        value_dim=fields.size("linear_value_head_dim"),
        conv_kernel=fields.size("linear_conv_kernel_dim"),
    )
    full = grouped(fields, qk_norm=True, gated=True)
    if "layer_types" in fields.config:
        return by_type(fields, layers, {"linear_attention": linear, "full_attention": full})
    every = fields.size("full_attention_interval")
    return [full if (layer + 1) % every == 0 else linear for layer in range(layers)]


def _mimo_attention(fields: Fields, layers: int) -> list[Mixer]:
    """Sliding layers with heads of their own where hybrid_layer_pattern is 1 (configuration_mimo_v2_flash.py)."""
    full = grouped(fields, v_dim=fields.size("v_head_dim"))
    sliding = grouped(
        fields,
        heads=fields.size("swa_num_attention_heads"),
        kv_heads=fields.size("swa_num_key_value_heads"),
        head_dim=fields.size("swa_head_dim"),
        v_dim=fields.size("swa_v_head_dim"),
        window=fields.size("sliding_window"),
    )
    return [sliding if is_sliding else full for is_sliding in marks(fields, "hybrid_layer_pattern", layers)]


def _gemma4_attention(fields: Fields, layers: int) -> list[Mixer]:
    """Sliding layers, and full ones with wider and fewer heads (Gemma4TextConfig)."""
    sliding = grouped(fields, qk_norm=True, window=fields.size("sliding_window"), rotary_dim=0)
    full = grouped(
        fields,
        qk_norm=True,
        rotary_dim=0,
        head_dim=fields.size("global_head_dim"),
        kv_heads=fields.size("num_global_key_value_heads"),
        shared_kv=fields.flag("attention_k_eq_v"),
    )
    mixers = by_type(fields, layers, {"full_attention": full, "sliding_attention": sliding})
    return borrowing(mixers, fields.count("num_kv_shared_layers"))


def _nemotron_mixers(fields: Fields, layers: int) -> list[Mixer | None]:
    """Mamba-2 at M, attention at *, none at the feed-forward layers E and - of hybrid_override_pattern."""
    names = ("mamba_num_heads", "mamba_head_dim", "n_groups", "ssm_state_size", "conv_kernel")
    kinds: dict[str, Mixer] = {"M": mamba_2(*map(fields.size, names)), "*": grouped(fields)}
    return [kinds.get(letter) for letter in _pattern(fields, layers)]


BLOCKS: Mapping[str, str] = {
    "mamba": "M",
    "linear_attention": "M",
    "attention": "*",
    "full_attention": "*",
    "moe": "E",
    "mlp": "-",
}


def _pattern(fields: Fields, layers: int) -> str:
    """The layers as hybrid_override_pattern names them, or layers_block_type where that is given."""
    blocks = fields.config.get("layers_block_type")
    if (
        isinstance(blocks, list)
        and all(isinstance(block, str) and block in BLOCKS for block in blocks)
        and len(blocks) == layers
    ):
        return "".join(BLOCKS[block] for block in blocks)
    pattern = fields.get("hybrid_override_pattern")
    if not isinstance(pattern, str) or len(pattern) != layers or set(pattern) - set("ME*-"):
        raise InvalidSpec(
            f"hybrid_override_pattern in config.json is {show(pattern)}; it must name each of the {layers} layers "
            "M, E, * or -."
        )
    return pattern


def _all_experts(experts: str, inter: str, **options: Any) -> Callable[[Fields, int], list[FeedForward]]:
    """Experts in every layer; the keys that say how many and how wide."""
    return lambda fields, layers: [experts_of(fields, experts, inter, **options)] * layers


def _qwen_experts(fields: Fields, layers: int) -> list[FeedForward]:
    """Experts in every decoder_sparse_step-th layer that mlp_only_layers does not name; a shared one where it has a
    width."""
    shared = fields.config.get("shared_expert_intermediate_size") or 0
    options: dict[str, Any] = {}
    if shared:
        options = {"shared_inter": fields.size("shared_expert_intermediate_size"), "shared_gate": True}
    experts = "num_experts" if fields.absent("num_local_experts") else "num_local_experts"
    routed = experts_of(fields, experts, "moe_intermediate_size", **options)
    step, dense_layers = fields.size("decoder_sparse_step"), fields.get("mlp_only_layers") or []
    if not isinstance(dense_layers, list):
        raise InvalidSpec(f"mlp_only_layers in config.json is {show(dense_layers)}; it must be a list of layers.")
    sparse = [layer not in dense_layers and (layer + 1) % step == 0 for layer in range(layers)]
    if all(sparse):
        return [routed] * layers
    dense = DenseFeedForward(inter=fields.size("intermediate_size"))
    return [routed if is_sparse else dense for is_sparse in sparse]


def _deepseek_experts(fields: Fields, layers: int) -> list[FeedForward]:
    """Dense in the first layers, then routed experts beside shared ones."""
    first = fields.dense_layers(layers)
    inter, shared = fields.size("moe_intermediate_size"), fields.count("n_shared_experts")
    routed = experts_of(fields, "n_routed_experts", "moe_intermediate_size", shared_inter=inter * shared)
    return [DenseFeedForward(inter=fields.size("intermediate_size"))] * first + [routed] * (layers - first)


def _llama4_experts(fields: Fields, layers: int) -> list[FeedForward]:
    """Experts with a shared one in every interleave_moe_layer_step-th layer, dense in between."""
    inter, step = fields.size("intermediate_size"), fields.size("interleave_moe_layer_step")
    routed = experts_of(fields, "num_local_experts", "intermediate_size", shared_inter=inter)
    dense = DenseFeedForward(inter=fields.size("intermediate_size_mlp"))
    return [routed if (layer + 1) % step == 0 else dense for layer in range(layers)]


def _mimo_experts(fields: Fields, layers: int) -> list[FeedForward]:
    """Experts where moe_layer_freq is 1."""
    routed = experts_of(fields, "n_routed_experts", "moe_intermediate_size")
    dense = DenseFeedForward(inter=fields.size("intermediate_size"))
    return [routed if is_routed else dense for is_routed in marks(fields, "moe_layer_freq", layers)]


def _gemma4_feed_forward(fields: Fields, layers: int) -> list[FeedForward]:
    """Dense, with experts beside it where enable_moe_block."""
    inter = fields.size("intermediate_size")
    if not fields.flag("enable_moe_block"):
        return [DenseFeedForward(inter=inter)] * layers
    experts, topk = fields.size("num_experts"), fields.size("top_k_experts")
    width = fields.size("moe_intermediate_size")
    return [Experts(experts=experts, topk=topk, inter=width, shared_inter=inter)] * layers


def _nemotron_feed_forward(fields: Fields, layers: int) -> list[FeedForward | None]:
    """Experts at E, dense at -; two matrices and a squared ReLU."""
    pattern = _pattern(fields, layers)
    kinds: dict[str, FeedForward] = {}
    if "-" in pattern:
        kinds["-"] = DenseFeedForward(inter=fields.size("intermediate_size"), gated=False)
    if "E" in pattern:
        shared = fields.size("moe_shared_expert_intermediate_size") * fields.count("n_shared_experts")
        latent = 0 if fields.absent("moe_latent_size") else fields.size("moe_latent_size")
        options: dict[str, Any] = {"shared_inter": shared, "gated": False, "latent": latent}
        kinds["E"] = experts_of(fields, "n_routed_experts", "moe_intermediate_size", **options)
    return [kinds.get(letter) for letter in pattern]


QWEN: Mapping[str, Any] = {**GQA, "decoder_sparse_step": 1, "mlp_only_layers": []}
HYBRID: Mapping[str, Any] = {**QWEN, "full_attention_interval": 4, "partial_rotary_factor": 0.25}

GEMMA_4: Mapping[str, Any] = {
    "tie_word_embeddings": True,
    "enable_moe_block": False,
    "attention_k_eq_v": False,
    "num_kv_shared_layers": 0,
}

LAYERED: Mapping[str, Family] = {
    "mixtral": Family(GQA, _mixtral_attention, _all_experts("num_local_experts", "intermediate_size")),
    "qwen2_moe": Family(QWEN, _qwen2_attention, _qwen_experts),
    "qwen3_moe": Family(QWEN, _normed_attention, _qwen_experts),
    "qwen3_vl_moe_text": Family(QWEN, _normed_attention, _qwen_experts),
    "gpt_oss": Family(GQA, _gpt_oss_attention, _all_experts("num_local_experts", "intermediate_size", bias=True)),
    "deepseek_v2": Family(LATENT, _latent_attention, _deepseek_experts),
    "deepseek_v3": Family(LATENT, _latent_attention, _deepseek_experts),
    "deepseek_v32": Family(LATENT, _latent_attention, _deepseek_experts),
    "kimi_k2": Family(LATENT, _latent_attention, _deepseek_experts),
    "glm_moe_dsa": Family(LATENT, _latent_attention, _deepseek_experts),
    "glm4_moe_lite": Family({**LATENT, "first_k_dense_replace": 1}, _latent_attention, _deepseek_experts),
    "glm4_moe": Family({**GQA, "use_qk_norm": False}, _glm4_attention, _deepseek_experts),
    "minimax_m2": Family(GQA, _minimax_attention, _all_experts("num_local_experts", "intermediate_size")),
    "llama4_text": Family(GQA, _llama4_attention, _llama4_experts),
    "qwen3_next": Family(HYBRID, _hybrid_attention, _qwen_experts),
    "qwen3_5_moe_text": Family(HYBRID, _hybrid_attention, _qwen_experts),
    "qwen3_5_text": Family(HYBRID, _hybrid_attention, dense),
    "mimo_v2_flash": Family(GQA, _mimo_attention, _mimo_experts),
    "gemma4_text": Family(GEMMA_4, _gemma4_attention, _gemma4_feed_forward, norms=4),
    "nemotron_h": Family(GQA, _nemotron_mixers, _nemotron_feed_forward),
    **RECENT,
    **STATES,
    **MORE_EXPERTS,
}
