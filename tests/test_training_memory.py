"""Memory of training: sums, laws, and closed forms by hand."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from predictor.cli.memory import NAMES as SHOWN
from predictor.errors import InvalidRequest
from predictor.hardware.gpu import get_gpu
from predictor.memory.training import TrainingMemory, closed_form, training_memory
from predictor.prediction.single import answer, predict_training
from predictor.workloads import get_model
from predictor.workloads.passes.training import TrainingSetting
from predictor.workloads.request import Request
from predictor.workloads.trainers import TRAINERS

KINDS = [name for name in SHOWN if hasattr(TrainingMemory, name) and name != "reused_bytes"]
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
    assert found.logits_bytes == 6 * 2048 * 128_256


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
    told = sum(getattr(found, kind) for kind in KINDS) - found.reused_bytes
    assert found.total_bytes == pytest.approx(told)
    assert all(getattr(found, kind) >= 0 for kind in KINDS if kind != "correction_bytes") and found.reused_bytes >= 0
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
    assert large["memory_bytes"] == pytest.approx(sum(large[kind] for kind in KINDS) - large["reused_bytes"])
    assert small["p_oom"] < 0.1 < 0.9 < large["p_oom"] and large["peak_phase"] in ("forward", "backward", "step")


def test_a_split_that_the_model_does_not_allow_is_said() -> None:
    with pytest.raises(InvalidRequest, match=r"pp is 33; Llama-3\.1-8B has 32 layers\. Lower pp\."):
        needs(pp=33)


@given(
    name=st.sampled_from(["Llama-3.1-8B", "Qwen3-30B-A3B", "gpt2-xl", "flan-t5-xl"]),
    batch=st.integers(1, 8),
    length=st.integers(64, 512),
    kernels=st.sampled_from(["fused", "library", "eager"]),
    method=st.sampled_from(["full", "lora", "qlora"]),
)
@settings(max_examples=40, deadline=None)
def test_laws_of_how_programs_train(name: str, batch: int, length: int, kernels: str, method: str) -> None:
    """Closed forms alone: computing more again, narrower moments and what is freed earlier never needs more."""
    model = get_model(name)
    setting = TrainingSetting(micro_batch=batch, seq_len=length, kernels=kernels, method=method)

    def peak(**changes: Any) -> float:
        return float(closed_form(model, replace(setting, **changes))[2].peak)

    again = [peak(checkpointing=way) for way in ("none", "selective", "modules")]
    assert again == sorted(again, reverse=True)
    least = [peak(checkpointing=way) for way in ("selective_ops", "full", "offloaded")]
    assert least == sorted(least, reverse=True) and least[0] <= again[0]
    every = [peak(checkpointing="full", checkpoint_every=layers) for layers in (1, 2, 4)]
    assert every == sorted(every) and every[-1] <= peak()
    losses = [peak(loss=loss) for loss in ("eager_kept", "eager", "plain")]
    assert losses == sorted(losses, reverse=True)
    assert peak(loss="chunked", loss_chunks=8, method="lora") <= peak(loss="eager", method="lora")
    moments = [peak(optimizer=name) for name in ("adamw", "lion", "adamw_fp8", "adamw_8bit", "adamw_4bit", "sgd")]
    assert moments == sorted(moments, reverse=True)
    assert peak(optimizer="galore_adamw") <= peak() and peak(optimizer="paged_adamw") <= peak()
    offloads = [peak(offload=kind) for kind in ("none", "optimizer", "gradients")]
    assert offloads == sorted(offloads, reverse=True)
    assert peak(optimizer_in_backward=True) <= peak()
    assert peak(lora_dropout=0.0) <= peak(lora_dropout=0.1) <= peak(lora_dropout=0.1, adapter_dtype="fp32")
    assert peak(use_dora=False) <= peak(use_dora=True) and peak(train_embeddings=False) <= peak(train_embeddings=True)
    assert peak(double_quant=True) <= peak(double_quant=False)
    assert peak(keeps_quantized_inputs=False) <= peak(keeps_quantized_inputs=True)
    sharded = {"dp": 4, "zero_stage": 3, "grad_accum": 2}
    assert peak(**sharded) <= peak(**sharded, no_sync=True)
    assert peak(**sharded) <= peak(**sharded, reshard_after_forward=False)
    assert peak(**sharded) <= peak(**sharded, load="whole")


def test_fsdp_keeps_sixteen_bytes_of_a_parameter_and_shards_them() -> None:
    """fp32 weights, gradients and moments of an eighth each (torch.distributed.fsdp, MixedPrecisionPolicy)."""
    found = training_memory(MODEL, A100, TrainingSetting(seq_len=512, precision="fsdp", dp=8, zero_stage=3))
    states = found.weights_bytes + found.gradients_bytes + found.optimizer_bytes
    assert states == pytest.approx(16 * MODEL.parameters() / 8, rel=1e-3)
    assert found.gathered_bytes > 2 * 128_256 * 4096 * 2  # the tables stay gathered, in 16 bits
    assert found.temporary_bytes in (0.0, pytest.approx(6 * 2 * 128_256 * 4096, rel=1e-3))


def test_a_model_that_is_loaded_whole_peaks_there() -> None:
    setting = TrainingSetting(seq_len=64, method="lora", dp=8, zero_stage=3, load="whole", precision="pure")
    found = training_memory(MODEL, A100, setting)
    assert found.peak_phase == "load"
    assert found.load_peak_bytes == pytest.approx(2 * MODEL.parameters() * 9 / 8, rel=0.02)


def test_lengths_that_vary_widen_the_interval() -> None:
    filled, varied, grown = (
        training_memory(MODEL, A100, TrainingSetting(method="lora", seq_len=512, **changes))
        for changes in ({}, {"packing": False}, {"expandable_segments": True})
    )
    assert varied.high_bytes > filled.high_bytes and varied.total_bytes == filled.total_bytes
    assert grown.fragmentation_bytes == 0 and grown.total_bytes <= filled.total_bytes


def test_a_sequence_may_be_longer_than_the_context_where_that_is_said() -> None:
    longer = {"model": "Llama-2-7b-hf", "gpu": "A100", "method": "lora", "seq_len": 8192}
    with pytest.raises(InvalidRequest, match=r"takes at most 4096\. Shorten it, or raise"):
        predict_training(**longer)
    assert predict_training(**longer, max_model_len=8192).memory.total_bytes > 0


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(InvalidRequest, match=r"lora_dropout is 1; it must be at least 0 and below 1\."):
        TrainingSetting(lora_dropout=1.0)
    with pytest.raises(InvalidRequest, match="grad_accum is 2; with optimizer_in_backward gradients are not added up"):
        TrainingSetting(optimizer_in_backward=True, grad_accum=2)
    with pytest.raises(InvalidRequest, match='bitsandbytes_version is "new"; it must be a version such as'):
        predict_training("Llama-3.1-8B", "A100", method="qlora", bitsandbytes_version="new")


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_trainer_says_what_the_request_does_not(trainer: str) -> None:
    asked = {"model": "Llama-3.1-8B", "gpu": "A100", "phase": "train", "method": "lora", "micro_batch": 2}
    usual = {**TRAINERS[trainer]}
    named, spelt = (answer(Request.of({**asked, **more})).memory for more in ({"trainer": trainer}, usual))
    assert named.total_bytes == spelt.total_bytes and named.logits_bytes == spelt.logits_bytes
    assert named.high_bytes > spelt.high_bytes  # a name says less than what the program does
    other = "eager" if usual["kernels"] == "fused" else "fused"
    kept = answer(Request.of({**asked, "trainer": trainer, "kernels": other})).memory
    assert kept.total_bytes == answer(Request.of({**asked, **usual, "kernels": other})).memory.total_bytes


def test_megatron_keeps_eighteen_bytes_of_a_parameter() -> None:
    """bf16 weights, fp32 gradients, master weights and moments (Megatron-LM, distributed optimizer, table of bytes)."""
    found = training_memory(MODEL, A100, TrainingSetting(seq_len=512, grad_dtype="fp32"))
    states = found.weights_bytes + found.gradients_bytes + found.optimizer_bytes
    assert states == pytest.approx(18 * MODEL.parameters(), rel=1e-3)


@pytest.mark.parametrize(
    ("how", "more"),
    [
        ({"loss": "eager"}, 2),
        ({"loss": "eager_kept"}, 2),
        ({"loss": "plain"}, 2),
        ({"loss": "plain", "dtype": "fp32"}, 4),
        ({"loss": "chunked_kept", "kernels": "eager"}, 2),
        ({"loss": "chunked_kept", "kernels": "fused"}, 0),
        ({"loss": "fused"}, 0),
        ({"loss": "chunked", "loss_chunks": 8}, 2 / 8),
    ],
)
def test_a_cap_of_the_logits_keeps_its_tanh(how: dict[str, Any], more: float) -> None:
    """logits = cap * tanh(logits / cap) of modeling_gemma2.py: the gradient of tanh needs what it gave."""
    capped = get_model("gemma-2-2b")
    setting = TrainingSetting(seq_len=1024, method="lora", **how)
    with_cap, without = (
        training_memory(model, A100, setting).logits_bytes for model in (capped, replace(capped, capped_logits=False))
    )
    assert with_cap - without == pytest.approx(more * 1024 * 256_000)


@pytest.mark.parametrize("offload", ["optimizer", "gradients", "parameters"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_stays_on_the_gpu_is_less_known_where_the_host_holds_parts(offload: str, method: str) -> None:
    setting = TrainingSetting(seq_len=4096, method=method, checkpointing="full", dp=2, zero_stage=3)
    plain, there = (training_memory(MODEL, A100, replace(setting, offload=name)) for name in ("none", offload))
    assert there.total_bytes <= plain.total_bytes
    assert there.high_bytes / there.total_bytes > plain.high_bytes / plain.total_bytes
    assert there.low_bytes / there.total_bytes < plain.low_bytes / plain.total_bytes
