"""What runs on the GPUs of one machine: of each model the widest quantisation with room, and how fast it is there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.detect import Detected, detect
from predictor.memory.capacity import RISK
from predictor.ops.dtypes import DTYPES, dtype_named, near_dtypes
from predictor.planning.fleet import fleet
from predictor.prediction.rows import answer_rows
from predictor.values import show
from predictor.workloads.engine_tables import LOCAL, SERVES
from predictor.workloads.engines import get_engine
from predictor.workloads.models import Model, get_model

# What people run at home, from a phone's size up; any other of the catalogue, or a config.json, can be named.
MODELS = (
    *("Llama-3.2-1B", "Llama-3.2-3B", "Qwen3-4B", "Llama-3.1-8B", "Qwen3-8B", "gemma-3-12b", "Qwen3-14B"),
    *("gpt-oss-20b", "Mistral-Small-24B", "gemma-3-27b", "Qwen3-30B-A3B", "Qwen3-32B", "Llama-3.3-70B"),
    *("gpt-oss-120b", "Qwen3-235B-A22B"),
)
# Formats of each engine, the widest first: a wider one loses less of the model.
FORMATS = {LOCAL: ("fp16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k"), SERVES: ("", "fp8", "int4_wo")}

NARROW_BITS = 5.0  # of a weight, scales included: what is called 4 bits


class Local(NamedTuple):
    """A model on the machine. row: the answer in its widest format with room, or in the narrowest where none has any;
    fits: whether it has. tried: formats that were asked for."""

    model: str
    fits: bool
    row: dict[str, Any]
    tried: tuple[str, ...]


def local(
    machine: str | Detected = "",
    models: Sequence[str] = (),
    *,
    engine: str = LOCAL,
    dtypes: Sequence[str] = (),
    bundle: str | Path | Bundle = "",
    **columns: Any,
) -> list[Local]:
    """Of each model the widest format that seldom enough runs out of memory, with its speed for one user.

    machine: by default this one; a name ("2xRTX-3090") asks for GPUs in place of its own. models: by default MODELS.
    dtypes: formats that are tried, the widest first. columns: others of a Request. Raises PredictorError for a model
    that is not known, for an engine or a format that is none, and for a machine of several kinds of GPUs.
    """
    gpus = machine_of(machine) if isinstance(machine, str) else machine
    opened = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    get_engine(engine)
    dtypes = [dtype_named(name) for name in dtypes]
    for name in dtypes:
        if name not in DTYPES:
            raise InvalidRequest(f"dtype is {show(name)}; it must be one of {', '.join(DTYPES)}.{near_dtypes(name)}")
    formats = {name: _formats(get_model(name), engine, dtypes) for name in list(models) or list(MODELS)}
    shared = {"pp" if engine == LOCAL else "tp": gpus.n_gpus} if gpus.n_gpus > 1 else {}
    asked = [
        {"model": name, "gpu": gpus.gpu.name, "engine": engine, "dtype": dtype, **shared, **columns}
        for name, tried in formats.items()
        for dtype in tried
    ]
    rows = answer_rows(asked, opened)
    return [_widest(name, list(islice(rows, len(tried))), tried) for name, tried in formats.items()]


def machine_of(gpus: str) -> Detected:
    """The GPUs of this machine, or those that are named."""
    if not gpus:
        return detect()[0]
    named = fleet(gpus)
    if len(named) > 1:
        raise InvalidRequest(
            f"gpu is {show(gpus)}, GPUs of {len(named)} kinds; a machine has one here. Name one, maybe counted "
            "(2xRTX-3090); `predictor compare --gpus` ranks several."
        )
    some = named[0]
    return Detected(some.gpu, some.n_gpus or 1, some.note)


def _formats(model: Model, engine: str, asked: Sequence[str]) -> tuple[str, ...]:
    """Those asked for, or those of an engine, the widest first. Experts that are published in 4 bits stay so, for a
    wider format adds nothing to them, or become narrower."""
    formats = tuple(asked) or FORMATS.get(engine, ("",))
    published = DTYPES.get(getattr(model, "expert_dtype", ""))
    if asked or published is None or published.weight_bits > NARROW_BITS:
        return formats
    narrower = (dtype for dtype in formats if dtype in DTYPES and DTYPES[dtype].weight_bits < published.weight_bits)
    return ("", *narrower)


def _widest(model: str, rows: Sequence[dict[str, Any]], formats: tuple[str, ...]) -> Local:
    """The first format with room; formats that an engine does not have of a model are no answers."""
    answered = [row for row in rows if not row["error"]]
    roomy = [row for row in answered if row["fits"] and row["p_oom"] <= RISK]
    return Local(model, bool(roomy), (roomy or answered[::-1] or [rows[-1]])[0], formats)
