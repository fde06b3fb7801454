"""predictor doctor: what is installed, and the conflict that breaks XGBoost."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from typer import Exit, Typer

from predictor.boosters import CURE, load_xgboost
from predictor.cli.common.display import (
    say,
    show_sheet,
)
from predictor.errors import PredictorError

LIBRARIES = ("gpu-predictor", "numpy", "pandas", "pyarrow", "scikit-learn", "xgboost", "xgboost-cpu", "mlflow")


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor() -> None:
    """Show versions and bundles; say what is broken."""
    versions = {name: _version(name) for name in LIBRARIES}
    sheet = {
        "python": platform.python_version(),
        **{name: installed or "absent" for name, installed in versions.items()},
    }
    problems = [*_xgboost_problems(versions), *_bundle_problems(sheet)]
    show_sheet(sheet, "Installed:")
    for problem in problems:
        say(f"Problem: {problem}")
    if problems:
        raise Exit(1)
    say("Nothing is wrong.")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _xgboost_problems(versions: dict[str, str]) -> list[str]:
    if versions["xgboost"] and versions["xgboost-cpu"]:
        return [f"xgboost and xgboost-cpu are both installed and overwrite each other's files; run `{CURE}`."]
    try:
        load_xgboost()
    except PredictorError as error:
        return [str(error)]
    return []


def _bundle_problems(sheet: dict[str, str]) -> list[str]:
    """Opens every released bundle and every estimator in it."""
    from predictor.boosters import released_roots
    from predictor.estimators.bundle import DEFAULT_BUNDLE, MANIFEST, load_bundle
    from predictor.memory.uncertainty import memory_model

    folders = sorted({file.parent for root in released_roots() for file in root.glob(f"*/{MANIFEST}")})
    problems = []
    for folder in folders:
        sheet[f"bundle {folder.name}"] = str(folder)
        try:
            opened = load_bundle(folder)
            for name in opened.manifest["estimators"]:
                opened.estimator(name)
        except PredictorError as error:
            problems.append(str(error))
    try:
        sheet["champion"] = str(load_bundle("champion").path)
    except PredictorError as error:
        problems.append(str(error))
    try:
        memory_model()
    except PredictorError as error:
        problems.append(str(error))
    if DEFAULT_BUNDLE not in {folder.name for folder in folders}:
        problems.append(f"the default bundle {DEFAULT_BUNDLE} is missing; install gpu-predictor again.")
    return problems
