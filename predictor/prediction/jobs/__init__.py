"""Jobs over tables that survive any end.

Job        what to answer, and where to
run        do it, or go on with it
Summary    what came of it
Grid       all combinations that a file names
read_spec  read such a file
Source     a table of files
source_of  those of a path or URL
Place      where parts are made
place_of   loky, dask or ray
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.prediction.jobs.backends import Place as Place, place_of as place_of
    from predictor.prediction.jobs.batch import Job as Job, Summary as Summary, run as run
    from predictor.prediction.jobs.storage import Source as Source, source_of as source_of
    from predictor.prediction.jobs.sweep import Grid as Grid, read_spec as read_spec

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "batch": ["Job", "run", "Summary"],
        "sweep": ["Grid", "read_spec"],
        "storage": ["Source", "source_of"],
        "backends": ["Place", "place_of"],
    },
)
