"""What runs on the GPUs of one machine: of each model the widest quantisation with room, and how fast it is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.detect import Detected
from predictor.memory.capacity import RISK
from predictor.prediction.rows import answer_rows
from predictor.workloads.engine_tables import LOCAL, SERVES
from predictor.workloads.models import get_model

# What people run at home, from a phone's size up; any other of the catalogue, or a config.json, can be named.
MODELS = (
    *("Llama-3.2-1B", "Llama-3.2-3B", "Qwen3-4B", "Llama-3.1-8B", "Qwen3-8B", "gemma-3-12b", "Qwen3-14B"),
    *("gpt-oss-20b", "Mistral-Small-24B", "gemma-3-27b", "Qwen3-30B-A3B", "Qwen3-32B", "Llama-3.3-70B"),
    *("gpt-oss-120b", "Qwen3-235B-A22B"),
)
# Formats of each engine, the widest first: a wider one loses less of the model.
FORMATS = {LOCAL: ("fp16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k"), SERVES: ("", "fp8", "int4_wo")}


class Local(NamedTuple):
    """A model on the machine. row: the answer in its widest format with room, or in the narrowest where none has any;
    fits: whether it has. tried: formats that were asked for."""

    model: str
    fits: bool
    row: dict[str, Any]
    tried: tuple[str, ...]


def local(
    machine: Detected,
    models: Sequence[str] = (),
    *,
    engine: str = LOCAL,
    dtypes: Sequence[str] = (),
    bundle: str | Path | Bundle = "",
    **columns: Any,
) -> list[Local]:
    """Of each model the widest format that seldom enough runs out of memory, with its speed for one user.

    models: by default MODELS. dtypes: formats that are tried, the widest first. columns: others of a Request. Raises
    PredictorError for a model that is not known.
    """
    opened = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    names = list(models) or list(MODELS)
    formats = tuple(dtypes) or FORMATS.get(engine, ("",))
    shared = {"pp" if engine == LOCAL else "tp": machine.n_gpus} if machine.n_gpus > 1 else {}
    asked = [
        {"model": name, "gpu": machine.gpu.name, "engine": engine, "dtype": dtype, **shared, **columns}
        for name in names
        if get_model(name)
        for dtype in formats
    ]
    rows = list(answer_rows(asked, opened))
    return [
        _widest(name, rows[place * len(formats) : (place + 1) * len(formats)], formats)
        for place, name in enumerate(names)
    ]


def _widest(model: str, rows: Sequence[dict[str, Any]], formats: tuple[str, ...]) -> Local:
    """The first format with room; formats that an engine does not have of a model are no answers."""
    answered = [row for row in rows if not row["error"]]
    roomy = [row for row in answered if row["fits"] and row["p_oom"] <= RISK]
    return Local(model, bool(roomy), (roomy or answered[::-1] or [rows[-1]])[0], formats)
