"""Fixtures: where the measured sources are. Without them, tests that need them skip and say so."""

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
DEFAULT_DATA = REPO.parent / "shared" / "sources"


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


@pytest.fixture(scope="session")
def data_root() -> Path:
    root = Path(os.environ.get("PREDICTOR_DATA", DEFAULT_DATA))
    if not root.is_dir():
        pytest.skip(f"no measured sources at {root}; set PREDICTOR_DATA to a folder that holds the clones")
    return root
