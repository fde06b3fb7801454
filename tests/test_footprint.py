"""The memory of a request without its times is that of its answer, notes and errors too."""

from collections.abc import Callable
from typing import Any

import pytest

from predictor.errors import PredictorError
from predictor.estimators.bundle import load_bundle
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
        ("gpt-oss-20b", {"scheduling": "continuous", "batch": 8}),
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


@pytest.mark.parametrize(
    ("model", "gpu", "settings"),
    [
        ("Llama-3.1-8B", "V100", {"dtype": "fp8"}),
        ("Llama-3.1-70B", "L4", {"scheduling": "continuous"}),
        ("ResNet-50", "A100", {"scheduling": "continuous"}),
        ("Llama-3.1-8B", "A100", {"engine": "torch", "scheduling": "continuous"}),
        ("Llama-3.1-8B", "A100", {"tp": 3}),
        ("Llama-3.1-8B", "V100", TRAIN),
        ("Llama-3.1-8B", "A100", {**TRAIN, "pp": 7}),
    ],
)
def test_its_errors_are_those_of_the_answer(model: str, gpu: str, settings: dict[str, Any]) -> None:
    request = Request(model=model, gpu=gpu, **settings)
    (kind, text) = told(footprint, request)
    assert issubclass(kind, PredictorError)
    assert (kind, text) == told(answer, request)
