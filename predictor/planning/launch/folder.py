"""A folder for each plan: how it is started by hand, in containers and on a cluster, and how it is checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predictor.errors import InvalidRequest
from predictor.files import needs_place, whole_folder
from predictor.hardware.interconnect import node_gpus
from predictor.planning.launch.benchmark import broken_up, opening, script
from predictor.planning.launch.command import LEADER, Launch, launched
from predictor.planning.launch.manifests import Replicas, compose, dns_label, kubernetes
from predictor.planning.launch.servers import vendor
from predictor.workloads.request import columns

if TYPE_CHECKING:
    from predictor.planning.answers import Plan, Planned

ALL = "plans.json"


def check_place(out: Path, force: bool = False) -> None:
    """Raises InvalidRequest where plans cannot be written, before time is spent on them."""
    needs_place(out)
    if not force and out.is_dir() and any(out.iterdir()):
        raise InvalidRequest(f"{out} is not empty; choose another folder, or --force to write over the plans in it.")


def written(planned: Planned, out: Path, force: bool = False) -> list[str]:
    """Write every plan of an answer into a folder of its own in `out`, whole or not at all; returns their names.

    Each has run.sh, compose.yaml, kubernetes.yaml (where the engine has a container for the GPU), benchmark.sh and
    plan.json, its row with the request; plans.json is the whole answer. force: files of the same names are written
    over. Raises InvalidRequest where `out` holds files and force is not set, or there is no plan.
    """
    check_place(out, force)
    if not planned.plans:
        raise InvalidRequest(f"there is no plan to write to {out}; ask for more GPUs, or promise less.")
    names = []
    with whole_folder(out, ALL, over=force) as draft:
        for rank, plan in enumerate(planned.plans, start=1):
            names.append(name_of(rank, plan))
            folder = draft / names[-1]
            folder.mkdir()
            for file, text in files_of(plan, planned).items():
                (folder / file).write_text(text, encoding="utf-8")
                if file.endswith(".sh"):
                    (folder / file).chmod(0o755)
        (draft / ALL).write_text(_json(planned.to_dict()), encoding="utf-8")
    return names


def name_of(rank: int, plan: Plan) -> str:
    """ "01-3x2xL4-fp8-vllm-tp2": its place, replicas of so many GPUs, how they share the model, and settings."""
    deployment = plan.deployment
    one = deployment.candidate
    workload = one.workload
    degrees = {"tp": workload.tp, "pp": workload.pp, "dp": workload.attention_dp, "ep": workload.ep}
    shared = [f"{name}{degree}" for name, degree in degrees.items() if degree > 1]
    gpu = one.gpu.name.replace(":", "-").replace("/", "-")
    size = f"{deployment.replicas}x{one.n_gpus}x{gpu}"
    settings = [f"{name.replace('_', '-')}-{value}" for name, value in one.settings]
    return "-".join([f"{rank:02d}", size, workload.dtype, workload.engine, *shared, *settings])


def files_of(plan: Plan, planned: Planned) -> dict[str, str]:
    """Name → text of the files of a plan."""
    deployment = plan.deployment
    gpu = deployment.candidate.gpu
    launch = launched(plan.request, deployment.workload, gpu)
    title = f"{deployment.replicas} × ({deployment.candidate.text}) for {planned.load}"
    files = {"plan.json": _json(_asked(plan, planned) | plan.row())}
    if launch.server is None:
        return files | {"README": "\n".join((title, *launch.notes, ""))}
    of = Replicas(
        dns_label(plan.request.model.rpartition("/")[2], gpu.name, launch.server.name), launch, gpu, deployment.replicas
    )
    files |= {"run.sh": _run(title, of), "benchmark.sh": script(title, plan.request, launch)}
    if launch.file:
        files[launch.server.file] = launch.file
    if of.lacking:
        return files
    files["kubernetes.yaml"] = kubernetes(of)
    return files | (compose(of) if launch.nodes == 1 else {})


def _asked(plan: Plan, planned: Planned) -> dict[str, Any]:
    """What a plan answers."""
    stated = {column.name: getattr(plan.request, column.name) for column in columns()}
    unset = {column.name: column.default for column in columns()}
    return {
        "request": {name: value for name, value in stated.items() if value not in ("", None, unset[name])},
        "promised": planned.level.promised,
        "bundle": planned.bundle,
    }


def _run(title: str, of: Replicas) -> str:
    """run.sh, which starts one replica."""
    server, launch = of.server, of.launch
    head = [f"One of {of.replicas} replicas: {title}", f"Options are those of {server.name} {server.version}."]
    owner = vendor(of.gpu)
    if of.replicas > 1 and owner and node_gpus(of.gpu) >= 2 * launch.gpus:
        one = ",".join(str(launch.gpus + place) for place in range(launch.gpus))
        head.append(f"More on one machine: {owner.visible}={one} PORT={server.port + 1} ./run.sh")
    head += launch.notes
    if of.lacking:
        head.append(of.lacking)
    if launch.nodes > 1 and launch.joined:
        head.append(f"On each of {launch.nodes} machines: NODE_RANK=0 (1, …) {LEADER}=ADDRESS ./run.sh")
    return "\n".join([opening(head), *_exec(launch, server.port), ""])


def _exec(launch: Launch, port: int) -> Iterator[str]:
    """The command, its port and its place among machines left to variables."""
    marks = {"@PORT@": '"${PORT:-' + str(port) + '}"', "@RANK@": '"$NODE_RANK"', "@LEADER@": f'"${LEADER}"'}
    words = list(launch.on_node("@RANK@", "@LEADER@"))
    if "--port" in words:
        words[words.index("--port") + 1] = "@PORT@"
    more = launch.on_node("@RANK@", "@LEADER@", first=False)[len(words) :]
    if more:
        yield f'if [ "$NODE_RANK" = 0 ]; then set --; else set -- {" ".join(more)}; fi'
    text = broken_up(words) + (' \\\n  "$@"' if more else "")
    for mark, variable in marks.items():
        text = text.replace(mark, variable)
    yield f"exec {text}"


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
