"""A training run in MLflow: everything is recorded after the bundle stands, so that no server can lose it."""

from __future__ import annotations

import getpass
import json
import logging
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from predictor.errors import InvalidBundle
from predictor.estimators.bundle import CURVES, FEWSHOT, Bundle
from predictor.files import read_content
from predictor.learning.evaluate import read_ledger
from predictor.learning.tune import TRIALS
from predictor.registry import mlflow_model

LOCAL = "sqlite:///mlflow.db"  # in the working folder
EXPERIMENT = "gpu-predictor"
METRICS_AT_ONCE, TEXTS_AT_ONCE, DIGEST = 1000, 100, 36  # what a server takes
KIND = {"mlflow.experimentKind": "custom_model_development"}  # what MLflow's pages show first
TABLES = (".csv", ".json", ".toml")  # of a bundle, small enough to look at
# Without these, MLflow asks a server that is not there for minutes; what the user has set stays.
TO_KNOCK: Mapping[str, str] = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
QUIET: Mapping[str, str] = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
LOGGERS = ("mlflow", "alembic", "urllib3")


def missing() -> str:
    """Why nothing can be tracked, "" where it can."""
    if find_spec("mlflow") is None:
        return "mlflow is not installed; pip install 'gpu-predictor[train]'"
    return ""


def silence(uri: str) -> str:
    """Why a store does not answer, "" where it does."""
    import mlflow

    try:
        with _settings(TO_KNOCK):
            mlflow.MlflowClient(uri).search_experiments(max_results=1)
    except Exception as error:  # of stores there are many, and each has errors of its own
        return _reason(error)
    return ""


def track(
    bundle: Bundle,
    began_s: float,
    ended_s: float,
    plots: Path | None,
    uri: str = "",
    experiment: str = "",
    say: Callable[[str], None] = print,
) -> str:
    """Record a bundle and the run that made it; returns the URI of the store that has it, "" where none took it.

    began_s, ended_s: Unix time. plots: folder of pictures. uri: of the store, by default LOCAL, which also takes what
    another refuses; then `say` is told why.
    """
    import mlflow  # noqa: F401  # sets its loggers up, which are quiet from here on

    record = record_of(bundle)
    for store in dict.fromkeys((uri or LOCAL, LOCAL)):
        try:
            with _settings(QUIET):
                _record(_absolute(store), experiment or EXPERIMENT, record, (began_s, ended_s), bundle, plots)
            return store
        except Exception as error:  # the bundle stands, whatever a store does
            say(f"MLflow at {store} did not take the run: {_reason(error)}")
    return ""


def _absolute(store: str) -> str:
    """MLflow opens a relative file once, and keeps to it where a program changes its folder."""
    return f"sqlite:///{(Path.cwd() / 'mlflow.db').as_posix()}" if store == LOCAL else store


def _record(
    store: str, experiment: str, record: Record, times: tuple[float, float], bundle: Bundle, plots: Path | None
) -> None:
    import mlflow

    client, (began_ms, ended_ms) = mlflow.MlflowClient(store), (int(1000 * time_s) for time_s in times)
    with _settings(TO_KNOCK):
        known = client.get_experiment_by_name(experiment)
        place = known.experiment_id if known else client.create_experiment(experiment, tags=KIND)
        tags = {**record.tags, "mlflow.note.content": record.note}
        run = client.create_run(place, start_time=began_ms, run_name=bundle.id, tags=tags).info.run_id
    try:
        with _settings(mlflow_model.PATIENCE):
            _log_numbers(client, run, record, ended_ms)
            client.log_inputs(run, _inputs(record))
            for file in sorted(bundle.path.iterdir()):
                if file.suffix in TABLES:
                    client.log_artifact(run, str(file), "bundle")
            if plots:
                client.log_artifacts(run, str(plots), "plots")
            _log_model(mlflow, store, run, bundle)
            client.set_terminated(run, "FINISHED", ended_ms)
    except BaseException:  # Ctrl-C too
        with suppress(Exception), _settings(TO_KNOCK):
            client.set_terminated(run, "FAILED", ended_ms)
        raise


def _log_numbers(client: Any, run: str, record: Record, time_ms: int) -> None:
    from mlflow.entities import Metric, Param

    params = [Param(*text) for text in record.params.items()]
    for start in range(0, len(params), TEXTS_AT_ONCE):
        client.log_batch(run, params=params[start : start + TEXTS_AT_ONCE])
    metrics = [Metric(metric.name, metric.value, time_ms, metric.step) for metric in record.metrics]
    for start in range(0, len(metrics), METRICS_AT_ONCE):
        client.log_batch(run, metrics=metrics[start : start + METRICS_AT_ONCE])


def _inputs(record: Record) -> list[Any]:
    """The tables as data sets: name, digest, counts."""
    from mlflow.entities import Dataset, DatasetInput

    return [
        DatasetInput(
            Dataset(
                table["name"], table["sha256"][:DIGEST], "local", json.dumps({"uri": table["name"]}), profile=counts
            )
        )
        for table in record.tables
        for counts in [json.dumps({name: value for name, value in table.items() if isinstance(value, int)})]
    ]


def _log_model(mlflow: Any, store: str, run: str, bundle: Bundle) -> None:
    """The bundle as a model of the run; MLflow's functions for models only know one store at a time."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store)
    try:
        with mlflow.start_run(run_id=run):
            mlflow_model.log_to_run(bundle)
    finally:
        mlflow.set_tracking_uri(before)


@contextmanager
def _settings(wanted: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that the user has not set, and quiet loggers, for a while."""
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with mlflow_model.unless_set(wanted):
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _reason(error: Exception) -> str:
    """What went wrong, in one short line."""
    text = str(error)
    if match := re.search(r"\[Errno -?\d+\] ([^'\")\]>]+)", text):
        return match[1].strip().lower()
    if match := re.search(r"too many (\d{3}) error responses", text):
        return f"it answers with status {match[1]}"
    if "timed out" in text or "Read timeout" in text:
        return "no answer in time"
    lines = text.strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 200 else lines[0][:197] + "..."


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

    >>> metric_name("mape", "generation-out, all", "gemm", "H100-SXM-80GB bf16 vllm")
    'mape/generation-out all/gemm/H100-SXM-80GB bf16 vllm'
    """
    texts = [re.sub(r"[^\w.\- ]", "-", str(part).replace(",", "")) for part in parts]
    return "/".join(texts)[:250]


def _params(bundle: Bundle) -> dict[str, str]:
    """Settings, libraries and tables."""
    manifest = bundle.manifest
    params = {f"recipe.{name}": value for name, value in manifest["recipe"].items()}
    params |= {f"library.{name}": value for name, value in manifest.get("libraries", {}).items()}
    params["python"] = manifest.get("python", "")
    for number, table in enumerate(manifest.get("tables", []), 1):
        params |= {f"table{number}.{name}": value for name, value in table.items()}
    params |= {f"tuning.{name}": value for name, value in manifest.get("tuning", {}).items()}
    params |= {f"rows.{name}": entry.get("rows", 0) for name, entry in manifest["estimators"].items()}
    return {name: str(value)[:MOST_TEXT] for name, value in params.items()}


def _tags(bundle: Bundle) -> dict[str, str]:
    manifest = bundle.manifest
    tags = {
        "bundle": bundle.id,
        "level": f"{bundle.level:g}",
        "gpus": ", ".join(manifest["gpus"]),
        "start": (manifest.get("start") or {}).get("bundle", ""),  # that it learned on from
        "mlflow.user": _user(),
        "mlflow.source.name": "predictor train",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": _commit(),
    }
    return {name: value[:MOST_TEXT] for name, value in tags.items() if value}


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
    table = _table(bundle, FEWSHOT)
    if table.empty:
        return
    means = table[table["engine"].isna()].groupby(["estimator", "rows"])["mape"].mean().reset_index()
    for line in means.to_dict("records"):
        yield Metric(metric_name("few-shot", "mape", line["estimator"]), line["mape"], int(line["rows"]))


def _trials(bundle: Bundle) -> Iterator[Metric]:
    for line in _table(bundle, TRIALS).to_dict("records"):
        yield Metric("tune/error", line["error"], int(line["trial"]))


def _table(bundle: Bundle, name: str) -> pd.DataFrame:
    """A table of the bundle; bundles of earlier versions lack some."""
    try:
        if not (bundle.path / name).exists():
            return pd.DataFrame()
        return pd.read_csv(BytesIO(read_content(bundle.path / name, "copy the bundle again", InvalidBundle)))
    except pd.errors.EmptyDataError:
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
