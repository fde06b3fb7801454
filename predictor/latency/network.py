"""The latency of a torch.nn.Module that was read as ops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.gpu import Gpu, catalogue, resolve_gpu
from predictor.hardware.lint import lint
from predictor.latency.report import Interval, OpLine
from predictor.latency.steps import basis_of, doubts_of, limiter_of, op_lines, total
from predictor.values import show
from predictor.workloads.torch.network import Network
from predictor.workloads.workload import ENGINES


@dataclass(frozen=True, slots=True)
class NetworkPrediction:
    """The answer for one forward pass of `network` on one GPU.

    latency_s: time on the GPU; a host that issues operators more slowly than the GPU runs them is not counted.
    bound_s: sum of the least times of its ops. basis: "seen-gpu", "unseen-gpu" or "bound-only".
    """

    network: Network
    gpu: Gpu
    latency_s: Interval
    bound_s: float
    limiter: str
    basis: str
    nearest_gpu: str
    bundle: str
    level: float
    notes: tuple[str, ...]
    ops: tuple[OpLine, ...]


def predict_network(
    network: Network, gpu: str | Gpu, *, bundle: str | Bundle = "", engine: str = "torch"
) -> NetworkPrediction:
    """Latency of one forward pass of `network` on `gpu`, with an interval at the bundle's level.

    engine: whose kernels run: "torch", or "vllm", "sglang", "trtllm".
    """
    if engine not in ENGINES:
        raise InvalidRequest(f"engine is {show(engine)}; it must be one of {', '.join(ENGINES)}.")
    if not network.ops:
        raise InvalidRequest(
            f"{network.name} runs no operator that takes time; trace a module that computes something."
        )
    known, note = (gpu, "") if isinstance(gpu, Gpu) else resolve_gpu(gpu)
    opened = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    (lines,) = op_lines([("forward", network.ops)], known, engine, opened)
    near, doubts = doubts_of([line._replace(name=line.estimator) for line in lines], known, opened)
    spec = [] if known.name in catalogue() or known.partition else lint(known)
    return NetworkPrediction(
        network=network,
        gpu=known,
        latency_s=total(lines, known, opened),
        bound_s=sum(line.bound_s for line in lines),
        limiter=limiter_of(lines, known),
        basis=basis_of([line.basis for line in lines]),
        nearest_gpu=near,
        bundle=opened.id,
        level=opened.level,
        notes=tuple(text for text in (note, *spec, *_notes(network, known), *doubts) if text),
        ops=tuple(lines),
    )


def _notes(network: Network, gpu: Gpu) -> Iterator[str]:
    if network.unknown:
        yield f"counted by their bytes only: {', '.join(network.unknown)}."
    if network.parameter_bytes > gpu.mem_bytes:
        size, room = network.parameter_bytes / 1e9, gpu.mem_bytes / 1e9
        yield f"does not fit: the weights take {size:.0f} GB; 1 × {gpu.name} has {room:.0f} GB."
