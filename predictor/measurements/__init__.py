"""Measured operator calls and whole runs: their tables, and whether they obey physics.

COLUMNS        the columns of measured operator calls
read_table     read such a table
write_table    write one
op_of          its rows as ops
usable         the rows that obey physics (`checks.check` says why others do not)
read_runs      read a table of whole runs
is_runs        whether columns are those of runs
checked_table  either kind with status and reason
page           the verdicts as an HTML page
run_reader     the command line of a reader of a public source
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.measurements.checks import usable as usable
    from predictor.measurements.readers import run_reader as run_reader
    from predictor.measurements.runs import is_runs as is_runs, read_runs as read_runs
    from predictor.measurements.schema import (
        COLUMNS as COLUMNS,
        op_of as op_of,
        read_table as read_table,
        write_table as write_table,
    )
    from predictor.measurements.verdicts import checked_table as checked_table, page as page

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "schema": ["COLUMNS", "read_table", "write_table", "op_of"],
        "checks": ["usable"],
        "runs": ["read_runs", "is_runs"],
        "verdicts": ["checked_table", "page"],
        "readers": ["run_reader"],
    },
)
