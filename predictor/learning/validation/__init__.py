"""Whole models that others measured, replayed: published figures beside their predictions.

TABLES        the published tables, each with its replay
Table         a published table and how it is replayed
Figure        a published figure beside its prediction
Replay        figures, and what was left out
ratio_errors  errors by group
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.learning.validation.replay import (
        Figure as Figure,
        Replay as Replay,
        Table as Table,
        ratio_errors as ratio_errors,
    )
    from predictor.learning.validation.tables import TABLES as TABLES

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "replay": ["Figure", "Replay", "Table", "ratio_errors"],
        "tables": ["TABLES"],
    },
)
