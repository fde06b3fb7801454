"""Peaks of inference that Qwen and optimum-benchmark published, replayed: closed form beside the learned.

Sources, in the truth folder: the speed benchmarks of the Qwen documentation (`qwen/speed_memory.csv`; Transformers, GiB
that PyTorch allocated, all GPUs together); huggingface/optimum-benchmark (`optimum_benchmark/inference_latency_memory
.csv`; 10**6 bytes allocated).

What the versions of those days did otherwise than today's is replayed as it was. Transformers before 4.45 (Qwen 1.5 and
2, optimum-benchmark) widened the logits of every prompt token, a copy more where GPUs share the model, as accelerate
brings them to the first; its loader gave tied models a head of their own; a step held the old cache beside the new one
(tuples of past_key_values). Qwen 3's table rises with the prompt by the cache alone, to the byte: it tells what is
allocated at the end, without activations. Peaks of training: training_peaks.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import get_gpu
from predictor.latency.report import Interval
from predictor.learning.validation.finetune import A100
from predictor.learning.validation.optimum import FILE as OPTIMUM, MODELS as OPTIMUM_MODELS
from predictor.learning.validation.qwen import DTYPES, FILE as GENERATION
from predictor.learning.validation.replay import Figure, Replay, Table, half, private_setting, records, stated_length
from predictor.memory import closed_form as memory
from predictor.memory.uncertainty import ClosedForm, doubted
from predictor.prediction.single import answer
from predictor.units import GIB
from predictor.workloads.architectures.decoder import Decoder
from predictor.workloads.architectures.layered import LayeredDecoder
from predictor.workloads.engines import Settings
from predictor.workloads.models import get_model
from predictor.workloads.request import Request
from predictor.workloads.workload import Workload

ALL_LOGITS = ("Qwen1.5", "Qwen2")
OLD_TRANSFORMERS = "Transformers before 4.45 (logits of the whole prompt, two caches)"
WIDE_LOGIT_BYTES = 6.0  # as computed and as widened
MOVED_LOGIT_BYTES = 4.0
EXLLAMA_ROWS = 2048 * 8  # scratch space in fp32 of ExLlamaV2 in AutoGPTQ, qlinear_exllamav2.py: temp_fwd_size
GPTQ = {"7B": "Llama-2-7b-hf", "13B": "Llama-2-13b-hf", "65B": "llama-65b"}


class Peak(NamedTuple):
    """A measured peak. allocated: as PyTorch counts, without CUDA context and fragmentation."""

    table: str
    model: str
    engine: str
    case: str
    measured: float
    form: ClosedForm
    request: dict[str, Any]
    private_setting: str = ""
    allocated: bool = True

    @property
    def fitted(self) -> bool:
        """Whether the peak chose what versions of software add to the spread."""
        return half(self.table, self.model, self.engine, self.case)


def replay(root: Path, bundle: Bundle) -> Replay:
    """A figure per published peak: memory_bytes of one GPU; closed: without what was learned."""
    peaks = [*_generation(root), *_optimum(root)]
    return Replay([_figure(peak, bundle) for peak in peaks], {})


def _figure(peak: Peak, bundle: Bundle) -> Figure:
    need = _need(peak.form) if peak.private_setting else answer(Request.of(peak.request), bundle).to_dict()
    total = need["memory_bytes"]
    beside = need["runtime_bytes"] + need["fragmentation_bytes"] if peak.allocated else 0.0
    value = total - beside
    ends = (need[f"memory_bytes_{end}"] * value / total for end in ("low", "high"))
    return Figure(
        table=peak.table,
        gpu=A100,
        model=peak.model,
        engine=peak.engine,
        metric="memory_bytes",
        measured=peak.measured,
        predicted=Interval(value, *ends),
        fitted=peak.fitted,
        closed=peak.form.peak + (0.0 if peak.allocated else peak.form.runtime),
        request={} if peak.private_setting else peak.request,
        private_setting=peak.private_setting,
        settings={"case": peak.case, "share": peak.form.dynamic / total, "kind": peak.form.kind},
    )


def _need(form: ClosedForm) -> Mapping[str, float]:
    """A peak as an answer names it."""
    need = doubted(form, get_gpu(A100))
    ends = {f"memory_bytes_{end}": need[f"{end}_bytes"] for end in ("low", "high")}
    return {**need, "memory_bytes": need["total_bytes"], **ends}


def _generation(root: Path) -> Iterator[Peak]:
    table = pd.read_csv(root / GENERATION)
    for row in records(table[table["gpu_mem_gb"].notna() & (table["engine"] == "Transformers")]):
        request: dict[str, Any] = {
            "model": f"Qwen/{row['model'].removesuffix('-Instruct').removesuffix('-Chat')}",
            "gpu": A100,
            "engine": "torch",
            "input_len": int(row["input_len"]),
            "output_len": int(row["output_len"]),
            "dtype": DTYPES[row["quant"]],
        }
        model, sizes = get_model(request["model"]), ("engine", "input_len", "output_len", "dtype")
        longer = stated_length(request["model"], request["input_len"] + request["output_len"])
        settings = Settings(max_model_len=longer.get("max_model_len", 0))
        workload, old = Workload(model=model, settings=settings, **{name: request[name] for name in sizes}), ""
        kinds, form = memory.closed_form(workload)
        if row["family"] == "Qwen3":
            old = "without activations, as the table counts"
            form = _with(form, -kinds["activations_bytes"])
        if row["family"] in ALL_LOGITS:
            old = OLD_TRANSFORMERS
            form = _as_before(workload, WIDE_LOGIT_BYTES + (MOVED_LOGIT_BYTES if row["n_gpus"] > 1 else 0.0))
            if isinstance(model, Decoder | LayeredDecoder) and model.tied_embeddings:
                form = form._replace(peak=form.peak + 2.0 * model.vocab * model.hidden)
        yield Peak(
            table=GENERATION,
            model=row["model"],
            engine="transformers",
            case=f"{row['quant']} {row['input_len']}",
            measured=row["gpu_mem_gb"] * GIB,
            form=form,
            request=request | longer,
            private_setting=old,
        )


def _optimum(root: Path) -> Iterator[Peak]:
    """Llama 2, prompts ("forward") and whole generations; GPTQ by exllama."""
    for row in records(pd.read_csv(root / OPTIMUM)):
        size = next((part for part in GPTQ if f"-{part}-GPTQ" in row["model"]), "")
        name = OPTIMUM_MODELS.get(row["model"]) or GPTQ.get(size)
        if name is None or not row["forward.max_memory_allocated(MB)"] > 0:
            continue
        model, batch, prompt = get_model(name), int(row["batch"]), int(row["seq_len"])
        if not isinstance(model, Decoder):
            raise TypeError(f"{model.name} is no decoder")
        dtype = "int4_wo" if size else "fp16"
        for metric, new in (("forward", 0), ("generate", int(row["new_tokens"]))):
            workload = Workload(
                model=model, engine="torch", dtype=dtype, batch=batch, input_len=prompt, output_len=max(new, 1)
            )
            form, scratch = _as_before(workload, WIDE_LOGIT_BYTES, generates=new > 0), ""
            if "exllamav2" in row["experiment"]:
                scratch = "scratch space of ExLlamaV2"
                form = form._replace(peak=form.peak + model.inter * EXLLAMA_ROWS * 4.0)
            yield Peak(
                table=OPTIMUM,
                model=row["model"],
                engine=metric,
                case=f"{row['experiment']} {batch}",
                measured=row[f"{metric}.max_memory_allocated(MB)"] * 1e6,
                form=form,
                request={},
                private_setting=private_setting(OLD_TRANSFORMERS, scratch),
            )


def _as_before(workload: Workload, logit_bytes: float, generates: bool = True) -> ClosedForm:
    """The peak of the prompt, with logits of every token, or of the last step, with the old cache and the new one."""
    kinds, form = memory.closed_form(workload)
    vocab = getattr(workload.model, "vocab", 0)
    cache, tokens = kinds["kv_cache_bytes"], workload.batch * workload.input_len
    prompt = cache * workload.input_len / (workload.input_len + workload.output_len)
    first = prompt + max(tokens * vocab * logit_bytes, kinds["activations_bytes"])
    last = 2 * cache + kinds["activations_bytes"] / workload.input_len if generates else 0.0
    return _with(form, max(first, last) - form.dynamic)


def _with(form: ClosedForm, more: float) -> ClosedForm:
    return form._replace(peak=form.peak + more, dynamic=form.dynamic + more)


TABLE = Table("memory", "memory, Qwen and optimum-benchmark", "truth", replay)
