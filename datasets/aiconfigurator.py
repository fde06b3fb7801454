"""AIConfigurator: NVIDIA's operator tables of TensorRT-LLM, SGLang, vLLM and NCCL on data-centre GPUs.

url       https://github.com/ai-dynamo/aiconfigurator, commit 095f58a (data in git-lfs: run `git lfs pull`)
licence   Apache-2.0
read      systems/data/<system>/<family>/<engine>/<version>/*_perf.parquet (older commits: .txt, the same columns):
          the files of TABLES below -> gemm, attention, moe, mla, collective, pointwise
not read  linear attention (gdn, kda, mamba2), mhc; whole modules (projections and attention in one time): *_module,
          wideep MLA and MLP; sparse attention and its parts (dsa, dsv4, glm5, msa); DeepEP dispatch and combine
          wideep context MoE: 32 to 512 tokens at ep=2 take 0.4 ms on an H100, a quarter of reading their experts
          wideep MoE rows with redundant experts (eplb)
          "balanced" MoE of DeepSeek-V3's shape on vLLM and SGLang: routing is grouped, so half of the experts are hit
          (32 tokens read 256 experts 1.7 times faster than memory allows) and rank 0 gets most tokens
          SGLang prefill with window 8192 beyond 8192 tokens (Llama 4): FA3 attends in chunks (982 TFLOP/s if it slid),
          FlashInfer and TRT-LLM kernels to everything
          compute_scale of vLLM and SGLang: a difference of two timings, 0 to 100 % of them 0, up to 40 TB/s on an H100
          fp8_static GEMM of TensorRT-LLM on GB200: as fp8 of the same release at every size (1.00, 90 % within 5 %)
          FlashInfer prefill of vLLM 0.19 with an fp8 cache on RTX PRO 6000: a third beats the bound, up to 390 times
          the preparation of TensorRT-LLM's all-to-all (offsets, no tokens) and its combination in fp4
          collectives that take over twice as long as the next larger message of the same file: single hiccups (38 us
          between 4.8 and 3.5 on eight H100)
units     latency in milliseconds. message_size of collectives counts ELEMENTS of the whole buffer: half of 2**28 takes
          as long as int8 of 2**29, and an 8-GPU int8 all-gather of an H100 then runs at 336 GB/s of 450 per direction
timing    device (CUDA graph or events). host: the *_eager all-reduces, by name. vLLM's fp8_block GEMMs are
          host-bound although stated as device times; predictor.measurements.checks finds and flags them
          (57 us on H100 and H200, 159 on B200, 291 on L40S; the other engines' is 4 to 12)
attention context: kv_len = isl + step, generation: kv_len = step + isl, isl being 1. num_key_value_heads 0 is MHA.
          encoder attention is not causal. fp8 caches on an A100 are widened
mla       num_heads is local: at one num_heads, tp_size makes no difference (A100: 32 heads, tp 2 and 4, both 4.51 ms).
          Prefill is the absorbed form (3.4 times the FLOPs of the plain one) in SGLang's flash_attention and triton.
          mla_bmm: one matrix per head, 128 -> 512 (pre) or 512 -> 128 (post)
moe       num_tokens counts the whole expert-parallel group. power_law rows time the busiest rank.
          SGLang 0.5.10 on A100 gains nothing from ep up to 8, nor do some 8-expert cells of SGLang: see README.md.
          Nemotron shapes (NOT_GATED) have two matrices, except in releases too old to know them
          RTX PRO 6000: kernels of 4-bit formats take 35 to 60 us at least (bf16 and fp8 17 to 35), and vLLM 0.24's
          fp8 (FlashInfer's CUTLASS) 1.45 times 0.19's Triton on one GPU, 0.7 times from ep 2 on: both are real
link      a GPU without NVLink talks over PCIe: RTX PRO 6000 and pairs of L40S peer to peer (23 to 39 and 20 GB/s of bus
          bandwidth), 4 and 8 of L40S and pairs of RTX PRO 6000 in older tables (vLLM 0.19, SGLang 0.5.10, TensorRT-LLM
          1.3.0rc10) through the host's memory (5, 2 and 15 GB/s), which their rate tells, no column.
          GB200: NCCL and all-reduce of 2 and 4 GPUs of one tray; TensorRT-LLM's all-to-all of experts (dispatch and
          combine, 2 to 64 GPUs over NVLink between trays) sends every token once to each of min(topk, GPUs) GPUs
quirks    SGLang on H100 (MLA) and A100 (MoE), and vLLM on A100 (prefill) hold some calls twice, 1 % apart; both stay
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from predictor.hardware.gpu import get_gpu
from predictor.measurements.readers import Unread, folder, read_columns, run_reader, stack
from predictor.units import MS

URL = "https://github.com/ai-dynamo/aiconfigurator"
LAYOUTS = (
    "aic-core/src/aiconfigurator_core/systems/data",
    "src/aiconfigurator/systems/data",
    "src/aiconfigurator_core/systems/data",
    "systems/data",
)
ENGINES = {"vllm": "vllm", "sglang": "sglang", "trtllm": "trtllm", "nccl": "nccl"}
DTYPES = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "fp8_ootb": "fp8",
    "nvfp4": "nvfp4",
    "int8_wo": "int8_wo",
    "int4_wo": "int4_wo",
    "sq": "int8",
    "w4a16_mxfp4": "mxfp4_wo",
    "w4a8_mxfp4_mxfp8": "mxfp4_mxfp8",
}
ELEMENT_BYTES = {"half": "2", "float16": "2", "bfloat16": "2", "int8": "1", "fp8": "1", "float": "4", "float32": "4"}
SKEWS = {"balanced": "0", "uniform": "0"} | {f"power_law_{a}": a for a in ("0.6", "0.8", "1.01", "1.02", "1.2")}
COLLECTIVES = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "alltoall": "all_to_all",
    "all_to_all": "all_to_all",
    "reduce_scatter": "reduce_scatter",
}
LLAMA4_CHUNK = 8192
STOPS_EARLY = ("RTX-PRO-6000-Server", "0.19.0", "vllm_flashinfer")  # gpu, version, kernel of prefill with an fp8 cache
SENT_BITS = {"bfloat16": 16.0, "fp8": 8.0, "nvfp4": 4.5}  # nvfp4: with a scale of 8 bits for every 16
# (hidden, inter) of Nemotron experts: up and down only. First releases that time them so; older ones timed three.
NOT_GATED = {(2688, 1856), (2048, 5120), (1024, 2688), (4096, 2688), (8192, 5120)}
NOT_GATED_SINCE = {"vllm": (0, 15), "sglang": (0, 5, 11), "trtllm": (1, 1)}
PEERS = {"L40S": 2}  # GPUs without NVLink that copy peer to peer; larger groups go through the host
MOST_FALL = 2.0  # times the latency of the next larger message that a collective may take
LONG_BYTES = 2**25  # of messages whose rate is that of the link
SLOW_PAIR = 0.3  # of the rate of PCIe: a pair whose long all-reduces are slower goes through the host
ALWAYS = ("latency", "kernel_source", "version")


def gemm(rows: pd.DataFrame, unread: Unread) -> pd.DataFrame:
    """Dense projections; m, n, k as the source has them."""
    fixed = rows["gemm_dtype"] == "fp8_static"
    rows = unread.keep(rows, ~fixed, "fp8 with a scale that is known, timed as if it were not")
    rows = unread.known(rows, "gemm_dtype", DTYPES, "dtype")
    return rows.assign(family="gemm", timing="device")


def attention(rows: pd.DataFrame, unread: Unread, phase: str) -> pd.DataFrame:
    """Grouped-query attention of a prefill or a decode step."""
    rows = unread.known(rows, "attn_dtype", DTYPES, "dtype")
    rows = unread.known(rows, "kv_cache_dtype", DTYPES, "kv_dtype")
    if phase == "prefill":
        gpu, version, kernel = STOPS_EARLY
        stops = (rows["gpu"] == gpu) & (rows["version"] == version) & (rows["kernel_source"] == kernel)
        rows = unread.keep(rows, ~(stops & (rows["kv_dtype"] == "fp8")), "prefill that stops before its end")
    if "window_size" in rows and phase == "prefill":
        chunked = (rows["window_size"] == LLAMA4_CHUNK) & (rows["isl"] > LLAMA4_CHUNK) & (rows["engine"] == "sglang")
        rows = unread.keep(rows, ~chunked, "SGLang prefill beyond Llama 4's attention chunk, not a sliding window")
    window = rows["window_size"].fillna(0).clip(lower=0) if "window_size" in rows else 0
    return rows.assign(
        family="attention",
        phase=phase,
        batch=rows["batch_size"],
        q_len=rows["isl"] if phase == "prefill" else 1,
        kv_len=rows["isl"] + rows["step"],
        heads=rows["num_heads"],
        kv_heads=rows["num_key_value_heads"].where(rows["num_key_value_heads"] > 0, rows["num_heads"]),
        window=window,
        causal=1,
    )


def prefill(rows: pd.DataFrame, unread: Unread) -> pd.DataFrame:
    """Prefill ("context") attention."""
    return attention(rows, unread, "prefill")


def decode(rows: pd.DataFrame, unread: Unread) -> pd.DataFrame:
    """Decode ("generation") attention."""
    return attention(rows, unread, "decode")


def encoder(rows: pd.DataFrame, unread: Unread) -> pd.DataFrame:
    """Bidirectional attention of vision and audio encoders."""
    rows = rows.assign(kv_cache_dtype=rows["attn_dtype"], num_key_value_heads=0, step=0)
    return attention(rows, unread, "prefill").assign(causal=0)


def moe(rows: pd.DataFrame, unread: Unread) -> pd.DataFrame:
    """Expert feed-forwards of one rank."""
    single = ~rows["distribution"].str.endswith("_eplb")
    if "num_slots" in rows:
        single &= rows["num_slots"] == rows["num_experts"]
    rows = unread.keep(rows, single, "MoE with redundant experts (eplb)")
    shape = (rows["hidden_size"] == 7168) & (rows["num_experts"] == 256) & (rows["topk"] == 8)
    grouped = shape & (rows["distribution"] == "balanced") & rows["engine"].isin(["vllm", "sglang"])
    rows = unread.keep(rows, ~grouped, "MoE called balanced, but routed by groups to half of the experts")
    rows = unread.known(rows, "moe_dtype", DTYPES, "dtype")
    rows = unread.known(rows, "distribution", SKEWS, "skew")
    return rows.assign(
        family="moe",
        tokens=rows["num_tokens"],
        hidden=rows["hidden_size"],
        inter=rows["inter_size"],
        experts=rows["num_experts"],
        tp=rows["moe_tp_size"],
        ep=rows["moe_ep_size"],
        skew=rows["skew"].astype("float64"),
        matrices=np.where(not_gated(rows), 2, 3),
    )


def not_gated(rows: pd.DataFrame) -> np.ndarray:
    """Which rows timed experts of two matrices."""
    named = rows["kernel_source"].str.contains("nongated", regex=False).to_numpy(dtype=bool)
    since = NOT_GATED_SINCE.get(rows["engine"].iat[0], ()) if len(rows) else ()
    recent = rows["version"].map({v: release(v) >= since for v in rows["version"].unique()}).to_numpy(dtype=bool)
    shapes = np.zeros(len(rows), dtype=bool)
    for hidden, inter in NOT_GATED:
        shapes |= ((rows["hidden_size"] == hidden) & (rows["inter_size"] == inter)).to_numpy()
    return named | (shapes & recent)


def release(version: str) -> tuple[int, ...]:
    """Leading numbers of a version; a development build (0.1.dev…) counts as newer than any release."""
    if ".dev" in version:
        return (10**6,)
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def mla(rows: pd.DataFrame, unread: Unread, phase: str) -> pd.DataFrame:
    """Latent attention of local heads with DeepSeek-V3's widths."""
    rows = unread.known(rows, "mla_dtype", DTYPES, "dtype")
    rows = unread.known(rows, "kv_cache_dtype", DTYPES, "kv_dtype")
    length = rows["isl"] + rows["step"]
    q_len = rows["isl"] if phase == "prefill" else 1
    widths = {"kv_lora_rank": 512, "rope_dim": 64, "nope_dim": 128, "v_dim": 128}
    rows = rows.assign(family="mla", phase=phase, batch=rows["batch_size"], q_len=q_len, kv_len=length, **widths)
    return rows.assign(heads=rows["num_heads"])


def mla_prefill(rows: pd.DataFrame, unread: Unread) -> pd.DataFrame:
    """Latent attention over a prompt."""
    return mla(rows, unread, "prefill")


def mla_decode(rows: pd.DataFrame, unread: Unread) -> pd.DataFrame:
    """Latent attention of one new token per sequence."""
    return mla(rows, unread, "decode")


def mla_bmm(rows: pd.DataFrame, unread: Unread) -> pd.DataFrame:
    """Absorbed up-projections of latent attention: one small matrix per head."""
    kernel = rows["kernel_source"].astype(str)
    dtype = rows["bmm_dtype"].astype(str)
    # block-scaled and widened fp8 are called fp8; the widened one takes bf16's time
    dtype = dtype.mask(kernel.str.contains("block_scaling"), "fp8_block").mask(
        kernel.str.contains("dequant_bf16"), "bfloat16"
    )
    rows = unread.known(rows.assign(bmm_dtype=dtype), "bmm_dtype", DTYPES, "dtype")
    rows = unread.keep(rows, rows["op_name"].isin(["mla_gen_pre", "mla_gen_post"]), "unknown mla_bmm op_name")
    before = rows["op_name"] == "mla_gen_pre"
    return rows.assign(
        family="gemm",
        batch=rows["num_heads"],
        m=rows["num_tokens"],
        k=np.where(before, 128, 512),
        n=np.where(before, 512, 128),
    )


def collective(rows: pd.DataFrame, unread: Unread) -> pd.DataFrame:
    """Collectives of one node; sizes in elements become bytes."""
    rows = rows.rename(columns={"nccl_dtype": "element", "allreduce_dtype": "element"})
    rows = unread.known(rows, "element", ELEMENT_BYTES, "element_bytes")
    rows = unread.known(rows, "op_name", COLLECTIVES, "kind")
    series = ["kernel_source", "kind", "element", "num_gpus"]
    longer = rows.sort_values("message_size", kind="stable").groupby(series, observed=True)["latency_s"].shift(-1)
    longer = longer.reindex(rows.index)
    rows = unread.keep(rows, ~(rows["latency_s"] > MOST_FALL * longer), "a collective slower than a larger one")
    return rows.assign(
        family="collective",
        message_bytes=rows["message_size"] * rows["element_bytes"].astype("float64"),
        n_gpus=rows["num_gpus"],
        timing=np.where(rows["kernel_source"].str.endswith("_eager"), "host", "device"),
    )


def slow_pairs(rows: pd.DataFrame, pcie_bytes_per_s: float) -> pd.Series:
    """Whether each row is a collective of two GPUs that do not copy from one to the other over PCIe."""
    pair, long = rows["n_gpus"] == 2, rows["message_bytes"] >= LONG_BYTES
    rate = (rows["message_bytes"] / rows["latency_s"])[pair & long].max()
    return pair & (rate < SLOW_PAIR * pcie_bytes_per_s)


def expert_exchange(rows: pd.DataFrame, unread: Unread) -> pd.DataFrame:
    """Tokens on their way to the GPUs of their experts (dispatch, in the experts' format) and back (combine, bf16)."""
    moved = rows["op_name"].isin(["alltoall_dispatch", "alltoall_combine"])
    rows = unread.keep(rows, moved, "all-to-all of experts: its preparation, or combined in fp4")
    rows = rows[rows["moe_dtype"].isin(SENT_BITS)]
    bits = rows["moe_dtype"].astype(str).map(SENT_BITS).where(rows["op_name"] == "alltoall_dispatch", 16.0)
    copies = rows["num_tokens"] * np.minimum(rows["topk"], rows["moe_ep_size"])
    return rows.assign(
        kernel_source=rows["kernel_source"].astype(str)
        + rows["op_name"].str.removeprefix("alltoall").str.replace("_", " "),
        family="collective",
        kind="all_to_all",
        message_bytes=np.ceil(copies * rows["hidden_size"] * bits / 8),
        n_gpus=rows["moe_ep_size"],
    )


def compute_scale(rows: pd.DataFrame, unread: Unread) -> pd.DataFrame:
    """Largest magnitude of each tensor, the first half of dynamic quantisation."""
    measured = rows["kernel_source"] == "torch_ops"
    rows = unread.keep(rows, measured, "compute_scale as a difference of two timings")
    return rows.assign(family="pointwise", kind="compute_scale", rows=rows["m"], cols=rows["k"], dtype="bf16")


def quantise(rows: pd.DataFrame, unread: Unread) -> pd.DataFrame:
    """Scaling and rounding to fp8 with a known scale."""
    rows = unread.keep(rows, rows["quant_dtype"] == "fp8", "quantisation to something but fp8")
    return rows.assign(family="pointwise", kind="quantise_fp8", rows=rows["m"], cols=rows["k"], dtype="bf16")


class Table(NamedTuple):
    """columns: needed beside ALWAYS. optional: used where present. convert: rows -> schema."""

    columns: str
    convert: Callable[[pd.DataFrame, Unread], pd.DataFrame]
    optional: str = ""


ATTENTION = "batch_size isl num_heads num_key_value_heads head_dim attn_dtype kv_cache_dtype step"
MOE = "moe_dtype num_tokens hidden_size inter_size topk num_experts moe_tp_size moe_ep_size distribution"
MLA = "mla_dtype kv_cache_dtype num_heads batch_size isl step"
TABLES = {
    "gemm_perf": Table("gemm_dtype m n k", gemm),
    "context_attention_perf": Table(ATTENTION, prefill, "window_size"),
    "generation_attention_perf": Table(ATTENTION, decode, "window_size"),
    "encoder_attention_perf": Table("batch_size isl num_heads head_dim attn_dtype", encoder),
    "moe_perf": Table(MOE, moe),
    "wideep_generation_moe_perf": Table(MOE, moe),
    "wideep_moe_perf": Table(MOE, moe, "num_slots"),
    "context_mla_perf": Table(MLA, mla_prefill),
    "generation_mla_perf": Table(MLA, mla_decode),
    "mla_bmm_perf": Table("op_name bmm_dtype num_tokens num_heads", mla_bmm),
    "nccl_perf": Table("op_name nccl_dtype num_gpus message_size", collective),
    "custom_allreduce_perf": Table("op_name allreduce_dtype num_gpus message_size", collective),
    "trtllm_alltoall_perf": Table("op_name moe_dtype num_tokens hidden_size topk moe_ep_size", expert_exchange),
    "computescale_perf": Table("m k", compute_scale),
    "scale_matrix_perf": Table("m k quant_dtype", quantise),
}
REASONS = (  # first match in the file's stem
    (r"^wideep_context_moe", "wideep context MoE: few tokens hit fewer experts than they must"),
    (r"^wideep_deepep", "DeepEP dispatch and combine: no op here"),
    (r"^wideep_.*ml[ap]_|_module_|^mhc_|^dsv4_|^glm5_", "a module of several ops in one time"),
    (r"^(gdn|kda|mamba2)_", "linear attention: no op here"),
)


def read(root: Path, unread: Unread) -> pd.DataFrame:
    """Every table below root."""
    data = folder(root, *LAYOUTS, url=URL)
    return stack(tables(data, unread))


def tables(data: Path, unread: Unread) -> Iterator[pd.DataFrame]:
    """One frame per file, read as they are asked for: together they would fill the memory."""
    for system in sorted(path for path in data.iterdir() if path.is_dir()):
        paths = sorted(path for path in system.rglob("*_perf.*") if path.suffix in (".parquet", ".txt", ".csv"))
        gpu = unread.gpu(system.name) if paths else None
        if gpu is not None:
            yield from (read_file(path, gpu, unread) for path in paths)


def read_file(path: Path, gpu: str, unread: Unread) -> pd.DataFrame:
    """One table of one engine version on one GPU."""
    table = TABLES.get(path.stem)
    engine = ENGINES.get(path.parts[-3].casefold())
    if table is None:
        unread.file(next((why for pattern, why in REASONS if re.search(pattern, path.stem)), f"{path.stem} is unknown"))
        return pd.DataFrame()
    if engine is None:
        unread.file(f'unknown engine "{path.parts[-3]}"')
        return pd.DataFrame()
    rows = read_columns(path, [*ALWAYS, *table.columns.split()], unread, table.optional.split())
    if rows.empty:
        return rows
    rows = unread.positive(rows.assign(latency_s=pd.to_numeric(rows["latency"], errors="coerce") * MS))
    rows = rows.assign(engine=engine, gpu=gpu, timing="device", version=rows["version"].astype(str))
    rows = table.convert(rows, unread)
    if path.stem in ("nccl_perf", "custom_allreduce_perf", "trtllm_alltoall_perf"):
        linkless = get_gpu(gpu).link_bytes_per_s <= get_gpu(gpu).pcie_bytes_per_s
        through_host = (rows["n_gpus"] > PEERS.get(gpu, np.inf)) | slow_pairs(rows, get_gpu(gpu).pcie_bytes_per_s)
        rows = rows.assign(link=np.where(through_host, "host", "pcie") if linkless else "gpu")
    rows = rows.rename(columns={"kernel_source": "kernel_name", "version": "engine_version"})
    return rows.assign(source="aiconfigurator")


if __name__ == "__main__":
    run_reader(read, __doc__ or "")
