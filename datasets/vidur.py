"""Vidur: per-layer timings of LLM layers by tensor-parallel degree, and collectives between GPUs.

url       https://github.com/microsoft/vidur, commit 7d47513 (Agrawal et al., MLSys 2024)
licence   MIT
read      data/profiling/compute/<gpu>/<org>/<model>/mlp.csv: attn_pre_proj, attn_post_proj, mlp_up_proj,
          mlp_down_proj -> gemm; input_layernorm, post_attention_layernorm, mlp_act, add, emb, attn_rope -> pointwise
          data/profiling/network/<node>/{all_reduce,send_recv}.csv -> collective
not read  attention.csv (batched mixtures); traces; collectives across nodes (num_workers above devices_per_node, or
          one device per node); attn_rope of models without a gated MLP (phi-2 turns only part of each head); files
          that are copies of another (h100_pairwise_nvlink/send_recv.csv is a100_pairwise_nvlink/send_recv.csv);
          all-reduces below 4 MiB over NVLink and below 256 KiB over PCIe: ranks launch one after another, and each
          kernel waits 38 to 64 us for the last, whatever the size (nccl of aiconfigurator takes 6 to 25);
          sizes beyond the first in each 32nd of a doubling
units     median in milliseconds. size: bytes of the buffer (2-GPU send/recv reaches 229 GB/s of 300 on an A100 DGX;
          16-bit elements would be 457)
timing    device: kernel times from the profiler, several repeats; 1 us resolution
engine    torch: layers and norms are those of Sarathi's vLLM fork, timed outside the engine
dtype     fp16
GPU       compute/a100 and h100 do not say which: the 80 GB SXM part. Nodes: *_dgx are SXM; a100_pairwise_nvlink and
          h100_pairwise_nvlink taken as PCIe cards NVLinked two by two, hence link=pcie for more than 2 GPUs;
          a40_pairwise_nvlink moves 4 GB/s even between two, an eighth of PCIe, so link=host throughout.
quirks    a100_pairwise_nvlink/send_recv reaches 343 GB/s over a bridge of 300: half of it beats the bound.
          Layers that several models or tp degrees share repeat: one row per call, with the median.
          mlp_up_proj holds gate and up of a gated MLP. Norms are RMSNorm with a gated MLP, else LayerNorm.
          emb runs at 15 % of bandwidth on an A100 and is no faster than on an A40.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from predictor.measurements.readers import (
    Unread,
    folder,
    median_of_repeats,
    read_columns,
    run_reader,
    stack,
    thinned_sizes,
)
from predictor.units import MS

URL = "https://github.com/microsoft/vidur"
WAITS_BELOW = {"gpu": 2**22, "pcie": 2**18, "host": 2**18}  # link → bytes up to which an all-reduce times the launches
CONFIG = (
    "n_head",
    "n_kv_head",
    "n_embd",
    "n_expanded_embd",
    "use_gated_mlp",
    "num_tokens",
    "num_tensor_parallel_workers",
)
TIMED = (
    "attn_pre_proj",
    "attn_post_proj",
    "mlp_up_proj",
    "mlp_down_proj",
    "emb",
    "input_layernorm",
    "post_attention_layernorm",
    "attn_rope",
    "mlp_act",
    "add",
)


class Node(NamedTuple):
    """gpu: alias. joined: GPUs that NVLink connects; larger groups take the link `beyond`."""

    gpu: str
    joined: int
    beyond: str = "pcie"


NODES = {
    "a100_dgx": Node("A100-SXM-80GB", 8),
    "h100_dgx": Node("H100-SXM-80GB", 8),
    "a100_pairwise_nvlink": Node("A100-PCIe-80GB", 2),
    "h100_pairwise_nvlink": Node("H100-PCIe-80GB", 2),
    "a40_pairwise_nvlink": Node("A40", 1, "host"),
}


def read(root: Path, unread: Unread) -> pd.DataFrame:
    """Compute and network profiles below root."""
    profiles = folder(root, "data/profiling", url=URL)
    frames = [read_layers(path, unread) for path in sorted(profiles.glob("compute/*/*/*/mlp.csv"))]
    seen: set[str] = set()
    for path in sorted(profiles.glob("network/*/*.csv")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest in seen:
            unread.file(f"{path.parent.name}/{path.name} is a copy of another file")
        else:
            frames.append(read_network(path, unread))
        seen.add(digest)
    for _ in profiles.glob("compute/*/*/*/attention*.csv"):
        unread.file("attention: batched mixtures of prefill and decode")
    return median_of_repeats(stack(frames))


def read_layers(path: Path, unread: Unread) -> pd.DataFrame:
    """The layers of one model on one GPU, one row per layer, token count and tp degree."""
    gpu = unread.gpu(path.parts[-4])
    if gpu is None:
        return pd.DataFrame()
    medians = {f"time_stats.{name}.median": name for name in TIMED}
    table = read_columns(path, CONFIG, unread, list(medians)).rename(columns=medians)
    if table.empty:
        return table
    gated = table["use_gated_mlp"].astype(str).str.casefold() == "true"
    frames = []
    for name in (name for name in TIMED if name in table):
        rows = unread.positive(shape(name, table, gated).assign(latency_s=table[name] * MS))
        if name == "attn_rope":
            rows = unread.keep(rows, gated.reindex(rows.index), "attn_rope of a model that turns part of each head")
        frames.append(rows.assign(kernel_name=name))
    return provenance(pd.concat(frames, ignore_index=True), gpu).assign(engine="torch", dtype="fp16")


def shape(name: str, table: pd.DataFrame, gated: pd.Series) -> pd.DataFrame:
    """Schema columns of one layer. Column-parallel layers split their output by tp, row-parallel ones their input."""
    tokens, width, tp = table["num_tokens"], table["n_embd"], table["num_tensor_parallel_workers"]
    head_dim = width // table["n_head"]
    query = table["n_head"] * head_dim // tp
    key = table["n_kv_head"] * head_dim // tp
    inner = table["n_expanded_embd"] // tp
    gemms = {
        "attn_pre_proj": (query + 2 * key, width),
        "attn_post_proj": (width, query),
        "mlp_up_proj": (inner * gated.map({True: 2, False: 1}), width),
        "mlp_down_proj": (width, inner),
    }
    if name in gemms:
        n, k = gemms[name]
        return pd.DataFrame({"family": "gemm", "m": tokens, "n": n, "k": k})
    norm = gated.map({True: "rms_norm", False: "layer_norm"})
    kinds: dict[str, tuple[Any, Any]] = {
        "emb": ("embedding", width),
        "input_layernorm": (norm, width),
        "post_attention_layernorm": (norm, width),
        "attn_rope": ("rope", query + key),
        "mlp_act": (gated.map({True: "silu_mul", False: "gelu"}), inner),
        "add": ("add", width),
    }
    kind, cols = kinds[name]
    return pd.DataFrame({"family": "pointwise", "kind": kind, "rows": tokens, "cols": cols})


def read_network(path: Path, unread: Unread) -> pd.DataFrame:
    """One collective on one kind of node."""
    kind = path.stem
    if path.parent.name not in NODES or kind not in ("all_reduce", "send_recv"):
        unread.file(f'network "{path.parent.name}/{path.name}": the node or the collective is not known here')
        return pd.DataFrame()
    node = NODES[path.parent.name]
    gpu = unread.gpu(node.gpu)
    time = f"time_stats.{kind}.median"
    rows = read_columns(path, ["num_workers", "devices_per_node", "size", time], unread)
    if rows.empty or gpu is None:
        return pd.DataFrame()
    rows = unread.keep(rows, rows["num_workers"] <= rows["devices_per_node"], "a collective across nodes")
    rows = rows.assign(link=(rows["num_workers"] <= node.joined).map({True: "gpu", False: node.beyond}))
    waits = (kind == "all_reduce") & (rows["size"] < rows["link"].map(WAITS_BELOW))
    rows = unread.keep(rows, ~waits, "an all-reduce that waits for launches")
    rows = thinned_sizes(rows, unread)
    rows = rows.assign(
        family="collective",
        kind=kind,
        message_bytes=rows["size"],
        n_gpus=rows["num_workers"],
        latency_s=rows[time] * MS,
        engine="nccl",
        kernel_name=path.parent.name,
    )
    return provenance(unread.positive(rows), gpu)


def provenance(rows: pd.DataFrame, gpu: str) -> pd.DataFrame:
    """Rows with the columns that all of this source share."""
    return rows.assign(gpu=gpu, timing="device", source="vidur")


if __name__ == "__main__":
    run_reader(read, __doc__ or "")
