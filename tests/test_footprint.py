"""The memory of a request without its times is that of its answer, notes and errors too."""

from collections.abc import Callable
from typing import Any

import pytest

from predictor.errors import PredictorError, UnknownRate
from predictor.estimators.bundle import load_bundle
from predictor.hardware.gpu import gpu_from_spec
from predictor.prediction.footprint import Footprint, footprint
from predictor.prediction.single import answer, resolve
from predictor.workloads.request import Request

TRAIN = {"phase": "train"}


def told(tell: Callable[..., Any], request: Request) -> Any:
    """What is told of the memory of a request, or the error."""
    try:
        found = tell(resolve(request), load_bundle())
    except PredictorError as error:
        return type(error), str(error)
    model = found.model if isinstance(found, Footprint) else found.to_dict()["model"]
    return model, found.gpu, found.n_gpus, found.memory, found.notes


@pytest.mark.parametrize("gpu", ["A30", "MI300X", "H100:3g.40gb", "A100, mem_gib=2000"])
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("Llama-3.1-8B", {}),
        ("Llama-3.1-70B", {"tp": 16, "batch": 4096, "input_len": 100_000}),
        ("DeepSeek-V3", {"attention_dp": 8, "ep": 8}),
        ("Qwen3-8B", {"engine": "torch", "dtype": "fp32"}),
        ("bert-large-uncased", {"input_len": 512}),
        ("ResNet-50", {"image_size": 512}),
        ("Llama-3.1-8B", {**TRAIN, "dp": 16, "zero_stage": 3}),
        ("Llama-3.1-8B", {**TRAIN, "method": "qlora", "tp": 2}),
    ],
)
def test_a_footprint_is_that_of_the_answer(model: str, settings: dict[str, Any], gpu: str) -> None:
    request = Request(model=model, gpu=gpu, **settings)
    assert told(footprint, request) == told(answer, request)


@pytest.mark.parametrize("load", [{"concurrency": 8}, {"scheduling": "continuous", "batch": 64}])
def test_of_a_load_it_is_what_the_answer_needs_at_most(load: dict[str, Any]) -> None:
    """The answer has the peak of its simulation, for which times are needed."""
    request = Request(model="gpt-oss-20b", gpu="A30", **load)
    bundle = load_bundle()
    whole, peak = (ask(resolve(request), bundle).memory for ask in (footprint, answer))
    assert 0 < peak.kv_cache_bytes <= whole.kv_cache_bytes and peak.weights_bytes == whole.weights_bytes
    assert peak.total_bytes <= whole.total_bytes


@pytest.mark.parametrize(
    ("model", "gpu", "settings"),
    [
        ("Llama-3.1-8B", "V100", {"dtype": "fp8"}),
        ("Llama-3.1-70B", "L4", {"scheduling": "continuous"}),
        ("ResNet-50", "A100", {"scheduling": "continuous"}),
        ("Llama-3.1-8B", "A100", {"engine": "torch", "scheduling": "continuous"}),
        ("Llama-3.1-8B", "A100", {"tp": 3}),
        ("Llama-3.1-8B", "V100", TRAIN),
        ("Llama-3.1-8B", "A100", {**TRAIN, "pp": 33}),
    ],
)
def test_its_errors_are_those_of_the_answer(model: str, gpu: str, settings: dict[str, Any]) -> None:
    request = Request(model=model, gpu=gpu, **settings)
    (kind, text) = told(footprint, request)
    assert issubclass(kind, PredictorError)
    assert (kind, text) == told(answer, request)


def test_memory_needs_no_rate() -> None:
    """Of an architecture that nobody described, whose data sheet has one rate."""
    card = gpu_from_spec({**base_of_unknown(), "peak_tflops": {"fp4": 500}})
    resolved = resolve(Request(model="Llama-3.1-8B", gpu=card.name), gpu=card)
    with pytest.raises(UnknownRate, match=r'^no fp32 peak for X1; use dtype="fp4"\.$'):
        answer(resolved, load_bundle())
    found = footprint(resolved, load_bundle())
    assert found.memory.fits
    assert found.notes[-1].startswith("of the memory only: no fp32 peak for X1")


def base_of_unknown() -> dict[str, Any]:
    """Data-sheet values of a GPU whose architecture the catalogue lacks."""
    texts = {"name": "X1", "vendor": "Somebody", "generation": "New", "compute_capability": "", "source": "a test"}
    counts = {"release_year": 2026, "sms": 64, "boost_clock_mhz": 2000, "mem_gib": 64, "mem_bandwidth_gb_per_s": 2000}
    return texts | counts | {"l2_mib": 64, "smem_kib_per_sm": 128, "pcie_gb_per_s": 63, "tdp_w": 300}
