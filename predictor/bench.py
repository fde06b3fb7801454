"""Time real operators on the local device: random shapes, inputs beyond the last cache, medians of many calls.

Needs torch. On a GPU calls are timed with events while the queue is kept full, so that the host is not in the times; on
a CPU with the monotonic clock.
"""

from __future__ import annotations

import json
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from predictor.bench_ops import FAMILIES, POINTWISE, Shape, shapes
from predictor.errors import InvalidRequest, PredictorError
from predictor.files import needs_folder
from predictor.gpu import Gpu, get_gpu
from predictor.roofline import roofline
from predictor.schema import NUMBER_COLUMNS, conform, op_type, read_shapes, write_rows

DTYPES = ("fp32", "fp16", "bf16")
TORCH_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
WARM_UP, FEWEST_CALLS, MOST_CALLS = 3, 5, 50
ROTATED = 2.5  # inputs of all sets together, in last-level caches
MEMORY_SHARE = 0.4
SLOWEST_SHARE = 0.01  # of the budget that one shape may take at the roofline bound
QUEUE_CYCLES = 2_000_000  # a kernel that waits so long lets the host run ahead


class Device(NamedTuple):
    """torch, the device it runs on ("cuda", "mps" or "cpu"; ROCm is "cuda" to torch), and what the device is."""

    torch: Any
    kind: str
    gpu: Gpu


def bench(
    out: Path | str,
    gpu: str = "",
    families: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    budget_s: float = 300.0,
    seed: int = 0,
    shapes_of: Path | str | None = None,
    progress: Callable[[int, float], None] = lambda rows, share: None,
) -> pd.DataFrame:
    """Measure until budget_s is spent and write the rows, in the measurement schema, to the Parquet file `out`.

    gpu: name or spec file of the device; "" takes the name that torch reports. families: of gemm, attention, pointwise
    and conv; all by default. dtypes: of fp32, fp16 and bf16; those of the device by default. shapes_of: a table of
    shapes, such as `predictor suggest` writes, instead of random ones. Rows have besides: spread (interquartile range
    over median), calls, clock_hz and power_w where NVML gives them. The file's metadata hold the environment. It
    appears whole or not at all; what was measured is kept where the user stops early.
    """
    out = Path(out)
    needs_folder(out)
    device = _device(gpu)
    chosen, kinds = _known("families", families, tuple(FAMILIES)), _dtypes(device.gpu, dtypes)
    rows: list[dict[str, Any]] = []
    began = time.monotonic()
    with suppress(KeyboardInterrupt):
        drawn = _plan(device.gpu, chosen, kinds, budget_s, seed)
        for shape in _listed(Path(shapes_of), chosen, kinds) if shapes_of else drawn:
            if (spent := time.monotonic() - began) > budget_s:
                break
            progress(len(rows), spent / budget_s)
            if found := _measured(shape, device):
                rows.append({**shape, **found})
    if not rows:
        raise InvalidRequest(f"nothing was measured within {budget_s:g} s; give a larger --budget.")
    frame = pd.DataFrame(rows).assign(
        gpu=device.gpu.name, engine="torch", engine_version=device.torch.__version__, timing="device", source="bench"
    )
    extra = frame[[name for name in ("spread", "calls", "clock_hz", "power_w") if name in frame]]
    write_rows(conform(frame), out, extra, {"environment": json.dumps(environment(device))})
    return frame


def environment(device: Device) -> Mapping[str, Any]:
    """What a measurement depends on besides the shape."""
    torch = device.torch
    found = {"torch": torch.__version__, "python": platform.python_version(), "system": platform.platform()}
    if device.kind == "cuda":
        found |= {
            "device": torch.cuda.get_device_name(),
            "cuda": str(torch.version.cuda),
            "hip": str(torch.version.hip),
        }
    return {**found, "threads": torch.get_num_threads(), "gpu": device.gpu.name}


def _device(name: str) -> Device:
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


def _dtypes(gpu: Gpu, asked: Sequence[str]) -> tuple[str, ...]:
    chosen = _known("dtypes", asked, DTYPES)
    able = tuple(name for name in chosen if name in gpu.peak_flop_per_s)
    if lacking := [name for name in asked if name not in able]:
        raise InvalidRequest(f"dtypes has {lacking[0]}; {gpu.name} has no such peak. Add it to the spec or leave it.")
    return able


def _known(what: str, asked: Sequence[str], known: tuple[str, ...]) -> tuple[str, ...]:
    for name in asked:
        if name not in known:
            raise InvalidRequest(f"{what} has {name}; it must be one of {', '.join(known)}.")
    return tuple(dict.fromkeys(asked)) or known


def _plan(
    gpu: Gpu, families: Sequence[str], dtypes: Sequence[str], budget_s: float, seed: int
) -> Iterator[dict[str, Any]]:
    """Shapes of all families in turn that fit in memory and do not eat the budget."""
    endless = {family: shapes(family, seed) for family in families}
    for family, dtype in cycle([(family, dtype) for dtype in dtypes for family in families]):
        for shape in endless[family]:
            row = {**shape, "dtype": dtype, **({"kv_dtype": dtype} if family == "attention" else {})}
            if _fits(row, gpu, budget_s):
                yield row
                break


def _listed(file: Path, families: Sequence[str], dtypes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The shapes of a table that bench can run, each once."""
    asked = read_shapes(file)
    fused = (asked["family"] == "pointwise") & ~asked["kind"].isin(list(POINTWISE))  # torch runs no such kernel
    able = asked[asked["family"].isin(list(families)) & asked["dtype"].isin(list(dtypes)) & ~fused]
    if able.empty:
        raise InvalidRequest(f"{file} has no row of {', '.join(families)} in {', '.join(dtypes)}; bench runs no other.")
    texts = ("family", "phase", "kind", "dtype", "kv_dtype")
    sizes = [name for name in NUMBER_COLUMNS if name != "latency_s"]
    for row in able[[*texts, *sizes]].drop_duplicates().to_dict("records"):
        cells = {str(name): cell for name, cell in row.items() if cell == cell and cell != ""}
        yield {name: cell if name in texts else int(cell) for name, cell in cells.items()}


def _fits(row: Shape, gpu: Gpu, budget_s: float) -> bool:
    op = op_type(row["family"])(**{name: value for name, value in row.items() if name != "family"})
    small = float(np.ravel(op.bytes_moved())[0]) < MEMORY_SHARE / 2 * gpu.mem_bytes
    return small and float(roofline(op, gpu).latency_s[0]) * (WARM_UP + FEWEST_CALLS) < SLOWEST_SHARE * budget_s


def _measured(shape: Shape, device: Device) -> dict[str, Any] | None:
    """Median seconds of a call and how far calls differ; None where the device cannot run it."""
    torch, dtype = device.torch, getattr(device.torch, TORCH_DTYPES[shape["dtype"]])

    def new(*size: int) -> Any:
        return torch.randn(*size, dtype=dtype, device=device.kind)

    call = FAMILIES[shape["family"]].call(shape, torch, new)
    try:
        with torch.inference_mode():
            sets = _rotated(call.tensors, device.gpu)
            times = _times(call.run, sets, device)
    except RuntimeError:  # out of memory, or no kernel for this shape
        return None
    low, middle, high = np.quantile(times, (0.25, 0.5, 0.75))
    state = _clock_and_power() if device.kind == "cuda" else {}
    return {"latency_s": float(middle), "spread": float((high - low) / middle), "calls": len(times), **state}


def _rotated(tensors: Callable[[], tuple[Any, ...]], gpu: Gpu) -> list[tuple[Any, ...]]:
    """Sets of inputs that together exceed the last cache, so that each is read from memory."""
    first = tensors()
    size = sum(each.numel() * each.element_size() for each in first)
    wanted = int(np.ceil(ROTATED * gpu.llc_bytes / size)) + 1
    affordable = int(MEMORY_SHARE * gpu.mem_bytes / size)
    return [first, *(tensors() for _ in range(min(max(wanted, 2), max(affordable, 1), 2000) - 1))]


def _times(run: Callable[..., Any], sets: list[tuple[Any, ...]], device: Device) -> list[float]:
    """Seconds of single calls. Outputs live for a round: they are not written into a warm cache either."""
    outputs: list[Any] = [None] * len(sets)
    turn = iter(cycle(range(len(sets))))

    def once() -> None:
        place = next(turn)
        outputs[place] = run(*sets[place])

    began = time.perf_counter()
    for _ in range(WARM_UP):
        once()
    _wait(device)
    about = (time.perf_counter() - began) / WARM_UP
    calls = int(np.clip(max(0.1 / max(about, 1e-9), len(sets)), FEWEST_CALLS, MOST_CALLS))
    return _by_events(once, calls, device) if device.kind == "cuda" else _by_clock(once, calls, device)


def _by_clock(once: Callable[[], None], calls: int, device: Device) -> list[float]:
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        once()
        _wait(device)
        times.append(time.perf_counter() - began)
    return times


def _by_events(once: Callable[[], None], calls: int, device: Device) -> list[float]:
    cuda = device.torch.cuda
    marks = [(cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)) for _ in range(calls)]
    if hasattr(cuda, "_sleep"):
        cuda._sleep(QUEUE_CYCLES)
    for before, after in marks:
        before.record()
        once()
        after.record()
    cuda.synchronize()
    return [before.elapsed_time(after) / 1e3 for before, after in marks]


def _wait(device: Device) -> None:
    if device.kind != "cpu":
        getattr(device.torch, device.kind).synchronize()


def _clock_and_power() -> dict[str, float]:
    """Of the first NVIDIA GPU, where nvidia-ml-py is installed."""
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        clock = pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)
        return {"clock_hz": clock * 1e6, "power_w": pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3}
    except pynvml.NVMLError:  # no driver or no permission: these columns stay empty
        return {}


def seconds_of(text: str) -> float:
    """Seconds of a budget such as "5min", "90s", "1h" or "300"."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|min|m|h)?\s*", text)
    value = float(found[1]) * {"min": 60.0, "m": 60.0, "h": 3600.0}.get(found[2] or "", 1.0) if found else 0.0
    if value <= 0:
        raise InvalidRequest(f'budget is "{text}"; give a time above 0 such as 5min, 90s or 1h.')
    return value
