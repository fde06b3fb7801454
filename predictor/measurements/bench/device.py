"""The device that `predictor bench` measures, and how a call is timed there.

On a GPU calls are timed with events while the queue is kept full, so that the host is not in the times; on a CPU with
the monotonic clock.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np

from predictor.errors import InvalidRequest, PredictorError
from predictor.hardware.gpu import Gpu, get_gpu

WARM_UP, FEWEST_CALLS, MOST_CALLS = 3, 5, 50
AIM_S = 0.1  # of calls of one shape, between the fewest and the most
ROTATED = 2.5  # inputs of all sets together, in last-level caches
MOST_SETS = 2000
MEMORY_SHARE = 0.4
QUEUE_CYCLES = 150_000  # a kernel that waits so long for each call lets the host run ahead


class Device(NamedTuple):
    """torch, the device it runs on ("cuda", "mps" or "cpu"; ROCm is "cuda" to torch), and what the device is."""

    torch: Any
    kind: str
    gpu: Gpu


class Timed(NamedTuple):
    """Seconds of single calls; clock_hz and power_w while they ran, where the driver tells."""

    times_s: list[float]
    state: Mapping[str, float]


def device_of(name: str) -> Device:
    """This machine's device as the GPU of a name or spec file; "" takes the name that torch reports."""
    if find_spec("torch") is None:
        raise InvalidRequest("bench needs torch; pip install 'gpu-predictor[torch]'.")
    import torch

    kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    reported = torch.cuda.get_device_name() if kind == "cuda" else f"this {kind}"
    if not name and kind != "cuda":
        raise InvalidRequest(f"there is no GPU here; describe {reported} in a spec file and give --gpu FILE.toml.")
    try:
        return Device(torch, kind, get_gpu(name or reported))
    except PredictorError as error:
        if name:
            raise
        raise InvalidRequest(f"torch calls the device {reported}: {error} Or give --gpu.") from None


def environment(device: Device) -> Mapping[str, Any]:
    """What a measurement depends on besides the shape."""
    torch = device.torch
    versions = {"torch": torch.__version__, "python": platform.python_version(), "system": platform.platform()}
    if device.kind == "cuda":
        versions |= {
            "device": torch.cuda.get_device_name(),
            "cuda": str(torch.version.cuda),
            "hip": str(torch.version.hip),
        }
    return {**versions, "threads": torch.get_num_threads(), "gpu": device.gpu.name}


def measured(run: Callable[..., Any], tensors: Callable[[], tuple[Any, ...]], device: Device) -> Timed:
    """Single calls of `run`, each on inputs that are no longer in a cache."""
    with device.torch.inference_mode(), _true_to_dtype(device.torch):
        return _timed(run, _rotated(tensors, device.gpu), device)


@contextmanager
def _true_to_dtype(torch: Any) -> Iterator[None]:
    """fp32 is fp32 in here: left alone, torch convolves it in tf32 on NVIDIA GPUs."""
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def _rotated(tensors: Callable[[], tuple[Any, ...]], gpu: Gpu) -> list[tuple[Any, ...]]:
    """Sets of inputs that together exceed the last cache, so that each is read from memory."""
    first = tensors()
    size = sum(tensor.numel() * tensor.element_size() for tensor in first)
    wanted = int(np.ceil(ROTATED * gpu.llc_bytes / size)) + 1
    affordable = int(MEMORY_SHARE * gpu.mem_bytes / size)
    copies = min(max(wanted, 2), max(affordable, 1), MOST_SETS) - 1
    return [first, *(tuple(tensor.clone() for tensor in first) for _ in range(copies))]


def _timed(run: Callable[..., Any], sets: list[tuple[Any, ...]], device: Device) -> Timed:
    """Single calls in turn on the sets. Outputs live for a round: they are not written into a warm cache either."""
    outputs: list[Any] = [None] * len(sets)
    turn = iter(cycle(range(len(sets))))

    def once() -> None:
        place = next(turn)
        outputs[place] = run(*sets[place])

    once()  # libraries load and choose kernels
    _wait(device)
    began = time.perf_counter()
    for _ in range(WARM_UP):
        once()
    _wait(device)
    about_s = max((time.perf_counter() - began) / WARM_UP, 1e-9)
    calls = int(np.clip(max(AIM_S / about_s, len(sets)), FEWEST_CALLS, MOST_CALLS))
    if device.kind != "cuda":
        return _by_clock(once, calls, device)
    for _ in range(calls):  # memory for the outputs is got before the queue is filled: getting it waits for the GPU
        once()
    outputs[:] = [None] * len(sets)
    return _by_events(once, calls, device)


def _by_clock(once: Callable[[], None], calls: int, device: Device) -> Timed:
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        once()
        _wait(device)
        times.append(time.perf_counter() - began)
    return Timed(times, {})


def _by_events(once: Callable[[], None], calls: int, device: Device) -> Timed:
    cuda = device.torch.cuda
    marks = [(cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)) for _ in range(calls)]
    cuda._sleep(QUEUE_CYCLES * calls)
    for before, after in marks:
        before.record()
        once()
        after.record()
    state = _clock_and_power(device.torch)  # while the queue is at work
    cuda.synchronize()
    return Timed([before.elapsed_time(after) / 1e3 for before, after in marks], state)


def _wait(device: Device) -> None:
    if device.kind != "cpu":
        getattr(device.torch, device.kind).synchronize()


def _clock_and_power(torch: Any) -> Mapping[str, float]:
    """Of the NVIDIA GPU that torch uses, where nvidia-ml-py is installed; power is a mean of up to a second."""
    try:
        from pynvml import NVMLError
    except ImportError:
        return {}
    try:
        return {"clock_hz": torch.cuda.clock_rate() * 1e6, "power_w": torch.cuda.power_draw() / 1e3}
    except (NVMLError, RuntimeError, ImportError):  # no driver, no permission, ROCm: these columns stay empty
        return {}
