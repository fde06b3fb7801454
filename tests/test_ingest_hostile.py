"""Traces that are cut, broken, huge or made to hurt end in one error, soon."""

from __future__ import annotations

import contextlib
import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from tool_files import write
from traces import PRODUCT, Program, kept

from predictor.cli import main
from predictor.errors import InvalidTable
from predictor.measurements.ingest import content, ingest
from predictor.measurements.ingest.trace_calls import beside, traced


@pytest.mark.parametrize("cut", [0.3, 0.7, 0.99])
def test_a_trace_that_is_cut_is_refused(cut: float, tmp_path: Path):
    program = Program()
    for _ in range(50):
        with program.call("aten::mm", *PRODUCT):
            program.launch(30.0)
    text = json.dumps(program.trace(), indent=1)
    path = write(tmp_path, "t.json", text[: int(cut * len(text))])
    packed = tmp_path / "t.json.gz"
    packed.write_bytes(gzip.compress(text.encode())[: int(cut * 800)])
    for each, kind in ((path, "JSON"), (packed, "gzip")):
        with pytest.raises(InvalidTable, match=f"is broken {kind} .*; write it again"):
            ingest([each])


@pytest.mark.parametrize(
    "text",
    [
        '{"traceEvents": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"traceEvents": [{"ph": "X", "ts": 1, "cat": "cpu_op", "args": {"Input Dims": '
        + "[" * 50_000
        + "]" * 50_000
        + "}}]}",
        '{"traceEvents": [{"ph": "X", "ts": ' + "9" * 5_000 + "}]}",
        '{"traceEvents": {"ph": 1}}',
        '{"traceEvents": [], "deviceProperties": 7}',
        '{"traceEvents": [], "distributedInfo": [1]}',
    ],
)
def test_hostile_files_end_in_one_error(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write(tmp_path, "t.json", text)
    assert main(["ingest", str(path), "--gpu", "T4", "--out", str(tmp_path / "o.parquet")]) == 2
    assert "Traceback" not in capsys.readouterr().err


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda x: st.lists(x, max_size=3)
)


@settings(max_examples=50, deadline=None)
@given(
    events=st.lists(
        st.fixed_dictionaries(
            {
                "ph": st.sampled_from("XBEsf") | JUNK,
                "ts": JUNK,
                "cat": st.sampled_from(("cpu_op", "kernel", "ac2g")) | JUNK,
            },
            optional={
                "dur": JUNK,
                "pid": JUNK,
                "name": st.sampled_from(("aten::mm", "aten::add", "cudaLaunchKernel")) | JUNK,
                "args": JUNK
                | st.dictionaries(st.sampled_from(("correlation", "External id", "Input Dims", "Input type")), JUNK),
            },
        )
        | JUNK,
        max_size=8,
    )
)
def test_junk_is_read_or_refused(events: list[Any], tmp_path_factory: pytest.TempPathFactory):
    path = write(tmp_path_factory.mktemp("junk"), "t.json", {"traceEvents": events})
    with contextlib.suppress(InvalidTable):
        ingest([path], columns={"gpu": "T4"})


def test_a_file_that_is_too_large_is_refused_before_it_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(content, "MOST_BYTES", 2**20)
    monkeypatch.setattr(content, "CHUNK_BYTES", 2**16)
    bomb = tmp_path / "t.json.gz"
    bomb.write_bytes(gzip.compress(b" " * 2**24))
    with pytest.raises(InvalidTable) as error:
        ingest([bomb])
    assert str(error.value) == (
        f"{bomb} holds more than 1 MiB, which would be read whole; split it, or record fewer steps and no stacks."
    )


@pytest.mark.parametrize("shape", ["deep", "overlapping", "one correlation", "many streams"])
def test_no_arrangement_of_many_events_takes_long(shape: str):
    many = 30_000
    program = Program()
    if shape == "deep":
        spans = [(n, 2 * (many - n)) for n in range(many)]
    elif shape == "overlapping":
        spans = [(3 * n, 3 * many) for n in range(many)]
    else:
        spans = [(10 * n, 8) for n in range(many)]
    events = [
        {"ph": "X", "cat": "cpu_op", "name": "aten::x", "pid": 1, "tid": 1, "ts": ts, "dur": dur, "args": {}}
        for ts, dur in spans
    ]
    for n, (ts, _) in enumerate(spans):
        args = {"correlation": 1 if shape == "one correlation" else n}
        host = {"pid": 1, "tid": 1, "ts": ts + 1, "dur": 1, "args": args}
        events += [
            {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", **host},
            {"ph": "X", "cat": "kernel", "name": "k", **host, "pid": 0},
        ]
    start = time.process_time()
    if shape == "many streams":
        for n, event in enumerate(event for event in events if event["cat"] == "kernel"):
            event |= {"tid": n, "dur": 20 * many}
    found = traced(kept(events + program.events))
    streams = beside([kernel.event for kernel in found.kernels])
    assert streams == (many if shape == "many streams" else 0)
    assert len(found.kernels) == many and time.process_time() - start < 20
