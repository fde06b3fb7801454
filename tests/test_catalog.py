"""Laws and golden numbers of predictor/catalog/gpus.toml."""

import tomllib
from collections import Counter
from importlib import resources
from itertools import pairwise

import pytest

from predictor.hardware.gpu import catalogue, get_gpu, gpu_from_spec, normalise, resolve_gpu
from predictor.hardware.siblings import CARD_CLASSES, card_class
from predictor.hardware.spec import SEGMENTS, SPEC_KEYS
from predictor.units import GB, GIB, MHZ, MIB, TB, TFLOP

SPECS = tomllib.loads(resources.files("predictor").joinpath("catalog", "gpus.toml").read_text(encoding="utf-8"))
ONLY_CATALOGUE = ("default_for", "also_called", "mig")

ALIASES = {
    # aiconfigurator systems
    "a100_sxm": "A100-SXM-80GB",
    "a100_pcie": "A100-PCIe-80GB",
    "a30": "A30",
    "l4": "L4",
    "l40s": "L40S",
    "h100_sxm": "H100-SXM-80GB",
    "h100_pcie": "H100-PCIe-80GB",
    "h200_sxm": "H200-SXM-141GB",
    "b200_sxm": "B200-SXM-180GB",
    "b300_sxm": "B300-SXM-288GB",
    "gb200": "GB200",
    "gb300": "GB300",
    "rtx_pro_6000_server": "RTX-PRO-6000-Server",
    "b60": "Arc-Pro-B60",
    # torch.cuda.get_device_name and ROCm, SYCL equivalents
    "NVIDIA A100-SXM4-80GB": "A100-SXM-80GB",
    "NVIDIA A100-SXM4-40GB": "A100-SXM-40GB",
    "NVIDIA H100 PCIe": "H100-PCIe-80GB",
    "NVIDIA H100 80GB HBM3": "H100-SXM-80GB",
    "NVIDIA H100 NVL": "H100-NVL-94GB",
    "NVIDIA H200": "H200-SXM-141GB",
    "NVIDIA B200": "B200-SXM-180GB",
    "NVIDIA L40S": "L40S",
    "NVIDIA L4": "L4",
    "NVIDIA A10G": "A10G",
    "NVIDIA GB200": "GB200",
    "NVIDIA B300 SXM6 AC": "B300-SXM-288GB",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTX-PRO-6000-Server",
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": "RTX-PRO-6000-Workstation",
    "NVIDIA H20": "H20-96GB",
    "NVIDIA GeForce RTX 4090": "RTX-4090",
    "NVIDIA GeForce RTX 3090": "RTX-3090",
    "NVIDIA GH200 480GB": "GH200-96GB",
    "NVIDIA RTX A6000": "RTX-A6000",
    "NVIDIA RTX 6000 Ada Generation": "RTX-6000-Ada",
    "NVIDIA GB10": "DGX-Spark",
    "AMD Instinct MI300X": "MI300X",
    "Intel Arc Pro B60": "Arc-Pro-B60",
    "Tesla V100-SXM2-32GB": "V100-SXM2-32GB",
    # NeuSight files
    "Tesla P4": "Tesla-P4",
    "Tesla P100-PCIE-16GB": "P100-PCIe-16GB",
    "Tesla V100-PCIE-32GB": "V100-PCIe-32GB",
    "Tesla T4": "Tesla-T4",
    "Tesla_T4": "Tesla-T4",
    "NVIDIA A100-PCIE-40GB": "A100-PCIe-40GB",
    "NVIDIA_A100-PCIE-40GB": "A100-PCIe-40GB",
    "NVIDIA A100 80GB PCIe": "A100-PCIe-80GB",
    "AMD Instinct MI100": "MI100",
    "AMD Instinct MI210": "MI210",
    "AMD_Instinct_MI210": "MI210",
    "AMD Instinct MI250": "MI250-GCD",
    # Vidur, LLMServingSim, truth tables
    "a40": "A40",
    "a100": "A100-SXM-80GB",
    "h100": "H100-SXM-80GB",
    "RTX4090": "RTX-4090",
    "RTX3090": "RTX-3090",
    "A6000": "RTX-A6000",
    "RTXPRO6000": "RTX-PRO-6000-Server",
    "a100_80gb": "A100-SXM-80GB",
    "a100_40gb": "A100-SXM-40GB",
    "A100-80GB": "A100-SXM-80GB",
    "A100-SXM4-80G": "A100-SXM-80GB",
    "H20-96GB": "H20-96GB",
    # people
    "H100": "H100-SXM-80GB",
    "A100": "A100-SXM-80GB",
    "MI300X": "MI300X",
    "RTX 4090": "RTX-4090",
    "4090": "RTX-4090",
    "V100": "V100-SXM2-32GB",
    "T4": "Tesla-T4",
    "B200": "B200-SXM-180GB",
    "H200": "H200-SXM-141GB",
    "M4 Max": "Apple-M4-Max",
    "P100": "P100-PCIe-16GB",
    "RTX 3080": "RTX-3080-10GB",
    "GH200": "GH200-96GB",
    "Gaudi3": "Gaudi3",
    "NVIDIA GeForce RTX 4090 Laptop GPU": "RTX-4090-Laptop",
    "RTX 3080 Laptop": "RTX-3080-Laptop",
    "GTX 1080 Ti": "GTX-1080-Ti",
    "Radeon RX 7900 XTX": "RX-7900-XTX",
    "Radeon RX 6800 XT": "RX-6800-XT",
    "RTX 5060 Ti": "RTX-5060-Ti-16GB",
    "RTX A2000 12GB": "RTX-A2000-12GB",
    "Tesla P100 PCIe 16GB": "P100-PCIe-16GB",
    "Apple M1 Pro (16 GPU cores)": "Apple-M1-Pro",
    "Apple M3 Max 30-core GPU": "Apple-M3-Max-30",
    "Apple M4 Max (40 GPU cores)": "Apple-M4-Max",
    "TITAN X (Pascal)": "Titan-X-Pascal",
    "Quadro RTX 8000": "Quadro-RTX-8000",
    "NVIDIA RTX 2000 Ada Generation": "RTX-2000-Ada",
    "AMD Radeon 890M Graphics": "Radeon-890M",
    "Intel(R) Arc(TM) B570 Graphics": "Arc-B570",
    "Jetson Orin Nano Super": "Jetson-Orin-Nano-Super",
}


CLASSES = {
    "H100": "NVIDIA data-centre",
    "T4": "NVIDIA data-centre",
    "RTX PRO 6000": "NVIDIA data-centre",
    "RTX 4090 Laptop GPU": "NVIDIA consumer and workstation",
    "RTX A6000": "NVIDIA consumer and workstation",
    "DGX Spark": "NVIDIA consumer and workstation",
    "V100": "NVIDIA old",
    "M40": "NVIDIA old",
    "1080 Ti": "NVIDIA old",
    "MI25": "AMD CDNA",
    "MI300X": "AMD CDNA",
    "Radeon VII": "AMD RDNA",
    "Strix Halo": "AMD RDNA",
    "M1": "Apple",
    "Gaudi3": "Intel",
}


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_every_known_alias_resolves(alias, name):
    assert get_gpu(alias).name == name


def test_no_alias_points_at_two_gpus():
    owners = Counter(alias for name, gpu in catalogue().items() for alias in {*map(normalise, (name, *gpu.aliases))})
    assert [alias for alias, count in owners.items() if count > 1] == []


def test_shared_short_names_have_one_default_and_say_so():
    defaults = {short for spec in SPECS.values() for short in spec.get("default_for", ())}
    shared = {short for spec in SPECS.values() for short in spec.get("also_called", ())}
    assert shared <= defaults
    assert all(resolve_gpu(short)[1] for short in defaults)


def test_catalogue_is_large():
    assert len(catalogue()) >= 220
    assert {gpu.vendor for gpu in catalogue().values()} == {"NVIDIA", "AMD", "Intel", "Apple"}


@pytest.mark.parametrize("name", SPECS)
def test_every_entry_is_a_valid_spec_with_a_source(name):
    spec = {key: value for key, value in SPECS[name].items() if key not in ONLY_CATALOGUE}
    assert set(spec) <= set(SPEC_KEYS)
    gpu = gpu_from_spec({"name": name, **spec})
    known = get_gpu(name)
    assert gpu.peak_flop_per_s == known.peak_flop_per_s
    assert gpu.mem_bytes == known.mem_bytes
    assert len(known.source) > 3


@pytest.mark.parametrize("gpu", catalogue().values(), ids=list(catalogue()))
def test_physical_laws(gpu):
    assert 2014 <= gpu.release_year <= 2026
    assert gpu.clock_hz <= gpu.boost_clock_hz <= gpu.max_clock_hz
    assert gpu.llc_bytes >= gpu.l2_bytes
    assert gpu.mem_bytes <= SPECS[gpu.name]["mem_gib"] * GIB  # what is usable is no more than the capacity
    assert gpu.mem_bytes > 0.9 * gpu.unified_share * SPECS[gpu.name]["mem_gib"] * GIB
    assert gpu.unified_memory or gpu.unified_share == 1
    assert "fp8" not in gpu.peak_flop_per_s or gpu.compute_capability not in {
        "5.2",
        "6.0",
        "6.1",
        "7.0",
        "7.5",
        "8.0",
        "8.6",
        "8.7",
    }
    assert "bf16" not in gpu.peak_flop_per_s or gpu.compute_capability not in {"6.0", "6.1", "7.0", "7.2", "7.5"}
    assert gpu.emulated_dtypes.isdisjoint(gpu.peak_flop_per_s)
    assert gpu.derived_dtypes <= set(gpu.peak_flop_per_s)
    order = [gpu.peak_flop_per_s.get(dtype, 0) for dtype in ("bf16", "fp8", "fp4")]
    assert all(fast >= slow for slow, fast in pairwise(order) if fast)
    if gpu.vendor == "NVIDIA" and gpu.pcie_bytes_per_s:
        assert gpu.link_bytes_per_s >= gpu.pcie_bytes_per_s


def test_siblings_share_a_generation():
    assert get_gpu("H100").generation == get_gpu("H200").generation == get_gpu("GH200").generation == "Hopper"
    assert {get_gpu(name).generation for name in ("B200", "B300", "GB200", "GB300", "RTX 5090")} == {"Blackwell"}


# TFLOP/s dense, TB/s; NVIDIA and AMD data sheets, sparse figures halved.
@pytest.mark.parametrize(
    ("name", "dtype", "tflops", "tb_per_s"),
    [
        ("H100-SXM-80GB", "bf16", 989.4, 3.35),
        ("H100-PCIe-80GB", "bf16", 756.5, 2.039),
        ("H200", "fp8", 1978.9, 4.8),
        ("L40S", "fp8", 733, 0.864),
        ("L40S", "bf16", 362.05, 0.864),
        ("A100-SXM-80GB", "bf16", 311.9, 2.039),
        ("A100-SXM-40GB", "tf32", 155.9, 1.555),
        ("B200", "bf16", 2250, 7.672),
        ("B200", "fp4", 9000, 7.672),
        ("RTX-4090", "bf16", 165.2, 1.008),
        ("V100-SXM2-32GB", "fp16", 125.3, 0.9),
        ("Tesla-T4", "fp16", 65.1, 0.32),
        ("MI300X", "bf16", 1307.4, 5.3),
        ("MI300X", "fp8", 2614.9, 5.3),
        ("A10G", "bf16", 70, 0.6),
        ("L4", "bf16", 121.2, 0.3),
        ("MI250-GCD", "bf16", 181, 1.6384),
        ("H20", "bf16", 148, 4.0),
    ],
)
def test_golden_rates_are_dense(name, dtype, tflops, tb_per_s):
    gpu = get_gpu(name)
    assert gpu.peak(dtype) == pytest.approx(tflops * TFLOP)
    assert gpu.mem_bytes_per_s == pytest.approx(tb_per_s * TB)


def test_golden_clocks_links_and_memory():
    h100 = get_gpu("H100")
    assert h100.clock_hz == pytest.approx(989.4e12 / (132 * 4096), rel=1e-3)  # 1830 MHz, not the boost
    assert h100.boost_clock_hz == 1980 * MHZ
    assert h100.mem_bytes == 81559 * MIB  # nvidia-smi
    # NVLink totals of the data sheets, halved: 900, 600, 300, 1800 GB/s; PCIe 4.0 x16 where there is none
    links = {name: get_gpu(name).link_bytes_per_s / GB for name in ("H100", "A100", "V100", "B200", "L40S", "RTX-4060")}
    assert links == {"H100": 450, "A100": 300, "V100": 150, "B200": 900, "L40S": 31.5, "RTX-4060": 15.75}
    mi300x = get_gpu("MI300X")
    assert (mi300x.l2_bytes, mi300x.llc_bytes) == (32 * MIB, 256 * MIB)


def test_unpublished_rates_are_absent():
    assert "fp16" not in get_gpu("Tesla-P40").peak_flop_per_s  # 1/64 of fp32
    assert get_gpu("M4 Max").tdp_w == 0.0  # not published


def test_a_rate_that_nobody_publishes_follows_from_the_others():
    """NVIDIA states 1 PFLOP/s of sparse fp4 for GB10, and 2 for Thor; each wider format halves it."""
    spark, thor = get_gpu("DGX-Spark"), get_gpu("Jetson-AGX-Thor")
    assert spark.derived_dtypes == {"tf32", "fp16", "bf16", "fp8", "int8"}
    assert [spark.peak(dtype) / TFLOP for dtype in ("fp4", "fp8", "bf16", "fp16")] == [500, 250, 125, 125]
    assert thor.derived_dtypes == {"tf32", "fp16", "bf16"}
    assert thor.peak("bf16") == thor.peak("fp8") / 2
    assert get_gpu("V100").derived_dtypes == {"int8"}  # dp4a: four times fp32
    assert get_gpu("V100").peak("int8") == pytest.approx(4 * get_gpu("V100").peak("fp32"), rel=0.01)
    assert not {name for name in ("H100", "A100", "L40S", "RTX 4090", "B200", "MI300X") if get_gpu(name).derived_dtypes}
    stated = get_gpu("DGX Spark, peak_tflops.bf16=100")
    assert stated.peak("bf16") == 100 * TFLOP and "bf16" not in stated.derived_dtypes
    assert stated.peak("fp8") == 200 * TFLOP


def test_usable_memory_is_what_nvidia_smi_says():
    told = {name: get_gpu(name).mem_bytes / MIB for name in ("A10G", "A40", "L20", "L4", "T4", "RTX 4090", "RTX 5090")}
    assert told == {
        "A10G": 23028,
        "A40": 46068,
        "L20": 46068,
        "L4": 23034,
        "T4": 15360,
        "RTX 4090": 24564,
        "RTX 5090": 32607,
    }


def test_unified_memory_is_what_the_system_lends():
    assert get_gpu("M4 Max").mem_bytes == 0.75 * 128 * GIB
    assert get_gpu("M2").mem_bytes == pytest.approx(2 / 3 * 24 * GIB, rel=1e-3)
    assert get_gpu("Strix Halo").mem_bytes == 64 * GIB
    assert get_gpu("DGX Spark").mem_bytes / GIB == pytest.approx(119.7, abs=0.01)
    assert get_gpu("M4 Max, mem_gib=64, unified_share=0.9").mem_bytes == pytest.approx(0.9 * 64 * GIB)


@pytest.mark.parametrize("gpu", catalogue().values(), ids=list(catalogue()))
def test_every_board_says_what_it_is(gpu):
    assert gpu.segment in SEGMENTS
    assert card_class(gpu) in CARD_CLASSES
    assert bool(gpu.pcie_generation) == bool(gpu.pcie_lanes) == bool(gpu.pcie_bytes_per_s)
    if gpu.pcie_lanes:
        gb_per_lane = {3: 0.985, 4: 1.97, 5: 3.94, 6: 7.56}[gpu.pcie_generation]
        assert gpu.pcie_bytes_per_s == pytest.approx(gb_per_lane * gpu.pcie_lanes * GB, rel=0.01)
    if gpu.segment == "laptop" and gpu.vendor == "NVIDIA":
        assert gpu.power_range_w and not gpu.peer_to_peer
    if gpu.fp16_accumulate_flop_per_s:
        assert gpu.fp16_accumulate_flop_per_s == pytest.approx(2 * gpu.peak("fp16"), rel=1e-3)


def test_the_classes_of_cards():
    told = {name: card_class(get_gpu(name)) for name in CLASSES}
    assert told == CLASSES
    assert {card_class(gpu) for gpu in catalogue().values()} == set(CARD_CLASSES)
    own = gpu_from_spec({"name": "X1", "base": "H100", "generation": "Rubin"})
    assert card_class(own) == "NVIDIA data-centre"


def test_geforce_copies_through_the_host():
    peers = {
        name: get_gpu(name).peer_to_peer for name in ("H100", "L40S", "RTX A6000", "1080 Ti", "RTX 4090", "M4 Max")
    }
    assert peers == {"H100": True, "L40S": True, "RTX A6000": True, "1080 Ti": True, "RTX 4090": False, "M4 Max": False}
