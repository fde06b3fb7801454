"""What same_answers.py asks: tables of requests and operator calls, command lines, and the files that they name.

All is drawn from fixed seeds, and of the package only the public names of its catalogues are used. Tables have an `id`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from asked_operators import CALLS, OWN_GPU, SEVERAL, measured, operators
from asked_requests import requests

from predictor import catalogue

SWEEP = """skip_unfit = true
[request]
model = ["Llama-3.1-8B", "Qwen3-30B-A3B", "DeepSeek-V2-Lite"]
gpu = ["H100", "L40S", "MI300X"]
dtype = ["bf16", "fp8"]
tp = { from = 1, to = 4, times = 2 }
batch = { from = 1, to = 64, times = 4 }
[[together]]
input_len = [1024, 8192]
output_len = [256, 1024]
[[skip]]
n_gpus = { above = 2 }
model = "Llama-3.1-8B"
"""
RECIPE = 'id = "small"\ntransfer_rounds = 12\nreference_rounds = 12\nreference_depth = 5\nmin_child_weight = 3.0\n'
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "vocab_size": 32000}
CONFIG |= {"num_hidden_layers": 20, "num_attention_heads": 16, "num_key_value_heads": 4, "intermediate_size": 5632}
CONFIG |= {"max_position_embeddings": 8192, "torch_dtype": "bfloat16", "tie_word_embeddings": False}
THREE = "--gpu H100 --gpu L4 --gpu MI300X"
TRAINED = "--phase train --dp 8 --zero-stage 1 --micro-batch 2 --grad-accum 8"
OP_SHAPES = (
    *("gemm --m 4095 --n 4096 --k 4096 --dtype fp8", "gemm --m 1 --n 512 --k 64 --batch 8"),
    "attention --phase decode --batch 8 --q-len 1 --kv-len 4096 --heads 32 --kv-heads 8 --head-dim 128",
    "attention --phase prefill --batch 2 --q-len 999 --kv-len 4096 --heads 32 --kv-heads 8 --head-dim 128 --window 512",
    *("moe --tokens 128 --hidden 4096 --inter 14336 --experts 8 --topk 2 --skew 1.2 --ep 2", "moe --tokens 1"),
    *(
        "mla --phase decode --batch 8 --q-len 1 --kv-len 4096 --heads 128",
        "pointwise --kind rms_norm --rows 9 --cols 4096",
    ),
    "conv --batch 8 --in-channels 64 --out-channels 64 --size 56 --kernel 3 --padding 1",
    "collective --kind all_reduce --message-bytes 1e8 --n-gpus 8",
)


def write_questions(folder: Path) -> None:
    """Write them all into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    asked, calls = requests(), operators(CALLS, tuple(catalogue()), seed=1)
    asked.to_parquet(folder / "requests.parquet", index=False)
    calls.to_parquet(folder / "ops.parquet", index=False)
    own = asked.query("image_size.isna() and phase.isna() and scheduling.isna()").head(200)
    own.assign(gpu=OWN_GPU, engine="vllm", dtype=None).to_parquet(folder / "own_requests.parquet", index=False)
    few = {family: count // 22 for family, count in CALLS.items()}
    operators(few, (OWN_GPU,), seed=2).to_parquet(folder / "own_ops.parquet", index=False)
    measured((OWN_GPU,)).to_parquet(folder / "measured.parquet", index=False)
    measured(SEVERAL).to_parquet(folder / "several.parquet", index=False)
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "sweep.toml").write_text(SWEEP)
    (folder / "own.toml").write_text('base = "H100-SXM-80GB"\nname = "own"\nmem_gib = 96\nsms = 120\n')
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "commands.json").write_text(json.dumps(list(command_lines()), indent=1) + "\n")


def command_lines() -> Iterator[str]:
    """Arguments of `predictor`, as a shell would split them; `asked` is the folder of questions."""
    for model in ("Llama-3.1-8B", "gpt-oss-120b", "DeepSeek-V3 --attention-dp 8 --ep 8 --batch 256", "Qwen3.5-9B"):
        yield f"predict {model} {THREE} --json --explain"
    for model in (
        "bert-large-uncased --input-len 384",
        "t5-large",
        "ResNet-50 --batch 64",
        "vit-base-patch16-224",
        "DeepSeek-V4-Flash",
    ):
        yield f"predict {model} {THREE} --json --explain"
    for more in ("--scheduling continuous --batch 64", "--request-rate 2 --draft-tokens 3 --acceptance 0.7"):
        yield f"predict gpt-oss-20b --gpu H100 --gpu B200 {more} --json --explain"
    for more in ("--tp 4", "--method lora --checkpointing full", "--method qlora --precision pure", "--pp 2"):
        yield f"predict Llama-3.1-70B --gpu H100 --gpu A100 {TRAINED} {more} --json --explain"
    yield f"predict asked/config.json --gpu asked/own.toml --gpu H100:3g.40gb {THREE} --json --explain"
    yield f"predict Llama-3.1-8B {THREE} --batch 8 --explain"
    yield f"predict Llama-3.1-8B --gpu H100 {TRAINED} --explain"
    yield "predict Llama-3.1-8B --gpu L4 --gpu A10 --bundle own --json --explain"
    yield "predict Qwen3-8B --gpu L4 --bundle own"
    yield "predict gpt-oss-20b --gpu L4 --gpu H200 --bundle learned --json --explain"
    for mode in ("inference", "full", "lora", "qlora"):
        for model in ("Llama-3.1-70B --tp 2", "Qwen2.5-32B --batch 16", "DeepSeek-V2-Lite"):
            yield f"memory {model} --gpu H100 --gpu 'RTX 4090' --mode {mode} --json"
    yield "memory Llama-3.1-70B --gpu H100 --batch 16 --input-len 4096"
    pools = "disaggregated Llama-3.1-70B --gpu H100 --decode-gpu H200 --prefill-tp 4 --decode-tp 4"
    for more in ("--n-gpus 32 --max-ttft 1", "--request-rate 3", "--prefill-workers 2 --decode-workers 3"):
        yield f"{pools} {more} --json"
    yield f"{pools} --n-gpus 24"
    wide = "--prefill-tp 8 --prefill-ep 8 --decode-attention-dp 16 --decode-ep 16 --n-gpus 64"
    yield f"disaggregated DeepSeek-V3 --gpu H200 {wide} --json"
    for shape in OP_SHAPES:
        yield f"op {shape} {THREE} --json"
    yield f"op {OP_SHAPES[0]} --gpu L4 --gpu H100 --bundle own --json"
    yield f"op {OP_SHAPES[2]} --gpu L4 --bundle own --engine sglang --json"
    yield from ("gpus", "gpus H100", "gpus asked/own.toml", "models", "models DeepSeek-V3", "models t5-large")
    yield from ("check asked/measured.parquet", "evaluate asked/measured.parquet", "evaluate --ledger --gpu B200")
    yield "evaluate asked/measured.parquet --bundle own"
    yield "suggest --gpu L4 --model Llama-3.1-8B --batch 8 --budget 10"
    yield from ("predict Llama-3.1-8 --gpu H100", "predict Llama-3.1-8B --gpu H1000", "op gem --m 1 --gpu H100")
    yield from ("memory Llama-3.1-8B --gpu H100 --mode half", "disaggregated Qwen3-8B --gpu H100 --n-gpus 1")
