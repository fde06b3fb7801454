"""Laws of GPU look-up, MIG slices, specs of one's own, and the lint."""

import math
import pickle
import re
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from predictor.errors import InvalidSpec, PredictorError, UnknownGpu, UnsupportedDtype
from predictor.hardware import gpu as gpu_module
from predictor.hardware.architectures import architectures
from predictor.hardware.gpu import (
    catalogue,
    get_gpu,
    gpu_from_spec,
    gpu_from_toml,
    mig_profiles,
    resolve_gpu,
)
from predictor.hardware.lint import lint
from predictor.hardware.spec import COMPUTE_DTYPES, SPEC_KEYS
from predictor.units import GB, GIB, MHZ, TFLOP

NAMES = list(catalogue())
SLICES = [f"{name}:{profile}" for name in NAMES for profile in mig_profiles(catalogue()[name])]
SPEC = {
    "name": "X1",
    "vendor": "NVIDIA",
    "generation": "Rubin",
    "compute_capability": "",
    "release_year": 2026,
    "sms": 224,
    "tensor_clock_mhz": 2000,
    "peak_tflops": {"fp32": 130, "bf16": 4000, "fp8": 8000},
    "mem_gib": 288,
    "mem_bandwidth_gb_per_s": 20_500,
    "l2_mib": 0,
    "smem_kib_per_sm": 228,
    "pcie_gb_per_s": 121,
    "tdp_w": 1800,
    "source": "announcement",
}


@settings(deadline=None)
@given(st.sampled_from(NAMES), st.lists(st.sampled_from(["-", "_", " ", ""]), min_size=40, max_size=40), st.booleans())
def test_any_case_and_separator_resolves(name, separators, upper):
    mangled = "".join(separators[i % 40] if letter == "-" else letter for i, letter in enumerate(name))
    assert get_gpu(mangled.upper() if upper else mangled.lower()).name == name


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_gives_a_gpu_or_a_typed_error(text):
    try:
        assert get_gpu(text).mem_bytes > 0
    except (UnknownGpu, InvalidSpec) as error:
        assert str(error).endswith(".")


def test_unknown_gpu_suggests_near_names():
    with pytest.raises(UnknownGpu) as error:
        get_gpu("H1000-SXM-80GB")
    assert str(error.value).startswith('no GPU called "H1000-SXM-80GB"; did you mean H100-SXM-80GB')
    with pytest.raises(UnknownGpu, match="did you mean RTX-3080-Ti-Laptop"):
        get_gpu("RTX 3060 Ti Laptop GPU")  # never silently the desktop part


def test_ambiguous_names_say_which_was_taken():
    assert resolve_gpu("H100")[1] == '"H100" taken as H100-SXM-80GB; others: H100-PCIe-80GB, H100-NVL-94GB'
    assert resolve_gpu("V100")[0].name == "V100-SXM2-32GB"
    assert resolve_gpu("MI250")[1] == '"MI250" taken as MI250-GCD, one device of a dual board'
    assert resolve_gpu("L40S")[1] == ""


def test_missing_dtype_names_the_next_best():
    with pytest.raises(UnsupportedDtype) as error:
        get_gpu("V100").peak("bf16")
    assert str(error.value) == 'no bf16 peak for V100-SXM2-32GB (compute capability 7.0); use dtype="fp16".'
    with pytest.raises(UnsupportedDtype) as error:
        get_gpu("Gaudi2").peak("fp32")
    assert str(error.value) == 'no fp32 peak for Gaudi2; use dtype="bf16".'
    with pytest.raises(UnsupportedDtype, match='"bfloat16" is no compute dtype; use one of fp32, tf32'):
        get_gpu("H100").peak("bfloat16")


@pytest.mark.parametrize("name", NAMES)
def test_the_suggested_dtype_works(name):
    gpu = get_gpu(name)
    for dtype in COMPUTE_DTYPES:
        if dtype in gpu.peak_flop_per_s:
            assert gpu.peak(dtype) > 0
            continue
        with pytest.raises(UnsupportedDtype) as error:
            gpu.peak(dtype)
        assert gpu.runs(str(error.value).split('"')[1])


def test_gpu_is_hashable_and_pickles():
    gpu = get_gpu("H100")
    assert pickle.loads(pickle.dumps(gpu)) == gpu
    assert len({gpu, replace(gpu), get_gpu("A100")}) == 2


def test_catalogue_loads_fast():
    gpu_module._shipped.cache_clear()
    gpu_module._catalogue_with.cache_clear()
    start = time.perf_counter()
    catalogue()
    assert time.perf_counter() - start < 0.5  # 25 ms here; wide for a busy machine


# MIG: SMs from `nvidia-smi mig -lgip` listings, NVIDIA MIG user guide.
@pytest.mark.parametrize(
    ("name", "sms", "eighths"),
    [
        ("H100:3g.40gb", 60, 4),
        ("h100-pcie:3g.40gb", 46, 4),
        ("A100:1g.10gb", 14, 1),
        ("A100-40GB:7g.40gb", 98, 8),
        ("H200:1g.18gb", 16, 1),
        ("B200:2g.45gb", 36, 2),
        ("NVIDIA H100 80GB HBM3 MIG 1g.20gb", 26, 2),
        ("A30:1g.6gb", 14, 2),
    ],
)
def test_mig_slice_has_its_sms_and_memory_share(name, sms, eighths):
    part = get_gpu(name)
    whole = get_gpu(part.name.split(":")[0])
    assert part.sms == sms
    assert part.mem_bytes_per_s == whole.mem_bytes_per_s * eighths / 8
    assert part.l2_bytes == whole.l2_bytes * eighths / 8
    assert 0.85 < part.mem_bytes / (whole.mem_bytes * eighths / 8) <= 1.0
    assert part.name == f"{whole.name}:{part.partition}"


@pytest.mark.parametrize("name", SLICES)
def test_a_slice_is_never_more_than_the_whole_and_keeps_the_rate_per_sm(name):
    part, whole = get_gpu(name), get_gpu(name.split(":")[0])
    assert part.sms <= whole.sms
    assert part.mem_bytes <= whole.mem_bytes
    assert part.link_bytes_per_s == whole.pcie_bytes_per_s  # no NVLink between MIG instances
    for dtype, peak in part.peak_flop_per_s.items():
        assert math.isclose(peak / part.sms, whole.peak(dtype) / whole.sms)
    assert lint(part) == []


def test_wrong_slices_list_the_right_ones():
    with pytest.raises(UnknownGpu) as error:
        get_gpu("A100:3g.20gb")
    message = (
        'A100-SXM-80GB has no MIG profile "3g.20gb"; use one of 1g.10gb, 1g.20gb, 2g.20gb, 3g.40gb, 4g.40gb, 7g.80gb.'
    )
    assert str(error.value) == message
    with pytest.raises(UnknownGpu, match=r"L40S has no MIG profiles here; .*A100-SXM-80GB.*H100-SXM-80GB"):
        get_gpu("L40S:1g.6gb")


def test_spec_is_converted_to_si():
    gpu = gpu_from_spec(SPEC)
    assert gpu.mem_bytes == 288 * GIB
    assert gpu.mem_bytes_per_s == 20.5e12
    assert gpu.peak("bf16") == 4e15
    assert gpu.clock_hz == gpu.boost_clock_hz == 2e9
    assert gpu.link_bytes_per_s == gpu.pcie_bytes_per_s  # no link given: PCIe is the link
    assert gpu.llc_bytes == gpu.l2_bytes == 0  # 0 is unknown
    assert gpu_from_spec({**{k: v for k, v in SPEC.items() if k != "mem_gib"}, "mem_gb": 288}).mem_bytes == 288 * GB


def test_what_a_spec_says_of_its_board():
    board = {"segment": "laptop", "max_clock_mhz": 2600, "power_range_w": [80, 175], "fp16_accumulate_tflops": 8000}
    bus = {"pcie_generation": 5, "pcie_lanes": 8, "peer_to_peer": True}
    gpu = gpu_from_spec({**SPEC, **board, **bus, "unified_memory": True, "unified_share": 0.5})
    assert (gpu.segment, gpu.max_clock_hz, gpu.power_range_w) == ("laptop", 2.6e9, (80.0, 175.0))
    assert (gpu.pcie_generation, gpu.pcie_lanes, gpu.peer_to_peer) == (5, 8, True)
    assert (gpu.fp16_accumulate_flop_per_s, gpu.unified_memory, gpu.mem_bytes) == (8e15, True, 144 * GIB)
    assert gpu.peak_at_max_clock("bf16") == pytest.approx(1.3 * gpu.peak("bf16"))
    plain = gpu_from_spec(SPEC)
    assert (plain.max_clock_hz, plain.power_range_w, plain.segment, plain.unified_share) == (2e9, (), "", 1.0)


def test_a_changed_clock_or_power_hides_the_limits_of_the_base():
    assert get_gpu("RTX 4090, boost_clock_mhz=2200, tensor_clock_mhz=2200").max_clock_hz == 2.2e9
    assert get_gpu("RTX 4090, tdp_w=300").power_range_w == ()


@given(st.sampled_from(NAMES + SLICES), st.sampled_from(COMPUTE_DTYPES))
def test_the_highest_clock_is_never_below_the_stated_rate(name, dtype):
    gpu = get_gpu(name)
    if dtype in gpu.peak_flop_per_s:
        assert gpu.peak_at_max_clock(dtype) >= gpu.peak(dtype) * (1 - 1e-9)
    elif dtype in gpu.emulated_dtypes:
        assert gpu.peak_at_max_clock(dtype) == gpu.peak_at_max_clock("fp32")
    else:
        with pytest.raises(UnsupportedDtype):
            gpu.peak_at_max_clock(dtype)


@given(st.sampled_from(sorted(architectures().capabilities)), st.data(), st.floats(0.1, 1000))
def test_derived_rates_keep_the_proportions_of_the_architecture(name, data, tflops):
    """From whichever rate is stated, all others follow, and stating one of them changes none."""
    rates = architectures().capabilities[name].rates
    stated = data.draw(st.sampled_from(sorted(rates)))
    gpu = gpu_from_spec({**SPEC, "compute_capability": name, "peak_tflops": {stated: tflops}})
    assert set(gpu.peak_flop_per_s) == set(rates) and gpu.derived_dtypes == set(rates) - {stated}
    for dtype, rate in rates.items():
        assert gpu.peak(dtype) / gpu.peak(stated) == pytest.approx(rate / rates[stated])


def test_base_supplies_what_is_left_out():
    base = get_gpu("H100")
    gpu = gpu_from_spec({"name": "Mine", "mem_gib": 96, "peak_tflops": {"bf16": 900}}, base="h100_sxm")
    assert (gpu.name, gpu.mem_bytes) == ("Mine", 96 * GIB)  # not the base's nvidia-smi figure
    assert gpu.peak("bf16") == 900 * TFLOP
    assert gpu.peak("fp8") == base.peak("fp8")
    assert gpu.source == "user spec based on H100-SXM-80GB"
    assert gpu.aliases == ()
    assert gpu_from_spec({"name": "Mine", "base": "H100"}) == replace(base, name="Mine", source=gpu.source, aliases=())
    with pytest.raises(UnknownGpu, match='no GPU called "H1000"'):
        gpu_from_spec({"name": "Mine"}, base="H1000")


SHEET = "Take it from the data sheet."


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mem_gib", float("nan"), f'mem_gib is nan in GPU spec "X1"; it must be a positive number below 1e12. {SHEET}'),
        ("mem_gib", 0, f'mem_gib is 0 in GPU spec "X1"; it must be a positive number below 1e12. {SHEET}'),
        (
            "tdp_w",
            -1,
            f'tdp_w is -1 in GPU spec "X1"; it must be zero (unknown) or a positive number below 1e12. {SHEET}',
        ),
        ("sms", 10.5, 'sms is 10.5 in GPU spec "X1"; it must be a whole number. Drop the fraction.'),
        ("mem_gbb", 1, 'unknown key "mem_gbb" in GPU spec "X1"; did you mean "mem_gb"?'),
        (
            "peak_tflops",
            {"bf15": 1},
            'unknown dtype "bf15" in GPU spec "X1"; peak_tflops takes fp32, tf32, fp16, bf16, fp8, int8, fp4.',
        ),
        ("source", "", "source is '' in GPU spec \"X1\"; it must be text. Quote it."),
        ("aliases", "X", "aliases is 'X' in GPU spec \"X1\"; it must be a list of texts. Put them in brackets."),
        ("base", 7, "base is 7; it must be the name of a catalogue GPU. Quote it."),
        ("peer_to_peer", 1, 'peer_to_peer is 1 in GPU spec "X1"; it must be true or false.'),
        (
            "segment",
            "gaming",
            "segment is 'gaming' in GPU spec \"X1\"; it must be one of data-centre, workstation, consumer, laptop, "
            "embedded, integrated.",
        ),
        ("unified_share", 1.5, 'unified_share is 1.5 in GPU spec "X1"; it must be at most 1, all of the memory.'),
        ("power_range_w", [175, 80], 'power_range_w is [175, 80] in GPU spec "X1"; it must be [least, most] in watts.'),
        ("pcie_lanes", 7.5, 'pcie_lanes is 7.5 in GPU spec "X1"; it must be a whole number. Drop the fraction.'),
    ],
)
def test_spec_errors_name_key_rule_and_cure(key, value, message):
    with pytest.raises(InvalidSpec) as error:
        gpu_from_spec({**SPEC, key: value})
    assert str(error.value) == message


ANYTHING = st.none() | st.floats() | st.text() | st.dictionaries(st.text(), st.floats())
NUMBERS = [key for key in SPEC if isinstance(SPEC[key], int)]


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, -1, "80", None, True, [1]])
def test_no_number_may_be_hostile(key, value):
    with pytest.raises(InvalidSpec, match=key):
        gpu_from_spec({**SPEC, key: value})


@pytest.mark.parametrize("key", [key for key in SPEC if key not in ("compute_capability", "name")])
def test_missing_key_is_named(key):
    with pytest.raises(InvalidSpec, match=rf'GPU spec "X1" lacks .*{key}.*base = "H100-SXM-80GB"'):
        gpu_from_spec({k: v for k, v in SPEC.items() if k != key})


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(SPEC_KEYS), ANYTHING))
def test_any_spec_gives_a_gpu_or_a_typed_error(change):
    try:
        gpu = gpu_from_spec({**SPEC, **change})
    except (InvalidSpec, UnknownGpu):
        return
    assert gpu.mem_bytes > 0 and math.isfinite(gpu.mem_bytes_per_s)


def test_hostile_files(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('base = "H100"\nmem_gib = 96\n')
    assert get_gpu(str(file)).name == "mine"  # named after the file
    assert gpu_from_toml(file).mem_bytes == 96 * GIB
    file.write_text("mem_gib = = 3")
    with pytest.raises(InvalidSpec, match="is not valid TOML"):
        get_gpu(str(file))
    file.write_text("x = " + "[" * 100_000)
    with pytest.raises(InvalidSpec, match="is not valid TOML"):
        get_gpu(str(file))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidSpec, match="is not valid TOML"):
        get_gpu(str(file))
    file.write_text('base = "H100"\nmem_gib = nan\n')
    with pytest.raises(InvalidSpec, match="mem_gib is nan"):
        get_gpu(str(file))
    with pytest.raises(UnknownGpu, match=r'cannot read ".*absent.toml" \(No such file or directory\)'):
        get_gpu(str(tmp_path / "absent.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(UnknownGpu, match="no regular file"):
        get_gpu(str(tmp_path / "folder.toml"))


H100, L40S, RTX_4090 = get_gpu("H100"), get_gpu("L40S"), get_gpu("RTX 4090")


def peaks(gpu, **tflops):
    return replace(gpu, peak_flop_per_s={**gpu.peak_flop_per_s, **{d: t * TFLOP for d, t in tflops.items()}})


@pytest.mark.parametrize(
    ("gpu", "finding"),
    [
        (peaks(H100, bf16=1979, fp16=1979, fp8=3958), "bf16 is 1979.0 TFLOP/s; 132 SMs at 1980 MHz reach 1070.5 dense"),
        (peaks(L40S, fp8=1466), "fp8 is 1466.0 TFLOP/s, 4 x 16-bit; dense rates stand at 2 x"),
        (peaks(RTX_4090, fp16=330.3, bf16=330.3), "fp16 is 330.3 TFLOP/s.*sparse or fp16-accumulate rate: halve it"),
        (peaks(H100, fp16=133.8), "bf16 is 989.4 and fp16 133.8 TFLOP/s; tensor cores of this generation"),
        (peaks(H100, fp32=34), "fp32 is 34.0 TFLOP/s"),
        (peaks(H100, fp32=989), "fp32 is 989.0 TFLOP/s; .* reach at most 66.9"),
        (replace(H100, sms=264), "264 SMs at 1980 MHz reach 133.8. .*SMs of a whole board"),
        (replace(H100, sms=66), "66 SMs at 1980 MHz reach 535.3 dense"),
        (replace(H100, mem_bytes=80 * GB), "memory is 80 GB = 74.5 GiB; vendors write GB and mean GiB"),
        (replace(H100, mem_bytes=80 * GIB * GIB / GB), "memory is 85.9 GiB, which is 80 GiB in GB"),
        (replace(RTX_4090, sms=76, tdp_w=150), "RTX-4090 has 76 SMs and 150 W; RTX-4090 has 128 and 450.*laptop part"),
        (replace(RTX_4090, name="RTX 4090 Laptop GPU"), "those of the desktop RTX-4090"),
        (replace(RTX_4090, max_clock_hz=10.5e9), "max_clock_hz is 10500 MHz, 4.2 x the boost clock"),
        (replace(RTX_4090, tdp_w=100), "tdp_w is 100, outside power_range_w of 150 to 600 W"),
        (replace(H100, mem_bytes_per_s=26.8e12 * 4), "memory bandwidth is 107200 GB/s"),
        (replace(RTX_4090, mem_bytes_per_s=8 * 1008 * GB), "memory bandwidth is 8064 GB/s.*gigabits: divide by 8"),
        (replace(H100, mem_bytes_per_s=3.35 * GB), "memory bandwidth is 3.35 GB/s.*TB/s: times 1000"),
        (replace(H100, link_bytes_per_s=900 * GB), "link is 900 GB/s per direction; this generation has at most 450"),
        (replace(H100, pcie_bytes_per_s=128 * GB), "PCIe is 128 GB/s per direction; this generation has at most 64"),
        (replace(H100, clock_hz=1830, boost_clock_hz=1980), "clock_hz is 1.83e-06 GHz; GPUs run at 0.3 to 3.5 GHz"),
        (replace(H100, boost_clock_hz=1700 * MHZ), "clock_hz is 1830 MHz, above the boost clock of 1700"),
        (replace(H100, compute_capability="", mem_bytes_per_s=0.8e12), "the ridge point is 1.24e\\+03 FLOP per byte"),
    ],
)  # fmt: skip
def test_lint_finds_each_kind_of_mistake(gpu, finding):
    findings = lint(gpu)
    assert any(re.search(finding, each) for each in findings), findings
    assert all(each.endswith(".") for each in findings)


@pytest.mark.parametrize("name", NAMES)
def test_lint_is_silent_on_the_catalogue(name):
    assert lint(get_gpu(name)) == []


# Twice their rate is another part's true rate.
BLIND = {"L40", "L40G", "L20", "A10G", "H20-96GB", "H20-141GB", "MI100"}
RATED = {name for name, known in architectures().capabilities.items() if known.rates_16_bit}
RATED -= {"11.0", "12.1"}  # the 16-bit rates of Thor and DGX-Spark are derived
TENSOR_PARTS = [name for name in NAMES if get_gpu(name).compute_capability in RATED and name not in BLIND]


@pytest.mark.parametrize("name", TENSOR_PARTS)
def test_sparse_quoted_as_dense_is_always_found(name):
    gpu = get_gpu(name)
    sparse = {dtype: peak * (1 if dtype == "fp32" else 2) for dtype, peak in gpu.peak_flop_per_s.items()}
    assert any("halve it" in finding for finding in lint(replace(gpu, peak_flop_per_s=sparse)))


def test_a_catalogue_gpu_can_be_changed_in_a_word() -> None:
    gpu = get_gpu("H100, mem_gib=96, mem_bandwidth_gb_per_s=4000, peak_tflops.bf16=1200")
    assert (gpu.mem_bytes, gpu.mem_bytes_per_s, gpu.peak("bf16")) == (96 * GIB, 4e12, 1.2e15)
    assert gpu.peak("fp8") == get_gpu("H100").peak("fp8")


@pytest.mark.parametrize(
    "text", ["H100, mem_gib", "H100, mem_gib=much", "H100, color=3", "H1000, mem_gib=96", "H100, sms=-1"]
)
def test_a_wrong_change_is_refused(text: str) -> None:
    with pytest.raises(PredictorError):
        get_gpu(text if "=" in text else text + "=")
