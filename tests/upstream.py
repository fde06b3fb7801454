"""Readers as modules, and files in the layout of their sources."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pandas as pd


def reader(repo: Path, source: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"reader_{source}", repo / "datasets" / f"{source}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def put(path: Path, **columns: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(columns)
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
