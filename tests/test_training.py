"""Laws of training steps: what a step computes, sends and takes as its setting grows; what the errors say."""

from dataclasses import replace

import pytest

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.gpu import get_gpu
from predictor.latency.training import TrainingStep, training_step
from predictor.ops import Attention, Collective, Gemm, Moe
from predictor.workloads.architectures.decoder import Decoder
from predictor.workloads.models import get_model
from predictor.workloads.passes.backward import (
    DEQUANTISE_BYTES,
    FLASH_SLOWDOWN,
    SEPARATE_TRAFFIC,
    TARGETS,
    Adapters,
    backward,
)
from predictor.workloads.passes.calls import OpCall
from predictor.workloads.passes.choices import CHOICES
from predictor.workloads.passes.training import (
    OPTIMIZER_BYTES,
    TrainingSetting,
    model_flops_per_token,
    parameters,
    training_calls,
)

SMALL = Decoder(
    name="small",
    hidden=1024,
    layers=4,
    heads=16,
    kv_heads=4,
    head_dim=64,
    inter=4096,
    vocab=32000,
    max_len=8192,
    source="made up",
)
PLAIN = TrainingSetting(micro_batch=2, seq_len=1024)
WIRE = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "send_recv": 1.0}  # times (n - 1) / n of a buffer


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle()


def step(bundle: Bundle, **changed: object) -> TrainingStep:
    return training_step(SMALL, get_gpu("A100-SXM-80GB"), replace(PLAIN, **changed), bundle)


def sent_bytes(calls: tuple[OpCall, ...]) -> float:
    ops = [(call.op, call.count) for call in calls if isinstance(call.op, Collective)]
    return sum(WIRE[str(op.kind)] * float(op.message_bytes) * count for op, count in ops)


def gemm_flops(calls: tuple[OpCall, ...]) -> float:
    return sum(float(call.op.flops()) * call.count for call in calls if isinstance(call.op, Gemm))


def test_backward_gemms_take_twice_the_flops_of_the_forward():
    calls = training_calls(SMALL, PLAIN)
    assert gemm_flops(calls.backward) == pytest.approx(2 * gemm_flops(calls.forward))


def test_backward_attention_takes_five_matrix_products_for_two():
    def flops(calls: tuple[OpCall, ...]) -> float:
        return sum(float(call.op.flops()) * call.count for call in calls if isinstance(call.op, Attention))

    calls = training_calls(SMALL, PLAIN)
    assert flops(calls.backward) == pytest.approx(2.5 * flops(calls.forward))


def test_frozen_weights_get_no_gradient():
    frozen = backward([OpCall("up_proj", Gemm(m=64, n=32, k=16), 1.0)], Adapters(rank=8))
    assert [(call.name, call.op.m, call.op.n, call.op.k) for call in frozen] == [("up_proj_grad_input", 64, 16, 32)]
    experts = [OpCall("experts", Moe(tokens=64, hidden=32, inter=16, experts=4, topk=2), 1.0)]
    assert backward(experts, Adapters())[0].count == 2 * backward(experts, Adapters(rank=8))[0].count


def test_the_head_and_the_loss_see_every_token():
    calls = {call.name: call.op for call in training_calls(SMALL, PLAIN).forward}
    assert calls["lm_head"].m == calls["loss"].rows == PLAIN.micro_tokens


def test_full_checkpointing_runs_the_layers_again_and_early_stop_leaves_out_their_last_projection():
    plain, full, stopped = (
        gemm_flops(training_calls(SMALL, replace(PLAIN, checkpointing=level, early_stop=early)).backward)
        for level, early in (("none", True), ("full", False), ("full", True))
    )
    forward = {call.name: gemm_flops((call,)) for call in training_calls(SMALL, PLAIN).forward}
    layers = sum(forward.values()) - forward["lm_head"]
    assert full - plain == pytest.approx(layers)
    assert full - stopped == pytest.approx(forward["down_proj"])


def test_parameters_are_the_matrices_of_the_model():
    for name in ("Llama-3.1-8B", "Qwen3-0.6B"):
        model = get_model(name)
        owned = parameters(model, training_calls(model, PLAIN).forward, Adapters())
        assert owned.layer + owned.table == pytest.approx(model.parameters(), rel=1e-3)


def test_adapters_own_rank_times_both_widths():
    setting = replace(PLAIN, method="lora", lora_rank=8)
    owned = parameters(SMALL, training_calls(SMALL, setting).forward, setting.adapters)
    widths = (1024 + 1536, 1024 + 1024, 1024 + 8192, 4096 + 1024)  # qkv, o, gate and up, down
    assert owned.learned_layer == 8 * SMALL.layers * sum(widths)
    assert owned.learned_table == 0


def test_zero_3_sends_one_and_a_half_times_the_bytes_of_zero_0_and_1_and_2_as_many():
    sent = [sent_bytes(training_calls(SMALL, replace(PLAIN, dp=8, zero_stage=z)).communication) for z in range(4)]
    assert sent[3] == pytest.approx(1.5 * sent[0], rel=1e-6)
    assert sent[1] == sent[2] == pytest.approx(sent[0], rel=1e-6)


def test_only_zero_2_and_3_send_in_every_micro_batch():
    once, four = (
        [
            sent_bytes(training_calls(SMALL, replace(PLAIN, dp=8, zero_stage=z, grad_accum=g)).communication)
            for z in range(4)
        ]
        for g in (1, 4)
    )
    assert [round(b / a, 6) for a, b in zip(once, four, strict=True)] == [1, 1, 2.5, 4]


def test_model_flops_are_six_per_weight_and_twelve_per_attended_width():
    weights = SMALL.linear_parameters() + SMALL.vocab * SMALL.hidden
    attention = 12 * SMALL.layers * SMALL.heads * SMALL.head_dim * 1024
    assert model_flops_per_token(SMALL, 1024) == pytest.approx(6 * weights + attention)


def test_a_step_never_gets_shorter_when_it_does_more(bundle: Bundle):
    base = step(bundle).step_s.value
    for grown in ({"micro_batch": 4}, {"seq_len": 2048}, {"grad_accum": 2}, {"checkpointing": "selective"}):
        assert step(bundle, **grown).step_s.value > base, grown
    selective, full = (step(bundle, checkpointing=level).step_s.value for level in ("selective", "full"))
    assert full > selective


def test_the_parts_add_up_and_keep_their_order(bundle: Bundle):
    whole = step(bundle, micro_batch=8, dp=16, zero_stage=3, pp=2, grad_accum=4)
    parts = (whole.forward_s, whole.backward_s, whole.optimizer_s, whole.communication_s, whole.bubble_s)
    assert whole.step_s.value == pytest.approx(sum(parts))
    assert 0 < whole.step_s.low < whole.step_s.value < whole.step_s.high
    assert 0 < whole.mfu < 1
    assert whole.bubble_s == pytest.approx((whole.forward_s + whole.backward_s) / 4)
    tokens = 8 * 1024 * 16 * 4
    assert whole.tokens_per_s.value == pytest.approx(tokens / whole.step_s.value)
    assert whole.time_for_tokens(10 * tokens).value == pytest.approx(10 * whole.step_s.value)


def test_a_slower_network_between_nodes_never_helps(bundle: Bundle):
    fast, slow = (
        step(bundle, dp=32, zero_stage=3, node_link_bytes_per_s=link).communication_s for link in (400e9, 4e9)
    )
    assert slow > fast


def test_adapters_are_faster_to_train_than_all_weights(bundle: Bundle):
    model, gpu = replace(get_model("Llama-3.1-8B"), layers=4), get_gpu("A100-SXM-80GB")
    times = [
        training_step(model, gpu, replace(PLAIN, seq_len=2048, method=method), bundle).step_s.value
        for method in ("lora", "full")
    ]
    assert times[0] <= times[1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "dora"}, 'method is "dora"; it must be one of full, lora, qlora.'),
        ({"micro_batch": 0}, "micro_batch is 0; it must be at least 1."),
        ({"zero_stage": 4}, "zero_stage is 4; it must be 0, 1, 2 or 3 (3 is FSDP FULL_SHARD)."),
        ({"node_link_bytes_per_s": 0}, "node_link_bytes_per_s is 0; it must be above 0: 200e9 is 1600 Gbps."),
        ({"tp": 16}, "tp is 16; it must be at most the 8 GPUs of a node. Lower tp or raise pp."),
    ],
)
def test_a_wrong_setting_names_value_rule_and_cure(changed: dict[str, object], message: str):
    with pytest.raises(InvalidRequest) as raised:
        replace(PLAIN, **changed)
    assert str(raised.value) == message


def test_every_choice_has_its_numbers():
    tables = {"optimizer": OPTIMIZER_BYTES, "quantization": DEQUANTISE_BYTES, "kernels": SEPARATE_TRAFFIC}
    tables |= {"attention": FLASH_SLOWDOWN, "lora_targets": TARGETS}
    assert {name: tuple(table) for name, table in tables.items()} == {name: CHOICES[name] for name in tables}
