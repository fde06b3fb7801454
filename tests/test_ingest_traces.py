"""Kernels of a trace belong to the call in which they were launched, by thread and time, whatever ids say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from tool_files import read_one, write
from traces import BF16, PRODUCT, Program, in_two, kept

from predictor.cli import main
from predictor.errors import InvalidTable
from predictor.measurements.ingest import Unread, ingest
from predictor.measurements.ingest.aten import Recorded, row_of
from predictor.measurements.ingest.trace_calls import (
    NO_CALL,
    NO_LAUNCH,
    OF_GRAPH,
    OVERLAP,
    UNSURE,
    Trace,
    traced,
)

TIMES_US = st.integers(1, 400).map(lambda eighths: eighths / 8)
LAUNCH = st.tuples(st.just("launch"), st.lists(TIMES_US, min_size=1, max_size=3))
PROGRAM = st.recursive(
    LAUNCH,
    lambda inner: st.tuples(st.sampled_from(("call", "call", "annotation", "thread")), st.lists(inner, max_size=4)),
    max_leaves=25,
)


def run(program: Program, step: tuple[str, list[Any]]) -> None:
    """Run a random program; a "thread" runs beside the calls of another."""
    kind, parts = step
    if kind == "launch":
        for n, us in enumerate(parts):
            program.launch(us, stream=7 + n)
        return
    if kind == "call":
        around = program.call(f"some::op{program.calls}")
    elif kind == "annotation":
        around = program.annotation()
    else:
        around = program.on(11, 12 + len(program.events) % 3) if program.thread == (11, 11) else program.annotation()
    with around:
        for part in parts:
            run(program, part)


def placed(found: Trace) -> Counter[tuple[float, str]]:
    """Microseconds and External id of the call of each kernel."""
    return Counter(
        (kernel.event.length_us, found.spans[kernel.place].event.call or "" if kernel.place >= 0 else "0")
        for kernel in found.kernels
    )


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(PROGRAM, min_size=1, max_size=5),
    ids=st.sampled_from(("call", "correlation", "none")),
    first=st.integers(1, 40),
    split=st.booleans(),
    arrows=st.booleans(),
    shuffled=st.randoms(use_true_random=False),
)
def test_every_kernel_of_a_random_program_is_placed_in_its_call(steps, ids, first, split, arrows, shuffled):
    program = Program(ids, first=first)
    for step in steps:
        run(program, step)
    events = list(program.events)
    if arrows:  # in place of correlations
        events = [
            {**event, "args": {name: value for name, value in event["args"].items() if name == "device"}}
            if event["cat"] in ("kernel", "cuda_runtime")
            else event
            for event in events
        ]
    if split:
        events = in_two(events)
    else:
        shuffled.shuffle(events)
    assert placed(traced(kept(events))) == Counter((us, str(call)) for _, us, call in program.belongs)


@settings(max_examples=40, deadline=None)
@given(
    times=st.lists(st.lists(TIMES_US, min_size=1, max_size=3), min_size=1, max_size=8),
    unknown=st.lists(TIMES_US, max_size=4),
    graph=st.lists(TIMES_US, max_size=4),
    ids=st.sampled_from(("call", "correlation", "none")),
)
def test_time_is_measured_once_or_counted_with_a_reason(times, unknown, graph, ids, tmp_path_factory):
    program = Program(ids)
    for m, each in enumerate(times, 1):
        dims = [[m, 128], [128, 256]]
        with (
            program.annotation(),
            program.call("aten::linear", dims, [BF16, BF16]),
            program.call("aten::matmul", dims, [BF16, BF16]),
            program.call("aten::mm", dims, [BF16, BF16]),
        ):
            for us in each:
                program.launch(us)
    for us in unknown:
        with program.call("myops::fused", [[8, 8]], [BF16]):
            program.launch(us)
    program.launch(*graph, name="cudaGraphLaunch")
    table, unread = read_one(write(tmp_path_factory.mktemp("trace"), "t.json", program.trace()))
    found = table.set_index("m")["latency_s"].to_dict()
    assert found == pytest.approx({m: sum(each) * 1e-6 for m, each in enumerate(times, 1)})
    kernels = sum(map(len, times)) + len(unknown) + len(graph)
    assert sum(unread.rows.values()) == len(unknown) + len(graph) == kernels - sum(map(len, times))
    assert sum(unread.seconds.values()) + sum(found.values()) == pytest.approx(unread.seen_s)
    assert unread.notes[0].startswith(f"t.json: {kernels} kernels and copies, ")


KNOWN = ("aten::mm", "aten::add", "aten::copy_")
CALLS = st.recursive(
    LAUNCH,
    lambda inner: st.tuples(st.sampled_from((*KNOWN, "aten::sum", "mine::op")), st.lists(inner, max_size=4)),
    max_leaves=20,
)


def measured(program: Program, name: str, parts: list[Any], found: list[float]) -> bool:
    """Run a call and note the microseconds of measurements; whether it does a part of the work of a call around it."""
    own, partial, sizes = 0.0, False, [program.calls + 1, 64]
    with program.call(name, [sizes, [64, 64] if name == "aten::mm" else sizes], [BF16, BF16]):
        for kind, more in parts:
            if kind == "launch":
                own += sum(more)
                for us in more:
                    program.launch(us)
            else:
                partial |= measured(program, kind, more, found)
    if name in KNOWN and own and not partial:
        found.append(own)
    return partial or (own > 0 and name != "aten::copy_")


@settings(max_examples=80, deadline=None)
@given(steps=st.lists(CALLS, min_size=1, max_size=4), ids=st.sampled_from(("call", "correlation", "none")))
def test_of_random_calls_those_are_measured_that_launched_all_of_their_work(steps, ids, tmp_path_factory):
    program, expected = Program(ids), []
    program.launch(1.0)  # a trace without kernels would be one of a CPU
    measured(program, "mine::step", steps, expected)
    path = write(tmp_path_factory.mktemp("trace"), "t.json", program.trace())
    table, unread = read_one(path)
    assert sorted(table.get("latency_s", [])) == pytest.approx([us * 1e-6 for us in sorted(expected)])
    assert sum(unread.seconds.values()) + sum(expected) * 1e-6 == pytest.approx(unread.seen_s)
    assert unread.seen_s == pytest.approx(sum(us for _, us, _ in program.belongs) * 1e-6)


def test_an_id_that_is_a_call_and_a_correlation_misleads_nobody(tmp_path: Path):
    for ids in ("call", "correlation", "none"):
        program = Program(ids)
        program.launches = 2
        for kind, us in (("aten::mm", 560.0), ("aten::add", 900.0), ("aten::add", 901.0), ("aten::mm", 561.0)):
            with program.call(kind, [[4096, 4096], [4096, 4096]], [BF16, BF16]):
                program.launch(us)
        table, unread = read_one(write(tmp_path, "t.json", program.trace()))
        assert table.set_index("family")["latency_s"].to_dict() == {
            "gemm": pytest.approx(560.5e-6),
            "pointwise": pytest.approx(900.5e-6),
        }
        assert not unread.rows and "4 placed in the calls that launched them (100.0 % of the time)" in unread.notes[0]


@pytest.mark.parametrize(
    ("runtime", "name"),
    [
        ("cuda_runtime", "cudaLaunchKernel"),
        ("cuda_runtime", "cudaLaunchKernelExC"),
        ("cuda_runtime", "cudaLaunchCooperativeKernel"),
        ("cuda_driver", "cuLaunchKernelEx"),
        ("cuda_runtime", "hipLaunchKernel"),
        ("cuda_runtime", "hipModuleLaunchKernel"),
        ("cuda_runtime", "hipExtModuleLaunchKernel"),
        ("hip_runtime", "hipExtLaunchKernel"),
        ("xpu_runtime", "urEnqueueKernelLaunchWithArgsExp"),
        ("xpu_driver", "zeCommandListAppendLaunchKernel"),
        ("mtia_runtime", "launchKernel"),
        ("privateuse1_runtime", "launch"),
        ("runtime", "anything"),
        ("Runtime", "cudaLaunchKernel"),
    ],
)
def test_every_runtime_launches(runtime: str, name: str, tmp_path: Path):
    program = Program(runtime=runtime)
    with program.call("aten::mm", *PRODUCT):
        program.launch(30.0, name=name, cat="mtia_ccp_events" if "mtia" in runtime else "kernel")
    table, _ = read_one(write(tmp_path, "t.json", program.trace()))
    assert table["latency_s"].tolist() == [pytest.approx(30e-6)]


@pytest.mark.parametrize(
    ("copy", "within"),
    [
        ("Memcpy DtoD (Device -> Device)", True),
        ("CopyDeviceToDevice", True),
        ("zeCommandListAppendMemoryCopy(D2D)", True),
        ("Memcpy HtoD (Pageable -> Device)", False),
        ("Memcpy PtoP (Device -> Device)", False),
        ("CopyHostToDevice", False),
        ("zeCommandListAppendMemoryCopy(M2D)", False),
    ],
)
def test_copies_within_a_gpu_are_measurements(copy: str, within: bool, tmp_path: Path):
    program = Program()
    with program.call("aten::copy_", [[4096, 4096], [4096, 4096]], [BF16, BF16]):
        program.launch(60.0, name="copyAsync", cat="gpu_memcpy", kernel=copy)
    table, unread = read_one(write(tmp_path, "t.json", program.trace()))
    assert len(table) == within and sum(unread.rows.values()) == (not within)


def test_a_trace_without_shapes_places_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    program = Program()
    with program.call("aten::mm"):
        program.launch(30.0)
    path = write(tmp_path, "t.json", program.trace())
    assert main(["ingest", str(path), "--out", str(tmp_path / "o.parquet")]) == 2
    assert capsys.readouterr().err.splitlines()[:2] == [
        "t.json: 1 kernels and copies, 0.03 ms on the device; 1 placed in the calls that launched them "
        "(100.0 % of the time), 0 of them measurements (0.0 % of the time)",
        "not read, 1 kernel, 100.0 % of their time: aten::mm: no shapes; record with record_shapes=True",
    ]


def reasons(program: Program, tmp_path: Path) -> dict[str, int]:
    """What is not read, of a trace with nothing to measure but one product that is added."""
    with program.call("aten::mm", *PRODUCT):
        program.launch(30.0)
    table, unread = read_one(write(tmp_path, "t.json", program.trace()))
    assert table["latency_s"].tolist() == [pytest.approx(30e-6)]
    return dict(unread.rows)


@pytest.mark.parametrize("name", ["cudaGraphLaunch", "hipGraphLaunch", "cuGraphLaunch", "urEnqueueCommandBufferExp"])
def test_kernels_of_a_graph_are_counted_and_not_placed(name: str, tmp_path: Path):
    program = Program()
    with program.call("aten::add", *PRODUCT):
        program.launch(5.0, 6.0, 7.0, name=name)
    assert reasons(program, tmp_path) == {OF_GRAPH: 3}
    program = Program()
    with program.call("aten::add", *PRODUCT):
        program.launch(5.0, name="unnamed", **{"graph id": 4, "graph node id": 12})
    assert reasons(program, tmp_path) == {OF_GRAPH: 1}


def test_what_cannot_be_placed_is_counted_by_reason(tmp_path: Path):
    program = Program()
    program.launch(5.0)
    with program.call("aten::add", *PRODUCT):
        lost = program.launch(6.0)
    with program.call("aten::copy_", *PRODUCT):
        program.launch(8.0, cat="gpu_memcpy", kernel="Memcpy HtoD (Pinned -> Device)")
    program.events = [
        event
        for event in program.events
        if not ((event["cat"] == "cuda_runtime" and event["args"]["correlation"] == lost) or event["ph"] in "sf")
    ]
    assert reasons(program, tmp_path) == {NO_CALL: 1, NO_LAUNCH: 1, "a copy between memories, not within the GPU's": 1}


def test_a_correlation_of_several_processes_is_taken_for_none(tmp_path: Path):
    program = Program()
    for pid in (1, 2):
        with program.on(pid, pid):
            program.launches = 6
            with program.call("aten::add", [[64, pid], [64, pid]], [BF16, BF16]):
                program.launch(6.0 + pid)
    assert reasons(program, tmp_path) == {UNSURE: 2}


def test_names_of_2021_are_known(tmp_path: Path):
    program = Program()
    with program.call("aten::mm", *PRODUCT):
        program.launch(30.0)
    for event in program.events:
        event["cat"] = {"cpu_op": "Operator", "cuda_runtime": "Runtime", "kernel": "Kernel"}.get(event["cat"], "async")
        args = event.get("args", {})
        event["args"] = {
            {"External id": "external id", "Input Dims": "Input dims"}.get(k, k): v for k, v in args.items()
        }
    table, _ = read_one(write(tmp_path, "t.json", program.trace()))
    assert table["latency_s"].tolist() == [pytest.approx(30e-6)]


def test_calls_that_overlap_on_a_thread_own_nothing_in_common():
    program = Program()
    events = [
        {"ph": "X", "cat": "cpu_op", "name": name, "pid": 1, "tid": 1, "ts": ts, "dur": 100, "args": {"External id": n}}
        for n, (name, ts) in enumerate((("a", 0), ("b", 50)), 1)
    ]
    for n, ts in enumerate((20, 70, 120)):
        host = {"pid": 1, "tid": 1, "ts": ts, "dur": 2, "args": {"correlation": n}}
        events.append({"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", **host})
        events.append({"ph": "X", "cat": "kernel", "name": "k", **host, "pid": 0})
    found = traced(kept(events + program.events))
    assert [(kernel.place, kernel.why) for kernel in found.kernels] == [(0, ""), (-1, OVERLAP), (1, "")]


def test_whole_microseconds_do_not_part_a_call_from_its_launch():
    program = Program()
    with program.call("outer"), program.call("inner"):
        program.launch(3.0)
    for event in program.events:
        event["ts"] = int(event["ts"] * 0.3)
        event["dur"] = int(event.get("dur", 0) * 0.3)
    found = traced(kept(program.events))
    assert [found.spans[kernel.place].event.name for kernel in found.kernels] == ["inner"]


def test_times_are_read_as_text_and_with_digits(tmp_path: Path):
    program = Program()
    with program.call("aten::mm", *PRODUCT):
        program.launch(30.125)
    for event in program.events:
        event["ts"], event["dur"] = str(event["ts"]), str(event.get("dur", ""))
        event.get("args", {}).update({k: str(v) for k, v in event.get("args", {}).items() if k == "correlation"})
    for trace in (
        program.trace(),
        program.events,
        program.trace(traceEvents=in_two(program.events[:0]) + program.events),
    ):
        columns = {} if isinstance(trace, dict) else {"gpu": "A100"}
        table, _ = read_one(write(tmp_path, "t.json", trace), columns=columns)
        assert table["latency_s"].tolist() == [pytest.approx(30.125e-6)]


def test_a_call_of_which_others_do_a_part_is_no_measurement(tmp_path: Path):
    norm = ([[64, 256], [], [256], []], [BF16, "ScalarList", BF16, ""])
    program = Program()
    with program.call("aten::rms_norm", *norm, **{"Concrete Inputs": ["", "[256]", "", ""]}):
        with program.call("aten::mean", [[64, 256]], [BF16]):
            program.launch(11.0)
        program.launch(2.0)
    assert reasons(program, tmp_path) == {
        "aten::mean: no rule for it": 1,
        "aten::rms_norm: of a call of which calls inside it do a part": 1,
    }


def test_the_work_of_a_call_under_another_name_and_beside_copies_is_its_own(tmp_path: Path):
    sizes = [[2, 3, 32, 32], [16, 3, 3, 3], [16], [], [], [], [], [], []]
    kinds = [BF16, BF16, BF16, *["ScalarList"] * 3, "Scalar", "ScalarList", "Scalar"]
    values = ["", "", "", "[1, 1]", "[1, 1]", "[1, 1]", "False", "[0, 0]", "1"]
    program = Program()
    with program.call("aten::convolution", sizes, kinds, **{"Concrete Inputs": values}):
        with program.call("aten::clone", sizes[:1], kinds[:1]), program.call("aten::copy_", sizes[:1] * 2, kinds[:2]):
            program.launch(3.0)
        with program.call("aten::cudnn_convolution", sizes[:2], kinds[:2]):
            program.launch(40.0)
            program.launch(2.0)
        with program.call("aten::add_", [[2, 16, 32, 32], [1, 16, 1, 1]], kinds[:2]):
            program.launch(5.0)
    table, unread = read_one(write(tmp_path, "t.json", program.trace()))
    assert table.set_index("family")["latency_s"]["conv"] == pytest.approx(42e-6)
    assert sorted(table["latency_s"]) == [pytest.approx(us * 1e-6) for us in (3.0, 5.0, 42.0)] and not unread.rows


def test_a_call_whose_kernel_is_missing_or_has_no_time_is_no_measurement(tmp_path: Path):
    program = Program()
    with program.call("aten::add", *PRODUCT):
        program.launch(6.0)
        program.launch(7.0, cut=True)
    with program.call("aten::mul", *PRODUCT):
        program.launch(8.0)
        program.launch(9.0)
    next(event for event in program.events if event.get("dur") == 9.0)["dur"] = None
    assert reasons(program, tmp_path) == {
        "aten::add: of a call that launched a kernel which the trace lacks": 1,
        "aten::mul: its start or duration is not told": 2,
    }


def test_backward_on_another_thread_and_ranks_in_files_of_their_own(tmp_path: Path):
    paths = []
    for rank in (0, 1):
        program = Program()
        with program.call("aten::mm", *PRODUCT):
            program.launch(30.0 + rank)
        with (
            program.on(11, 99),
            program.call("autograd::engine::evaluate_function: MmBackward0"),
            program.call("MmBackward0", *PRODUCT),
            program.call("aten::mm", [[128, 64], [64, 256]], [BF16, BF16]),
        ):
            program.launch(20.0 + rank)
        arrow = {"cat": "fwdbwd", "name": "fwdbwd", "id": 1, "pid": 11, "ts": 101.0}
        program.events += [{**arrow, "ph": "s", "tid": 11}, {**arrow, "ph": "f", "tid": 99, "bp": "e"}]
        paths.append(
            write(tmp_path, f"rank{rank}.json", program.trace(distributedInfo={"rank": rank, "world_size": 2}))
        )
    unread = Unread()
    table = ingest(paths, unread=unread)
    assert sorted(table["latency_s"] * 1e6) == pytest.approx([20, 21, 30, 31])
    assert [note.partition(":")[0] for note in unread.notes] == ["rank0.json, rank 0", "rank1.json, rank 1"]


def test_kernels_beside_those_of_another_stream_are_said(tmp_path: Path):
    program = Program()
    for stream in (7, 7, 8, 9):
        with program.call("aten::mm", *PRODUCT):
            program.launch(30.0, stream=stream)
    program.events[-2]["ts"] -= 40.0
    _, unread = read_one(write(tmp_path, "t.json", program.trace()))
    assert unread.notes[0].endswith("; 3 ran beside those of another stream, which takes longer than alone")


def test_launches_without_kernels_are_no_times_of_a_cpu(tmp_path: Path):
    program = Program()
    with program.call("aten::mm", *PRODUCT):
        program.launch(30.0, cut=True)
    table, unread = read_one(write(tmp_path, "t.json", program.trace()))
    assert table.empty
    assert unread.rows == {"a launch: the trace has no kernels; record ProfilerActivity.CUDA, or XPU": 1}


def test_of_several_gpus_a_kernel_of_an_unknown_one_names_none(tmp_path: Path):
    program = Program()
    with program.call("aten::mm", *PRODUCT):
        program.launch(30.0, device=5)
    devices = [{"id": 0, "name": "Tesla T4"}, {"id": 1, "name": "NVIDIA A100-SXM4-80GB"}]
    with pytest.raises(InvalidTable) as error:
        read_one(write(tmp_path, "t.json", program.trace(deviceProperties=devices)))
    assert str(error.value).endswith("does not tell gpu; add --set gpu=….")


def test_values_that_are_no_literal_are_read():
    sizes, kinds = [[64, 256], [64, 256], []], ["float", "bool", "Scalar"]
    for value in ("-inf", "nan", "none", "(" * 100_000):
        row = row_of(Recorded("aten::masked_fill_", sizes, kinds, (), ["", "", value]))
        assert row is not None and row["family"] == "pointwise"


def test_the_command_says_what_became_of_the_kernels(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    program = Program()
    with program.call("aten::mm", *PRODUCT):
        program.launch(30.0)
    with program.call("aten::sum", *PRODUCT):
        program.launch(6.0)
    program.launch(2.0, 2.0, name="cudaGraphLaunch")
    path = write(tmp_path, "t.json", program.trace())
    assert main(["ingest", str(path), "--out", str(tmp_path / "o.parquet")]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "t.json: 4 kernels and copies, 0.04 ms on the device; 2 placed in the calls that launched them "
        "(90.0 % of the time), 1 of them measurements (75.0 % of the time)",
        f"not read, 2 kernels, 10.0 % of their time: {OF_GRAPH}",
        "not read, 1 kernel, 15.0 % of their time: aten::sum: no rule for it",
    ]


def test_many_reasons_are_listed_on_the_page_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    program = Program()
    for n in range(40):
        with program.call("aten::mm" if n < 10 else f"mine::op{n}", *PRODUCT):
            program.launch(30.0)
    path, page = write(tmp_path, "t.json", program.trace()), tmp_path / "page.html"
    assert main(["ingest", str(path), "--out", str(tmp_path / "o.parquet"), "--report", str(page)]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 26 and said[-1] == "and 6 reasons more, which --report lists"
    assert all(f"mine::op{n}: no rule for it" in page.read_text() for n in range(10, 40))
