"""The command that starts one replica of a plan: the words of catalog/launch.toml for what the plan sets."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from predictor.hardware.gpu import Gpu
from predictor.hardware.interconnect import node_gpus
from predictor.memory.sizes import kv_cache_bytes_per_token
from predictor.memory.start import cache_room, context_note
from predictor.ops.dtypes import MLX
from predictor.planning.launch.servers import Server, checkpoint, servers
from predictor.workloads.models import hub_id
from predictor.workloads.request import Request
from predictor.workloads.requested import OWN_LAYER
from predictor.workloads.workload import Workload

HALVES = ("bf16", "fp16")
CELLS = 256  # of a llama.cpp cache: its padding
LEADER = "LEADER_ADDRESS"  # what stands for the address of the first of several machines


class Launch(NamedTuple):
    """What starts one replica.

    words: its command; of a replica of several machines, that of the first. file: text of the engine's own YAML file,
    beside which it is started. model: as the engine is told; local: that is a file or folder, not of the hub. nodes:
    machines of the replica; gpus: of each; joined: the words say how they find each other. notes: what else it needs.
    """

    server: Server | None
    words: tuple[str, ...] = ()
    file: str = ""
    model: str = ""
    local: bool = False
    nodes: int = 1
    gpus: int = 1
    joined: bool = True
    notes: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """One line for a shell; "" where the engine has no server."""
        return shlex.join(self.words)

    def on_node(self, rank: str, leader: str, first: bool = True) -> tuple[str, ...]:
        """The words on one of several machines. rank, leader: its number and the first one's address, as the shell has
        them."""
        if self.nodes == 1 or not self.joined or not self.server:
            return self.words
        said = {"nodes": str(self.nodes), "rank": rank, "leader": leader}
        workers = () if first else self.server.nodes.get("workers", ())
        return (*self.words[: -len(self.server.nodes["words"])], *_filled(self.server.nodes["words"], said), *workers)


def launched(request: Request, workload: Workload, gpu: Gpu) -> Launch:
    """The command that starts one replica of a plan. workload: of the request, as it runs on the GPU."""
    server = servers().get(workload.engine)
    if server is None:
        return Launch(None, notes=(f"how {workload.engine} is started as a server is not known here.",))
    return _Command(server, request, workload, gpu).launch()


class _Command:
    """One command, word by word; what it cannot say becomes a note."""

    def __init__(self, server: Server, request: Request, workload: Workload, gpu: Gpu) -> None:
        self.server, self.request, self.workload, self.gpu = server, request, workload, gpu
        self.notes: list[str] = []
        self.lines: list[str] = []  # of the engine's own file

    def launch(self) -> Launch:
        """All of it."""
        server, workload = self.server, self.workload
        model, local = self._model()
        words = [*_filled(server.program, {"model": model}), *_filled(server.address, {"port": str(server.port)})]
        parts = (server.always, self._weights(), self._cache(), self._settings(), self._context(), self._drafts())
        for part in parts:
            words += self._kept(part)
        if self.lines:
            words += server.reads
        replica = workload.layout.n_gpus // workload.dp
        nodes = math.ceil(replica / node_gpus(self.gpu))
        last = self._nodes(nodes)
        if (asked := self.request.engine_version) and asked != server.version:
            self.notes.append(f"options are those of {server.name} {server.version}; {asked} may name some otherwise.")
        return Launch(
            server,
            (*words, *last),
            _yaml_of(self.lines),
            model,
            local,
            nodes,
            math.ceil(replica / nodes),
            nodes == 1 or bool(last),
            tuple(self.notes),
        )

    def _kept(self, words: Iterable[str]) -> list[str]:
        """The words of the command; those with @ go into the engine's file."""
        words = list(words)
        self.lines += [word[1:] for word in words if word.startswith("@")]
        return [word for word in words if not word.startswith("@")]

    def _model(self) -> tuple[str, bool]:
        """What the engine is told to load, and whether that is a file or folder."""
        name = self.request.model
        file = self.request.weights or name
        if self.server.weights_file:
            if file.endswith(".gguf"):
                return str(Path(file).expanduser().resolve()), True
            return self._made_file(name)
        if hub := hub_id(name):
            return hub, False
        path = Path(name).expanduser()
        if name.endswith((".json", ".gguf")) or path.exists():
            return str((path.parent if path.suffix == ".json" else path).resolve()), True
        self.notes.append(f'"{name}" has no hub id here; put the one of your weights, or their folder, in its place.')
        return name, False

    def _made_file(self, name: str) -> tuple[str, bool]:
        """The file of weights in a format of the engine's own, which somebody makes; mlx-lm reads the hub's, too."""
        dtype = self.workload.dtype
        hub = hub_id(name) or name
        if self.server.name == "mlx" and dtype not in MLX:
            return hub, False
        said = {"name": self.workload.model.name, "dtype": dtype.upper(), "hub": hub}
        file = "./" + Template(self.server.weights_file).substitute(said)
        bits = "".join(filter(str.isdigit, dtype))
        made = Template(self.server.makes).safe_substitute(said | {"file": file, "bits": bits})
        self.notes.append(f"{file} is {hub} in {dtype}: {made}.")
        return file, True

    def _weights(self) -> Iterator[str]:
        """What makes the number format of the plan of what is published, and what of that needs other weights."""
        server, workload = self.server, self.workload
        half = "fp16" if "fp16" in (workload.dtype, workload.half) else ""
        yield from server.half.get(half, ())
        if server.weights_file or not self.request.dtype:
            return
        published = getattr(workload.model, "linear_dtype", "") or "bf16"
        dtype = workload.dtype
        if dtype == published or {dtype, published} <= set(HALVES):
            return
        if published in HALVES and dtype in server.weights:
            yield from server.weights[dtype]
            return
        self.notes.append(
            f"{dtype} needs weights in {checkpoint(dtype)}; {server.name} does not make them of "
            f"{checkpoint(published)}. Put their hub id or folder in place of the model's."
        )

    def _cache(self) -> Iterator[str]:
        asked = self.request.kv_dtype
        if not asked:
            return
        if asked in self.server.cache:
            yield from self.server.cache[asked]
        elif asked not in HALVES:
            self.notes.append(f"kv_dtype {asked} has no option of {self.server.name}; the cache keeps its own format.")

    def _settings(self) -> Iterator[str]:
        """Words for how GPUs share the model and for each setting of the engine."""
        server = self.server
        for name, value in self._stated().items():
            table = server.off if value is False else server.options
            if name in table:
                yield from _filled(table[name], {"value": f"{value:g}" if isinstance(value, float) else str(value)})
            elif value is not True or name not in server.off:  # else yes is the engine's own
                self.notes.append(f"{server.name} {server.version} has no option for {name} {value}; set it by hand.")

    def _stated(self) -> dict[str, Any]:
        """Degrees above 1, and settings that are set."""
        workload, request = self.workload, self.request
        ranks = workload.tp * workload.attention_dp
        shared = {"ranks": ranks} if "ranks" in self.server.options else {"tp": workload.tp}
        degrees = shared | {name: getattr(workload, name) for name in ("pp", "attention_dp", "ep")}
        degrees |= {"beam_width": request.beam_width}
        if 1 < workload.ep < ranks and "ranks" not in self.server.options:
            self.notes.append(
                f"{self.server.name} shares experts among all {ranks} GPUs; predicted: among {workload.ep}."
            )
        sizes = {"kv_block": request.kv_block, "ubatch": request.ubatch}
        return {
            **{name: degree for name, degree in degrees.items() if degree > 1},
            **{name: size for name, size in sizes.items() if size},
            **{name: value for name, value in workload.settings.stated().items() if name != "offline"},
        }

    def _context(self) -> Iterator[str]:
        """What an engine is told that reserves room for whole contexts."""
        server, workload = self.server, self.workload
        if server.fitting and not self.request.max_model_len:
            whole = workload.settings._replace(max_model_len=workload.model.max_len)
            if context_note(replace(workload, settings=whole), self.gpu):
                yield from server.fitting
        if not server.slots:
            return
        longest = self.request.max_model_len or self.request.input_len + self.request.output_len
        longest = math.ceil(longest / CELLS) * CELLS
        most = self.request.max_num_seqs or workload.engine_on(self.gpu).max_sequences
        context_bytes = longest * kv_cache_bytes_per_token(workload, longest)  # none of models that keep no tokens
        slots = max(min(most, float(cache_room(workload, self.gpu)) // max(context_bytes, 1.0)), 1)
        yield from _filled(server.slots, {"slots": f"{slots:g}", "cells": f"{slots * longest:.0f}"})

    def _drafts(self) -> Iterator[str]:
        """Speculative decoding."""
        request, server = self.request, self.server
        if not request.draft_tokens:
            return
        kind = {"": "free", OWN_LAYER: OWN_LAYER}.get(request.draft_model, "model")
        if kind not in server.drafts:
            self.notes.append(f"{server.name} {server.version} has no option for drafts of this kind; set it by hand.")
            return
        draft = hub_id(request.draft_model) or request.draft_model
        file = f"./{draft.rpartition('/')[2]}.gguf"
        if any("$draft_file" in word for word in server.drafts[kind]):
            self.notes.append(f"{file} is {draft}: {server.makes}.")
        said = {"draft": draft, "draft_file": file}
        counts = {"draft_tokens": str(request.draft_tokens), "checked_tokens": str(request.draft_tokens + 1)}
        yield from _filled(server.drafts[kind], said | counts)

    def _nodes(self, nodes: int) -> tuple[str, ...]:
        """What the first of several machines is told of them."""
        if nodes == 1:
            return ()
        server = self.server
        if not server.nodes or (self.workload.attention_dp > 1 and not server.nodes.get("groups", True)):
            self.notes.append(
                f"a replica lies across {nodes} machines; how {server.name} is started there is not written here, see "
                "its documentation."
            )
            return ()
        said = {"nodes": str(nodes), "rank": "0", "leader": LEADER}
        self.notes.append(
            f"a replica lies across {nodes} machines: the same command on each, with its own number for 0 and the "
            f"first one's address for {LEADER}"
            f"{f'; {shlex.join(workers)} on all but the first' if (workers := server.nodes.get('workers')) else ''}."
        )
        return tuple(_filled(server.nodes["words"], said))


def _filled(words: Iterable[str], values: Mapping[str, str]) -> Iterator[str]:
    return (Template(word).substitute(values) for word in words)


def _yaml_of(lines: Iterable[str]) -> str:
    """ "a.b=1" lines as YAML text; "" of none."""
    from predictor.planning.launch.yaml_text import yaml_text

    tree: dict[str, Any] = {}
    for line in lines:
        path, _, value = line.partition("=")
        *outer, last = path.split(".")
        place = tree
        for name in outer:
            place = place.setdefault(name, {})
        try:
            place[last] = json.loads(value)
        except json.JSONDecodeError:
            place[last] = value
    return yaml_text(tree) if tree else ""
