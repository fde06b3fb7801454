"""Memory of training: sums, laws, and closed forms by hand."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.answering import predict
from predictor.errors import InvalidRequest
from predictor.gpu import get_gpu
from predictor.training_memory import kinds, training_memory
from predictor.workloads import get_model
from predictor.workloads.training import TrainingSetting

A100 = get_gpu("A100")
MODEL = get_model("Llama-3.1-8B")
NAMES = ["Llama-3.1-8B", "Qwen3-30B-A3B", "DeepSeek-V2-Lite", "gpt2-xl", "bert-large", "flan-t5-xl", "resnet50"]


def needs(name: str = "Llama-3.1-8B", **changes: Any) -> float:
    return training_memory(get_model(name), A100, TrainingSetting(**{"seq_len": 512, **changes})).total_bytes


def test_mixed_precision_takes_sixteen_bytes_of_each_parameter() -> None:
    """Rajbhandari et al., arXiv:1910.02054, 3.1: 2 + 2 + 12; norms and biases are left out."""
    found = training_memory(MODEL, A100, TrainingSetting(seq_len=512))
    states = found.weights_bytes + found.gradients_bytes + found.optimizer_bytes
    assert states == pytest.approx(16 * MODEL.parameters(), rel=1e-3)


def test_a_layer_of_llama_keeps_its_inputs() -> None:
    """Two norms, two normed inputs, residual sum and output; query, key, value; gate, up and their product."""
    setting = TrainingSetting(seq_len=1024, micro_batch=2)
    found = training_memory(MODEL, A100, setting)
    layer = 4 * 4096 + 2 * 4096 + 2 * 8 * 128 + 3 * 14336  # o_proj reads what attention keeps as its output
    assert found.activations_bytes == pytest.approx(2 * 2048 * (32 * layer + 2 * 4096))  # and around the layers
    assert found.logits_bytes == 8 * 2048 * 128_256


def test_full_checkpointing_keeps_the_inputs_of_layers_only() -> None:
    none, full = (
        training_memory(MODEL, A100, TrainingSetting(seq_len=4096, checkpointing=name)) for name in ("none", "full")
    )
    assert full.activations_bytes < none.activations_bytes / 8
    assert full.activations_bytes >= 2 * 4096 * 4096 * 32


@given(
    name=st.sampled_from(NAMES),
    batch=st.integers(1, 32),
    length=st.integers(1, 512),
    checkpointing=st.sampled_from(["none", "selective", "full"]),
    method=st.sampled_from(["full", "lora", "qlora"]),
)
@settings(max_examples=60, deadline=None)
def test_laws(name: str, batch: int, length: int, checkpointing: str, method: str) -> None:
    model = get_model(name)
    setting = TrainingSetting(micro_batch=batch, seq_len=length, checkpointing=checkpointing, method=method)
    setting = replace(setting, seq_len=min(length, model.max_len))
    found = training_memory(model, A100, setting)
    assert found.total_bytes == pytest.approx(sum(getattr(found, kind) for kind in kinds()))
    assert all(getattr(found, kind) >= 0 for kind in kinds())
    assert found.total_bytes <= training_memory(model, A100, replace(setting, micro_batch=2 * batch)).total_bytes
    assert found.total_bytes <= training_memory(model, A100, replace(setting, checkpointing="none")).total_bytes
    if method == "qlora":
        assert found.weights_bytes <= training_memory(model, A100, replace(setting, method="lora")).weights_bytes


def test_cheaper_ways_to_train_need_less() -> None:
    assert (
        needs(method="qlora") < needs(method="lora") < needs(optimizer="sgd") < needs(optimizer="adamw_8bit") < needs()
    )
    by_stage = [needs(dp=8, zero_stage=stage) for stage in range(4)]
    assert by_stage == sorted(by_stage, reverse=True)
    assert needs(tp=2) < needs() and needs(pp=2, grad_accum=4) < needs()
    assert needs(loss_chunks=8) < needs() and needs(master_weights=False) < needs()


def test_an_answer_to_training_says_whether_it_fits() -> None:
    small, large = (predict("Llama-3.1-8B", "A100", phase="train", method=m).to_dict() for m in ("qlora", "full"))
    assert (small["fits"], large["fits"]) == (True, False)
    assert large["memory_bytes"] == pytest.approx(sum(large[kind] for kind in kinds()))


def test_a_split_that_the_model_does_not_allow_is_said() -> None:
    with pytest.raises(InvalidRequest, match="pp is 3; it must divide the 32 layers"):
        needs(pp=3)
