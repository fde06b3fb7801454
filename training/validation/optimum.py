"""Latencies that optimum-benchmark measured on A100-SXM4-80GB, replayed: BGE forward passes, Llama 2 and Mistral.

Source: huggingface/optimum-benchmark, examples of 2023 (Apache-2.0), in the truth folder
`optimum_benchmark/inference_latency_memory.csv`. BGE-base (BERT): `baseline` is eager PyTorch in FP32 without TF32
(14.6 TFLOP/s at most), `ort_cuda_o4` ONNX Runtime with fused FP16 operators, `ort_trt_fp16` TensorRT below it. Language
models: FP16 in eager transformers 4.33 to 4.35, with its own attention (`fp16`), PyTorch's (`bt`) or FlashAttention-2
(`fa2`), all taken as the first: `forward` is a prefill with logits of every token, `generate` prompt and new tokens.
Other formats run kernels of their own (exllama, AutoAWQ, bitsandbytes), which are not modelled.

    .venv/bin/python training/validation/optimum.py [--root ../shared/truth]
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from llm_foundry import half, summary
from neusight import lines as eager_lines

from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.gpu import Gpu, get_gpu
from predictor.latency.report import Interval
from predictor.latency.static_batch import HOST_DOUBT
from predictor.latency.steps import op_lines, total
from predictor.ops import Gemm
from predictor.workloads import OpCall, Workload, get_model
from predictor.workloads.architectures.encoder import Encoder
from predictor.workloads.engines import get_engine
from predictor.workloads.passes.eager import launches, unfused

NAME = "optimum-benchmark latencies, A100"
TABLE = "optimum_benchmark/inference_latency_memory.csv"
BY = ["engine", "model", "metric"]
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


def replay(root: Path, bundle: Bundle) -> pd.DataFrame:
    """One row per latency: forward_s of a pass, tokens_per_s of a generation."""
    rows, skipped = [], dict[str, int]()
    for row in pd.read_csv(root / TABLE).to_dict("records"):
        if row["model"].startswith("BAAI/bge"):
            rows.append(_pass(row, bundle))
        elif row["model"] in MODELS and PLAIN.fullmatch(row["experiment"]):
            rows += _generation(row, bundle)
        else:
            reason = "faster than the arithmetic peak" if "baseline" in row["experiment"] else "other kernels"
            skipped[reason] = skipped.get(reason, 0) + 1
    for reason, count in skipped.items():
        print(f"{NAME}: {count} rows skipped: {reason}")
    return pd.DataFrame(rows)


def _pass(row: dict[str, Any], bundle: Bundle) -> dict[str, Any]:
    """A forward pass of BGE."""
    engine, tables, launch_s, copy_rate = RUNTIMES[re.sub(r"^bge_.*_sweep_", "", row["experiment"])]
    model, gpu = get_model(row["model"]), get_gpu(GPU)
    batch, length = int(row["batch"]), int(row["seq_len"])
    if not isinstance(model, Encoder):
        raise TypeError(f"{model.name} is no text encoder")
    eager = engine == "torch"
    calls = model.pass_ops(batch, length, "fp32" if eager else "fp16", eager=eager)
    found = eager_lines(calls, gpu, bundle) if eager else op_lines([("forward", calls)], gpu, tables, bundle)[0]
    least = launch_s * launches(calls)
    ends = zip(total(found, gpu, bundle), HOST_SHARES, strict=True)
    copy_s = 4.0 * batch * length * model.hidden / copy_rate if copy_rate else 0.0
    told = Interval(*(max(end, least * share) + copy_s * share for end, share in ends))
    fitted = half(row["experiment"], batch, length)
    return _row(row, engine, model.name, "forward_s", row["forward.latency(s)"], told) | {"fitted": fitted}


def _generation(row: dict[str, Any], bundle: Bundle) -> Iterator[dict[str, Any]]:
    """The prompt, and prompt and new tokens, of a language model."""
    name, gpu = MODELS[row["model"]], get_gpu(GPU)
    batch, length = int(row["batch"]), int(row["seq_len"])
    new = int(row["new_tokens"])
    job = Workload(model=get_model(name), batch=batch, input_len=length, output_len=new, dtype="fp16")
    prompt = _eager(job.prefill_ops(), gpu, bundle, batch * length)
    if row["forward.latency(s)"] > 0:
        yield _row(row, "torch", name, "ttft_s", row["forward.latency(s)"], prompt)
    if row["generate.throughput(tokens/s)"] > 0:
        steps = [_eager(job.decode_ops(length + at), gpu, bundle) for at in (1, new // 2, new - 1)]
        mean = [sum(step[i] * weight for step, weight in zip(steps, (1, 2, 1), strict=True)) / 4 for i in range(3)]
        ends = [batch * new / (prompt[i] + (new - 1) * mean[i]) for i in range(3)]
        yield _row(
            row,
            "torch",
            name,
            "tokens_per_s",
            row["generate.throughput(tokens/s)"],
            Interval(ends[0], ends[2], ends[1]),
        )


def _eager(served: tuple[OpCall, ...], gpu: Gpu, bundle: Bundle, logits: int = 0) -> Interval:
    """Seconds of a step; logits: tokens that get some, 0 for the last of each sequence."""
    calls = unfused(served)
    if logits:
        calls = tuple(_head(call, logits) for call in calls)
    found = total(op_lines([("step", calls)], gpu, "torch", bundle)[0], gpu, bundle)
    hosts = [get_engine("torch").beside(gpu.generation).times(share) for share in HOST_SHARES]
    return Interval(*(host.prompt_s(end, launches(served), 1) for host, end in zip(hosts, found, strict=True)))


def _head(call: OpCall, tokens: int) -> OpCall:
    """The output head over all tokens."""
    op = call.op
    if call.name != "lm_head" or not isinstance(op, Gemm):
        return call
    return OpCall(call.name, replace(op, m=tokens), call.count)


def _row(row: dict[str, Any], engine: str, model: str, metric: str, measured: float, told: Interval) -> dict[str, Any]:
    return {
        "table": TABLE,
        "gpu": get_gpu(GPU).name,
        "model": model,
        "engine": engine,
        "metric": metric,
        "measured": measured,
        "predicted": told.value,
        "low": told.low,
        "high": told.high,
        "fitted": False,
        "experiment": row["experiment"],
        "batch": int(row["batch"]),
        "input_len": int(row["seq_len"]),
    }


def main() -> None:
    """Prints the errors of the default bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "truth")
    print(summary(replay(parser.parse_args().root, load_bundle()), BY))


if __name__ == "__main__":
    main()
