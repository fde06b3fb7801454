"""The requests that same_answers.py asks: of every GPU, engine and kind of model, to serve or train, and wrong ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from asked_operators import ENGINES, formats_of

from predictor import catalogue, models

DENSE = ("Llama-3.1-8B", "Llama-3.1-70B", "Qwen3-32B", "Qwen2.5-7B", "gemma-3-12b-pt", "phi-4", "gpt2-xl", "opt-6.7b")
OLDER = ("Mistral-7B-v0.1", "falcon-7b", "bloom-7b1", "Llama-2-7B-GPTQ", "Llama-3.1-8B-Instruct-FP8")
SPARSE = ("Mixtral-8x7B-v0.1", "gpt-oss-120b", "gpt-oss-20b", "Qwen3-30B-A3B", "Qwen3-235B-A22B-FP8", "GLM-4.5-Air")
LATENT = ("DeepSeek-V3", "DeepSeek-V2-Lite", "Kimi-K2-Instruct", "GLM-5", "DeepSeek-V3.2", "DeepSeek-V3.2-NVFP4")
LINEAR = ("Qwen3-Next-80B-A3B-Instruct", "Qwen3.5-9B", "Kimi-Linear-48B-A3B-Instruct", "Nemotron-H-56B-Base-8K")
MIXED = ("DeepSeek-V4-Flash", "MiMo-V2-Flash", "gemma-4-31B", "MiniMax-M3", "Llama-4-Scout-17B-16E")
DECODERS = (*DENSE, *OLDER, *SPARSE, *LATENT, *LINEAR, *MIXED)
TEXTS = ("bert-large-uncased", "electra-base-discriminator", "all-MiniLM-L6-v2", "t5-large", "flan-t5-xl", "mt5-base")
IMAGES = (
    "vit-base-patch16-224",
    "dinov2-large",
    "siglip-so400m-patch14-384",
    "ResNet-50",
    "VGG-16",
    "ResNeXt-50-32x4d",
)
LARGE = ("H100-SXM-80GB", "H200-SXM-141GB", "B200-SXM-180GB", "A100-SXM-80GB", "MI300X", "GB300", "MI355X", "L40S")
SERVERS = ENGINES[:4]
ALIKE = 4  # requests that are answered as columns, and stay together

Row = dict[str, Any]


def requests() -> pd.DataFrame:
    """Every GPU, engine and kind of model; serving, under load, training; and rows that are wrong."""
    draw = np.random.default_rng(0)
    rows = [*_served(draw), *_each_model(draw), *_layouts(draw), *_under_load(draw), *_trained(draw)]
    rows += [*_named_otherwise(), *_wrong_requests()]
    table = pd.DataFrame(rows)
    mixed = draw.permutation(len(rows))[np.arange(len(rows)) // ALIKE]  # parts of a job take equally long
    return table.iloc[np.argsort(mixed, kind="stable")].reset_index(drop=True).rename_axis("id").reset_index()


def _one(draw: np.random.Generator, choices: Sequence[Any]) -> Any:
    return choices[int(draw.integers(len(choices)))]


def _lengths(draw: np.random.Generator, model: str) -> Row:
    """Powers of two or any number, within what the model takes."""
    longest = int(np.clip(getattr(models()[model], "max_len", 512) // 2, 2, 16_384))
    into, out = (float(draw.uniform(0, np.log2(most))) for most in (longest, min(longest, 1024)))
    if draw.random() < 0.5:
        return {"input_len": 2 ** int(into), "output_len": 2 ** int(out)}
    return {"input_len": int(2**into), "output_len": int(2**out)}


def _format(draw: np.random.Generator, gpu: str) -> Row:
    """The published number format or one that the GPU runs, and of the cache."""
    formats = formats_of(gpu)
    if "bf16" not in formats:
        return {"dtype": _one(draw, ("fp16", "fp16", "fp32", "q4_k_m")), "kv_dtype": ""}
    caches = ("", "", "fp8" if "fp8" in formats else "", "fp16" if "fp16" in formats else "")
    return {"dtype": "" if draw.random() < 0.4 else _one(draw, formats), "kv_dtype": _one(draw, caches)}


def _served(draw: np.random.Generator) -> Iterator[Row]:
    """On each GPU some models, each with batches and lengths that are answered as columns."""
    for gpu in catalogue():
        for models_of in (DENSE, SPARSE + LATENT + OLDER, LINEAR + MIXED):
            model, alike = _one(draw, models_of), {"gpu": gpu, "engine": _one(draw, ENGINES), **_format(draw, gpu)}
            tp = _one(draw, (1, 1, 2, 4)) if catalogue()[gpu].link_bytes_per_s else 1
            for _ in range(ALIKE):
                yield {"model": model, "tp": tp, **alike, **_lengths(draw, model), "batch": _batch(draw)}


def _batch(draw: np.random.Generator) -> int:
    most = 2 ** float(draw.uniform(0, 9))
    return int(most) if draw.random() < 0.5 else 2 ** int(np.log2(most))


def _each_model(draw: np.random.Generator) -> Iterator[Row]:
    """Every model by its name, and those that answer in one pass more often."""
    for model in (*models(), *TEXTS * 10, *IMAGES * 15):
        gpu = _one(draw, LARGE if draw.random() < 0.5 else tuple(catalogue()))
        yield {
            "model": model,
            "gpu": gpu,
            "engine": _one(draw, ENGINES),
            **_format(draw, gpu),
            **_lengths(draw, model),
            "batch": _batch(draw),
            "image_size": _one(draw, (None, 112, 224, 336)) if model in IMAGES else None,
            "usd_per_hour": _one(draw, (None, 2.5)),
        }


def _layouts(draw: np.random.Generator) -> Iterator[Row]:
    for _ in range(160):
        gpu, model = _one(draw, LARGE), _one(draw, DECODERS)
        layout = {"tp": _one(draw, (1, 2, 4, 8)), "pp": _one(draw, (1, 1, 2, 4)), "dp": _one(draw, (1, 1, 2))}
        if model in (*SPARSE, *LATENT):
            groups = _one(draw, (1, 2, 4, 8))
            layout |= {"attention_dp": groups, "ep": _one(draw, (1, groups, layout["tp"] * groups))}
        named = {"model": model, "gpu": gpu, "engine": _one(draw, SERVERS)}
        yield named | layout | _format(draw, gpu) | _lengths(draw, model) | {"batch": 8 * _batch(draw)}


def _under_load(draw: np.random.Generator) -> Iterator[Row]:
    """Continuous scheduling: clients or arrivals, with a prefix cache or a draft model."""
    for _ in range(160):
        gpu, model = _one(draw, LARGE), _one(draw, DECODERS)
        row = {"model": model, "gpu": gpu, "engine": _one(draw, SERVERS), "scheduling": "continuous"}
        row |= {"tp": _one(draw, (1, 2, 4, 8)), **_format(draw, gpu), **_lengths(draw, model)}
        if draw.random() < 0.5:
            row |= {"request_rate": _one(draw, (0.1, 0.5, 2.0, 7.3)), "scheduling": _one(draw, ("continuous", ""))}
        else:
            row |= {"batch": _batch(draw)}
        if draw.random() < 0.3:
            row |= {"prefix_cache_hit_rate": _one(draw, (0.25, 0.5, 0.9)), "scheduling": "continuous"}
        if draw.random() < 0.3:
            row |= {"draft_tokens": _one(draw, (1, 3, 5)), "acceptance": _one(draw, (0.4, 0.7, 0.95))}
        yield row | {"kv_block": _one(draw, (None, 16, 64))}


def _trained(draw: np.random.Generator) -> Iterator[Row]:
    """Training: methods, optimizers, precisions, layouts, and what is computed again or sharded."""
    for _ in range(360):
        gpu = _one(draw, LARGE if draw.random() < 0.8 else tuple(catalogue()))
        model = _one(draw, (*DECODERS, *DENSE, *DENSE, *TEXTS, *IMAGES))
        method = _one(draw, ("full", "full", "lora", "qlora"))
        row = {"model": model, "gpu": gpu, "phase": "train", "method": method}
        row |= {"engine": _one(draw, ("", "torch")), "dp": _one(draw, (1, 2, 8)), "micro_batch": _one(draw, (1, 2, 3))}
        row |= {"grad_accum": _one(draw, (1, 4)), "seq_len": _one(draw, (128, 512, 1000, 2048))}
        row |= {"zero_stage": _one(draw, (0, 1, 2, 3)), "precision": _one(draw, ("mixed", "amp", "pure"))}
        row |= {"checkpointing": _one(draw, ("none", "selective", "full")), "loss_chunks": _one(draw, (1, 8))}
        row |= {"attention": _one(draw, ("flash2", "sdpa", "triton", "eager"))}
        row |= {"kernels": _one(draw, ("", "fused", "library", "eager"))}
        row |= {"optimizer": _one(draw, ("adamw", "adamw_foreach", "adamw_8bit", "sgd", "sgd_momentum", "adafactor"))}
        if model in DENSE and draw.random() < 0.5:
            row |= {"tp": _one(draw, (2, 4)), "sequence_parallel": _one(draw, (0, 1)), "pp": _one(draw, (1, 1, 2))}
        if method != "full":
            row |= {"lora_rank": _one(draw, (8, 16, 64)), "lora_targets": _one(draw, ("all", "qkv", "qv"))}
        elif draw.random() < 0.3:
            row |= {"offload": _one(draw, ("optimizer", "parameters"))}
        if draw.random() < 0.3:
            row |= {"dtype": _one(draw, ("fp32", "fp16", "bf16", "fp8"))}
        yield row | {"train_tokens": _one(draw, (None, 1e9))}


def _named_otherwise() -> Iterator[Row]:
    """GPUs by aliases, slices and specs, a model by its file."""
    gpus = ("H100", "RTX 4090", "H100:3g.40gb", "A100:1g.10gb", "asked/own.toml", "H100, mem_gib=96, sms=100")
    for gpu in gpus:
        for model in ("Qwen3-8B", "meta-llama/Llama-3.1-8B", "asked/config.json", "resnet50"):
            yield {"model": model, "gpu": gpu, "n_gpus": 2 if model == "Qwen3-8B" else None, "batch": 3}


def _wrong_requests() -> Iterator[Row]:
    good = {"model": "Llama-3.1-8B", "gpu": "H100"}
    bad: tuple[Row, ...] = (
        *({"gpu": name} for name in ("H1000", "", "none.toml", "H100:9g.9gb", "H100, sms=x")),
        *({"model": name} for name in ("Llama-3.1-8", "", "none.json", "a/b")),
        *({"batch": size} for size in (0, -1, 1.5, 2**40)),
        *({"engine": "vlm"}, {"engine": "torch", "scheduling": "continuous"}, {"phase": "serving"}),
        *({"dtype": "fp7"}, {"gpu": "V100-SXM2-32GB"}, {"gpu": "A100", "dtype": "fp8"}, {"kv_dtype": "x"}),
        *({"tp": 3}, {"tp": 64}, {"pp": 99}, {"ep": 2}, {"n_gpus": 3, "tp": 2}, {"attention_dp": 3, "ep": 2}),
        *({"draft_tokens": 2}, {"request_rate": 1.0, "scheduling": "static"}, {"request_rate": -1.0}),
        *({"acceptance": 2.0}, {"zero_stage": 4}, {"phase": "train", "dtype": "int4_wo"}, {"image_size": 64}),
        *({"input_len": 200_000}, {"phase": "train", "seq_len": 10**6}, {"phase": "train", "engine": "vllm"}),
        *({"model": "bert-large-uncased", "input_len": 600}, {"model": "ResNet-50", "tp": 2}, {"optimizer": "adam"}),
    )
    for wrong in bad:
        yield good | wrong
