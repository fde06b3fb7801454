"""Which networks and settings the memory simulator runs: published configurations, and steps drawn from a seed.

CONFIGS are config.json files of the Hugging Face hub, without what changes no shape. Their parameter counts are those
that predictor/catalog states.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

BF16 = {"torch_dtype": "bfloat16"}
FP16 = {"torch_dtype": "float16"}
FP32 = {"torch_dtype": "float32"}
CLASSES = {"num_labels": 1000}
TIED = {"tie_word_embeddings": True}

# Columns of DECODERS: hidden, inter, layers, heads, KV heads, vocabulary, longest sequence.
COLUMNS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
)
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", **BF16}
MISTRAL = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "hidden_act": "silu", **BF16}
QWEN_2 = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False, **BF16}
QWEN_3 = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "head_dim": 128,
    "attention_bias": False,
    **BF16,
}
PHI = {"model_type": "phi", "architectures": ["PhiForCausalLM"], "partial_rotary_factor": 0.4, "hidden_act": "gelu_new"}
PHI_3 = {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "sliding_window": 2047, "pad_token_id": 32000}
GEMMA_2 = {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "head_dim": 256, "sliding_window": 4096}
GEMMA_3 = {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "head_dim": 256, "sliding_window": 512}
OLMO_2 = {"model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"], "hidden_act": "silu"}
STARCODER_2 = {"model_type": "starcoder2", "architectures": ["Starcoder2ForCausalLM"], "sliding_window": 4096, **TIED}
PYTHIA = {"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "rotary_pct": 0.25, **FP16}
OPT = {
    "model_type": "opt",
    "architectures": ["OPTForCausalLM"],
    "vocab_size": 50272,
    "do_layer_norm_before": True,
    **FP16,
}
BLOOM = {"model_type": "bloom", "architectures": ["BloomForCausalLM"], "vocab_size": 250880, "seq_length": 2048, **FP16}
FALCON = {"model_type": "falcon", "architectures": ["FalconForCausalLM"], "vocab_size": 65024, "bias": False, **BF16}
GPT_2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 50257, "n_positions": 1024, **FP32}
BERT = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "type_vocab_size": 2, **FP32}
ROBERTA = {"model_type": "roberta", "architectures": ["RobertaForMaskedLM"], "type_vocab_size": 1, **FP32}
DISTILBERT = {"model_type": "distilbert", "architectures": ["DistilBertForMaskedLM"], "vocab_size": 30522, **FP32}
VIT = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "image_size": 224,
    "patch_size": 16,
    **CLASSES,
    **FP32,
}


def _opt(hidden: int, inter: int, layers: int, heads: int) -> dict[str, int]:
    names = ("hidden_size", "word_embed_proj_dim", "ffn_dim", "num_hidden_layers", "num_attention_heads")
    return dict(zip(names, (hidden, hidden, inter, layers, heads), strict=True)) | {"max_position_embeddings": 2048}


def _encoder(hidden: int, inter: int, layers: int, heads: int, vocab: int = 0, longest: int = 0) -> dict[str, int]:
    text = {"vocab_size": vocab, "max_position_embeddings": longest} if vocab else {}
    return dict(zip(COLUMNS[:4], (hidden, inter, layers, heads), strict=True)) | text


DECODERS: Mapping[str, tuple[Mapping[str, Any], tuple[int, ...]]] = {
    "SmolLM2-135M": ({**LLAMA, **TIED}, (576, 1536, 30, 9, 3, 49152, 8192)),
    "SmolLM2-1.7B": ({**LLAMA, **TIED}, (2048, 8192, 24, 32, 32, 49152, 8192)),
    "TinyLlama-1.1B": (LLAMA, (2048, 5632, 22, 32, 4, 32000, 2048)),
    "Llama-2-7b-hf": ({**LLAMA, **FP16}, (4096, 11008, 32, 32, 32, 32000, 4096)),
    "Llama-2-13b-hf": ({**LLAMA, **FP16}, (5120, 13824, 40, 40, 40, 32000, 4096)),
    "Llama-3.2-1B": ({**LLAMA, **TIED, "head_dim": 64}, (2048, 8192, 16, 32, 8, 128256, 131072)),
    "Llama-3.2-3B": ({**LLAMA, **TIED, "head_dim": 128}, (3072, 8192, 28, 24, 8, 128256, 131072)),
    "Llama-3.1-8B": (LLAMA, (4096, 14336, 32, 32, 8, 128256, 131072)),
    "Llama-3.1-70B": (LLAMA, (8192, 28672, 80, 64, 8, 128256, 131072)),
    "Mistral-7B-v0.1": ({**MISTRAL, "sliding_window": 4096}, (4096, 14336, 32, 32, 8, 32000, 32768)),
    "Mistral-7B-v0.3": ({**MISTRAL, "sliding_window": None}, (4096, 14336, 32, 32, 8, 32768, 32768)),
    "Qwen2-0.5B": ({**QWEN_2, **TIED}, (896, 4864, 24, 14, 2, 151936, 131072)),
    "Qwen2-7B": (QWEN_2, (3584, 18944, 28, 28, 4, 152064, 131072)),
    "Qwen2.5-0.5B": ({**QWEN_2, **TIED}, (896, 4864, 24, 14, 2, 151936, 32768)),
    "Qwen2.5-1.5B": ({**QWEN_2, **TIED}, (1536, 8960, 28, 12, 2, 151936, 131072)),
    "Qwen2.5-3B": ({**QWEN_2, **TIED}, (2048, 11008, 36, 16, 2, 151936, 32768)),
    "Qwen2.5-7B": (QWEN_2, (3584, 18944, 28, 28, 4, 152064, 131072)),
    "Qwen2.5-14B": (QWEN_2, (5120, 13824, 48, 40, 8, 152064, 131072)),
    "Qwen2.5-32B": (QWEN_2, (5120, 27648, 64, 40, 8, 152064, 131072)),
    "Qwen3-0.6B": ({**QWEN_3, **TIED}, (1024, 3072, 28, 16, 8, 151936, 40960)),
    "Qwen3-1.7B": ({**QWEN_3, **TIED}, (2048, 6144, 28, 16, 8, 151936, 40960)),
    "Qwen3-4B": ({**QWEN_3, **TIED}, (2560, 9728, 36, 32, 8, 151936, 40960)),
    "Qwen3-8B": (QWEN_3, (4096, 12288, 36, 32, 8, 151936, 40960)),
    "Qwen3-14B": (QWEN_3, (5120, 17408, 40, 40, 8, 151936, 40960)),
    "Qwen3-32B": (QWEN_3, (5120, 25600, 64, 64, 8, 151936, 40960)),
    "phi-2": ({**PHI, **FP16}, (2560, 10240, 32, 32, 32, 51200, 2048)),
    "Phi-3-mini-4k": ({**PHI_3, **BF16}, (3072, 8192, 32, 32, 32, 32064, 4096)),
    "gemma-2-2b": ({**GEMMA_2, **FP32}, (2304, 9216, 26, 8, 4, 256000, 8192)),
    "gemma-2-9b": ({**GEMMA_2, **FP32}, (3584, 14336, 42, 16, 8, 256000, 8192)),
    "gemma-3-1b-pt": ({**GEMMA_3, **BF16}, (1152, 6912, 26, 4, 1, 262144, 32768)),
    "OLMo-2-1124-7B": ({**OLMO_2, **FP32}, (4096, 11008, 32, 32, 32, 100352, 4096)),
    "starcoder2-3b": ({**STARCODER_2, **BF16}, (3072, 12288, 30, 24, 2, 49152, 16384)),
    "pythia-160m": (PYTHIA, (768, 3072, 12, 12, 12, 50304, 2048)),
    "pythia-1.4b": (PYTHIA, (2048, 8192, 24, 16, 16, 50304, 2048)),
    "pythia-6.9b": (PYTHIA, (4096, 16384, 32, 32, 32, 50432, 2048)),
}
OTHERS: Mapping[str, Mapping[str, Any]] = {
    "distilgpt2": {**GPT_2, "n_embd": 768, "n_layer": 6, "n_head": 12},
    "gpt2": {**GPT_2, "n_embd": 768, "n_layer": 12, "n_head": 12},
    "gpt2-medium": {**GPT_2, "n_embd": 1024, "n_layer": 24, "n_head": 16},
    "gpt2-large": {**GPT_2, "n_embd": 1280, "n_layer": 36, "n_head": 20},
    "gpt2-xl": {**GPT_2, "n_embd": 1600, "n_layer": 48, "n_head": 25},
    "opt-125m": {**OPT, **_opt(768, 3072, 12, 12)},
    "opt-1.3b": {**OPT, **_opt(2048, 8192, 24, 32)},
    "opt-6.7b": {**OPT, **_opt(4096, 16384, 32, 32)},
    "bloom-560m": {**BLOOM, "hidden_size": 1024, "n_layer": 24, "n_head": 16},
    "falcon-7b": {**FALCON, "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71},
    "bert-base-uncased": {**BERT, **_encoder(768, 3072, 12, 12, 30522, 512)},
    "bert-large-uncased": {**BERT, **_encoder(1024, 4096, 24, 16, 30522, 512)},
    "roberta-base": {**ROBERTA, **_encoder(768, 3072, 12, 12, 50265, 514)},
    "roberta-large": {**ROBERTA, **_encoder(1024, 4096, 24, 16, 50265, 514)},
    "distilbert-base-uncased": {**DISTILBERT, "dim": 768, "hidden_dim": 3072, "n_layers": 6, "n_heads": 12},
    "vit-base-patch16-224": {**VIT, **_encoder(768, 3072, 12, 12)},
    "vit-large-patch16-224": {**VIT, **_encoder(1024, 4096, 24, 16)},
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    name: {**family, **dict(zip(COLUMNS, sizes, strict=True))} for name, (family, sizes) in DECODERS.items()
} | dict(OTHERS)

ENCODERS = frozenset({"bert", "roberta", "distilbert", "vit"})
# What transformers can run; Gemma 2 caps its scores, BLOOM adds ALiBi to them in code of its own.
ATTENTIONS: Mapping[str, tuple[str, ...]] = {
    "gemma2": ("flash", "eager"),
    "bloom": ("eager",),
    "falcon": ("sdpa", "math", "eager"),
}
ALL_ATTENTIONS = ("flash", "sdpa", "math", "eager")
MAX_BYTES = 288e9  # the largest GPU of today, MI355X and B300


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One step of one model on one GPU.

    mode: "train" or "inference". method: "full", "lora" or "qlora" (NF4). lora_targets: "qv" (query, value; the fused
    projection where there is one), "qkv", or "all" linear layers except the head.
    precision: "fp32", "bf16" or "fp16" weights, or "bf16-amp", "fp16-amp": fp32 weights under autocast; with "qlora"
    that is the format of what is not quantised.
    optimizer: "adamw" (foreach, PyTorch's default), "adamw_fused", "adamw_8bit", "sgd", "sgd_momentum", "adafactor".
    seq_len: tokens of a sequence, or of the prompt, or patches of an image with the class token.
    new_tokens: decode steps.
    attention: "flash" (the package), "sdpa" (the backend that CUDA picks), "math" (its unfused backend), "eager".
    padded: an attention mask is given. logits: of the "last" token of the prompt, or of "all" and widened to fp32.
    grad_accum: above 1, gradients of the step before are there. sm: compute capability times 10. layers: fewer than
    published, None for all.
    """

    model: str
    mode: str = "train"
    method: str = "full"
    lora_rank: int = 16
    lora_targets: str = "all"
    precision: str = "bf16"
    optimizer: str = "adamw"
    batch: int = 1
    seq_len: int = 512
    new_tokens: int = 0
    checkpointing: bool = False
    attention: str = "sdpa"
    padded: bool = False
    logits: str = "last"
    grad_accum: int = 1
    sm: int = 80
    layers: int | None = None

    def config(self) -> dict[str, Any]:
        """The config.json of the model, with its layers as wanted."""
        found = dict(CONFIGS[self.model])
        if self.layers is not None:
            found[layers_key(found)] = self.layers
        return found


def layers_key(config: Mapping[str, Any]) -> str:
    """The name under which a config counts its layers."""
    return next(name for name in ("num_hidden_layers", "n_layer", "n_layers") if name in config)


def sampled(seed: int, index: int) -> Spec:
    """The spec of that number in the sequence of a seed; any can be drawn without those before."""
    rng = random.Random(f"{seed}:{index}")
    while True:
        model = rng.choice(list(CONFIGS))
        draw = _training if rng.random() < 0.72 else _inference
        for _ in range(20):
            spec = draw(rng, model)
            if spec is not None and 1e9 < guessed_bytes(spec) < 230e9:
                return spec


def _weighted(rng: random.Random, **weights: float) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _training(rng: random.Random, model: str) -> Spec | None:
    text = CONFIGS[model]["model_type"] != "vit"
    method = _weighted(rng, full=0.6, lora=0.25, qlora=0.15)
    if method == "qlora" and CONFIGS[model]["model_type"] in ENCODERS:
        return None
    mixes = {
        "full": {"bf16": 35, "bf16-amp": 30, "fp16-amp": 10, "fp32": 22, "fp16": 3},
        "lora": {"bf16": 70, "fp16": 10, "fp32": 8, "bf16-amp": 12},
        "qlora": {"bf16": 60, "fp16": 12, "bf16-amp": 23, "fp16-amp": 5},
    }
    optimizers = {"adamw": 50, "adamw_fused": 18, "adamw_8bit": 12, "sgd": 5, "sgd_momentum": 7, "adafactor": 8}
    batch, seq_len = _batch(rng, model, 65_536)
    padded = text and batch > 1 and rng.random() < 0.15
    return _fitted(
        rng,
        Spec(
            model=model,
            method=method,
            lora_rank=rng.choice((4, 8, 8, 16, 16, 32, 64, 64, 128, 256)),
            lora_targets=_weighted(rng, all=0.5, qv=0.3, qkv=0.2),
            precision=_weighted(rng, **mixes[method]),
            optimizer=_weighted(rng, **optimizers),
            batch=batch,
            seq_len=seq_len,
            checkpointing=rng.random() < 0.4,
            padded=padded,
            grad_accum=1 if rng.random() < 0.65 else rng.choice((2, 4, 8, 16)),
        ),
    )


def _inference(rng: random.Random, model: str) -> Spec | None:
    batch, seq_len = _batch(rng, model, 131_072)
    decodes = CONFIGS[model]["model_type"] not in ENCODERS
    return _fitted(
        rng,
        Spec(
            model=model,
            mode="inference",
            precision=_weighted(rng, bf16=60, fp16=25, fp32=15),
            batch=batch,
            seq_len=seq_len,
            new_tokens=rng.choice((1, 2)) if decodes else 0,
            padded=CONFIGS[model]["model_type"] != "vit" and batch > 1 and rng.random() < 0.2,
            logits="all" if decodes and rng.random() < 0.25 else "last",
        ),
    )


def _batch(rng: random.Random, model: str, tokens: int) -> tuple[int, int]:
    """Sequences and their length, within the model's and so many tokens in all."""
    config = CONFIGS[model]
    batch = rng.choice((1, 1, 2, 2, 3, 4, 4, 6, 8, 8, 12, 16, 24, 32, 48, 64))
    if config["model_type"] == "vit":
        return rng.choice((8, 16, 32, 48, 64, 96, 128, 256)), (config["image_size"] // config["patch_size"]) ** 2 + 1
    seq_len = rng.choice(
        (64, 128, 256, 384, 512, 512, 768, 1024, 1024, 1536, 2048, 2048, 3072, 4096, 4096, 8192, 16384)
    )
    if rng.random() < 0.3:
        seq_len = rng.randint(64, seq_len)
    seq_len = min(seq_len, longest(config))
    return max(1, min(batch, tokens // seq_len)), seq_len


def longest(config: Mapping[str, Any]) -> int:
    """Tokens of the longest sequence that a model of text takes; RoBERTa's table starts at position 2."""
    found = (config.get(name) for name in ("max_position_embeddings", "n_positions", "seq_length"))
    limit = next((each for each in found if each), 512 if config["model_type"] == "distilbert" else 2048)
    return int(limit) - (2 if config["model_type"] == "roberta" else 0)


def _fitted(rng: random.Random, spec: Spec) -> Spec | None:
    """The spec with a GPU and an attention that can run it; None where there is none."""
    names = ("70", "75", "80", "86", "89", "90", "100")
    sm = int(rng.choices(names, (3, 4, 32, 9, 13, 29, 10))[0])
    allowed = ATTENTIONS.get(CONFIGS[spec.model]["model_type"], ALL_ATTENTIONS)
    attention = rng.choices(ALL_ATTENTIONS, (0.3, 0.5, 0.07, 0.13))[0]
    if attention not in allowed:
        attention = allowed[0]
    half = spec.precision != "fp32"
    if (spec.precision.startswith("bf16") or attention == "flash") and sm < 80:
        return None
    if attention == "flash" and not half:
        return None
    return replace(spec, sm=sm, attention=attention)


def guessed_bytes(spec: Spec) -> float:
    """A rough closed form of the peak, only good enough to leave out what fits no GPU or is too small to matter."""
    config = spec.config()
    layers = config[layers_key(config)]
    hidden = next(config[name] for name in ("hidden_size", "n_embd", "dim") if name in config)
    heads = next(config[name] for name in ("num_attention_heads", "n_head", "n_heads") if name in config)
    vocab = 0 if config["model_type"] in ENCODERS else config["vocab_size"]
    inter = config.get("intermediate_size") or 4 * hidden
    gated = 3 if config.get("num_key_value_heads") else 2
    matrices = layers * hidden * (4 * hidden + gated * inter)
    tables = config.get("vocab_size", 0) * hidden * (1 if config.get("tie_word_embeddings", gated != 3) else 2)
    element = 2.0 if spec.precision in ("bf16", "fp16") else 4.0
    tokens = spec.batch * spec.seq_len
    scores = 0.0
    if spec.attention in ("eager", "math"):
        scores = 3.0 * heads * tokens * spec.seq_len * element
    if spec.mode == "inference":
        widest = tokens * (8 * hidden + 3 * inter) * element
        head = tokens * vocab * (element + 4) if spec.logits == "all" else 0.0
        cache = 2 * layers * tokens * hidden * element / (4 if gated == 3 else 1)
        return float((matrices + tables) * element + cache + max(widest + scores, head))
    weights = {"full": element, "lora": element, "qlora": 0.52}[spec.method] * matrices + tables * element
    states = {"adamw": 3.0, "adamw_fused": 2.0, "adamw_8bit": 0.5, "sgd_momentum": 1.0}.get(spec.optimizer, 0.0)
    learned = (1.0 + states) * element * (matrices + tables) if spec.method == "full" else 0.0
    of_layer = tokens * (14 * hidden + 4 * inter) * (2.0 if "16" in spec.precision else 4.0) + scores
    kept = tokens * hidden * 2 * layers + of_layer if spec.checkpointing else of_layer * layers
    return float(weights + max(learned, kept + 10.0 * tokens * vocab + learned / 2))
