"""Names that modules had before 0.2.0: they still import, with a warning, until 0.3.0.

Scripts of users say `predictor.schema`, and models that MLflow keeps say `loader_module: predictor.pyfunc`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

ROOT = "predictor"
# Old name → where its content is now, most of it first.
MOVED: Mapping[str, tuple[str, ...]] = {
    "advice": ("prediction.advice",),
    "answering": ("prediction.single", "workloads.requested"),
    "backends": ("prediction.jobs.backends",),
    "batch": ("prediction.jobs.batch",),
    "bench": ("measurements.bench.run",),
    "bench_device": ("measurements.bench.device",),
    "bench_ops": ("measurements.bench.operators",),
    "bundle": ("estimators.bundle",),
    "calibrate": ("learning.calibrate",),
    "calibration": ("learning.conformal",),
    "capacity": ("memory.capacity",),
    "cell_lines": ("registry.cells",),
    "cells": ("measurements.columns",),
    "champion": ("estimators.store",),
    "checks": ("measurements.checks",),
    "cli.display": ("cli.common.display",),
    "cli.recording": ("cli.common.recording",),
    "cli.request_options": ("cli.common.request_options",),
    "cli.spec": ("cli.common.spec",),
    "cli.store": ("cli.common.store",),
    "cli.warm_start": ("cli.common.warm_start",),
    "comparison": ("registry.comparison",),
    "correction": ("estimators.correction.process",),
    "corrections": ("estimators.corrected",),
    "cost": ("hardware.prices",),
    "curves": ("learning.diagnostics",),
    "dataset": ("estimators.samples", "learning.sampling"),
    "disaggregated": ("latency.serving.disaggregated",),
    "engines": ("workloads.engines",),
    "entries": ("learning.manifest",),
    "envelope": ("estimators.envelope",),
    "estimator": ("estimators.estimator",),
    "evaluate": ("learning.evaluate",),
    "features": ("estimators.features",),
    "features.attention": ("estimators.features.attention",),
    "features.collective": ("estimators.features.collective",),
    "features.conv": ("estimators.features.conv",),
    "features.gemm": ("estimators.features.gemm",),
    "features.mla": ("estimators.features.mla",),
    "features.moe": ("estimators.features.moe",),
    "features.pointwise": ("estimators.features.pointwise",),
    "features.terms": ("estimators.features.terms",),
    "fewshot": ("learning.fewshot",),
    "fit": ("learning.fit",),
    "floors": ("estimators.linear",),
    "forgetting": ("learning.continual.forgetting",),
    "frames": ("prediction.frames",),
    "gguf": ("workloads.weights.gguf",),
    "gpu": ("hardware.gpu",),
    "gpu_lint": ("hardware.lint",),
    "gpu_spec": ("hardware.spec",),
    "guard": ("estimators.extrapolation",),
    "holdout": ("learning.holdout",),
    "importance": ("learning.diagnostics",),
    "ingest": ("measurements.ingest",),
    "ingest.aten": ("measurements.ingest.aten",),
    "ingest.content": ("measurements.ingest.content",),
    "ingest.figures": ("measurements.ingest.figures",),
    "ingest.genai_perf": ("measurements.ingest.genai_perf",),
    "ingest.given": ("measurements.ingest.given",),
    "ingest.llama_bench": ("measurements.ingest.llama_bench",),
    "ingest.mapped_csv": ("measurements.ingest.mapped_csv",),
    "ingest.nsight": ("measurements.ingest.nsight",),
    "ingest.sglang": ("measurements.ingest.sglang",),
    "ingest.tables": ("measurements.ingest.tables",),
    "ingest.torch_profiler": ("measurements.ingest.torch_profiler",),
    "ingest.vllm": ("measurements.ingest.vllm",),
    "interval": ("estimators.intervals",),
    "kinship": ("hardware.siblings",),
    "learn_on": ("learning.continual.learn_on",),
    "ledger": ("learning.ledger",),
    "line": ("estimators.linear",),
    "memory_doubt": ("memory.uncertainty",),
    "memory_features": ("memory.uncertainty",),
    "monitor": ("learning.monitor",),
    "op_lines": ("latency.steps", "workloads.passes.calls"),
    "op_tables": ("prediction.op_tables",),
    "outputs": ("prediction.jobs.storage",),
    "plots": ("learning.plots",),
    "pools": ("latency.serving.workers",),
    "prior": ("estimators.correction.prior",),
    "promotion": ("registry.promotion",),
    "pyfunc": ("registry.mlflow_model",),
    "rate_matching": ("latency.serving.rate_matching",),
    "reader_cli": ("measurements.readers",),
    "recipe": ("learning.recipe",),
    "regressor": ("learning.regressor",),
    "rehearsal": ("learning.rehearsal",),
    "released": ("boosters",),
    "remarks": ("latency.steps",),
    "report": ("latency.report",),
    "request": ("workloads.request", "workloads.results"),
    "roofline": ("hardware.roofline",),
    "rows": ("prediction.rows",),
    "run_errors": ("learning.evaluate_runs",),
    "run_record": ("registry.tracking",),
    "runs": ("measurements.runs",),
    "scheduler": ("latency.serving.scheduler",),
    "schema": ("measurements.schema",),
    "serving": ("latency.serving.load",),
    "similarity": ("estimators.correction.kernel",),
    "static_batch": ("latency.static_batch", "workloads.workload", "workloads.requested"),
    "steps": ("latency.serving.step_times",),
    "streams": ("prediction.jobs.storage", "files", "prediction.rows", "workloads.request", "workloads.results"),
    "suggest": ("learning.suggest",),
    "sums": ("latency.steps",),
    "sweep": ("prediction.jobs.sweep",),
    "sweep_values": ("prediction.jobs.sweep",),
    "tables": ("learning.tables",),
    "topology": ("hardware.interconnect",),
    "torch_ops": ("workloads.torch.operators",),
    "tracing": ("workloads.torch.network", "latency.network"),
    "tracking": ("registry.tracking",),
    "train": ("learning.train",),
    "training_memory": ("memory.training",),
    "training_report": ("latency.training",),
    "training_step": ("latency.training",),
    "tune": ("learning.tune",),
    "verdict_page": ("measurements.verdicts",),
    "verdicts": ("measurements.verdicts",),
    "warm_start": ("learning.continual.warm_start",),
    "weight_files": ("workloads.weights.files",),
    "workloads.backward": ("workloads.passes.backward",),
    "workloads.base": ("workloads.passes.calls",),
    "workloads.classic_config": ("workloads.configs.classic",),
    "workloads.classic_defaults": ("workloads.configs.classic_defaults",),
    "workloads.config": ("workloads.configs.dense",),
    "workloads.convnet": ("workloads.architectures.convnet",),
    "workloads.decoder": ("workloads.architectures.decoder",),
    "workloads.decoder_ops": ("workloads.architectures.decoder",),
    "workloads.eager": ("workloads.passes.eager",),
    "workloads.encoder": ("workloads.architectures.encoder",),
    "workloads.encoder_config": ("workloads.configs.encoder",),
    "workloads.feed_forward": ("workloads.architectures.feed_forward",),
    "workloads.fields": ("workloads.configs.fields",),
    "workloads.gguf_config": ("workloads.configs.gguf",),
    "workloads.layered": ("workloads.architectures.layered",),
    "workloads.layered_config": ("workloads.configs.layered",),
    "workloads.layered_fields": ("workloads.configs.layered_fields",),
    "workloads.layered_recent": ("workloads.configs.layered_recent",),
    "workloads.mixers": ("workloads.architectures.mixers",),
    "workloads.quantization": ("workloads.configs.quantization",),
    "workloads.saved": ("workloads.passes.saved",),
    "workloads.seq2seq": ("workloads.architectures.seq2seq",),
    "workloads.single_pass": ("workloads.architectures.single_pass",),
    "workloads.sparse_mixers": ("workloads.architectures.sparse_mixers",),
    "workloads.training": ("workloads.passes.training",),
}


class OldNames:
    """Finds the old names, each as a module that looks its names up where they are now.

    A finder and loader by its methods: their classes in importlib.abc take longer to import than this package.
    """

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """The spec of an old name, which other modules may lie below."""
        root, _, name = fullname.partition(".")
        known = root == ROOT and name in MOVED
        return ModuleSpec(fullname, self, is_package=True) if known else None  # type: ignore[arg-type]  # by its methods

    def create_module(self, spec: ModuleSpec) -> None:
        """A plain module."""

    def exec_module(self, module: ModuleType) -> None:
        """Warn, and let the module hand on what the new ones have."""
        old = module.__name__
        homes = [f"{ROOT}.{name}" for name in MOVED[old.removeprefix(f"{ROOT}.")]]
        _warn(old, homes, 3)
        module.__getattr__ = partial(_look_up, old, homes)  # type: ignore[method-assign]


def with_old_names(package: str, home: str, now: Callable[[str], Any]) -> Callable[[str], Any]:
    """The `__getattr__` of a package that has the name of an older module, whose names are in `home` since.

    now: that of the package itself, which is asked first.
    """

    def look_up(name: str) -> Any:
        try:
            return now(name)
        except AttributeError:
            if name.startswith("__"):
                raise
        value = _look_up(package, [home], name)
        _warn(f"{package}.{name}", [f"{home}.{name}"], 3)
        return value

    return look_up


def _look_up(old: str, homes: Sequence[str], name: str) -> Any:
    for home in homes:
        if hasattr(module := import_module(home), name):
            return getattr(module, name)
    raise AttributeError(f"module {old!r} has no attribute {name!r}")


def _warn(old: str, homes: Sequence[str], level: int) -> None:
    warnings.warn(
        f"{old} is {' and '.join(homes)} since 0.2.0; import that, the old name goes in 0.3.0.",
        DeprecationWarning,
        stacklevel=level,
    )
