"""Peak memory of training and inference steps without a GPU: the real model of transformers, run on the meta device.

    python training/memory_simulator.py --n 6000 --seed 0 --out rows.csv [--shard 1/4] [--max-seconds 3600]

Needs the extra `simulator` (PyTorch's build for CPUs does). A step runs without data while each allocation is recorded
(allocation_tracker.py, cuda_emulation.py); what was recorded is replayed through a model of CUDA's caching allocator
(allocation_replay.py, caching_allocator.py), training steps three times, since what earlier steps left cached decides
what the next one reserves. Specs are those of memory_specs.py; one row each is appended to the file as it comes, with
the spec's number in the column `index`. A run that was stopped goes on where it was: numbers that are in the file
already are left out.
"""

from __future__ import annotations

import argparse
import csv
import gc
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from allocation_replay import CATEGORIES, PHASES, Event, replay
from allocation_tracker import AllocationTracker
from cuda_emulation import FLASH, Autocast, CudaFunctions, FourBitLinear, masks_without_data
from memory_specs import ENCODERS, MAX_BYTES, Spec, sampled
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
IMPLEMENTATIONS = {"flash": FLASH, "sdpa": "sdpa", "math": "sdpa", "eager": "eager"}
# An encoder of text is fine-tuned to tell classes, rather than trained as it was published.
CLASSIFIERS = {
    "bert": "BertForSequenceClassification",
    "roberta": "RobertaForSequenceClassification",
    "distilbert": "DistilBertForSequenceClassification",
}
# Projections of query, key and value in the models' code; fused ones count as both.
FUSED = ["c_attn", "query_key_value", "qkv_proj"]
ADAPTED: dict[str, list[str] | str] = {
    "qv": ["q_proj", "v_proj", "query", "value", "q_lin", "v_lin", *FUSED],
    "qkv": ["q_proj", "k_proj", "v_proj", "query", "key", "value", "q_lin", "k_lin", "v_lin", *FUSED],
    "all": "all-linear",
}
MOMENTS = {"adamw": 2, "adamw_fused": 2, "sgd_momentum": 1, "sgd": 0}
COLUMNS = [
    *(field.name for field in fields(Spec)),
    "n_params",
    "n_trainable",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "peak_held_bytes",
    *(f"at_peak_{category}" for category in CATEGORIES),
    *(f"peak_{phase}" for phase in PHASES),
    "phase",
    "n_events",
    "cpu_s",
]


class Trace(NamedTuple):
    """What a step allocates and frees, in order; labels: what a storage turned out to be, by ident."""

    events: list[Event]
    labels: dict[int, str]
    n_params: int
    n_trainable: int


def simulate(spec: Spec) -> dict[str, Any]:
    """The row of a spec: its fields, counts of parameters, peaks in bytes and what was alive at the peak.

    peak_allocated_bytes, what is alive then and the peaks of the phases are those of a step after the first;
    peak_reserved_bytes and peak_held_bytes are those of all steps. The cache of keys and values counts as act. phase:
    where the peak is. n_params: without adapters.
    """
    began = time.process_time()
    found = trace(spec)
    row = asdict(spec) | {"n_params": found.n_params, "n_trainable": found.n_trainable}
    row |= replay(found.events, found.labels, steps=3 if spec.mode == "train" else 1)
    return row | {"n_events": len(found.events), "cpu_s": round(time.process_time() - began, 3)}


def trace(spec: Spec) -> Trace:
    """Runs the step of a spec on the meta device."""
    tracker = AllocationTracker(spec.sm)
    gc.collect()
    gc.disable()  # what dies, dies by reference count, at the same op on every machine
    try:
        with masks_without_data(), CudaFunctions(spec.sm, math=spec.attention == "math"):
            model, n_params = _model(spec)
            learned = [each for each in model.parameters() if each.requires_grad] if spec.mode == "train" else []
            _settle(model, learned, spec, tracker)
            if spec.mode == "train":
                _train(model, learned, spec, tracker)
            else:
                _infer(model, spec, tracker)
    finally:
        gc.enable()
    return Trace(tracker.events, tracker.labels, n_params, sum(each.numel() for each in learned))


def _model(spec: Spec) -> tuple[nn.Module, int]:
    """The model on the meta device with its adapters, and how many parameters it has without them."""
    config = transformers.AutoConfig.for_model(**spec.config())
    config.use_cache = spec.mode == "inference"
    name = CLASSIFIERS.get(config.model_type, config.architectures[0])
    dtype = DTYPES.get(spec.precision, torch.float32)
    with torch.device("meta"):
        build = getattr(transformers, name)._from_config
        model = build(config, dtype=dtype, attn_implementation=IMPLEMENTATIONS[spec.attention])
        n_params = sum(each.numel() for each in model.parameters())
        if spec.method == "qlora":
            _quantise(model, DTYPES[spec.precision.split("-")[0]])
        if spec.method != "full":
            model = _adapted(model, spec, dtype)
    model.train(spec.mode == "train")
    if spec.checkpointing and spec.mode == "train":
        settings = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), _recomputing(spec))}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
        if spec.method != "full":
            model.enable_input_require_grads()
    return model, n_params


def _quantise(model: nn.Module, compute_dtype: torch.dtype) -> None:
    """Replaces all linear layers but the head, as transformers/integrations/bitsandbytes.py does."""
    kept = [model.get_output_embeddings(), getattr(model, "classifier", None), getattr(model, "score", None)]
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear | Conv1D) and all(child is not each for each in kept):
                sizes = tuple(child.weight.shape)
                outputs, inputs = sizes if isinstance(child, nn.Linear) else sizes[::-1]
                setattr(parent, name, FourBitLinear(child, inputs, outputs, compute_dtype))


def _adapted(model: nn.Module, spec: Spec, dtype: torch.dtype) -> nn.Module:
    """The model with low-rank adapters in the format of its weights."""
    config = LoraConfig(
        r=spec.lora_rank,
        lora_alpha=2 * spec.lora_rank,
        target_modules=ADAPTED[spec.lora_targets],
        fan_in_fan_out=spec.method == "lora" and any(isinstance(each, Conv1D) for each in model.modules()),
    )
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return get_peft_model(model, config, autocast_adapter_dtype=False)
    finally:
        torch.set_default_dtype(default)


def _settle(model: nn.Module, learned: Sequence[Tensor], spec: Spec, tracker: AllocationTracker) -> None:
    """Records what is there before the step: weights, and the sums of gradients of earlier micro-batches."""
    tracker.enter("setup", "param")
    for parameter in model.parameters():
        tracker.adopt(parameter, "param")
    for buffer in model.buffers():
        tracker.adopt(buffer, "buffer")
    for parameter in learned:
        if spec.grad_accum > 1:
            parameter.grad = torch.empty_like(parameter)
            tracker.adopt(parameter.grad, "grad")


def _train(model: nn.Module, learned: Sequence[Tensor], spec: Spec, tracker: AllocationTracker) -> None:
    with tracker:
        tracker.enter("state", "opt")
        step = _optimizer(spec.optimizer, learned, tracker)
        for parameter in learned:
            parameter.register_post_accumulate_grad_hook(lambda each: tracker.relabel(each.grad, "grad"))
        tracker.enter("forward", "input")
        batch = _batch(model, spec)
        tracker.category = "act"
        with _autocast(spec):
            # As Hugging Face's Trainer does: the logits do not outlive the forward pass.
            loss = model(**batch).loss
        tracker.enter("backward", "temp")
        loss.backward()
        del loss, batch
        tracker.enter("step", "temp")
        step()
        for parameter in learned if spec.grad_accum == 1 else ():
            parameter.grad = None
        tracker.enter("end", "")


def _infer(model: nn.Module, spec: Spec, tracker: AllocationTracker) -> None:
    """A prompt, then tokens one by one; the sampled row of logits is widened (transformers/generation/utils.py)."""
    decodes = model.config.model_type not in ENCODERS
    asked: dict[str, Any] = {"use_cache": True} if decodes else {}
    if decodes and spec.logits == "last":
        asked["logits_to_keep"] = 1
    with torch.no_grad(), _autocast(spec), tracker:
        tracker.enter("forward", "input")
        batch = _batch(model, spec)
        tracker.category = "act"
        out = model(**batch, **asked)
        if decodes and spec.logits == "all":
            out.logits = out.logits.float()
        if spec.new_tokens:
            tracker.enter("decode", "act")
        for token in range(spec.new_tokens):
            last, cache = out.logits[:, -1].to(torch.float32, copy=True), out.past_key_values
            del out
            batch = {"input_ids": last.argmax(-1, keepdim=True)}
            del last
            if spec.padded:
                batch["attention_mask"] = _ones(spec.batch, spec.seq_len + token + 1)
            out = model(**batch, **asked, past_key_values=cache)
        tracker.enter("end", "")
        del out


def _batch(model: nn.Module, spec: Spec) -> dict[str, Tensor]:
    config, shape = model.config, (spec.batch, spec.seq_len)
    if config.model_type == "vit":
        batch = {"pixel_values": torch.empty(spec.batch, 3, config.image_size, config.image_size, device="meta")}
    else:
        batch = {"input_ids": torch.empty(shape, dtype=torch.long, device="meta")}
    if spec.padded:
        batch["attention_mask"] = _ones(*shape)
    if spec.mode == "train":
        labels = shape[:1] if config.model_type in ENCODERS else shape
        batch["labels"] = torch.empty(labels, dtype=torch.long, device="meta")
    return batch


def _ones(rows: int, columns: int) -> Tensor:
    return torch.ones(rows, columns, dtype=torch.long, device="meta")


def _autocast(spec: Spec) -> AbstractContextManager[Any]:
    return Autocast(DTYPES[spec.precision.removesuffix("-amp")]) if spec.precision.endswith("-amp") else nullcontext()


@contextmanager
def _recomputing(spec: Spec) -> Iterator[None]:
    """The modes of the forward pass; inside Tensor.backward those around it are off."""
    with CudaFunctions(spec.sm, math=spec.attention == "math"), _autocast(spec):
        yield


def _optimizer(name: str, learned: Sequence[Tensor], tracker: AllocationTracker) -> Callable[[], None]:
    """Makes the state of an optimizer; returns what its step holds for a while."""
    if name == "adafactor":
        return _adafactor(learned, tracker)
    if name == "adamw_8bit":
        state = [each for parameter in learned for each in _quantised_moments(parameter)]
    else:
        state = [torch.zeros_like(parameter) for parameter in learned for _ in range(MOMENTS[name])]
        if name == "adamw_fused":  # its counts of steps are on the GPU (torch/optim/adam.py)
            state += [torch.zeros((), device="meta") for _ in learned]

    def step() -> None:
        if name == "adamw":  # exp_avg_sq_sqrt of _multi_tensor_adam
            torch._foreach_sqrt(state[1::2])

    return step


def _quantised_moments(parameter: Tensor) -> Iterable[Tensor]:
    """Two moments in 8 bits with a scale for 256 elements, of small parameters in fp32 (bitsandbytes/optim)."""
    for _ in range(2):
        if parameter.numel() < 4096:
            yield torch.zeros_like(parameter, dtype=torch.float32)
        else:
            yield torch.zeros_like(parameter, dtype=torch.uint8)
            yield torch.zeros(-(-parameter.numel() // 256), dtype=torch.float32, device="meta")


def _adafactor(learned: Sequence[Tensor], tracker: AllocationTracker) -> Callable[[], None]:
    """The optimizer of transformers itself, which the Trainer uses so; a first step makes its state."""
    optimizer = transformers.Adafactor(learned, lr=1e-3, scale_parameter=False, relative_step=False)
    grads = [parameter.grad for parameter in learned]
    with torch.utils._python_dispatch._disable_current_modes():
        for parameter in learned:
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
        for parameter, grad in zip(learned, grads, strict=True):
            parameter.grad = grad
    for kept in optimizer.state.values():
        for value in kept.values():
            if isinstance(value, Tensor):
                tracker.adopt(value, "opt")
    return optimizer.step


def main() -> None:
    """Appends the rows of a seed to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100, help="specs of the sequence, counted over all shards")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard", default="1/1", metavar="I/K", help="only every K-th spec, from the I-th on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-seconds", type=float, default=float("inf"))
    options = parser.parse_args()
    part, parts = (int(each) for each in options.shard.split("/"))
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    deadline = time.monotonic() + options.max_seconds
    done, columns = _done(options.out), ["index", *COLUMNS]
    with options.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if file.tell() == 0:
            writer.writeheader()
        for index in range(part - 1, options.n, parts):
            if index in done:
                continue
            if time.monotonic() > deadline:
                break
            if (row := _attempt(index, sampled(options.seed, index))) is not None:
                writer.writerow({"index": index} | row)
                file.flush()


def _attempt(index: int, spec: Spec) -> dict[str, Any] | None:
    """The row of a spec; None where it fails, which is told and does not end the run, or fits no GPU."""
    try:
        row = simulate(spec)
    except Exception as error:
        print(f"{index} {spec}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return None
    return row if row["peak_allocated_bytes"] <= MAX_BYTES else None


def _done(path: Path) -> set[int]:
    if not path.exists():
        return set()
    with path.open(newline="") as file:
        return {int(row["index"]) for row in csv.DictReader(file)}


if __name__ == "__main__":
    main()
