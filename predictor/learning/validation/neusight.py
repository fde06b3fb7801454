"""Whole-model steps that NeuSight measured, replayed: FP32 in eager PyTorch on P4, P100, V100, T4 and A100.

Source: sitar-lab/NeuSight scripts/asplos/label (MIT). A file <model>-<inf|train>-<length>-<batch>.json has, in
milliseconds, `fw_latency` of the whole model (all layers) between two CUDA events, mean of the 5 fastest of 25 runs,
each after torch.cuda.empty_cache(); `bwall_latency` likewise of loss.backward(), gradients never cleared, so each is
added to the one before; neither has the loss nor the optimizer; `e2e_latency` is their sum (neusight/Tracing/trace.py).
TF32 is off. transformers with attn_implementation="eager": BERT infers with a classifier of two classes and trains
with the heads of pre-training; GPT-2, GPT-3 (GPT-2 of other sizes) and OPT give logits of every token in both. The .csv
beside it times each kernel of one layer alone, launch included (training/neusight_ops.py). `-fusion` is torch.compile;
`switchxl4` is Switch, the encoder and the decoder over as many tokens, experts padded to a fixed capacity.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from predictor.estimators.bundle import Bundle
from predictor.estimators.operators import predict_streamed
from predictor.hardware.gpu import Gpu, get_gpu
from predictor.latency.report import Interval, OpLine
from predictor.latency.steps import step as engine_step
from predictor.learning.validation.replay import Figure, Replay, Table, half
from predictor.ops.base import stack
from predictor.ops.gemm import Gemm
from predictor.workloads.architectures.encoder import Encoder
from predictor.workloads.architectures.seq2seq import Seq2Seq
from predictor.workloads.passes.calls import OpCall
from predictor.workloads.passes.eager import (
    Gpt,
    Scores,
    backward,
    compiled,
    dropouts,
    embedding_backward,
    gpt_ops,
    launches,
    linear,
    loss_backward,
    merged,
    passes,
)

LABELS, CONFIGS = "scripts/asplos/label", "scripts/asplos/data/DLmodel_configs"
PRIVATE = "eager PyTorch in FP32, op by op"
DTYPE = "fp32"

# Boards fed by the slot alone (T4, P4) multiply faster before they are hot: the labels are the 5 fastest of 25 runs,
# the operator tables means of repeated calls; passes over memory agree. Share of the products' time there; the only
# fitted number, the one of least median error over the labels of such boards that `half` picks.
SLOT_W, COOL = 75.0, 0.82


METRICS = {"inference_s": "fw", "forward_s": "fw", "backward_s": "bwall", "step_s": "e2e"}


def replay(root: Path, bundle: Bundle) -> Replay:
    """A figure per label and metric: inference_s, or forward_s, backward_s and step_s of training."""
    root = root / "neusight" if (root / "neusight").is_dir() else root
    files = sorted((root / LABELS).glob("*/*.json"))
    if not files:
        raise FileNotFoundError(root / LABELS)
    figures = []
    for path in files:
        name, mode, length, batch, *fused = path.stem.split("-")
        case = {"gpu": path.parent.name, "model": name, "mode": mode, "length": int(length), "batch": int(batch)}
        config = json.loads((root / CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
        figures += _figures(case, bool(fused), json.loads(path.read_text(encoding="utf-8")), config, bundle)
    return Replay(figures, {})


def _figures(
    case: dict[str, Any], fused: bool, label: dict[str, float], config: dict[str, Any], bundle: Bundle
) -> list[Figure]:
    gpu, train = gpu_of(case["gpu"]), case["mode"] == "train"
    forward, gradients = ops(config, case["batch"], case["length"], train=train)
    if fused:
        forward = compiled(forward)
    forward_s = step(forward, gpu, bundle)
    times = {"inference_s": forward_s}
    if train:
        backward_s = step(gradients, gpu, bundle)
        both = Interval(*(a + b for a, b in zip(forward_s, backward_s, strict=True)))
        times = {"forward_s": forward_s, "backward_s": backward_s, "step_s": both}
    return [
        Figure(
            table=LABELS,
            gpu=gpu.name,
            model=case["model"],
            engine="torch.compile" if fused else "torch",
            metric=metric,
            measured=label[f"{METRICS[metric]}_latency"] / 1e3,
            predicted=predicted,
            fitted=slot_fed(gpu) and half(*case.values()),
            private_setting=PRIVATE,
            settings={"length": case["length"], "batch": case["batch"], "launches": launches(forward)},
        )
        for metric, predicted in times.items()
    ]


def gpu_of(folder: str) -> Gpu:
    """The GPU of a folder of labels."""
    return get_gpu(folder.removeprefix("NVIDIA_").removeprefix("Tesla_").replace("_", "-"))


def slot_fed(gpu: Gpu) -> bool:
    """Whether the board has no more power than a PCIe slot gives."""
    return gpu.tdp_w is not None and 0 < gpu.tdp_w <= SLOT_W


def ops(config: dict[str, Any], batch: int, length: int, *, train: bool) -> tuple[Sequence[OpCall], Sequence[OpCall]]:
    """The kernels of the forward and, in training, of the backward pass of one of NeuSight's models."""
    if config["model_type"] == "bert":
        return _bert(config, batch, length, train=train)
    if config["model_type"] == "switch_transformers":
        return _switch(config, batch, length), ()
    opt = config["model_type"] == "opt"
    hidden = config["hidden_size" if opt else "n_embd"]
    model = Gpt(
        style=config["model_type"],
        hidden=hidden,
        layers=config["num_hidden_layers" if opt else "n_layer"],
        heads=config["num_attention_heads" if opt else "n_head"],
        inter=config["ffn_dim"] if opt else 4 * hidden,
        vocab=config["vocab_size"],
    )
    forward = [*gpt_ops(model, batch, length, DTYPE)]
    if not train:
        return forward, ()
    shape = Scores(batch, model.heads, length, length, hidden // model.heads)
    forward += dropouts(shape, hidden, DTYPE, model.layers)
    gradients = backward(forward) + loss_backward(batch * length, model.vocab, DTYPE)
    return merged(forward), merged(gradients + embedding_backward("wte", batch * length, model.vocab, hidden, DTYPE))


def _bert(config: dict[str, Any], batch: int, length: int, *, train: bool) -> tuple[Sequence[OpCall], Sequence[OpCall]]:
    model = Encoder(
        name="bert",
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        inter=config["intermediate_size"],
        vocab=config["vocab_size"],
        max_len=config["max_position_embeddings"],
        types=config["type_vocab_size"],
        source=CONFIGS,
    )
    h, tokens = model.hidden, batch * length
    forward = [*model.pass_ops(batch, length, DTYPE, eager=True), linear("classifier", batch, 2, h, DTYPE, 1.0)]
    if not train:
        return forward, ()
    forward += dropouts(Scores(batch, model.heads, length, length, h // model.heads), h, DTYPE, model.layers)
    forward += [
        linear("transform", tokens, h, h, DTYPE, 1.0),
        passes("activation", "gelu", tokens, h, DTYPE, 1.0),
        passes("layer_norm", "layer_norm", tokens, h, DTYPE, 1.0),
        linear("lm_head", tokens, model.vocab, h, DTYPE, 1.0),
    ]
    gradients = backward(forward, shared_input=2.0) + loss_backward(tokens, model.vocab, DTYPE)
    return merged(forward), merged(gradients + embedding_backward("words", tokens, model.vocab, h, DTYPE))


def _switch(config: dict[str, Any], batch: int, length: int) -> Sequence[OpCall]:
    """Both stacks over `length` tokens; every second feed-forward is experts over expert_capacity tokens each.

    NeuSight pads what an expert gets to its capacity (set_moe of neusight/Tracing/trace.py); routing is left out.
    """
    model = Seq2Seq(
        name="switch",
        hidden=config["d_model"],
        layers=config["num_layers"],
        decoder_layers=config["num_decoder_layers"],
        heads=config["num_heads"],
        head_dim=config["d_kv"],
        inter=config["d_ff"],
        vocab=config["vocab_size"],
        gated=config["is_gated_act"],
        activation=config["dense_act_fn"],
        source=CONFIGS,
    )
    experts = config["num_experts"] * (config["num_sparse_encoder_layers"] + config["num_sparse_decoder_layers"])
    dense = 1 - experts / config["num_experts"] / (model.layers + model.decoder_layers)
    feed = ("up_proj", "activation", "down_proj")
    calls = [
        call._replace(count=call.count * (dense if call.name in feed else 1.0))
        for call in model.pass_ops(batch, length, DTYPE, target_len=length, eager=True)
    ]
    rows, h, inter = batch * config["expert_capacity"], model.hidden, model.inter
    return [
        *calls,
        linear("expert_up", rows, inter, h, DTYPE, experts),
        passes("activation", "relu", rows, inter, DTYPE, experts),
        linear("expert_down", rows, h, inter, DTYPE, experts),
    ]


def step(calls: Sequence[OpCall], gpu: Gpu, bundle: Bundle) -> Interval:
    """Seconds of the calls one after the other; the host launches each of them in time (1 ms or more for a layer)."""
    return engine_step(lines(calls, gpu, bundle), gpu, bundle)


def lines(calls: Sequence[OpCall], gpu: Gpu, bundle: Bundle) -> list[OpLine]:
    """A line for each call as it takes in a stream."""
    kinds: dict[tuple[str, ...], list[int]] = {}
    for position, call in enumerate(calls):
        kinds.setdefault((call.op.estimator, *call.op.texts()), []).append(position)
    placed: dict[int, OpLine] = {}
    for positions in kinds.values():
        ops = stack([calls[i].op for i in positions])
        column = predict_streamed(ops, gpu, bundle)
        share = COOL if isinstance(ops, Gemm) and slot_fed(gpu) else 1.0
        for row, i in enumerate(positions):
            call, bound = calls[i], float(column.bound_s[row])
            streamed = max(share * float(column.latency_s[row]), bound)
            ends = (share * float(end[row]) for end in (column.low_s, column.high_s))
            placed[i] = OpLine(
                "forward",
                call.name,
                call.op.estimator,
                call.op,
                call.count,
                Interval(streamed * call.count, *(max(end, bound) * call.count for end in ends)),
                bound * call.count,
                float(call.op.bytes_moved()) * call.count,
                str(column.limiter[row]),
                column.basis,
            )
    return [placed[i] for i in range(len(calls))]


TABLE = Table("neusight", "NeuSight's whole-model labels", "sources", replay)
