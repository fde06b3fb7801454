"""What configuration classes fill in where a nested config, saved as its difference from them, leaves it out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from predictor.shipped import read_catalogue

_tables = cache(read_catalogue)


def class_defaults(model_type: str) -> Mapping[str, Any]:
    """Defaults by key of the class of a model_type; empty where it is not of catalog/class_defaults.toml.

    >>> class_defaults("llama")["hidden_size"]
    4096
    """
    tables: Mapping[str, Mapping[str, Any]] = _tables("class_defaults.toml")
    return tables.get(model_type, {})
