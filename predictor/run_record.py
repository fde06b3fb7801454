"""What a tracking server is told of a training run, from the bundle that it made: parameters, tags, metrics, a note."""

from __future__ import annotations

import getpass
import re
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from predictor.bundle import CURVES, FEWSHOT, Bundle
from predictor.evaluate import read_ledger
from predictor.tune import TRIALS

ERRORS = ("mape", "roofline2_mape", "coverage")
MOST_TEXT = 5_000  # characters of a value
GENERATION = "generation-out"


class Metric(NamedTuple):
    """step: boosting round, rows or trial; 0 where a metric has one value."""

    name: str
    value: float
    step: int = 0


class Record(NamedTuple):
    """params, tags: texts by name. tables: what the manifest says of each. note: Markdown."""

    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: list[Metric]
    tables: list[Mapping[str, Any]]
    note: str


def record_of(bundle: Bundle) -> Record:
    """Everything that the manifest, the ledger and the curves of a bundle say, by names that MLflow takes."""
    ledger = read_ledger(bundle)
    ledger = ledger[ledger["slice"] == "all"]
    means = _means(ledger)
    metrics = [*_summaries(means), *_cells(ledger), *_curves(bundle), *_fewshot(bundle), *_trials(bundle)]
    kept = [metric for metric in metrics if np.isfinite(metric.value)]
    return Record(_params(bundle), _tags(bundle), kept, bundle.manifest.get("tables", []), _note(bundle, means))


def metric_name(*parts: object) -> str:
    """Parts joined by slashes; characters that MLflow refuses become dashes.

    >>> metric_name("mape", "generation-out, second seed", "gemm", "H100-SXM-80GB bf16 vllm")
    'mape/generation-out second seed/gemm/H100-SXM-80GB bf16 vllm'
    """
    texts = [re.sub(r"[^\w.\- ]", "-", str(part).replace(",", "")) for part in parts]
    return "/".join(texts)[:250]


def _params(bundle: Bundle) -> dict[str, str]:
    """Settings, libraries and tables."""
    manifest = bundle.manifest
    found = {f"recipe.{name}": value for name, value in manifest["recipe"].items()}
    found |= {f"library.{name}": value for name, value in manifest.get("libraries", {}).items()}
    found["python"] = manifest.get("python", "")
    for number, table in enumerate(manifest.get("tables", []), 1):
        found |= {f"table{number}.{name}": value for name, value in table.items()}
    found |= {f"tuning.{name}": value for name, value in manifest.get("tuning", {}).items()}
    found |= {f"rows.{name}": entry.get("rows", 0) for name, entry in manifest["estimators"].items()}
    return {name: str(value)[:MOST_TEXT] for name, value in found.items()}


def _tags(bundle: Bundle) -> dict[str, str]:
    manifest = bundle.manifest
    found = {
        "bundle": bundle.id,
        "level": f"{bundle.level:g}",
        "gpus": ", ".join(manifest["gpus"]),
        "start": (manifest.get("start") or {}).get("bundle", ""),  # that it learned on from
        "mlflow.user": _user(),
        "mlflow.source.name": "predictor train",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": _commit(),
    }
    return {name: value[:MOST_TEXT] for name, value in found.items() if value}


def _commit() -> str:
    """Of the repository in whose folder training was started, "" outside of one."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container may have no names for its users
        return ""


def _means(ledger: pd.DataFrame) -> pd.DataFrame:
    """By protocol and estimator: the mean over GPUs of the mean over cells."""
    by_gpu = ledger.groupby(["protocol", "estimator", "gpu"])[list(ERRORS)].mean()
    return by_gpu.groupby(["protocol", "estimator"]).mean().reset_index()


def _summaries(means: pd.DataFrame) -> Iterator[Metric]:
    for line in means.to_dict("records"):
        for name in ERRORS:
            yield Metric(metric_name("summary", name, line["protocol"], line["estimator"]), line[name])
    for protocol, every in means.groupby("protocol"):
        for name in ERRORS:
            yield Metric(metric_name("summary", name, protocol, "mean"), float(every[name].mean()))


def _cells(ledger: pd.DataFrame) -> Iterator[Metric]:
    for line in ledger.to_dict("records"):
        cell = " ".join(line[name] for name in ("gpu", "dtype", "engine") if line[name])
        for name in ("mape", "coverage"):  # MLflow shows what stands before the last slash as one section
            yield Metric(metric_name(name, line["protocol"], line["estimator"], cell), line[name])


def _curves(bundle: Bundle) -> Iterator[Metric]:
    for line in _table(bundle, CURVES).to_dict("records"):
        name = metric_name("rmse", line["estimator"], line["trees"], line["rows"])
        yield Metric(name, line["rmse"], int(line["round"]))


def _fewshot(bundle: Bundle) -> Iterator[Metric]:
    found = _table(bundle, FEWSHOT)
    if found.empty:
        return
    means = found[found["engine"].isna()].groupby(["estimator", "rows"])["mape"].mean().reset_index()
    for line in means.to_dict("records"):
        yield Metric(metric_name("few-shot", "mape", line["estimator"]), line["mape"], int(line["rows"]))


def _trials(bundle: Bundle) -> Iterator[Metric]:
    for line in _table(bundle, TRIALS).to_dict("records"):
        yield Metric("tune/error", line["error"], int(line["trial"]))


def _table(bundle: Bundle, name: str) -> pd.DataFrame:
    """A table of the bundle; bundles of earlier versions lack some."""
    try:
        return pd.read_csv(bundle.path / name)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return pd.DataFrame()


def _note(bundle: Bundle, means: pd.DataFrame) -> str:
    """What a reader of the run sees first."""
    lines = [
        f"Bundle **{bundle.id}**: {len(bundle.manifest['gpus'])} GPUs. Errors of generations that were held out "
        "whole, mean over GPUs:",
        "",
        "| operator | error | 2-parameter roofline | coverage |",
        "|---|---|---|---|",
    ]
    for line in means[means["protocol"] == GENERATION].to_dict("records"):
        shares = " | ".join(_percent(line[name]) for name in ERRORS)
        lines.append(f"| {line['estimator']} | {shares} |")
    return "\n".join(lines)


def _percent(share: Any) -> str:
    return "–" if pd.isna(share) else f"{share:.1%}"
