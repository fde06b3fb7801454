"""Memory of training: sums, laws, and closed forms by hand."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from predictor.errors import InvalidRequest
from predictor.hardware.gpu import get_gpu
from predictor.memory.training import kinds, training_memory
from predictor.prediction.single import predict_training
from predictor.workloads import get_model
from predictor.workloads.passes.training import TrainingSetting

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
    told = sum(getattr(found, kind) for kind in kinds()) - found.reused_bytes
    assert found.total_bytes == pytest.approx(told)
    assert all(getattr(found, kind) >= 0 for kind in kinds() if kind != "correction_bytes") and found.reused_bytes >= 0
    assert found.low_bytes <= found.total_bytes <= found.high_bytes
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
    large = {"micro_batch": 64}
    assert needs(loss_chunks=8, **large) < needs(**large) and needs(precision="pure") < needs()
    assert needs(offload="parameters") < needs(offload="optimizer") < needs()
    assert needs(tp=2, sequence_parallel=True, **large) < needs(tp=2, **large)
    assert needs(**large) < needs(kernels="eager", **large) < needs(kernels="eager", attention="eager", **large)


def test_the_peak_is_where_most_is_alive() -> None:
    """Small batches: the optimizer step; large ones: where the loss is taken; gradients that stay add to that."""
    setting = TrainingSetting(seq_len=512, optimizer="adamw_foreach")
    assert training_memory(MODEL, A100, setting).peak_phase == "step"
    large = training_memory(MODEL, A100, replace(setting, micro_batch=64))
    assert large.peak_phase == "forward"
    longer = training_memory(MODEL, A100, replace(setting, micro_batch=64, grad_accum=2))
    assert longer.forward_peak_bytes == pytest.approx(large.forward_peak_bytes + large.gradients_bytes)


def test_autocast_keeps_all_states_in_fp32_and_a_copy_of_the_weights() -> None:
    found = training_memory(MODEL, A100, TrainingSetting(seq_len=512, precision="amp"))
    states = found.weights_bytes + found.gradients_bytes + found.optimizer_bytes
    assert states == pytest.approx(16 * MODEL.parameters(), rel=1e-3)
    assert found.autocast_bytes == pytest.approx(2 * MODEL.parameters(), rel=1e-3)


def test_eager_attention_keeps_the_scores() -> None:
    """Korthikanti et al., 4.1: they grow with the square of the length; here softmax in fp32 and a 16-bit copy."""
    flash, eager = (
        training_memory(MODEL, A100, TrainingSetting(seq_len=2048, kernels="eager", attention=name)).activations_bytes
        for name in ("flash2", "eager")
    )
    repeated = 2 * 2 * 2048 * (32 - 8) * 128  # keys and values for every head
    gradients = 5.5 * 32 * 2048**2  # of one layer
    assert eager - flash == pytest.approx(32 * (6 * 32 * 2048**2 + repeated) + gradients)


@given(batch=st.integers(1, 32), length=st.integers(1, 2000), more=st.integers(1, 2000))
@settings(max_examples=60, deadline=None)
def test_more_tokens_never_need_less(batch: int, length: int, more: int) -> None:
    setting = {"kernels": "eager", "method": "lora"}
    here = needs(micro_batch=batch, seq_len=length, **setting)
    assert needs(micro_batch=batch, seq_len=length + more, **setting) >= here * (1 - 1e-9)
    assert needs(micro_batch=batch + 1, seq_len=length, **setting) >= here * (1 - 1e-9)


def test_an_answer_to_training_says_whether_it_fits() -> None:
    small, large = (predict_training("Llama-3.1-8B", "A100", method=m).to_dict() for m in ("qlora", "full"))
    assert (small["fits"], large["fits"]) == (True, False)
    assert large["memory_bytes"] == pytest.approx(sum(large[kind] for kind in kinds()) - large["reused_bytes"])
    assert small["p_oom"] < 0.1 < 0.9 < large["p_oom"] and large["peak_phase"] in ("forward", "backward", "step")


def test_a_split_that_the_model_does_not_allow_is_said() -> None:
    with pytest.raises(InvalidRequest, match=r"pp is 33; Llama-3\.1-8B has 32 layers\. Lower pp\."):
        needs(pp=33)
