"""Fixtures: where the measured sources are (tests that need them skip without them and say so), toy measurements."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import pytest
from toy import quick_recipe, quick_table, toy_table

from predictor.estimators.samples import TrainingSet, training_sets
from predictor.learning.train import Run, train_run
from predictor.measurements.schema import write_table

REPO = Path(__file__).resolve().parents[1]
DEFAULT_DATA = REPO.parent / "shared" / "sources"


@pytest.fixture(scope="session", autouse=True)
def any_terminal() -> Iterator[None]:
    """How wide the terminal of whoever runs the tests is does not matter to them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        yield


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def data_root() -> Path:
    root = Path(os.environ.get("PREDICTOR_DATA", DEFAULT_DATA))
    if not root.is_dir():
        pytest.skip(f"no measured sources at {root}; set PREDICTOR_DATA to a folder that holds the clones")
    return root


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """The page's app, asked as over HTTP."""
    from starlette.testclient import TestClient

    from predictor.web.app import create_app

    with TestClient(create_app()) as opened:
        yield opened


@pytest.fixture(scope="module")
def in_threads() -> Iterator[None]:
    """Worker processes take longer to start than toy fits take to run."""
    with joblib.parallel_config(backend="threading", n_jobs=4):
        yield


@pytest.fixture(scope="session")
def frame() -> pd.DataFrame:
    return toy_table()


@pytest.fixture(scope="session")
def sets(frame: pd.DataFrame) -> Mapping[str, TrainingSet]:
    return training_sets(frame)


@pytest.fixture(scope="session")
def quick_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training run of seconds."""
    folder = tmp_path_factory.mktemp("quick")
    write_table(quick_table(), folder / "t.parquet")
    with joblib.parallel_config(backend="threading", n_jobs=4):
        return train_run([folder / "t.parquet"], quick_recipe(), folder / "b", lambda text: None)
