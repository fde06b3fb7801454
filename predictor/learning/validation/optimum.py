"""Latencies that optimum-benchmark measured on A100-SXM4-80GB, replayed: BGE forward passes, Llama 2 and Mistral.

Source: huggingface/optimum-benchmark, examples of 2023 (Apache-2.0), in the truth folder
`optimum_benchmark/inference_latency_memory.csv`. BGE-base (BERT): `baseline` is eager PyTorch in FP32 without TF32
(14.6 TFLOP/s at most), `ort_cuda_o4` ONNX Runtime with fused FP16 operators, `ort_trt_fp16` TensorRT below it. Language
models: FP16 in eager transformers 4.33 to 4.35, with its own attention (`fp16`), PyTorch's (`bt`) or FlashAttention-2
(`fa2`), all taken as the first: `forward` is a prefill with logits of every token, `generate` prompt and new tokens.
Other formats run kernels of their own (exllama, AutoAWQ, bitsandbytes), which are not modelled.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import Gpu, get_gpu
from predictor.latency.report import Interval
from predictor.latency.static_batch import HOST_DOUBT
from predictor.latency.steps import op_lines, total
from predictor.learning.validation.neusight import lines as eager_lines
from predictor.learning.validation.replay import Figure, Replay, Table, half, rate, records
from predictor.ops import Gemm
from predictor.workloads.architectures.encoder import Encoder
from predictor.workloads.engines import get_engine
from predictor.workloads.models import get_model
from predictor.workloads.passes.calls import OpCall
from predictor.workloads.passes.eager import launches, unfused
from predictor.workloads.workload import Workload

FILE = "optimum_benchmark/inference_latency_memory.csv"
GPU = "A100-SXM-80GB"
# Part of the experiment's name → engine that is reported, tables that show its kernels (no FP16 tables of either
# runtime are at hand), host seconds for each kernel it launches, bytes per second at which the FP32 output goes to the
# host's pageable memory (0: it stays; for ONNX Runtime a conjecture: what is missing goes with the output's size and
# not with the work). Launch and copy are fitted on the passes that `half` picks.
RUNTIMES = {
    "baseline": ("torch", "torch", 2.7e-5, 0.0),
    "ort_cuda_o4": ("onnxruntime", "vllm", 8.5e-6, 4.5e9),
    "ort_trt_fp16": ("tensorrt", "trtllm", 8.5e-6, 4.5e9),
}
HOST_SHARES = (1.0, 1 - HOST_DOUBT, 1 + HOST_DOUBT)
MODELS = {
    "NousResearch/Llama-2-7b-hf": "Llama-2-7b-hf",
    "meta-llama/Llama-2-7b-hf": "Llama-2-7b-hf",
    "NousResearch/Llama-2-13b-hf": "Llama-2-13b-hf",
    "lmsys/vicuna-7b-v1.5": "Llama-2-7b-hf",
    "mistralai/Mistral-7B-v0.1": "Mistral-7B-v0.1",
}
PLAIN = re.compile(r"fp16(\+bt|\+fa2)?(-batch.*)?")


EAGER = "eager kernels of Transformers, logits of the whole prompt"
COPIED = "no operator tables of {engine}: kernels of another engine, fitted launch and copy"


def replay(root: Path, bundle: Bundle) -> Replay:
    """A figure per latency: forward_s of a pass, ttft_s of a prompt, tokens_per_s of a generation."""
    figures, skipped = [], Counter[str]()
    for row in records(pd.read_csv(root / FILE)):
        if row["model"].startswith("BAAI/bge"):
            figures.append(_pass(row, bundle))
        elif row["model"] in MODELS and PLAIN.fullmatch(row["experiment"]):
            figures += _generation(row, bundle)
        else:
            skipped["faster than the arithmetic peak" if "baseline" in row["experiment"] else "other kernels"] += 1
    return Replay(figures, skipped)


def _pass(row: dict[str, Any], bundle: Bundle) -> Figure:
    """A forward pass of BGE."""
    engine, tables, launch_s, copy_rate = RUNTIMES[re.sub(r"^bge_.*_sweep_", "", row["experiment"])]
    model, gpu = get_model(row["model"]), get_gpu(GPU)
    batch, length = int(row["batch"]), int(row["seq_len"])
    if not isinstance(model, Encoder):
        raise TypeError(f"{model.name} is no text encoder")
    eager = engine == "torch"
    calls = model.pass_ops(batch, length, "fp32" if eager else "fp16", eager=eager)
    lines = eager_lines(calls, gpu, bundle) if eager else op_lines([("forward", calls)], gpu, tables, bundle)[0]
    least = launch_s * launches(calls)
    ends = zip(total(lines, gpu, bundle), HOST_SHARES, strict=True)
    copy_s = 4.0 * batch * length * model.hidden / copy_rate if copy_rate else 0.0
    return _figure(
        row,
        model=model.name,
        engine=engine,
        metric="forward_s",
        measured=row["forward.latency(s)"],
        predicted=Interval(*(max(end, least * share) + copy_s * share for end, share in ends)),
        fitted=half(row["experiment"], batch, length),
        private_setting="eager PyTorch in FP32, fitted launch" if eager else COPIED.format(engine=engine),
    )


def _generation(row: dict[str, Any], bundle: Bundle) -> Iterator[Figure]:
    """The prompt, and prompt and new tokens, of a language model."""
    name, gpu = MODELS[row["model"]], get_gpu(GPU)
    batch, length, new = (int(row[column]) for column in ("batch", "seq_len", "new_tokens"))
    workload = Workload(model=get_model(name), batch=batch, input_len=length, output_len=new, dtype="fp16")
    prompt = _eager(workload.prefill_ops(), gpu, bundle, batch * length)
    common: dict[str, Any] = {"model": name, "engine": "torch", "fitted": False, "private_setting": EAGER}
    if row["forward.latency(s)"] > 0:
        yield _figure(row, metric="ttft_s", measured=row["forward.latency(s)"], predicted=prompt, **common)
    speed = row["generate.throughput(tokens/s)"]
    if speed > 0:
        steps = [_eager(workload.decode_ops(length + at), gpu, bundle) for at in (1, new // 2, new - 1)]
        mean = [sum(step[i] * weight for step, weight in zip(steps, (1, 2, 1), strict=True)) / 4 for i in range(3)]
        seconds = Interval(*(prompt[i] + (new - 1) * mean[i] for i in range(3)))
        yield _figure(row, metric="tokens_per_s", measured=speed, predicted=rate(batch * new, seconds), **common)


def _eager(served: tuple[OpCall, ...], gpu: Gpu, bundle: Bundle, logits: int = 0) -> Interval:
    """Seconds of a step; logits: tokens that get some, 0 for the last of each sequence."""
    calls = unfused(served)
    if logits:
        calls = tuple(_head(call, logits) for call in calls)
    device = total(op_lines([("step", calls)], gpu, "torch", bundle)[0], gpu, bundle)
    hosts = [get_engine("torch").beside(gpu.generation).times(share) for share in HOST_SHARES]
    return Interval(*(host.prompt_s(end, launches(served), 1) for host, end in zip(hosts, device, strict=True)))


def _head(call: OpCall, tokens: int) -> OpCall:
    """The output head over all tokens."""
    op = call.op
    if call.name != "lm_head" or not isinstance(op, Gemm):
        return call
    return OpCall(call.name, replace(op, m=tokens), call.count)


def _figure(row: dict[str, Any], **fields: Any) -> Figure:
    sizes = {"batch": int(row["batch"]), "input_len": int(row["seq_len"])}
    return Figure(table=FILE, gpu=GPU, settings={"experiment": row["experiment"], **sizes}, **fields)


TABLE = Table("optimum", "optimum-benchmark latencies, A100", "truth", replay)
