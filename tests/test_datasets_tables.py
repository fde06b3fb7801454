"""Readers of databases, pages and logs that people keep: tiny upstream files made here."""

import bz2
from pathlib import Path

import pytest
from upstream import reader

from predictor.measurements.checks import REJECTED, check
from predictor.measurements.readers import Unread


def miopen(root: Path, name: str, *lines: str) -> None:
    path = root / "src" / "kernels" / f"{name}.fdb.txt.bz2"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bz2.compress("\n".join(lines).encode()))


def test_miopen_takes_the_fastest_solver_of_a_forward_problem(repo: Path, tmp_path: Path) -> None:
    square = "64-56-56-3x3-128-56-56-16-1x1-1x1-1x1-0"
    old = "miopenConvolutionFwdAlgoDirect:Slow,0.4,0,miopenConvolutionFwdAlgoDirect,not used"
    old += ";miopenConvolutionFwdAlgoWinograd:Fast<2-3>,0.2,0,miopenConvolutionFwdAlgoWinograd,<unused>"
    new = "ConvDirectNaiveConvFwd:0.05,0,miopenConvolutionFwdAlgoDirect;Gemm:0.3,9,miopenConvolutionFwdAlgoGEMM"
    dilated = square.replace("-1x1-1x1-1x1-", "-2x2-1x1-2x2-")
    miopen(
        tmp_path,
        "gfx90a68.HIP",
        f"{square}-NCHW-FP16-F={old}",
        f"{square}-NHWC-FP32-F_g4={new}",
        f"{square}-NCHW-FP32-B={new}",
        f"{dilated}-NCHW-FP32-F={new}",
        f"{square.replace('3x3', '3x1')}-NCHW-FP32-F={new}",
        f"1-{square.replace('1x1', '1x1x1')}-NCDHW-FP32-F={new}",
        f"{square}-NCHW-BF16-F={new.partition(';')[0]}",
        f"{square}-NCHW-BF16-F={new.replace('0.3', '3000')}",
    )
    miopen(tmp_path, "gfx90878.OpenCL", f"{square}-NCHW-FP16-F={old}")
    unread = Unread()
    table = reader(repo, "miopen").read(tmp_path, unread)
    assert table.kernel_name.tolist() == ["winograd:Fast<2-3>", "gemm:Gemm:nhwc"]
    assert table.latency_s.tolist() == pytest.approx([0.0002, 0.0003]) and table.timing.tolist() == ["warm", "warm"]
    shape = ["batch", "in_channels", "out_channels", "size", "kernel", "stride", "padding", "groups"]
    assert table[shape].to_numpy().tolist() == [[16, 64, 128, 56, 3, 1, 1, 1], [16, 64, 128, 56, 3, 1, 1, 4]]
    assert unread.rows.total() == 6 and unread.files.total() == 1


def test_miopen_leaves_out_what_a_rising_clock_timed(repo: Path, tmp_path: Path) -> None:
    solved = "=Gemm:30.0,9,miopenConvolutionFwdAlgoGEMM"
    for batch in (2, 512):
        miopen(tmp_path, "gfx1030_36.HIP", f"256-56-56-3x3-256-56-56-{batch}-1x1-1x1-1x1-0-NCHW-FP32-F{solved}")
        unread = Unread()
        assert len(reader(repo, "miopen").read(tmp_path, unread)) == (batch == 512)


MLX = """# Page
**M3 (4E+4P+10GPU+16GB)**  - mlx 0.30.1

| Operation | mlx_gpu | mlx_gpu_compile | cpu | mps | mlx_gpu/mps speedup |
|-----------|---------|-----------------|-----|-----|---------------------|
| SumAll / dim=1000 | 0.20 | 0.20 | 0.01 | 0.30 | +1% |
| MatMul / dim=1000x64x256 dim=256x32 | 2.00 | 1.00 | 9.00 | 0.55 | +1% |
| MatMul / dim=32x8x1000 dim=32x1000x128 | 3.00 | 1.00 | 9.00 | nan | +1% |
| Conv2d / dim=10x256x256x12 dim=8x3x3x12 | 4.00 | 1.00 | 9.00 | 4.00 | +1% |
| Softmax / dim=64x16x32 axi=-1 | 5.00 | 1.00 | 9.00 | 5.00 | +1% |
| Concat / dim=10x64 dim=10x32 axi=1 | 6.00 | 1.00 | 9.00 | 6.00 | +1% |
| ScaledDotProductAttention / dim=4x8x16x64 dim=4x8x32x64 dim=4x8x32x64 | 7.00 | 1.0 | 9.00 | 7.00 | +1% |

**M2 Pro (cores: 4E+6P+1GPU)** mlx 0.12.2

| Operation | mlx_gpu |
|---|---|
| ReLU / dim=64x128x1024 | 1.00 |

A100 80GB 80GB PCIe ((Server) / a CPU, 754GB)

| Operation | cpu | cuda | cuda/cpu speedup |
|---|---|---|---|
| Conv2d / dim=10x256x256x12 dim=8x3x3x12 | 4.00 | 0.50 | +1% |
| ReLU / dim=64x128x1024 | 1.00 | 0.05 | +1% |
| ReLU / dim=64x128x2048 | 1.00 | 0.09 | +1% |
"""


def test_mlx_benchmark_reads_gpu_columns_above_their_floor(repo: Path, tmp_path: Path) -> None:
    page = tmp_path / "benchmarks" / "detailed_benchmark.md"
    page.parent.mkdir()
    page.write_text(MLX)
    unread = Unread()
    table = reader(repo, "mlx_benchmark").read(tmp_path, unread)
    apple, nvidia = table[table.gpu == "Apple-M3"], table[table.gpu != "Apple-M3"]
    mlx = apple[apple.engine == "mlx"]
    assert mlx.family.tolist() == ["gemm", "gemm", "conv", "pointwise", "pointwise", "attention"]
    assert mlx.latency_s.tolist() == pytest.approx([0.002, 0.003, 0.004, 0.005, 0.006, 0.007])
    gemm = mlx[mlx.family == "gemm"]
    assert gemm[["batch", "m", "n", "k"]].to_numpy().tolist() == [[1, 64000, 32, 256], [32, 8, 128, 1000]]
    assert mlx[["rows", "cols"]].dropna().to_numpy().tolist() == [[1024, 32], [10, 96]]
    assert apple.engine_version.unique().tolist() == ["0.30.1", "beside mlx 0.30.1"]
    assert apple[apple.engine == "torch"].family.tolist() == ["conv", "pointwise", "pointwise", "attention"]
    assert (table.timing == "host").all()
    assert nvidia.gpu.tolist() == ["A100-PCIe-80GB"] and nvidia.dtype.tolist() == ["tf32"]
    assert any("Apple-M2-Pro-1-core" in line for line in unread.lines())


def test_mlx_benchmark_leaves_out_convolutions_of_old_libraries(repo: Path, tmp_path: Path) -> None:
    page = tmp_path / "benchmarks" / "detailed_benchmark.md"
    page.parent.mkdir()
    for versions, kept in (("- mlx 0.30.1", True), ("- mlx 0.2.0", False), ("", False)):
        page.write_text(MLX.replace("- mlx 0.30.1", versions))
        table = reader(repo, "mlx_benchmark").read(tmp_path, Unread())
        assert ("conv" in set(table[table.gpu == "Apple-M3"].family)) == kept, versions


def nccl_log(kind: str, ranks: list[str], *rows: str) -> str:
    head = "# nccl-tests version 2.17.8 nccl-headers=22902 nccl-library=22902\n"
    head += f"# Collective test starting: {kind}_perf\n# Using devices\n"
    for rank, node in enumerate(ranks):
        head += f"#  Rank {rank:2d} Group  0 Pid 99 on {node} device  0 [0000:1b:00] NVIDIA H100 80GB HBM3\n"
    return head + "\n".join(rows) + "\n# Out of bounds values : 0 OK\n"


def test_nccl_logs_say_which_link_a_group_uses(repo: Path, tmp_path: Path) -> None:
    rows = [
        f"  {size}  {size // 8}  double  sum  -1  {outside}  40.0  40.0  0  {inside}  39.4  39.4  N/A"
        for size, outside, inside in ((2**25, "800.00", "820.00"), (2**26, "1600.0", "1600"))
    ]
    folder = tmp_path / "benchmarks" / "a"
    folder.mkdir(parents=True)
    logs = [nccl_log("all_reduce", ["n1", "n2"], *rows), nccl_log("alltoall", ["n1", "n1"], *rows)]
    (folder / "a.log").write_text("\n".join(logs))
    (folder / "b.log").write_text(nccl_log("all_reduce", ["n1", "n1", "n2", "n2"], *rows))
    (folder / "summary.csv").write_text("file,test\n")
    unread = Unread()
    table = reader(repo, "nccl_tests_cluster").read(tmp_path, unread)
    told = table[["kind", "link", "n_gpus", "message_bytes", "latency_s"]].sort_values(["kind", "message_bytes"])
    assert told.to_numpy().tolist() == [
        ["all_reduce", "network", 2.0, 2.0**25, pytest.approx(8.1e-4)],
        ["all_reduce", "network", 2.0, 2.0**26, pytest.approx(1.6e-3)],
        ["all_to_all", "gpu", 2.0, 2.0**25, pytest.approx(8.1e-4)],
        ["all_to_all", "gpu", 2.0, 2.0**26, pytest.approx(1.6e-3)],
    ]
    assert table.engine_version.unique().tolist() == ["2.29.2"]
    assert unread.rows["several GPUs on each of several nodes"] == 4 and unread.files.total() == 1


def test_gpu_benches_takes_the_best_block_size(repo: Path, tmp_path: Path) -> None:
    stream, small = tmp_path / "gpu-stream", tmp_path / "gpu-small-kernels"
    for folder in (stream, small, tmp_path / "gpu-cache"):
        folder.mkdir()
    head = (
        "blockSize   threads       %occ  |                init       read       scale     triad       3pt        5pt\n"
    )
    lines = [
        f"   {size}   99    3 %  |  GB/s:   1   2   {scale}   {triad}   5   6"
        for size, scale, triad in ((32, 800, 700), (64, 400, 900))
    ]
    (stream / "v100.txt").write_text(head + "\n".join(lines))
    (small / "l40_graph.txt").write_text("\n8192  0kB     16     64     32\n81920  1280kB  160  160  640\n")
    (small / "l40_pt.txt").write_text("8192  0kB     99     99     99\n")
    (tmp_path / "gpu-cache" / "l40.txt").write_text("x")
    unread = Unread()
    table = reader(repo, "gpu_benches").read(tmp_path, unread)
    assert table.kind.tolist() == ["copy", "copy", "copy", "add"]
    assert table.gpu.tolist() == ["L40", "L40", "V100-PCIe-16GB", "V100-PCIe-16GB"]
    moved = 2.0**27 * 8
    assert table.latency_s.tolist() == pytest.approx([2048e-9, 2048e-9, 2 * moved / 800e9, 3 * moved / 900e9])
    assert (table.rows * table.cols).tolist()[:2] == [16384, 163840] and unread.files.total() == 2


@pytest.mark.data
@pytest.mark.parametrize(
    ("source", "families"),
    [
        ("miopen", {"conv"}),
        ("mlx_benchmark", {"gemm", "conv", "attention", "pointwise"}),
        ("nccl_tests_cluster", {"collective"}),
        ("gpu_benches", {"pointwise"}),
    ],
)
def test_hardly_a_measured_call_beats_the_bound(source: str, families: set[str], repo: Path, data_root: Path) -> None:
    checked = check(reader(repo, source).read(data_root / source.replace("_", "-"), Unread()))
    assert set(checked.family.unique()) == families and set(checked.source.unique()) == {source}
    assert (checked.status == REJECTED).mean() < 1e-4


@pytest.mark.data
def test_a_card_between_nodes_is_nearly_reached(repo: Path, data_root: Path) -> None:
    table = reader(repo, "nccl_tests_cluster").read(data_root / "nccl-tests-cluster", Unread())
    ring = table[(table.link == "network") & (table.kind == "all_gather") & (table.message_bytes > 1e9)]
    reached = 0.9 * ring.message_bytes / ring.latency_s
    assert len(ring) >= 4 and reached.between(45e9, 50e9).all()
