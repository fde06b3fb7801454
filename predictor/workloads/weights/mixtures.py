"""Which type of blocks each matrix of a GGUF has: dealt out as llama.cpp's quantize does, or read from a file's header.

Source: llama_tensor_get_type of llama.cpp (src/llama.cpp, build 2900 of May 2024): the value projection and the matrix
down again have more bits in some layers, the output head has Q6_K and the embedding the type of most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from predictor.ops.dtypes import BLOCKS
from predictor.workloads.architectures.decoder import Decoder
from predictor.workloads.weights.gguf import Tensor

# Of a matrix: (dtype, layers that have it); of a model by its name in GGUF. Tuples, as a workload is hashed.
Blocks = tuple[tuple[str, float], ...]
Types = tuple[tuple[str, Blocks], ...]
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
HEAD, EMBEDDING = "output", "token_embd"
# Type of most matrices, where it is not called as the mixture is.
MOST = {"q2_k": "q2_k_s"} | {f"q{bits}_k_{size}": f"q{bits}_k" for bits in (3, 4, 5) for size in "sml"}
GROUPED = 4  # query heads of a key/value head from which on a value projection costs little
LARGE = 80  # layers of a 70B, whose grouped value projections have five bits at least

Rule = Callable[[int, int], bool]  # layer, layers → whether


def _some(layer: int, layers: int) -> bool:
    """use_more_bits: the first and the last eighth, and every third between them."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _first(part: int) -> Rule:
    return lambda layer, layers: layer < layers // part


def _few(count: int) -> Rule:
    return lambda layer, _: layer < count


def _all(*_: int) -> bool:
    return True


# Mixture → matrix → types of the layers for which a rule holds, the first that does.
RULES: Mapping[str, Mapping[str, tuple[tuple[Rule, str], ...]]] = {
    "q2_k": {"attn_v": ((_all, "q4_k"),), "attn_output": ((_all, "q3_k"),), "ffn_down": ((_all, "q3_k"),)},
    "q3_k_m": {
        "attn_v": ((_few(2), "q5_k"), (_all, "q4_k")),
        "attn_output": ((_all, "q4_k"),),
        "ffn_down": ((_first(16), "q5_k"), (_all, "q4_k")),
    },
    "q3_k_l": dict.fromkeys(("attn_v", "attn_output", "ffn_down"), ((_all, "q5_k"),)),
    "iq4_xs": {"attn_v": ((_all, "q5_k"),), "ffn_down": ((_first(8), "q5_k"),)},
    "q4_k_s": {"attn_v": ((_few(4), "q5_k"),), "ffn_down": ((_first(8), "q5_k"),)},
    "q4_k_m": dict.fromkeys(("attn_v", "ffn_down"), ((_some, "q6_k"),)),
    "q5_k_m": dict.fromkeys(("attn_v", "ffn_down"), ((_some, "q6_k"),)),
}
FOUR_BITS = ("q3_k", "q4_k")


def dealt_out(mixture: str, layers: int, group: int) -> Types:
    """The types that quantize deals out. mixture: a dtype of GGUF. group: query heads of a key/value head.

    >>> dict(dealt_out("q4_k_m", 32, 4))["ffn_down"], dict(dealt_out("q4_k_m", 32, 4))["output"]
    ((('q4_k', 16.0), ('q6_k', 16.0)), (('q6_k', 1.0),))
    """
    most, rules = MOST.get(mixture, mixture), RULES.get(mixture, {})
    types = {}
    for name in MATRICES:
        picked = [_picked(rules.get(name, ()), most, layer, layers) for layer in range(layers)]
        if name == "attn_v" and layers == LARGE and group > 1:
            picked = ["q5_k" if dtype in FOUR_BITS else dtype for dtype in picked]
        types[name] = _counted(picked)
    head = most if most == "q8_0" else "q6_k"
    return (*types.items(), (HEAD, ((head, 1.0),)), (EMBEDDING, ((most, 1.0),)))


def stored_types(tensors: Iterable[Tensor]) -> Types:
    """The types of a file's matrices; those of experts, and types of blocks that have no dtype, are left out."""
    of_name: dict[str, list[str]] = {}
    for tensor in tensors:
        *_, name, kind = ("", *tensor.name.split("."))
        if kind == "weight" and name in (*MATRICES, HEAD, EMBEDDING) and (dtype := _dtype(tensor.dtype)):
            of_name.setdefault(name, []).append(dtype)
    return tuple((name, _counted(picked)) for name, picked in of_name.items())


def matrices(model: object, tp: int) -> dict[str, float]:
    """Elements of a layer's matrices on one GPU by their names in GGUF; {} of what is no dense decoder."""
    if not isinstance(model, Decoder):
        return {}
    part, hidden = model.shard(tp), model.hidden
    keys = float(hidden * part.kv_heads * model.head_dim)
    queries, wide = float(hidden * part.heads * model.head_dim), float(hidden * part.inter)
    gate = {"ffn_gate": wide} if model.gated else {}
    return {
        **{"attn_q": queries, "attn_k": keys, "attn_v": keys, "attn_output": queries},
        **gate,
        **{"ffn_up": wide, "ffn_down": wide},
    }


def _picked(rules: Iterable[tuple[Rule, str]], most: str, layer: int, layers: int) -> str:
    return next((dtype for rule, dtype in rules if rule(layer, layers)), most)


def _dtype(name: str) -> str:
    """The dtype of a type of ggml; "" where there is none."""
    called = {"Q2_K": "q2_k_s", "F16": "fp16", "BF16": "bf16", "F32": "fp32"}.get(name, name.lower())
    return called if called in BLOCKS or called in ("fp16", "bf16", "fp32") else ""


def _counted(picked: Iterable[str]) -> Blocks:
    return tuple((dtype, float(count)) for dtype, count in sorted(Counter(picked).items()))
