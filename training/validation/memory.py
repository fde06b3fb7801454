"""Peaks of memory that Qwen, torchtune and optimum-benchmark published, replayed: closed form beside the learned.

Sources, in the truth folder: the speed benchmarks of the Qwen documentation (`qwen/speed_memory.csv`; Transformers, GiB
that PyTorch allocated, all GPUs together); QwenLM/Qwen README, fine-tuning of Qwen 1 (`qwen/qwen1_finetune_memory_speed
.csv`; GB in use, all GPUs together); pytorch/torchtune README (`torchtune/readme_memory_speed.csv`; GiB allocated);
huggingface/optimum-benchmark (`optimum_benchmark/inference_latency_memory.csv`; 10**6 bytes allocated).

What the versions of those days did otherwise than today's is replayed as it was. Transformers before 4.45 (Qwen 1.5 and
2, optimum-benchmark) widened the logits of every prompt token, a copy more where GPUs share the model, as accelerate
brings them to the first; its loader gave tied models a head of their own; a step held the old cache beside the new one
(tuples of past_key_values). Qwen 3's table rises with the prompt by the cache alone, to the byte: it tells what is
allocated at the end, without activations. torchtune's loss comes in 8 chunks where its table says so, its weights in
one format.

    .venv/bin/python training/validation/memory.py [--root ../shared/truth] [--fit]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from finetune import QWEN, QWEN_METHODS, TECHNIQUES, TORCHTUNE, TUNE_METHODS
from llm_foundry import half, summary
from optimum import MODELS as OPTIMUM_MODELS, TABLE as OPTIMUM
from qwen import DTYPES, TABLE as GENERATION

from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.gpu import get_gpu
from predictor.memory import closed_form as memory, training as training_memory
from predictor.memory.uncertainty import ClosedForm, doubted, memory_model
from predictor.units import GB, GIB
from predictor.workloads import Workload, get_model
from predictor.workloads.passes.training import TrainingSetting

NAME = "memory, Qwen, torchtune and optimum-benchmark"
BY = ["table", "engine"]
GPU = "A100-SXM-80GB"
ALL_LOGITS = ("Qwen1.5", "Qwen2")
WIDE_LOGIT_BYTES = 6.0  # as computed and as widened
MOVED_LOGIT_BYTES = 4.0
CHUNKS = 8
EXLLAMA_ROWS = 2048 * 8  # scratch space in fp32 of ExLlamaV2 in AutoGPTQ, qlinear_exllamav2.py: temp_fwd_size
# Without DeepSpeed (Qwen, finetune/finetune_lora_single_gpu.sh): weights, gradients and moments in 16 bits, PyTorch's
# own AdamW, and autocast, which takes the loss in fp32.
AUTOCAST = ("LoRA", "LoRA (emb)")
WHOLE_LOSS = ("Packed Dataset", "Compile")
GPTQ = {"7B": "Llama-2-7b-hf", "13B": "Llama-2-13b-hf", "65B": "llama-65b"}


class Run(NamedTuple):
    """A measured peak. allocated: as PyTorch counts, without CUDA context and fragmentation."""

    table: str
    model: str
    engine: str
    case: str
    measured: float
    form: ClosedForm
    allocated: bool = True


def replay(root: Path, bundle: Bundle) -> pd.DataFrame:
    """One row per published peak: memory_bytes of one GPU; closed: without what was learned."""
    del bundle  # memory has its own
    runs = [*_generation(root), *_qwen(root), *_torchtune(root), *_optimum(root)]
    return pd.DataFrame([_row(run) for run in runs])


def _row(run: Run) -> dict[str, Any]:
    need = doubted(run.form, get_gpu(GPU))
    beside = need["runtime_bytes"] + need["fragmentation_bytes"] if run.allocated else 0.0
    value = need["total_bytes"] - beside
    ends = {end: need[f"{end}_bytes"] * value / need["total_bytes"] for end in ("low", "high")}
    closed = run.form.peak + (0.0 if run.allocated else run.form.runtime)
    return {
        **{name: getattr(run, name) for name in ("table", "model", "engine", "case", "measured")},
        "gpu": GPU,
        "metric": "memory_bytes",
        "predicted": value,
        "closed": closed,
        "share": run.form.dynamic / need["total_bytes"],
        "kind": run.form.kind,
        "fitted": half(run.table, run.model, run.engine, run.case),
        **ends,
    }


def _with(form: ClosedForm, more: float) -> ClosedForm:
    return form._replace(peak=form.peak + more, dynamic=form.dynamic + more)


def _generation(root: Path) -> Iterator[Run]:
    table = pd.read_csv(root / GENERATION)
    for row in table[table["gpu_mem_gb"].notna() & (table["engine"] == "Transformers")].to_dict("records"):
        name = row["model"].removesuffix("-Instruct").removesuffix("-Chat")
        model, tokens = get_model(f"Qwen/{name}"), int(row["input_len"] + row["output_len"])
        workload = Workload(
            model=replace(model, max_len=max(model.max_len, tokens)),
            engine="torch",
            input_len=int(row["input_len"]),
            output_len=int(row["output_len"]),
            dtype=DTYPES[row["quant"]],
        )
        kinds, form = memory.closed_form(workload)
        if row["family"] == "Qwen3":
            form = _with(form, -kinds["activations_bytes"])
        if row["family"] in ALL_LOGITS:
            form = _as_before(workload, WIDE_LOGIT_BYTES + (MOVED_LOGIT_BYTES if row["n_gpus"] > 1 else 0.0))
            if getattr(model, "tied_embeddings", False):
                form = form._replace(peak=form.peak + 2.0 * model.vocab * model.hidden)
        case = f"{row['quant']} {row['input_len']}"
        yield Run(GENERATION, row["model"], "transformers", case, row["gpu_mem_gb"] * GIB, form)


def _qwen(root: Path) -> Iterator[Run]:
    for row in pd.read_csv(root / QWEN).to_dict("records"):
        if (setting := QWEN_METHODS.get(row["method"])) is None:
            continue
        gpus, length = int(str(row["row"]).split("|")[-1]), int(row["seq_len"])
        setting = replace(setting, seq_len=length, dp=gpus)
        if row["method"] in AUTOCAST:
            setting = replace(setting, kernels="eager", precision="pure", optimizer="adamw_foreach")
        form = _trained(row["model"], setting)
        yield Run(QWEN, row["model"], row["method"], str(length), row["peak_mem_gb"] * GB / gpus, form, allocated=False)


def _torchtune(root: Path) -> Iterator[Run]:
    """Those whose optimizer stays on the GPU and steps after the backward pass, as is modelled."""
    for row in pd.read_csv(root / TORCHTUNE).to_dict("records"):
        if isinstance(row["Model"], str):
            method, gpus = row["Finetuning Method"], int(row["Runnable On"].split("x ")[0])
            name, measured = row["Model"].replace("Llama ", "Llama-").replace(" ", "-"), row["Peak Memory per GPU"]
            found: TrainingSetting | None = TUNE_METHODS[method] if method != "Full finetune" else None
            shared = {"dp": gpus, "zero_stage": 3} if gpus > 1 else {}
        else:
            method = row["Technique"].removeprefix("+ ").lstrip("[").split("]")[0].removeprefix("+ ")
            name, measured, shared = "Llama-3.2-3B", str(row["Peak Memory Active (GiB)"]), {}
            found = TECHNIQUES.get(method)
        if found is not None:
            chunks = 1 if method in WHOLE_LOSS else CHUNKS
            setting = replace(found, precision="pure", loss_chunks=chunks, **shared)
            case = f"{row['Runnable On']} {row['Technique']}"
            yield Run(TORCHTUNE, name, method, case, float(measured.split()[0]) * GIB, _trained(name, setting))


def _trained(name: str, setting: TrainingSetting) -> ClosedForm:
    model = get_model(name)
    model = replace(model, max_len=max(model.max_len, setting.seq_len))
    return training_memory.closed_form(model, setting)[2]


def _optimum(root: Path) -> Iterator[Run]:
    """Llama 2, prompts ("forward") and whole generations; GPTQ by exllama."""
    for row in pd.read_csv(root / OPTIMUM).to_dict("records"):
        size = next((part for part in GPTQ if f"-{part}-GPTQ" in row["model"]), "")
        name = OPTIMUM_MODELS.get(row["model"]) or GPTQ.get(size)
        if name is None or not row["forward.max_memory_allocated(MB)"] > 0:
            continue
        model, batch, prompt = get_model(name), int(row["batch"]), int(row["seq_len"])
        dtype = "int4_wo" if size else "fp16"
        for metric, new in (("forward", 0), ("generate", int(row["new_tokens"]))):
            sizes = {"batch": batch, "input_len": prompt, "output_len": max(new, 1)}
            job = Workload(model=model, engine="torch", dtype=dtype, **sizes)
            form = _as_before(job, WIDE_LOGIT_BYTES, generates=new > 0)
            if "exllamav2" in row["experiment"]:
                form = form._replace(peak=form.peak + model.inter * EXLLAMA_ROWS * 4.0)
            case = f"{row['experiment']} {batch}"
            measured = row[f"{metric}.max_memory_allocated(MB)"] * 1e6
            yield Run(OPTIMUM, row["model"], metric, case, measured, form)


def _as_before(job: Workload, logit_bytes: float, generates: bool = True) -> ClosedForm:
    """The peak of the prompt, with logits of every token, or of the last step, with the old cache and the new one."""
    kinds, form = memory.closed_form(job)
    cache, tokens = kinds["kv_cache_bytes"], job.batch * job.input_len
    prompt = cache * job.input_len / (job.input_len + job.output_len)
    first = prompt + max(tokens * job.model.vocab * logit_bytes, kinds["activations_bytes"])
    last = 2 * cache + kinds["activations_bytes"] / job.input_len if generates else 0.0
    return _with(form, max(first, last) - form.dynamic)


def exceeded(frame: pd.DataFrame, fixed: float | None = None) -> list[float]:
    """Shares of runs above what is exceeded with a chance of 10, 50 and 90 %."""
    found = []
    for chance in (0.1, 0.5, 0.9):
        above = []
        for row in frame.to_dict("records"):
            spread = memory_model().spreads[row["kind"]]
            spread = spread if fixed is None else spread._replace(fixed=fixed)
            value = row["predicted"] * math.exp(spread.scale(row["share"]) * spread.quantile(1 - chance))
            above.append(row["measured"] > value)
        found.append(sum(above) / max(len(above), 1))
    return found


def fit(frame: pd.DataFrame) -> None:
    """Prints what `fixed` makes the interval of 80 % hold 80 % of the fitted half."""
    for kind, rows in frame[frame["fitted"]].groupby("kind"):
        tries = []
        for step in range(2, 40):
            low, _, high = exceeded(rows, step / 200)
            tries.append((abs(high - low - 0.8), step / 200, high - low))
        print(f"{kind}: fixed {min(tries)[1]} holds {min(tries)[2]:.0%} of {len(rows)}")


def main() -> None:
    """Prints the errors, closed form first, how often chances come true, and the rows more than 15 % under."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "truth")
    parser.add_argument("--fit", action="store_true", help="print the width that versions of software add")
    options = parser.parse_args()
    frame = replay(options.root, load_bundle())
    if options.fit:
        return fit(frame)
    print("closed form", summary(frame.assign(predicted=frame["closed"]), BY), "", sep="\n")
    print("learned", summary(frame, BY), "", sep="\n")
    for kind, rows in frame[~frame["fitted"]].groupby("kind"):
        shares = " / ".join(f"{share:.0%}" for share in exceeded(rows))
        print(f"{kind}: above what is exceeded with a chance of 10 / 50 / 90 %: {shares} of {len(rows)}")
    under = frame[frame["predicted"] < 0.85 * frame["measured"]]
    shown = under.assign(error=(under["predicted"] / under["measured"] - 1).round(3))
    print("more than 15 % under", shown[["table", "model", "engine", "case", "error"]].to_string(), sep="\n")


if __name__ == "__main__":
    main()
