"""Traces become operator calls: time goes to the innermost operator with a rule, what has no shapes is counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from tool_files import GPU_TRACE, RANGES, TRACE, call, kernel, read_one, write

from predictor.errors import InvalidTable
from predictor.measurements.ingest import ingest


def test_a_trace_gives_device_time_to_the_innermost_operator(tmp_path: Path):
    path = tmp_path / "trace.json.gz"
    path.write_bytes(gzip.compress(json.dumps(TRACE).encode()))
    table, unread = read_one(path)
    product, addition = table.to_dict("records")
    assert [product[name] for name in ("family", "m", "n", "k", "dtype", "timing")] == [
        "gemm",
        16,
        4096,
        4096,
        "bf16",
        "device",
    ]
    assert product["latency_s"] == pytest.approx(17e-6)  # the median of 16 and 18, each once though three calls nest
    assert [addition["kind"], addition["rows"] * addition["cols"]] == ["add", pytest.approx(2 / 3 * 4096**2, rel=1e-3)]
    assert unread.rows == {
        "aten::sum: no rule for it": 1,
        "a kernel that no operator launched (CUDA graphs?)": 1,
        "a copy between memories, not within the GPU's": 1,
    }


def test_a_trace_without_shapes_says_so(tmp_path: Path):
    bare = {"traceEvents": [call("aten::mm", 1, 0, 9, [], []), kernel("k", 1, 5.0)]}
    table, unread = read_one(write(tmp_path, "t.json", bare), columns={"gpu": "H100"})
    assert table.empty and unread.rows == {"aten::mm: no shapes; record with record_shapes=True": 1}


def test_a_real_trace_of_a_cpu(tmp_path: Path):
    torch = pytest.importorskip("torch")
    from torch.profiler import ProfilerActivity, profile

    x, weight = torch.randn(64, 256), torch.randn(512, 256)
    image, filters = torch.randn(2, 3, 32, 32), torch.randn(16, 3, 3, 3)
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        for _ in range(3):
            torch.nn.functional.linear(x, weight)
            torch.nn.functional.conv2d(image, filters, padding=1)
            torch.softmax(x, -1)
            torch.nn.functional.layer_norm(x, (256,))
            torch.nn.functional.scaled_dot_product_attention(*[image[:, :2]] * 3, is_causal=True)
    recorded.export_chrome_trace(str(tmp_path / "trace.json"))
    table, _ = read_one(tmp_path / "trace.json", columns={"gpu": "Tesla T4"})
    rows = table.set_index("kind").fillna(0)
    assert (
        rows.loc["softmax", ["rows", "cols"]].tolist() == rows.loc["layer_norm", ["rows", "cols"]].tolist() == [64, 256]
    )
    rows = table.set_index("family")
    assert rows.loc["gemm", ["m", "n", "k"]].tolist() == [64, 512, 256]
    assert rows.loc["conv", ["batch", "size", "kernel", "padding", "out_channels"]].tolist() == [2, 32, 3, 1, 16]
    assert rows.loc["attention", ["batch", "heads", "q_len", "causal"]].tolist() == [2, 2, 32, 1]
    assert set(table["timing"]) == {"host"} and not table.duplicated().any()


def test_nvtx_ranges_are_calls_and_kernels_are_counted(tmp_path: Path):
    path = write(tmp_path, "ranges.csv", RANGES)
    with pytest.raises(InvalidTable) as error:
        ingest([path])
    assert str(error.value) == "NVTX ranges tell no number format; add --set dtype=bf16, or that of the run."
    table, unread = read_one(path, columns={"gpu": "H100", "dtype": "bf16"})
    assert table[["m", "n", "k", "latency_s"]].to_numpy().tolist() == [[16, 4096, 4096, pytest.approx(16e-6)]]
    assert unread.rows == {"aten::_softmax: dim is not recorded; use torch.profiler with record_shapes=True": 1}


def test_copies_of_nsight_have_bytes_and_kernels_none(tmp_path: Path):
    table, unread = read_one(write(tmp_path, "trace.csv", GPU_TRACE))
    assert table[["kind", "gpu", "latency_s"]].iloc[0].tolist() == ["copy", "NVIDIA H100 80GB HBM3", 60e-6]
    assert table["rows"][0] * table["cols"][0] * 2 == pytest.approx(67.109e6, rel=1e-3)
    assert sorted(reason.partition(":")[0] for reason in unread.rows) == ["CUDA memcpy Host-to-Device", "gemm kernels"]
