"""A plan as a Kubernetes manifest and as a Docker Compose file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from predictor.hardware.gpu import Gpu
from predictor.hardware.interconnect import node_gpus
from predictor.planning.launch.command import Launch
from predictor.planning.launch.servers import Server, product, resource, vendor
from predictor.planning.launch.yaml_text import comments, yaml_text

SHARED_MEMORY = "16Gi"  # of processes that pass tensors to each other; Docker and Kubernetes give 64 MiB
LOADS_S, ASKED_S = 7200, 10  # seconds that weights may take to come and load, and between two questions meanwhile
HUB_CACHE = "/root/.cache/huggingface"
PLACE = "/plan"  # where a container finds files that lie beside the plan
BALANCER = "nginx:stable-alpine"


class Replicas(NamedTuple):
    """What is deployed. name: a DNS label."""

    name: str
    launch: Launch
    gpu: Gpu
    replicas: int

    @property
    def server(self) -> Server:
        """Of its engine."""
        assert self.launch.server
        return self.launch.server

    @property
    def lacking(self) -> str:
        """Why it runs in no container; "" where it does."""
        if vendor(self.gpu) is None:
            return f"containers do not reach the GPU of {self.gpu.vendor}'s machines; start run.sh."
        if not self.server.image(self.gpu):
            return f"no container image of {self.server.name} for {self.gpu.name} is known here; start run.sh."
        if not self.launch.joined:
            return f"a replica lies across {self.launch.nodes} machines, joined in {self.server.name}'s own way."
        return ""


def dns_label(*parts: str) -> str:
    """A name as Kubernetes allows it.

    >>> dns_label("Qwen3-8B", "RTX-4090", "llama.cpp")
    'qwen3-8b-rtx-4090-llama-cpp'
    """
    name = re.sub(r"[^a-z0-9]+", "-", "-".join(parts).casefold()).strip("-")
    return (name if name[:1].isalpha() else f"llm-{name}")[:52].rstrip("-")


def kubernetes(of: Replicas) -> str:
    """A Deployment, or a LeaderWorkerSet where a replica lies across machines, and the Service that shares requests out
    among replicas."""
    labels = {"app.kubernetes.io/name": of.name}
    documents = [*_config(of, labels), _workers(of, labels), _service(of, labels)]
    port = of.server.port
    head = [
        f"kubectl apply -f kubernetes.yaml; clients in the cluster ask http://{of.name}:{port}.",
        f"From outside: kubectl port-forward service/{of.name} {port}:{port}"
        f"{', which reaches one of the replicas only: check the plan from inside' if of.replicas > 1 else ''}.",
        "Weights behind a licence want a token: kubectl create secret generic hugging-face --from-literal=token=…",
    ]
    if of.launch.local:
        head.append(f"Weights are read from {_folder(of)} of each node; put them there, or mount a volume of yours.")
    if of.launch.nodes > 1:
        head.append("LeaderWorkerSet is an add-on of clusters: lws.sigs.k8s.io, from 0.6 on.")
    if not _selector(of):
        head.append(
            "What label nodes with this GPU have is not known here; add a nodeSelector where a cluster has others."
        )
    if of.gpu.vendor == "Intel" and resource(of.gpu).startswith("gpu.intel.com"):
        head.append("Where the driver is i915, the GPU is gpu.intel.com/i915 in place of gpu.intel.com/xe.")
    return comments(head) + yaml_text(*documents)


def _config(of: Replicas, labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """The engine's own file."""
    if not of.launch.file:
        return []
    about = {"name": of.name, "labels": labels}
    return [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": {of.server.file: of.launch.file}}]


def _workers(of: Replicas, labels: Mapping[str, str]) -> dict[str, Any]:
    about = {"name": of.name, "labels": labels}
    if of.launch.nodes == 1:
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": about,
            "spec": {
                "replicas": of.replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": _pod(of, of.launch.words, serves=True)},
            },
        }
    rank, leader = "$(LWS_WORKER_INDEX)", "$(LWS_LEADER_ADDRESS)"
    first, others = (of.launch.on_node(rank, leader, first) for first in (True, False))
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": about,
        "spec": {
            "replicas": of.replicas,
            "leaderWorkerTemplate": {
                "size": of.launch.nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": {"metadata": {"labels": labels}, "spec": _pod(of, first, serves=True)},
                "workerTemplate": {"spec": _pod(of, others, serves=False)},
            },
        },
    }


def _pod(of: Replicas, words: Sequence[str], serves: bool) -> dict[str, Any]:
    """serves: it answers requests, which others of its replica do not."""
    probe = {"httpGet": {"path": of.server.health, "port": of.server.port}, "periodSeconds": ASKED_S}
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "hub", "mountPath": HUB_CACHE}]
    volumes: list[dict[str, Any]] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": SHARED_MEMORY}},
        {"name": "hub", "emptyDir": {}},
    ]
    if of.launch.file:
        place = f"{PLACE}/{of.server.file}"
        mounts.append({"name": "plan", "mountPath": place, "subPath": of.server.file})
        volumes.append({"name": "plan", "configMap": {"name": of.name}})
    if of.launch.local:
        mounts.append({"name": "weights", "mountPath": _folder(of)})
        volumes.append({"name": "weights", "hostPath": {"path": _folder(of)}})
    token = {"secretKeyRef": {"name": "hugging-face", "key": "token", "optional": True}}
    container = {
        "name": "engine",
        "image": of.server.image(of.gpu),
        "command": list(_inside(of, words)),
        **({"workingDir": PLACE} if _beside(of) else {}),
        "env": [{"name": "HF_TOKEN", "valueFrom": token}],
        **({"ports": [{"containerPort": of.server.port}]} if serves else {}),
        "resources": {"limits": {resource(of.gpu): of.launch.gpus}},
        **(
            {"startupProbe": probe | {"failureThreshold": LOADS_S // ASKED_S}, "readinessProbe": probe}
            if serves
            else {}
        ),
        "volumeMounts": mounts,
    }
    return {**_selector(of), "containers": [container], "volumes": volumes}


def _selector(of: Replicas) -> dict[str, Any]:
    """Nodes with this GPU."""
    owner, label = vendor(of.gpu), product(of.gpu)
    return {"nodeSelector": {owner.label: label}} if owner and owner.label and label else {}


def _service(of: Replicas, labels: Mapping[str, str]) -> dict[str, Any]:
    ports = [{"port": of.server.port, "targetPort": of.server.port}]
    about = {"name": of.name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Service", "metadata": about, "spec": {"selector": labels, "ports": ports}}


def compose(of: Replicas) -> dict[str, str]:
    """compose.yaml, of as many replicas as one machine has GPUs for, and nginx.conf where they are several."""
    here = min(of.replicas, max(node_gpus(of.gpu) // of.launch.gpus, 1))
    names = [f"engine-{number}" for number in range(here)]
    port, several = of.server.port, here > 1
    services: dict[str, Any] = {
        name: _service_of(of, number) | ({} if several else {"ports": [f"{port}:{port}"]})
        for number, name in enumerate(names)
    }
    if several:
        services["balancer"] = {
            "image": BALANCER,
            "volumes": ["./nginx.conf:/etc/nginx/nginx.conf:ro"],
            "ports": [f"{port}:{port}"],
            "depends_on": names,
        }
    head = [f"docker compose up; a machine with {here * of.launch.gpus} × {of.gpu.name}."]
    if here < of.replicas:
        head.append(f"{here} of {of.replicas} replicas: run it on more machines, with a balancer before them.")
    text = comments(head) + yaml_text({"services": services, "volumes": {"hub": {}}})
    return {"compose.yaml": text} | ({"nginx.conf": _nginx(names, port)} if several else {})


def _service_of(of: Replicas, number: int) -> dict[str, Any]:
    """One replica on GPUs of its own."""
    owner = vendor(of.gpu)
    assert owner
    ids = [str(number * of.launch.gpus + place) for place in range(of.launch.gpus)]
    volumes = [f"hub:{HUB_CACHE}"]
    if _beside(of):
        volumes.append(f".:{PLACE}:ro")
    elif of.launch.local:
        volumes.append(f"{_folder(of)}:{_folder(of)}:ro")
    environment = {"HF_TOKEN": "${HF_TOKEN:-}"}
    own: dict[str, Any] = {}
    if owner.devices or owner.runtime:
        environment[owner.visible] = ",".join(ids)
        asked = {"devices": list(owner.devices), "group_add": list(owner.groups), "runtime": owner.runtime}
        own = {name: value for name, value in asked.items() if value}
    else:
        reserved = {"driver": "nvidia", "device_ids": ids, "capabilities": ["gpu"]}
        own = {"deploy": {"resources": {"reservations": {"devices": [reserved]}}}}
    return {
        "image": of.server.image(of.gpu),
        "entrypoint": [],
        "command": [word.replace("$", "$$") for word in _inside(of, of.launch.words)],
        **({"working_dir": PLACE} if _beside(of) else {}),
        "environment": environment,
        "volumes": volumes,
        "shm_size": SHARED_MEMORY.casefold().removesuffix("i") + "b",
        **own,
    }


def _inside(of: Replicas, words: Sequence[str]) -> Sequence[str]:
    """The command in a container."""
    return (of.server.binary, *words[1:]) if of.server.binary else words


def _beside(of: Replicas) -> bool:
    """Whether the command names files that lie beside it."""
    return bool(of.launch.file) or (of.launch.local and of.launch.model.startswith("./"))


def _folder(of: Replicas) -> str:
    """Where weights lie that are not of the hub."""
    if of.launch.model.startswith("./"):
        return PLACE
    path = PurePosixPath(of.launch.model)
    return str(path.parent if path.suffix else path)


def _nginx(names: Sequence[str], port: int) -> str:
    servers = "".join(f"    server {name}:{port};\n" for name in names)
    return f"""worker_rlimit_nofile 65536;
events {{
  worker_connections 32768;
}}
http {{
  upstream engines {{
{servers}  }}
  server {{
    listen {port};
    client_max_body_size 0;
    location / {{
      proxy_pass http://engines;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 1h;
    }}
  }}
}}
"""
