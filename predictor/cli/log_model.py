"""predictor log-model: a bundle as a model of MLflow."""

from __future__ import annotations

from typing import Annotated

from typer import Option, Typer

from predictor.errors import InvalidRequest


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(log_model)


def log_model(
    *,
    out: Annotated[str, Option(metavar="DIR", help="New folder of the model; instead of a tracking server.")] = "",
    tracking_uri: Annotated[
        str, Option(envvar="MLFLOW_TRACKING_URI", help="Tracking server that the model is logged to.")
    ] = "",
    name: Annotated[str, Option(help="Name in the server's registry; without one it is not registered.")] = "",
    experiment: Annotated[str, Option(help="Experiment of the run; by default MLflow's own.")] = "",
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    requirement: Annotated[
        str, Option(help="What pip installs to run the model, such as a wheel's URL; by default this version.")
    ] = "",
) -> None:
    """Log a bundle as an MLflow model, for `mlflow models serve` and `mlflow.pyfunc.spark_udf`."""
    from predictor.registry import mlflow_model

    if out and (name or experiment):
        raise InvalidRequest(f"out is {out}; a folder has no name or experiment. Leave out or those away.")
    if not out and not tracking_uri:
        raise InvalidRequest("neither out nor tracking-uri is given; give a folder or a tracking server.")
    if out:
        uri = mlflow_model.save_model(out, bundle, requirement)
    else:
        uri = mlflow_model.log_model(
            tracking_uri, name=name, experiment=experiment, bundle=bundle, requirement=requirement
        )
    print(f'model "{uri}"; try: mlflow models serve --env-manager local -m "{uri}"')
