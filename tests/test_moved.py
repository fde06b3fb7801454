"""Names of before 0.2.0 import, warn, and are the things of today."""

import subprocess
import sys
from importlib import import_module

import pytest

from predictor.moved import MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_module_hands_on_what_the_new_ones_have(old):
    with pytest.warns(DeprecationWarning, match="the old name goes in 0.3.0"):
        sys.modules.pop(f"predictor.{old}", None)
        module = import_module(f"predictor.{old}")
    home = import_module(f"predictor.{MOVED[old][0]}")
    names = [name for name in vars(home) if not name.startswith("_")]
    assert names and all(getattr(module, name) is getattr(home, name) for name in names)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("schema", "COLUMNS, read_table, write_table, op_of"),
        ("request", "Request, RESULTS"),
        ("pyfunc", "_load_pyfunc, save_model"),
        ("streams", "source_of, write, joined, TEXTS"),
        ("tracing", "from_torch, predict_network, Network, NetworkPrediction"),
        ("dataset", "TrainingSet, thin, balanced_rows"),
        ("answering", "predict, answer, served_workload, training_setting"),
        ("memory", "memory, weights_bytes, Memory"),
        ("prediction", "predict_op, OpPrediction"),
        ("features", "Setting, features"),
        ("features.gemm", "gemm_terms"),
        ("workloads.base", "OpCall, Layout"),
        ("ingest", "ingest, FORMATS"),
    ],
)
def test_scripts_of_users_still_run(module, names):
    code = f"from predictor.{module} import {names}"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_warning_points_at_the_line_of_the_user():
    done = subprocess.run([sys.executable, "-c", "import predictor.schema"], check=True, capture_output=True, text=True)
    assert done.stderr.startswith("<string>:1: DeprecationWarning: predictor.schema is predictor.measurements.schema")


def test_an_unknown_module_is_still_unknown():
    with pytest.raises(ModuleNotFoundError):
        import_module("predictor.nothing")
    with pytest.raises(AttributeError, match=r"has no attribute .nothing"), pytest.warns(DeprecationWarning):
        sys.modules.pop("predictor.schema", None)
        import_module("predictor.schema").nothing  # noqa: B018
