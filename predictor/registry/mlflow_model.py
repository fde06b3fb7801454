"""A bundle as a model of MLflow: for `mlflow models serve`, `mlflow.pyfunc.spark_udf` and a registry.

The model is the bundle's folder and the name of this module, by which MLflow loads it: no pickle and no code travels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.estimators.store import CHAMPION
from predictor.prediction.frames import predict_frame
from predictor.workloads.request import columns
from predictor.workloads.results import FLAGS, RESULTS, TEXTS

if TYPE_CHECKING:
    import pandas as pd

NAME = "gpu-predictor"
# Without these, MLflow asks a server that is not there for minutes; what the user has set stays.
PATIENCE: Mapping[str, str] = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
DIGEST = "bundle_sha256"  # tag of a registered version: the manifest's
EXAMPLE: Mapping[str, list[Any]] = {
    "model": ["Llama-3.1-8B", "Llama-3.1-70B"],
    "gpu": ["L4", "H100"],
    "batch": [1.0, 8.0],
    "tp": [1.0, 4.0],
}


class Model:
    """What MLflow calls."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """The columns of predictor.workloads.request.RESULTS for a frame of requests.

        A row that cannot be answered says why in `error`. An empty cell is None, since JSON has no NaN; an empty text
        is "" and no `fits` is False, since MLflow makes "nan" and False of None on the way to Spark.
        """
        answers: pd.DataFrame = predict_frame(model_input, self._bundle)[list(RESULTS)]
        return answers.assign(**{name: _cells(answers[name]) for name in RESULTS})


def _cells(column: pd.Series[Any]) -> pd.Series[Any]:
    if column.name in TEXTS:
        return column.astype(object).where(column.notna(), "")
    if column.name in FLAGS:
        return column.eq(True)
    return column.astype(float) if column.notna().all() else column.astype(object).where(column.notna(), None)


def _load_pyfunc(path: str) -> Model:
    """Called by MLflow. path: the folder of the bundle."""
    return Model(load_bundle(path))


def save_model(out: str | Path, bundle: str = "", requirement: str = "") -> str:
    """Write the bundle as a model of MLflow in a new folder; returns its path.

    requirement: what pip installs where MLflow makes an environment for the model; by default this version by name.
    """
    mlflow, folder = _mlflow(), Path(out).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidRequest(f"{folder} is there already; give a new folder.")
    mlflow.pyfunc.save_model(path=str(folder), **_content(mlflow, bundle, requirement))
    return str(folder)


def log_model(
    tracking_uri: str, *, name: str = "", experiment: str = "", bundle: str = "", requirement: str = ""
) -> str:
    """Log the bundle as a model in a run of a tracking server; returns the model's URI.

    name: under which it is registered; "": it is only logged. experiment: by default MLflow's own.
    """
    mlflow = _mlflow()
    content = _content(mlflow, bundle, requirement)
    with _refusals(mlflow, tracking_uri):
        mlflow.set_tracking_uri(tracking_uri)
        # Not set_experiment: it would stay the experiment of this process, on whatever server comes next.
        where = {"experiment_id": _experiment_id(mlflow.MlflowClient(), experiment)} if experiment else {}
        with mlflow.start_run(run_name=NAME, **where):
            logged = mlflow.pyfunc.log_model(name=NAME, registered_model_name=name or None, **content)
        if not name:
            return str(logged.model_uri)
        made = str(logged.registered_model_version)
        mlflow.MlflowClient().set_model_version_tag(name, made, DIGEST, load_bundle(bundle).sha256)
    return f"models:/{name}/{made}"


def _experiment_id(client: Any, name: str) -> str:
    """The experiment of that name, made where there is none."""
    experiment = client.get_experiment_by_name(name)
    return str(experiment.experiment_id if experiment else client.create_experiment(name))


def log_to_run(bundle: Bundle) -> None:
    """Log the bundle as a model of the run of MLflow that is active."""
    mlflow = _mlflow()
    mlflow.pyfunc.log_model(name=NAME, **_content(mlflow, str(bundle.path), ""))


def registered(tracking_uri: str, name: str, bundle: Bundle) -> str:
    """The version of a registered model that is this bundle; it is logged and registered where none is."""
    mlflow = _mlflow()
    with _refusals(mlflow, tracking_uri):
        mlflow.set_tracking_uri(tracking_uri)
        versions = mlflow.MlflowClient().search_model_versions(f"name='{name}'")
    digest = bundle.sha256
    known = [int(entry.version) for entry in versions if entry.tags.get(DIGEST) == digest]
    if known:
        return str(max(known))
    return log_model(tracking_uri, name=name, bundle=str(bundle.path)).rpartition("/")[2]


def move_champion(tracking_uri: str, name: str, version: str) -> str:
    """Set the alias `champion` of a registered model to a version, or take it away (""); returns where it was."""
    mlflow = _mlflow()
    with _refusals(mlflow, tracking_uri):
        mlflow.set_tracking_uri(tracking_uri)
        client = mlflow.MlflowClient()
        before = str(client.get_registered_model(name).aliases.get(CHAMPION, ""))
        if version:
            client.set_registered_model_alias(name, CHAMPION, version)
        else:
            client.delete_registered_model_alias(name, CHAMPION)
    return before


def _content(mlflow: Any, bundle: str, requirement: str) -> dict[str, Any]:
    import pandas as pd

    opened = load_bundle(bundle)
    return {
        "loader_module": __name__,
        "data_path": str(opened.path),
        "signature": _signature(mlflow),
        "input_example": pd.DataFrame(EXAMPLE),
        "pip_requirements": [requirement or f"gpu-predictor=={version('gpu-predictor')}"],
        "metadata": {"bundle": opened.id},
    }


def _signature(mlflow: Any) -> Any:
    """Requests in, answers out. A number is a double: an integer column with an empty cell is one to pandas."""
    spec, schema = mlflow.types.ColSpec, mlflow.types.Schema
    inputs = [
        spec("string" if column.metadata["kind"] is str else "double", column.name, column.default is MISSING)
        for column in columns()
    ]
    outputs = [spec("string" if name in TEXTS else "boolean" if name in FLAGS else "double", name) for name in RESULTS]
    return mlflow.models.ModelSignature(inputs=schema(inputs), outputs=schema(outputs))


def _mlflow() -> Any:
    if find_spec("mlflow") is None:
        raise InvalidRequest("models of MLflow need mlflow; pip install 'gpu-predictor[train]'.")
    import mlflow

    return mlflow


@contextmanager
def _refusals(mlflow: Any, tracking_uri: str) -> Iterator[None]:
    """Says what MLflow refuses as an error of this package."""
    try:
        with unless_set(PATIENCE):
            yield
    except mlflow.exceptions.MlflowException as error:
        raise InvalidRequest(f"MLflow at {tracking_uri} says: {str(error).splitlines()[0]}") from None


@contextmanager
def unless_set(wanted: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for a while, but for those that the user has set."""
    mine = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name in mine:
            os.environ.pop(name, None)
