"""A GPU that is better in every spec is never slower, and what has the same specs answers alike.

The law holds within an architecture, whose GPUs run the same kernels. It is exact where one of two is measured. Two
that nobody measured may part by the waves in which their SMs take tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from predictor.errors import PredictorError
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.estimators.features import Setting
from predictor.estimators.operators import predict_op
from predictor.hardware.dominance import comparable, dominates
from predictor.hardware.gpu import Gpu, catalogue, get_gpu, mig_profiles
from predictor.hardware.siblings import card_class
from predictor.latency.report import Report
from predictor.ops import Attention, Gemm, Moe, Op
from predictor.ops.dtypes import Array
from predictor.prediction.single import predict

# Of two that nobody measured: the last wave of tiles on more SMs may be emptier. A call of one tile takes as long as an
# SM does, and of some better GPUs each SM is slower (GeForce adds up fp16 in fp32 at half the rate of RTX PRO).
WAVES, SLOWER_SMS = 1.025, 1.06
GPUS = [
    *catalogue().values(),
    *(get_gpu(f"{name}:{cut}") for name, gpu in catalogue().items() for cut in mig_profiles(gpu)),
]
PAIRS = [(one, two) for one in GPUS for two in GPUS if one is not two and dominates(one, two)]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle()


def calls() -> Iterator[Op]:
    """What a decoder runs, in a format that nearly all GPUs have."""
    tokens = np.array([1.0, 128.0])
    attention: dict[str, Any] = {"heads": 32, "kv_heads": 8, "head_dim": 128, "dtype": "fp16", "kv_dtype": "fp16"}
    yield Gemm(m=tokens, n=28_672, k=4096, dtype="fp16")
    yield Attention(phase="prefill", batch=2, q_len=tokens, kv_len=tokens, **attention)
    yield Attention(phase="decode", batch=tokens, q_len=1, kv_len=2048, **attention)
    yield Moe(tokens=tokens, hidden=4096, inter=14_336, experts=8, topk=2, dtype="fp16")


def as_fast(better: Gpu, worse: Gpu) -> bool:
    """Whether each SM of the one is as fast as one of the other, in fp16 where it has units for that."""
    rates = [gpu.peak_flop_per_s.get("fp16", gpu.peak("fp32")) / gpu.sms for gpu in (better, worse)]
    return rates[0] >= rates[1]


@pytest.mark.parametrize("op", list(calls()), ids=lambda op: op.estimator)
def test_of_all_pairs_of_the_catalogue_the_better_one_is_never_slower(op: Op, bundle: Bundle) -> None:
    times: dict[str, Array] = {}
    for gpu in dict.fromkeys(gpu for pair in PAIRS for gpu in pair):
        try:
            times[gpu.name] = predict_op(op, gpu, Setting(), bundle).latency_s
        except PredictorError:  # no such units, and no rate that anybody published
            continue
    measured = bundle.entry(op.estimator)["references"]
    asked = 0
    for better, worse in PAIRS:
        # Whether cards of a class were measured decides how views are mixed: AMD sells one chip in two classes.
        if not {better.name, worse.name} <= times.keys() or card_class(better) != card_class(worse):
            continue
        slack = (
            1 + 1e-9 if {better.name, worse.name} & measured.keys() else WAVES if as_fast(better, worse) else SLOWER_SMS
        )
        assert (times[better.name] <= times[worse.name] * slack).all(), (better.name, worse.name)
        asked += 1
    assert asked > 1000


def test_a_slice_is_never_better_than_the_whole() -> None:
    for one in GPUS:
        whole = get_gpu(one.name.partition(":")[0])
        assert dominates(whole, one)
        assert one is whole or not dominates(one, whole) or one.sms == whole.sms


def test_better_holds_within_an_architecture() -> None:
    assert len(PAIRS) > 1500
    assert dominates(get_gpu("H200"), get_gpu("H100")) and not dominates(get_gpu("H100"), get_gpu("H200"))
    assert not dominates(get_gpu("H100"), get_gpu("A100"))
    assert comparable(get_gpu("H200"), frozenset({"H100-SXM-80GB", "A100-SXM-80GB"})).worse == (get_gpu("H100"),)


def times_of(report: Report) -> Array:
    return np.array([report.ttft_s.value, report.tpot_s.value, report.e2e_s.value])


MODELS: dict[str, dict[str, Any]] = {
    "Llama-3.1-8B": {"dtype": "fp16", "batch": 8, "input_len": 500},
    "Mixtral-8x7B": {"dtype": "fp16", "input_len": 64},
    "Qwen2.5-0.5B": {"dtype": "fp16", "engine": "torch", "output_len": 3},
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("better", "worse"), [("H200", "H100"), ("H100", "H100:7g.80gb"), ("A100", "A100:7g.80gb")])
def test_a_better_gpu_never_answers_later(better: str, worse: str, model: str) -> None:
    one, two = (times_of(predict(model, gpu, **MODELS[model])) for gpu in (better, worse))
    assert (one <= two * (1 + 1e-9)).all()


@given(
    base=st.sampled_from(["H100", "H200", "A100", "L4", "RTX 4090", "MI300X"]),
    model=st.sampled_from(["Llama-3.1-8B", "Mixtral-8x7B"]),
    key=st.sampled_from(["mem_bandwidth_gb_per_s", "l2_mib", "tdp_w", "pcie_gb_per_s"]),
    share=st.floats(1.0, 3.0),
)
@settings(max_examples=12, deadline=None)
def test_a_better_spec_is_never_slower(base: str, model: str, key: str, share: float) -> None:
    gpu = get_gpu(base)
    own = {
        "mem_bandwidth_gb_per_s": gpu.mem_bytes_per_s / 1e9,
        "l2_mib": gpu.l2_bytes / 2**20,
        "tdp_w": gpu.tdp_w,
        "pcie_gb_per_s": gpu.pcie_bytes_per_s / 1e9,
    }[key]
    plain, better = (times_of(predict(model, name, **MODELS[model])) for name in (base, f"{base}, {key}={share * own}"))
    assert (better <= plain * (1 + 1e-9)).all()


def spec_of(gpu: Gpu, folder: Path) -> Path:
    """A spec file that says of a GPU what the catalogue says, under a name of its own."""
    file = folder / "mine.toml"
    file.write_text(f'name = "Mine"\nbase = "{gpu.name}"\nmem_bandwidth_gb_per_s = {gpu.mem_bytes_per_s / 1e9}\n')
    return file


@pytest.mark.parametrize("name", ["H100", "L4", "RTX 4090"])
def test_names_aliases_and_specs_of_the_same_numbers_answer_alike(name: str, tmp_path: Path) -> None:
    """A spec of one's own is not said to be measured: its interval is a sibling's."""
    gpu = get_gpu(name)
    asked = {"batch": 4, "dtype": "fp16"}
    own = predict("Llama-3.1-8B", gpu, **asked)
    for alias in (gpu.name, *gpu.aliases):
        assert predict("Llama-3.1-8B", alias, **asked).to_dict() == own.to_dict() | {
            "notes": predict("Llama-3.1-8B", alias, **asked).to_dict()["notes"]
        }
    by_spec = predict("Llama-3.1-8B", str(spec_of(gpu, tmp_path)), **asked)
    np.testing.assert_allclose(times_of(by_spec), times_of(own), rtol=1e-12)
    assert by_spec.memory.total_bytes == own.memory.total_bytes
    assert by_spec.basis == "unseen-gpu"
