"""GPUs as drivers, tools and clouds write them: "NVIDIA H100 80GB HBM3", "gfx942", "8xH100", "p5.48xlarge".

The names are data: gpus, instances and rewrites of predictor/catalog/names.toml.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import NamedTuple

from predictor.shipped import spellings

# "8xH100", "8 x H100", Lambda's "gpu_8x_h100_sxm5" and "H100x8", "H100 x8", "H100 (x8)", SkyPilot's "H100:8", but no
# "RTX 4090".
COUNT_FIRST = re.compile(r"\s*(?:gpu_)?(\d{1,18})\s*[x×*][\s_]*(.+?)\s*", re.IGNORECASE)
COUNT_LAST = re.compile(r"(.*?(?:\d|\S(?=\s)))\s*\(?[x×*](\d{1,4})\)?\s*|(.*\S):(\d{1,4})", re.IGNORECASE)


class Spelt(NamedTuple):
    """What a text means. gpu: a name nearer to the catalogue's. n_gpus: how many it says, 0: it does not. note: what to
    say of it. instance: it is a machine of a cloud, of which some GPUs may be left out."""

    gpu: str
    n_gpus: int = 0
    note: str = ""
    instance: bool = False


def key(name: str) -> str:
    """A name without case, blanks, dashes and underscores.

    >>> key("Tesla_T4") == key("tesla t4")
    True
    """
    return re.sub(r"[\s_\-]+", "", name).casefold()


@lru_cache(maxsize=4096)
def spelt(text: str) -> Spelt | None:
    """What a text that is no name of the catalogue means, None where no rule knows it.

    >>> spelt("p5.48xlarge").gpu, spelt("p5.48xlarge").n_gpus
    ('H100-SXM-80GB', 8)
    >>> spelt("AMD Radeon RX 7900 XTX (RADV NAVI31)").gpu
    'AMD Radeon RX 7900 XTX'
    """
    names, instances, rewrites = _tables()
    name = text.strip()
    if machine := instances.get(name.casefold()):
        count, _, gpu = machine.partition("x")
        return Spelt(gpu, int(count), f'"{name}" has {count} × {gpu}.', instance=True)
    for pattern, made in rewrites:
        name = pattern.sub(made, name)
    if meant := names.get(key(name)):
        others = f"; others: {', '.join(meant[1:])}" if meant[1:] else ""
        return Spelt(meant[0], 0, f'"{text.strip()}" taken as {meant[0]}{others}' if others else "")
    if name != text.strip():
        shared = ", mem_gib=" in name
        return Spelt(
            name, 0, f'"{text.strip()}" is a share of a GPU; times are of one that nobody else uses.' if shared else ""
        )
    return None


@lru_cache(maxsize=4096)
def counted(text: str) -> Spelt | None:
    """The GPU and the count of "8xH100" or "H100 x8", None where a text has none."""
    if first := COUNT_FIRST.fullmatch(text):
        return Spelt(first[2], int(first[1]))
    if last := COUNT_LAST.fullmatch(text):
        return Spelt(last[1] or last[3], int(last[2] or last[4]))
    return None


@cache
def _tables() -> tuple[dict[str, list[str]], dict[str, str], list[tuple[re.Pattern[str], str]]]:
    table = spellings()
    names = {key(name): meant for name, meant in table["gpus"].items()}
    instances = {name.casefold(): machine for name, machine in table["instances"].items()}
    return names, instances, [(re.compile(pattern), made) for pattern, made in table["rewrites"]]
