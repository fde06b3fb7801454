"""The published tables that are replayed. A new one is a file with its TABLE, and an entry here."""

from __future__ import annotations

from predictor.errors import InvalidRequest
from predictor.learning.validation import (
    alcf,
    cards,
    disaggregated,
    finetune,
    graphs,
    inferencex,
    llamacpp,
    llm_foundry,
    megatron_bridge,
    memory,
    mlperf,
    neusight,
    optimum,
    qwen,
    rocm_vllm,
    serving,
    startup,
    steps,
    training_peaks,
    trtllm,
    trtllm_queued,
)
from predictor.learning.validation.replay import Table

TABLES: tuple[Table, ...] = (
    alcf.TABLE,
    cards.TABLE,
    disaggregated.TABLE,
    finetune.TABLE,
    graphs.TABLE,
    inferencex.TABLE,
    llamacpp.TABLE,
    llm_foundry.TABLE,
    megatron_bridge.TABLE,
    memory.TABLE,
    mlperf.TABLE,
    neusight.TABLE,
    optimum.TABLE,
    qwen.TABLE,
    rocm_vllm.TABLE,
    startup.TABLE,
    serving.TABLE,
    training_peaks.TABLE,
    steps.TABLE,
    trtllm.TABLE,
    trtllm_queued.TABLE,
)


def chosen(only: str) -> tuple[Table, ...]:
    """The table of that name, or all of no name; raises InvalidRequest for a name that none has."""
    tables = tuple(table for table in TABLES if only in ("", table.name))
    if not tables:
        names = ", ".join(table.name for table in TABLES)
        raise InvalidRequest(f'only is "{only}"; it must be one of {names}.')
    return tables
