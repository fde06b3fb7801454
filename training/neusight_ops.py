"""Each kernel of NeuSight's traces beside its prediction: whether a whole model is right because its parts are.

Source: the .csv beside every whole-model label (predictor/learning/validation/neusight.py): one row for each node of
the traced graph, one layer of them, `fw_latency` in milliseconds between two CUDA events, mean of the 5 fastest of 25,
the launch included. Compared are the nodes of 20 us and more, with the prediction of a call timed alone, as the
operator tables were. Backward times of the traces also add to the gradient of their input, so they are not compared.

    .venv/bin/python training/neusight_ops.py [--root ../shared/sources/neusight]
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from predictor.estimators.bundle import Bundle, load_bundle
from predictor.estimators.operators import ALONE, predict_op
from predictor.learning.validation.neusight import LABELS, gpu_of
from predictor.ops import Gemm, Op, Pointwise
from predictor.ops.base import stack

SHORTEST_MS = 0.02
# A trace whose kernels, times layers, take this much longer than the whole model they are of ran on a slower clock.
SLOW_TRACE = 1.15
LAYER = {"bert": ".layer.0.", "gpt": "transformer.h.0", "opt": "decoder.layers.0"}
LINEAR = re.compile(r"query|key|value|dense|_proj|fc\d|lm_head|decoder$|addmm|classifier|seq_relationship")
PASSES = (  # a part of the node's name, our kind; first match wins
    ("softmax", "softmax"),
    ("norm", "layer_norm"),
    (".ln_", "layer_norm"),
    ("gelu", "gelu"),
    ("dropout", "relu"),
    ("drop", "relu"),
    ("contiguous", "copy"),
    ("reshape", "copy"),
    ("embed", "embedding"),
    (".wte", "embedding"),
    (".wpe", "embedding"),
    ("activation", "relu"),
    ("truediv", "relu"),
)


def traces(root: Path, bundle: Bundle) -> pd.DataFrame:
    """One row per node: gpu, trace, kind, count in the model, measured and predicted seconds of one call."""
    frames = [_trace(path, bundle) for path in sorted((root / LABELS).glob("*/*.csv"))]
    return pd.concat(frames, ignore_index=True)


def _trace(path: Path, bundle: Bundle) -> pd.DataFrame:
    table = pd.read_csv(path)
    label = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    marker = next(text for model, text in LAYER.items() if path.stem.startswith(model))
    inside = table["meta"].astype(str).str.contains(marker, regex=False)
    inside |= table["target"].astype(str).str.contains(marker, regex=False)
    first, last = table.index[inside].min(), table.index[inside].max()
    times = table["fw_latency"] / 1e3
    counts = np.where((table.index >= first) & (table.index <= last), label["num_layer"], 1)
    whole = float((times * counts).sum()) / (label["fw_latency"] / 1e3)
    found = [_node(row) for row in table.to_dict("records")]
    rows = pd.DataFrame({"op": [op for _, op in found], "kind": [kind for kind, _ in found], "measured": times})
    rows = rows.assign(gpu=gpu_of(path.parent.name).name, trace=path.stem, count=counts, whole=whole)
    rows = rows[rows["op"].notna() & (table["fw_latency"] >= SHORTEST_MS)].copy()
    rows["predicted"] = _predicted(rows["op"].tolist(), path.parent.name, bundle)
    return rows.drop(columns="op")


def _predicted(ops: list[Op], folder: str, bundle: Bundle) -> list[float]:
    gpu, told = gpu_of(folder), [0.0] * len(ops)
    kinds: dict[tuple[str, ...], list[int]] = {}
    for position, op in enumerate(ops):
        kinds.setdefault((op.estimator, *op.texts()), []).append(position)
    for positions in kinds.values():
        column = predict_op(stack([ops[i] for i in positions]), gpu, ALONE, bundle)
        for i, seconds in zip(positions, column.latency_s, strict=True):
            told[i] = float(seconds)
    return told


def _node(row: dict[str, Any]) -> tuple[str, Op | None]:
    """What a node of the graph computes: a name for the table and the op; none where it is neither product nor pass."""
    inputs, out = ast.literal_eval(row["input_shapes"]), ast.literal_eval(row["output_shape"])
    target, tensors = str(row["target"]).lower(), [shape for shape in inputs if shape != [1]]
    if row["op"] not in ("call_module", "call_function", "call_method") or not isinstance(out, tuple) or len(out) < 2:
        return "", None
    if len(tensors) == 2 and ("matmul" in target or "bmm" in target):
        left, right = tensors
        groups = prod(left[:-2])
        return "batched product", Gemm(m=left[-2], n=right[-1], k=left[-1], batch=groups, dtype="fp32")
    if len(tensors) == 3 and len(tensors[0]) == 1 and len(tensors[1]) == 2:  # bias, rows, weights
        return "linear", Gemm(m=tensors[1][0], n=out[-1], k=tensors[1][1], dtype="fp32")
    if row["op"] == "call_module" and LINEAR.search(target):
        return "linear", Gemm(m=prod(tensors[0][:-1]), n=out[-1], k=tensors[0][-1], dtype="fp32")
    kind = next((kind for part, kind in PASSES if part in target), "") or _arithmetic(target, tensors)
    if not kind:
        return "", None
    name = (
        "dropout" if "drop" in target else "scalar or mask" if kind == "relu" and "activation" not in target else kind
    )
    return name, Pointwise(kind=kind, rows=prod(out[:-1]), cols=out[-1], dtype="fp32")


def _arithmetic(target: str, tensors: list[list[int]]) -> str:
    """The kind of a sum or product of two tensors, of a pass over one, or of a choice by a mask."""
    if "<built-in function add>" in target or "<built-in function mul>" in target:
        two = len(tensors) == 2 and prod(tensors[1][-2:]) == prod(tensors[0][-2:])
        return ("add" if "add" in target else "mul") if two else "relu"
    if "type object" in target:  # torch.where, pow, tanh, max
        return "relu" if len(tensors) in (1, 2) else ""
    return ""


def summary(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Errors in percent by group, and the ratio of the sums, in which long calls weigh more."""
    off = (rows["predicted"] / rows["measured"] - 1) * 100
    table = rows.assign(error=off.abs(), signed=off, p=rows["predicted"] * rows["count"])
    table["m"] = table["measured"] * table["count"]
    cells = table.groupby(by)
    found = cells.agg(calls=("error", "size"), median=("error", "median"), mean=("error", "mean"), m=("m", "sum"))
    found = found.assign(signed=cells["signed"].median(), sums=(cells["p"].sum() / cells["m"].sum() - 1) * 100)
    found["share"] = 100 * found.pop("m") / table["m"].sum()
    return found.round(1)


def main() -> None:
    """Prints the errors of the default bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(__file__).resolve().parents[2] / "shared"
    parser.add_argument("--root", type=Path, default=shared / "sources" / "neusight")
    rows = traces(parser.parse_args().root, load_bundle())
    pd.set_option("display.width", 160, "display.max_rows", 500)
    slow = rows["whole"] > SLOW_TRACE
    print(rows.groupby(["gpu", "trace"])["whole"].first().round(3).to_string())
    print(
        f"\n{rows[slow]['trace'].nunique()} traces left out: their kernels take {SLOW_TRACE} times their model or more"
    )
    for by in (["kind"], ["gpu"], ["gpu", "kind"]):
        print(f"\n{summary(rows[~slow], by).to_string()}")


if __name__ == "__main__":
    main()
