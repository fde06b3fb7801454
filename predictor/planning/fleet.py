"""Which GPUs are meant, and how many of each: "all", "data-centre", "H100, 8xH200"."""

from __future__ import annotations

import re
from typing import NamedTuple

from predictor.errors import InvalidRequest
from predictor.hardware.gpu import Gpu, catalogue, resolve_gpu, spelling
from predictor.hardware.spec import SEGMENTS
from predictor.values import LARGEST

ALL = "all"
COUNTED = re.compile(r"\s*(\d+)\s*(?:x|×|\*)\s*(.+)", re.IGNORECASE)


class Some(NamedTuple):
    """GPUs of one kind. n_gpus: how many of them; 0: nobody says. note: what to say of the name."""

    gpu: Gpu
    n_gpus: int
    note: str = ""

    @property
    def text(self) -> str:
        """ "8xH100-SXM-80GB", or the name alone."""
        return f"{self.n_gpus}x{self.gpu.name}" if self.n_gpus else self.gpu.name


def fleet(text: str) -> list[Some]:
    """The GPUs of a list with commas; each a name as elsewhere, maybe with a count before it, a segment, or "all".

    all: every GPU of the catalogue, a dual board as its two devices.

    >>> [some.text for some in fleet("L4, 8xH100")]
    ['L4', '8xH100-SXM-80GB']
    """
    parts = [part.strip() for part in _split(text) if part.strip()]
    if not parts:
        raise InvalidRequest(f'gpus is "{text}"; name some, such as "H100,8xH200", a segment, or all.')
    found: dict[str, Some] = {}
    for part in parts:
        for some in _meant(part):
            found.setdefault(some.text, some)
    return list(found.values())


def _split(text: str) -> list[str]:
    """Parts between commas, but for the changes of "H100, mem_gib=96"."""
    return re.split(r",(?![^,]*=)", text)


def _meant(part: str) -> list[Some]:
    if part.casefold() == ALL:
        return [Some(gpu, 0) for gpu in catalogue().values()]
    if part.casefold() in SEGMENTS:
        return [Some(gpu, 0) for gpu in catalogue().values() if gpu.segment == part.casefold()]
    meant = spelling(part)
    counted = COUNTED.fullmatch(part) if meant is None or not meant.instance else None
    if meant and counted and not 1 <= int(counted[1]) <= LARGEST:
        raise InvalidRequest(f'"{part}" asks for {counted[1][:30]} GPUs; it must be from 1 to 2**31.')
    gpu, note = resolve_gpu(counted[2] if meant and counted else part)
    return [Some(gpu, int(counted[1]) if meant and counted else meant.n_gpus if meant else 0, note)]
