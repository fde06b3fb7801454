"""Readers of what vendors' libraries measured: tiny upstream trees made here."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from upstream import put, reader, write

from predictor.errors import InvalidTable
from predictor.measurements.readers import Unread

GEMM_HEAD = ["Dense Matrix Multiplication", None, "M", "N", "K", "A Transpose", "B Transpose", None, "Time (msec)"]
CONV_HEAD = ["W", "H", "C", "N", "K ", "S (Filter width)", "R (Filter height)", "pad_w", "pad_h"]
CONV_HEAD += ["Horizontal stride", "Vertical stride", "Forward (msec)", "wrt Inputs (msec)", "Forward Algorithm"]
ALL_REDUCE_HEAD = ["All-Reduce", "Size # floats", "# chips / accelerator cards", None, "Mean All Reduce Time (msec)"]
ALL_REDUCE_HEAD += ["Gigabytes/sec", "Selected Algorithm"]


def workbook(path: Path, precision: str, **specs: str) -> None:
    sheet: list[list[Any]] = [["Precision", precision], [], GEMM_HEAD]
    sheet += [[None, "Speech", 1760, 16, 2048, "N", "T", "(a remark)", 0.05], []]
    sheet += [[None, None, 5124, 700, 2048, "N", "N", None, "#DIV/0!"]]
    sheet += [["Sparse Matrix Multiplication", None, "M", "N", "K"], [None, None, 7, 1, 7, "N", "N", None, 0.1]]
    sheet += [["Convolution"], [None, None, *CONV_HEAD]]
    sheet += [[None, "OCR", 480, 48, 1, 16, 16, 3, 3, 1, 1, 1, 1, 0.1, "N/A*", "IMPLICIT_GEMM"]]
    sheet += [[None, "Vision", 56, 56, 64, 8, 128, 3, 3, 1, 1, 2, 2, 0.1, 0.2, "ConvolutionFwdAlgoWinograd"]]
    sheet += [["* = The backward pass is excluded"], ALL_REDUCE_HEAD]
    sheet += [[None, 1000, 8, None, 0.5, 1.0, "NCCL 2.0 MPI"], [None, 1000, 16, 2, 0.9, 1.0, "OSU Allreduce"]]
    cells = [[*row, *[None] * (20 - len(row))] for row in sheet]
    path.parent.mkdir(parents=True, exist_ok=True)
    with pd.ExcelWriter(path) as book:
        pd.DataFrame(cells).to_excel(book, sheet_name="Results", header=False, index=False)
        pd.DataFrame(list(specs.items())).to_excel(book, sheet_name="Specs", header=False, index=False)


def test_deepbench_is_column_major_and_square(repo: Path, tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    workbook(tmp_path / "results/train/DeepBench_NV_1080Ti.xlsx", "Float", **{"CUDA Version": "8.0"})
    workbook(tmp_path / "results/train/DeepBench_NV_V100.xlsx", "16 bit inputs, 32 bit", **{"CUDA Version": "10.1"})
    workbook(tmp_path / "results/train/DeepBench_AMD_MI25.xlsx", "Float", **{"ROCm Version": "1.7"})
    workbook(tmp_path / "results/train/DeepBench_IA_KNL.xlsx", "Float")
    unread = Unread()
    table = reader(repo, "deepbench").read(tmp_path, unread)
    gemm, conv, network = (table[table.family == family] for family in ("gemm", "conv", "collective"))
    assert gemm[["m", "n", "k", "latency_s"]].to_numpy().tolist() == [[16, 1760, 2048, 5e-5]] * 3
    assert gemm.gpu.tolist() == ["MI25", "GTX-1080-Ti", "V100-SXM2-16GB"] and gemm.dtype.tolist()[-1] == "fp16"
    assert gemm.kernel_name.tolist() == ["rocblas_nt", "cublas_nt", "cublas_nt"]
    assert gemm.engine_version.tolist() == ["rocm 1.7", "cuda 8.0", "cuda 10.1"]
    shape = conv[["batch", "in_channels", "out_channels", "size", "kernel", "stride", "padding"]].to_numpy().tolist()
    assert shape == [[8, 64, 128, 56, 3, 2, 1]] * 3
    assert conv.kernel_name.tolist() == ["miopen_winograd", "cudnn_winograd", "cudnn_winograd"]
    assert network[["n_gpus", "message_bytes", "latency_s"]].to_numpy().tolist() == [[8, 4000, 5e-4]] * 3
    assert set(gemm.timing) == set(network.timing) == {"host"} and set(conv.timing) == {"warm"}
    assert set(network.link) == {"pcie"}
    assert unread.files.total() == 1 and unread.rows.total() == 12


@pytest.mark.parametrize(("name", "families"), [("NV_1080Ti", ["gemm", "collective"]), ("NV_T4", ["collective"])])
def test_deepbench_leaves_int8_convolutions_and_products_of_t4(
    repo: Path, tmp_path: Path, name: str, families: list[str]
) -> None:
    pytest.importorskip("openpyxl")
    workbook(tmp_path / f"results/DeepBench_{name}.xlsx", "GEMM, Conv: Int8 multiplication", **{"CUDA Version": "10.1"})
    table = reader(repo, "deepbench").read(tmp_path, Unread())
    assert table.family.tolist() == families


def tuned(path: Path, *sizes: str, device: str = "Device 73a2") -> None:
    entries = [f"{'- ' if at == 0 else '  '}- - {size}".replace("=>", "\n    -") for at, size in enumerate(sizes)]
    write(
        path, f"- {{MinimumRequiredVersion: 4.6.0}}\n- chip\n- gfx\n- [{device}]\n" + "\n".join(entries) + "\n- null\n"
    )


def test_tensile_speeds_become_times_of_warm_calls(repo: Path, tmp_path: Path) -> None:
    logic = tmp_path / "library/src/blas3/Tensile/Logic/asm_full"
    sizes = ("[1024, 256, 2, 512, 1024,\n      1024, 512, 512] => [7, 1000.0]", "[1024, 256, 2, 512] => [8, 900.5]")
    tuned(logic / "navi21_Cijk_Ailk_Bjlk_HHS_BH.yaml", *sizes, "[1, 1, 1, 1] => [7, 1.0]", "[1, 1, 1, 9] => [7, 0.0]")
    tuned(logic / "navi21_Cijk_Alik_Bljk_HHS_BH.yaml", "[1024, 256, 2, 512] => [7, 200.0]")
    tuned(logic / "navi21_Cijk_Ailk_Bjlk_HHS_BH_GB.yaml", *sizes)
    tuned(logic / "navi21_Cijk_Ailk_Bjlk_HB.yaml", *sizes)
    tuned(logic / "navi99_Cijk_Ailk_Bjlk_SB.yaml", *sizes)
    tuned(logic / "vega20/vega20_Cijk_Ailk_Bjlk_SB.yaml", "[1024, 256, 2, 512] => [7, 93.5]")
    slowed = "[512, 99, 1, 2048] => [7, 6000.0]"
    tuned(logic / "vega10/vega10_Cijk_Ailk_Bjlk_SB.yaml", slowed, "[512, 99, 1, 999] => [7, 6000.0]")
    unread = Unread()
    table = reader(repo, "tensile").read(tmp_path, unread)
    assert table[["gpu", "kernel_name"]].astype(str).to_numpy().tolist() == [
        ["RX-6900-XT", "rocblas_nt_hhs"],
        ["MI25", "rocblas_nt_sb"],
    ]
    assert table[["m", "n", "k", "batch"]].iloc[0].tolist() == [256, 1024, 512, 2]
    assert table.latency_s.iloc[0] == pytest.approx(2 * 256 * 1024 * 512 * 2 / 1000e9)
    assert set(table.timing) == {"warm"} and table.dtype.tolist() == ["fp16", "fp32"]
    assert unread.files.total() == 4 and unread.rows.total() == 5


def test_tensile_grids_hold_trials(repo: Path, tmp_path: Path) -> None:
    logic = tmp_path / "library/src/amd_detail/rocblaslt/src/Tensile/Logic/asm_full"
    sizes = ("[128, 128, 1, 128] => [7, 600.5]", "[2048, 2048, 1, 1024] => [7, 90000.0]")
    tuned(logic / "aldebaran/104CU/GridBased/aldebaran_Cijk_Ailk_Bljk_I8BH_UserArgs.yaml", *sizes)
    tuned(logic / "aquavanjaram/gfx942/GridBased/aquavanjaram_Cijk_Ailk_Bljk_I8BH_UserArgs.yaml", *sizes)
    equal = logic / "aquavanjaram/gfx942/Equality"
    tuned(equal / "aquavanjaram_Cijk_Alik_Bljk_BBS_BH_Bias_UserArgs.yaml", *sizes, device="Device 0049, Device 0050")
    tuned(equal / "aquavanjaram_Cijk_Ailk_Bljk_BBS_BH_Bias_UserArgs.yaml", *sizes, device="Device 0049")
    tuned(equal / "aquavanjaram_Cijk_Ailk_Bljk_BBS_BH_Bias_Grad_UserArgs.yaml", *sizes)
    unread = Unread()
    table = reader(repo, "tensile").read(tmp_path, unread)
    assert table[["gpu", "dtype", "m", "kernel_name"]].astype(object).to_numpy().tolist() == [
        ["MI210", "int8", 2048, "hipblaslt_nn_i8bh"],
        ["MI300X", "bf16", 128, "hipblaslt_tn_bbs"],
        ["MI300X", "bf16", 2048, "hipblaslt_tn_bbs"],
    ]
    assert unread.files.total() == 2 and unread.rows.total() == 3


PERMUTE = 'instruction { opcode: "collective-permute" shape { element_type: BF16 dimensions: 512 } '
PERMUTE += "source_target_pairs { %s } source_target_pairs { %s } } network_throughput_bytes_per_sec: 1024000000"
GROUP = "iota_collective_device_list { num_replica_groups: 2 num_devices_per_group: 4 }"


def xla_collective(opcode: str, dimensions: str, rate: int = 1_000_000_000) -> str:
    shape = f"shape {{ element_type: F32 {dimensions} layout {{ minor_to_major: 0 }} }}"
    instruction = f'instruction {{ name: "_" opcode: "{opcode}" {shape} dimensions: 0 {GROUP} }}'
    return f"{instruction} network_throughput_bytes_per_sec: {rate}"


def test_xla_rates_become_times(repo: Path, tmp_path: Path) -> None:
    tables = tmp_path / "xla/service/gpu/model"
    flops = 'flops { key: "bf16xbf16->bf16" value: 1000000000 } flops { key: "f32xf32->f32" value: 500000000 }'
    product = f"value {{ entries {{ b: 2 m: 256 n: 512 k: 1024 {flops} }} }}"
    chips = "\n".join(f'entries {{ key: "{chip}"  # of a kind\n {product} }}' for chip in ("sm_90", "gfx942", "sm_1"))
    write(tables / "default_matmul_perf_table.txtpb", f"# proto-message: x\n\n{chips}\n")
    calls = [
        xla_collective("all-reduce", "dimensions: 1000"),
        xla_collective("reduce-scatter", "dimensions: 1000"),
        xla_collective("all-gather", "dimensions: 10 dimensions: 100"),
        PERMUTE % ("target: 4", "source: 1 target: 5"),
        PERMUTE % ("target: 4", "source: 1 target: 5"),
        PERMUTE % ("target: 1", "source: 1"),
    ]
    entries = "\n".join(f"entries {{ {call} }}" for call in calls)
    write(tables / "default_collective_perf_table.txtpb", f'entries {{ key: "gfx950" value {{ {entries} }} }}')
    unread = Unread()
    table = reader(repo, "xla").read(tmp_path, unread)
    gemm = table[table.family == "gemm"]
    assert gemm[["gpu", "dtype", "timing"]].astype(str).to_numpy().tolist() == [
        ["H100-SXM-80GB", "bf16", "device"],
        ["H100-SXM-80GB", "tf32", "device"],
        ["MI300X", "bf16", "device"],
    ]
    assert gemm.latency_s.iloc[0] == pytest.approx(2 * 2 * 256 * 512 * 1024 / 1e9)
    network = table[table.family == "collective"].sort_values("message_bytes")
    assert network[["kind", "n_gpus", "message_bytes", "latency_s"]].astype(object).to_numpy().tolist() == [
        ["all_reduce", 4, 4000, 4e-6],
        ["all_gather", 4, 4000, 4e-6],
        ["reduce_scatter", 4, 16000, 1.6e-5],
    ]
    assert unread.rows["a collective that is the first of its series"] == 2  # sends of 1 KiB
    assert unread.files.total() == 1 and unread.rows.total() == 4


def test_xla_table_that_breaks_off_is_an_error(repo: Path, tmp_path: Path) -> None:
    tables = tmp_path / "xla/service/gpu/model"
    for text in ("entries { key: 1", "entries { key: }", "entries }"):
        write(tables / "default_matmul_perf_table.txtpb", text)
        with pytest.raises(InvalidTable, match="breaks off at character"):
            reader(repo, "xla").read(tmp_path, Unread())


def test_pipeweave_takes_the_least_of_repeats(repo: Path, tmp_path: Path) -> None:
    sizes = {
        "num_workers": [2, 4, 4, 16],
        "devices_per_node": [2, 4, 4, 8],
        "size": [2**20, 2**20, 2**20 + 1024, 2**20],
    }
    times = {"time_stats.all_reduce.min": [0.01] * 4, "time_stats.all_reduce.median": 0.05}
    for name in ("H100", "A100", "RTX 6000 Ada", "Unobtanium"):
        put(tmp_path / f"dataset/collective/{name}/all_reduce.csv", **sizes, **times)
    product = {"M": [8, 8], "N": 512, "K": 1024, "avg_duration": 5.0, "hardware": ["NVIDIA H20", "NVIDIA ?"]}
    put(tmp_path / "dataset/gemm_fp8_train.csv", **product)
    unread = Unread()
    table = reader(repo, "pipeweave").read(tmp_path, unread)
    network = table[table.family == "collective"]
    assert network[["gpu", "n_gpus", "link"]].astype(object).to_numpy().tolist() == [
        ["A100-SXM-80GB", 2, "gpu"],
        ["A100-SXM-80GB", 4, "gpu"],
        ["H100-SXM-80GB", 4, "gpu"],
        ["RTX-6000-Ada", 2, "host"],
        ["RTX-6000-Ada", 4, "host"],
    ]
    assert set(network.latency_s) == {1e-5} and set(table.timing) == {"device"}
    gemm = table[table.family == "gemm"]
    assert gemm[["m", "n", "k", "latency_s"]].to_numpy().tolist() == [[8, 512, 1024, pytest.approx(5e-6)]]
    assert unread.files.total() == 2 and unread.rows.total() == 8
