"""How engines' servers are started and what hands them GPUs, read from catalog/launch.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from predictor.ops.dtypes import GROUPS
from predictor.shipped import facts, read_catalogue

if TYPE_CHECKING:
    from predictor.hardware.gpu import Gpu

OTHER_TABLES = ("checkpoints", "vendors", "products")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A table of catalog/launch.toml, whose head says what its keys mean.

    always: words of every command. fitting: words where a sequence of the model's whole context has no room. slots:
    words of an engine whose slots hold whole contexts. weights_file: of an engine that reads no checkpoints of the hub;
    makes: how it is made. file: the engine's own YAML file; reads: words that name it.
    """

    name: str
    version: str
    program: tuple[str, ...]
    address: tuple[str, ...]
    port: int
    health: str
    client: str
    source: str = ""
    like: str = ""
    always: tuple[str, ...] = ()
    fitting: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()
    file: str = ""
    reads: tuple[str, ...] = ()
    binary: str = ""
    weights_file: str = ""
    makes: str = ""
    options: Mapping[str, list[str]] = field(default_factory=dict)
    off: Mapping[str, list[str]] = field(default_factory=dict)
    weights: Mapping[str, list[str]] = field(default_factory=dict)
    cache: Mapping[str, list[str]] = field(default_factory=dict)
    half: Mapping[str, list[str]] = field(default_factory=dict)
    drafts: Mapping[str, list[str]] = field(default_factory=dict)
    nodes: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)

    def image(self, gpu: Gpu) -> str:
        """The container image on a GPU; "" where none is known."""
        return self.images.get(gpu.generation, self.images.get(gpu.vendor, ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """How containers get GPUs of a vendor: a table of [vendors]."""

    resource: str
    label: str
    source: str = ""
    visible: str = ""
    devices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    runtime: str = ""


@cache
def _tables() -> Mapping[str, Any]:
    return read_catalogue("launch.toml")


@cache
def servers() -> Mapping[str, Server]:
    """The engines whose server is known, by name."""
    own = {name: table for name, table in _tables().items() if name not in OTHER_TABLES}
    whole = {name: own[table["like"]] | table if "like" in table else table for name, table in own.items()}
    return {name: facts(Server, {"name": name, **table}, f"[{name}] of launch.toml") for name, table in whole.items()}


def checkpoint(dtype: str) -> str:
    """What a number format is called on the hub.

    >>> checkpoint("int4_wo_g32"), checkpoint("int3_wo_g64_zero")
    ('AWQ or GPTQ of 4 bits in groups of 32', 'AWQ or GPTQ of 3 bits in groups of 64 with zero points')
    """
    if dtype in GROUPS:
        bits, _, group = dtype.removeprefix("int").partition("_wo_g")
        size, _, zero = group.partition("_")
        groups = f"groups of {size}" if int(size) else "whole columns"
        made = "HQQ" if zero == "zero16" else "AWQ or GPTQ"
        return f"{made} of {bits} bits in {groups}" + (" with zero points" if zero else "")
    return str(_tables()["checkpoints"].get(dtype, dtype))


def vendor(gpu: Gpu) -> Vendor | None:
    """How containers get a GPU; None where they do not (Apple's)."""
    tables = _tables()["vendors"]
    name = "Gaudi" if gpu.generation.startswith("Gaudi") else gpu.vendor
    return facts(Vendor, tables[name], f"[vendors.{name}] of launch.toml") if name in tables else None


def resource(gpu: Gpu) -> str:
    """What Kubernetes counts: GPUs, or slices of one."""
    owner = vendor(gpu)
    assert owner
    return f"nvidia.com/mig-{gpu.partition}" if gpu.partition else owner.resource


def product(gpu: Gpu) -> str:
    """What the label of a node says that has this GPU; "" where nobody looked."""
    return str(_tables()["products"].get(gpu.name.partition(":")[0], ""))
