"""What others say they measured of a model on GPUs, to stand beside what is predicted; nothing learns from it."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from predictor.hardware.gpu import Gpu
from predictor.shipped import read_catalogue
from predictor.workloads.models import get_model


class Published(NamedTuple):
    """A public figure. n_gpus: that shared the model. said: the figure and its load. date, source: when and where."""

    model: str
    gpu: str
    n_gpus: int
    said: str
    date: str
    source: str

    def __str__(self) -> str:
        return f"{self.n_gpus} × {self.gpu}: {self.said}; {self.date}, {self.source}"


def published(model: str, gpu: Gpu) -> list[Published]:
    """What is public of a model, by its name in the catalogue, on a GPU, in any number of them and under any load.

    >>> from predictor.hardware.gpu import get_gpu
    >>> [one.n_gpus for one in published("DeepSeek-V3", get_gpu("H20"))]
    [8]
    """
    return [one for one in _all() if one.gpu == gpu.name and get_model(one.model).name == model]


@lru_cache(maxsize=1)
def _all() -> tuple[Published, ...]:
    return tuple(Published(**row) for row in read_catalogue("published.toml")["published"])
