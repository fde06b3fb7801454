"""Time real operators on the local device: random shapes, inputs beyond the last cache, medians of many calls.

Needs torch. What is measured is in operators.py, how in device.py.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from predictor.errors import InvalidRequest
from predictor.files import needs_folder
from predictor.hardware.gpu import Gpu
from predictor.hardware.roofline import roofline
from predictor.measurements.bench.device import (
    FEWEST_CALLS,
    MEMORY_SHARE,
    WARM_UP,
    Device,
    device_of,
    environment,
    measured as timed,
)
from predictor.measurements.bench.operators import FAMILIES, Shape, shapes
from predictor.measurements.schema import NUMBER_COLUMNS, conform, op_type, read_shapes, write_rows
from predictor.ops.base import names_of

TORCH_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp8": "bfloat16"}  # fp8 is cast from it
SLOWEST_SHARE = 0.01  # of the budget that one random shape is expected to take
DRAWS = 100  # of one shape; where none is quick enough, the quickest of them is measured


class Pace(NamedTuple):
    """Seconds that calls of a family took, and seconds of their bounds, summed over what was measured so far."""

    taken_s: float = 0.0
    bound_s: float = 0.0

    def factor(self) -> float:
        """How much longer than their bounds calls take, at least 1."""
        return max(self.taken_s / self.bound_s, 1.0) if self.bound_s else 1.0


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

    gpu: name or spec file of the device; "" takes the name that torch reports. families: of bench_ops.FAMILIES; all
    that the device has kernels for by default. dtypes: of fp32, fp16, bf16 and fp8; those of the device by default.
    shapes_of: a table of shapes, such as `predictor suggest` writes, instead of random ones. Rows have besides: spread
    (interquartile range over median), calls, clock_hz and power_w where the driver tells. The file's metadata hold the
    environment. It appears whole or not at all; what was measured is kept where the user stops early.
    """
    out = Path(out)
    _needs_place(out)
    device = device_of(gpu)
    chosen, kinds = _families(device, families), _dtypes(device, dtypes)
    pace: dict[str, Pace] = defaultdict(Pace)
    listed = _listed(Path(shapes_of), chosen, kinds) if shapes_of else None
    rows: list[dict[str, Any]] = []
    failed = ""
    began = time.monotonic()
    try:
        for shape in listed or _plan(device.gpu, chosen, kinds, budget_s, seed, pace):
            if (spent := time.monotonic() - began) > budget_s:
                break
            progress(len(rows), spent / budget_s)
            try:
                timed = _measured(shape, device)
            except RuntimeError as error:  # out of memory, or no kernel for this shape
                failed = " ".join(str(error).split())[:200]
                continue
            rows.append({**shape, **timed})
            taken_s, bound_s = pace[shape["family"]]
            pace[shape["family"]] = Pace(taken_s + timed["latency_s"], bound_s + _bound_s(shape, device.gpu))
    except KeyboardInterrupt:
        if not rows:
            raise
    if not rows:
        raise InvalidRequest(
            f"nothing could be measured; torch says: {failed.rstrip('.')}. Give other --families or --dtypes."
            if failed
            else f"nothing was measured within {budget_s:g} s; give a larger --budget."
        )
    timing = "host" if device.kind == "mps" else "device"  # Metal's queue is waited for from the host
    frame = pd.DataFrame(rows).assign(
        gpu=device.gpu.name, engine="torch", engine_version=device.torch.__version__, timing=timing, source="bench"
    )
    extra = frame[[name for name in ("spread", "calls", "clock_hz", "power_w") if name in frame]]
    write_rows(conform(frame), out, extra, {"environment": json.dumps(environment(device))})
    return frame


def _needs_place(out: Path) -> None:
    """Raise before time is spent where the file cannot be written."""
    needs_folder(out)
    if out.is_dir():
        raise InvalidRequest(f"{out} is a folder; give --out a file.")
    try:
        with tempfile.NamedTemporaryFile(dir=out.absolute().parent):
            pass
    except OSError as error:
        raise InvalidRequest(f"{out} cannot be written ({error.strerror}); choose another --out.") from None


def _families(device: Device, names: Sequence[str]) -> tuple[str, ...]:
    here = tuple(name for name, made in FAMILIES.items() if device.kind in made.devices)
    chosen = _known("families", names, tuple(FAMILIES)) if names else here
    if lacking := [name for name in chosen if name not in here]:
        raise InvalidRequest(f"families has {lacking[0]}; torch has no fused kernel for it on {device.kind}. Leave it.")
    return chosen


def _dtypes(device: Device, names: Sequence[str]) -> tuple[str, ...]:
    chosen, gpu = _known("dtypes", names, tuple(TORCH_DTYPES)), device.gpu
    if device.kind != "cuda" or device.torch.version.hip:
        if "fp8" in names:
            raise InvalidRequest("dtypes has fp8; bench times it on NVIDIA GPUs only. Leave it.")
        chosen = tuple(name for name in chosen if name != "fp8")
    able = tuple(name for name in chosen if name in gpu.peak_flop_per_s)
    if lacking := [name for name in names if name not in able]:
        raise InvalidRequest(f"dtypes has {lacking[0]}; {gpu.name} has no such peak. Add it to the spec or leave it.")
    if not able:
        raise InvalidRequest(f"{gpu.name} has no peak in {', '.join(chosen)}; add one to peak_tflops of its spec.")
    return able


def _known(what: str, names: Sequence[str], known: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in known:
            raise InvalidRequest(f"{what} has {name}; it must be one of {', '.join(known)}.")
    return tuple(dict.fromkeys(names)) or known


def _plan(
    gpu: Gpu, families: Sequence[str], dtypes: Sequence[str], budget_s: float, seed: int, pace: Mapping[str, Pace]
) -> Iterator[dict[str, Any]]:
    """Shapes of all families in turn that fit in memory and, at the pace so far, do not eat the budget."""
    endless = {family: shapes(family, seed) for family in families}
    pairs = [(family, dtype) for dtype in dtypes for family in families if dtype in FAMILIES[family].dtypes]
    if not pairs:
        raise InvalidRequest(f"bench has no {' or '.join(families)} in {' or '.join(dtypes)}; ask for other --dtypes.")
    for family, dtype in cycle(pairs):
        drawn: list[tuple[float, dict[str, Any]]] = []
        for _ in range(DRAWS):
            row = {**next(endless[family]), "dtype": dtype}
            row |= {"kv_dtype": dtype} if "kv_dtype" in names_of(op_type(family)) else {}
            if FAMILIES[family].able(row) and _fits(row, gpu):
                drawn.append((_bound_s(row, gpu) * pace[family].factor() * (WARM_UP + FEWEST_CALLS), row))
                if drawn[-1][0] < SLOWEST_SHARE * budget_s:
                    break
        if not drawn:
            raise InvalidRequest(f"no {family} of bench fits in the memory of {gpu.name}; leave it out of --families.")
        yield min(drawn, key=lambda each: each[0])[1]


def _listed(file: Path, families: Sequence[str], dtypes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The shapes of a table that bench can run, each once."""
    table = read_shapes(file)
    texts = ("family", "phase", "kind", "dtype", "kv_dtype")
    sizes = [name for name in NUMBER_COLUMNS if name != "latency_s"]
    shapes = []
    for row in table[[*texts, *sizes]].drop_duplicates().to_dict("records"):
        cells = {str(name): cell for name, cell in row.items() if cell == cell and cell != ""}
        shape: dict[str, Any] = {name: cell if name in texts else int(cell) for name, cell in cells.items()}
        if shape.get("family") in families and shape.get("dtype") in dtypes and FAMILIES[shape["family"]].able(shape):
            shapes.append(shape)
    if not shapes:
        raise InvalidRequest(
            f"{file} has no row of {', '.join(families)} in {', '.join(dtypes)} that torch runs; bench runs no other."
        )
    yield from shapes


def _bound_s(row: Shape, gpu: Gpu) -> float:
    op = op_type(row["family"])(**{name: value for name, value in row.items() if name != "family"})
    return float(roofline(op, gpu).latency_s[0])


def _fits(row: Shape, gpu: Gpu) -> bool:
    op = op_type(row["family"])(**{name: value for name, value in row.items() if name != "family"})
    return float(np.ravel(op.bytes_moved())[0]) < MEMORY_SHARE / 2 * gpu.mem_bytes


def _measured(shape: Shape, device: Device) -> dict[str, Any]:
    """Median seconds of a call and how far calls differ."""
    torch, dtype = device.torch, getattr(device.torch, TORCH_DTYPES[shape["dtype"]])

    def new(*size: int) -> Any:
        return torch.randn(*size, dtype=dtype, device=device.kind)

    call = FAMILIES[shape["family"]].call(shape, torch, new)
    times, state = timed(call.run, call.tensors, device)
    low, middle, high = np.quantile(times, (0.25, 0.5, 0.75))
    return {"latency_s": float(middle), "spread": float((high - low) / middle), "calls": len(times), **state}


def seconds_of(text: str) -> float:
    """Seconds of a budget such as "5min", "90s", "1h" or "300"."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|min|m|h)?\s*", text)
    value = float(match[1]) * {"min": 60.0, "m": 60.0, "h": 3600.0}.get(match[2] or "", 1.0) if match else 0.0
    if value <= 0:
        raise InvalidRequest(f'budget is "{text}"; give a time above 0 such as 5min, 90s or 1h.')
    return value
