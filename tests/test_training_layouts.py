"""Laws of how GPUs share a training step: ranks, stages, parts of sequences, experts; what is refused and why."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.gpu import get_gpu
from predictor.latency.pace import ROUTING_S
from predictor.latency.training import TrainingStep, training_notes, training_step
from predictor.memory.capacity import training_room
from predictor.memory.training import training_memory
from predictor.ops import Attention, Collective, Gemm, Moe
from predictor.prediction.advice import fixes
from predictor.prediction.single import predict_training, resolve
from predictor.workloads import get_model
from predictor.workloads.passes.parallel import Parallel, group_of, stages
from predictor.workloads.passes.training import TrainingSetting, training_calls
from predictor.workloads.request import Request

H100 = get_gpu("H100")
DENSE, ROUTED = "Llama-3.1-8B", "Qwen3-30B-A3B"
PLAIN: dict[str, Any] = {"seq_len": 2048, "grad_accum": 16, "zero_stage": 1}
SPLIT: dict[str, Any] = {"tp": 2, "pp": 2, "sequence_parallel": True}


@cache
def bundle() -> Bundle:
    return load_bundle()


def step(name: str = DENSE, **changes: Any) -> TrainingStep:
    return training_step(get_model(name), H100, TrainingSetting(**{**PLAIN, **changes}), bundle())


def needs(name: str = DENSE, **changes: Any) -> float:
    return training_memory(get_model(name), H100, TrainingSetting(**{**PLAIN, **changes})).total_bytes


def flops(name: str, kind: type, **changes: Any) -> float:
    calls = training_calls(get_model(name), TrainingSetting(**{**PLAIN, **changes}))
    made = [*calls.forward, *calls.backward]
    return sum(float(call.op.flops()) * call.count for call in made if isinstance(call.op, kind))


def sent(name: str, message: str, **changes: Any) -> float:
    calls = training_calls(get_model(name), TrainingSetting(**{**PLAIN, **changes}))
    made = [call for part in calls for call in part if isinstance(call.op, Collective) and call.name == message]
    return sum(float(call.op.message_bytes) * call.count for call in made)


@pytest.mark.parametrize("name", [DENSE, ROUTED])
def test_ones_are_a_single_gpu_to_the_last_bit(name: str) -> None:
    ones = {"tp": 1, "pp": 1, "vp": 1, "cp": 1, "ep": 1, "expert_tp": 1, "dp": 1, "dp_replicate": 1}
    assert step(name, **ones).step_s == step(name).step_s
    assert needs(name, **ones) == needs(name)
    assert step(name, pp=4, vp=1).step_s == step(name, pp=4).step_s


@given(
    name=st.sampled_from([DENSE, ROUTED]),
    more=st.sampled_from(["tp", "cp", "ep", "dp", "pp", "fewer copies"]),
    checkpointing=st.sampled_from(["none", "selective", "full"]),
    zero_stage=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_more_ranks_never_need_more_of_a_gpu(name: str, more: str, checkpointing: str, zero_stage: int) -> None:
    setting = {"checkpointing": checkpointing, "zero_stage": zero_stage, "sequence_parallel": True, "dp": 8}
    if more == "ep" and name == DENSE:
        return
    fewer = {"dp_replicate": 4} if more == "fewer copies" else {}
    grown = {"fewer copies": {"dp_replicate": 2}, "dp": {"dp": 16}}.get(more, {more: 2})
    assert (
        needs(name, **setting, **grown)
        if more != "dp"
        else needs(name, **{**setting, **grown}) <= needs(name, **setting, **fewer) * (1 + 1e-9)
    )


@given(
    pp=st.integers(1, 8),
    vp=st.integers(1, 4),
    cp=st.sampled_from([1, 2, 4]),
    ep=st.sampled_from([1, 2, 4, 8]),
    grad_accum=st.integers(1, 64),
    length=st.integers(1, 8),
)
@settings(max_examples=30, deadline=None)
def test_a_step_takes_longer_the_more_it_trains_on(
    pp: int, vp: int, cp: int, ep: int, grad_accum: int, length: int
) -> None:
    shape = {"pp": pp, "vp": vp if pp > 1 else 1, "cp": cp, "ep": ep, "dp": 8, "seq_len": 512 * length}
    here = step(ROUTED, **shape, grad_accum=grad_accum)
    parts = (here.forward_s, here.backward_s, here.optimizer_s, here.communication_s, here.bubble_s)
    assert here.step_s.value == pytest.approx(sum(parts))
    assert here.step_s.low <= here.step_s.value <= here.step_s.high
    assert step(ROUTED, **shape, grad_accum=grad_accum + 1).step_s.value >= here.step_s.value
    longer = {**shape, "seq_len": 512 * (length + 1)}
    assert step(ROUTED, **longer, grad_accum=grad_accum).step_s.value >= here.step_s.value


def test_interleaving_shrinks_the_bubble_and_keeps_more() -> None:
    """Narayanan et al., arXiv:2104.04473, 2.2: (p - 1) / (m v); Korthikanti et al.: 1 + (p - 1) / (p v) as much."""
    plain, chunks = step(pp=4), step(pp=4, vp=4)
    assert chunks.bubble_s == pytest.approx((chunks.forward_s + chunks.backward_s) * 3 / (16 * 4))
    assert chunks.bubble_s == pytest.approx(plain.bubble_s / 4)
    (first, *_), (interleaved, *_) = (stages(32, Parallel(pp=4, vp=vp), passes=16) for vp in (1, 4))
    assert first.flying == 4 and interleaved.flying == pytest.approx(4 * (1 + 3 / (4 * 4)))


@given(layers=st.integers(1, 130), pp=st.integers(1, 16), passes=st.integers(1, 64))
def test_stages_share_all_layers_and_hold_no_more_than_is_under_way(layers: int, pp: int, passes: int) -> None:
    if pp > layers:
        return
    of = stages(layers, Parallel(pp=pp), passes)
    assert of[0].embeds and of[-1].heads and max(stage.layers for stage in of) == -(-layers // pp)
    assert all(stage.layers >= 1 and 1 <= stage.flying <= min(pp, passes) for stage in of)


def test_a_pipeline_may_have_uneven_stages() -> None:
    """126 layers on 8 stages: 15 with the embedding and with the head, 16 between."""
    assert [stage.layers for stage in stages(126, Parallel(pp=8), 8)] == [15, 16, 15]
    assert [stage.layers for stage in stages(61, Parallel(pp=16), 8)] == [3, 4, 3]


def test_ranks_share_the_work_of_a_sequence() -> None:
    for kind in (Gemm, Attention):
        assert flops(DENSE, kind, cp=4) == pytest.approx(flops(DENSE, kind) / 4, rel=1e-6)
    ring, heads = (sent(DENSE, f"cp_{kind}", cp=4, cp_comm_type=kind) for kind in ("p2p", "a2a"))
    tokens, layers, passes = 2048 // 4, 32, 16
    assert ring == 2 * 2 * 4 * tokens * 8 * 128 * layers * passes  # keys and values of all, 16 bits
    assert heads == 2 * 2 * tokens * (32 + 8) * 128 * layers * passes  # and queries and outputs of its own


def test_experts_are_dealt_out_with_their_work_and_their_gradients() -> None:
    shape = {"dp": 8, "expert_tp": 1}
    assert flops(ROUTED, Moe, **shape, ep=8) == pytest.approx(flops(ROUTED, Moe, **shape))
    assert sent(ROUTED, "dispatch", **shape) == 0
    assert sent(ROUTED, "dispatch", **shape, ep=8) == 16 * 48 * 2048 * 8 * 2048 * 2  # each copy once, 16 bits
    assert sent(ROUTED, "expert_grad_reduce_scatter", **shape, ep=8) == 0  # there is one replica of each
    whole, dealt = (sent(ROUTED, "expert_grad_reduce_scatter", dp=16, expert_tp=1, ep=ep) for ep in (2, 8))
    assert dealt == pytest.approx(whole / 4, rel=1e-6)
    assert needs(ROUTED, dp=8, ep=8) < needs(ROUTED, dp=8) / 2


def test_kernels_that_sort_send_a_node_one_copy_of_a_token() -> None:
    shape = {"dp": 32, "ep": 32, "expert_tp": 1}
    every, one = (sent(ROUTED, "dispatch", **shape, moe_token_dispatcher_type=kind) for kind in ("alltoall", "flex"))
    assert one / every == pytest.approx(4 * (1 - (1 - 1 / 4) ** 8) / 8, rel=1e-6)


def test_what_overlaps_never_takes_longer() -> None:
    assert step(**SPLIT, overlap_tp=True).step_s.value < step(**SPLIT).step_s.value
    far = {"dp": 16, "ep": 16, "expert_tp": 1, "node_link_bytes_per_s": 200e9}
    assert step(ROUTED, **far, overlap_ep=True).step_s.value < step(ROUTED, **far).step_s.value
    dropped = step(ROUTED, **far, moe_expert_capacity_factor=1.0)
    assert dropped.step_s.value <= step(ROUTED, **far).step_s.value
    fused = step(gradient_accumulation_fusion=True)
    assert fused.optimizer_s < step().optimizer_s


def test_overlapping_hides_messages_and_not_the_host_that_counts_tokens() -> None:
    shape = {"dp": 16, "ep": 16, "expert_tp": 1, "overlap_ep": True, "node_link_bytes_per_s": 200e9}
    waits, captured = step(ROUTED, **shape), step(ROUTED, **shape, cuda_graphs=True)
    least = ROUTING_S * 48 * 16  # layers, passes
    assert waits.device_s["forward"] > least
    assert captured.step_s.value < waits.step_s.value
    assert step(ROUTED, **shape, moe_expert_capacity_factor=1.0).device_s == captured.device_s
    (note,) = [note for note in training_notes(get_gpu("H100"), waits.setting) if note.startswith("experts")]
    assert note == (
        "experts: 2.5 ms in each layer and pass at least, in which the host reads how many tokens go where "
        "(Megatron-Core; other programs differ). cuda_graphs and moe_expert_capacity_factor need no such wait."
    )
    assert not training_notes(get_gpu("H100"), captured.setting)


def test_a_message_beside_computing_slows_it() -> None:
    hidden = step(dp=8, zero_stage=1, gpus_per_node=8)
    assert hidden.communication_s > 0
    assert step(dp=8, zero_stage=1, prefetch=False).communication_s > hidden.communication_s


def test_copies_of_shards_send_less_between_nodes_and_need_more() -> None:
    shape = {"dp": 32, "zero_stage": 3}
    assert needs(**shape) < needs(**shape, dp_replicate=4)
    assert sent(DENSE, "replicate_all_reduce", **shape, dp_replicate=4) > 0
    group = group_of("forward_all_gather", TrainingSetting(**PLAIN | shape, dp_replicate=4))
    assert group is not None and group.nodes == 1


def test_groups_lie_as_ranks_are_dealt() -> None:
    """tp, cp, replicas, stages; of experts their columns, ep, replicas (Megatron-Core, parallel_state.py)."""
    setting = Parallel(tp=4, pp=2, cp=2, dp=8, ep=16, expert_tp=1, sequence_parallel=True)
    known = {name: group_of(name, setting) for name in ("cp_p2p", "dispatch", "expert_grad_reduce_scatter", "grad_x")}
    assert {name: (group.gpus, group.local) for name, group in known.items() if group} == {
        "cp_p2p": (2, 2),
        "dispatch": (16, 8),
        "expert_grad_reduce_scatter": (4, 1),
        "grad_x": (16, 2),
    }
    assert group_of("all_reduce", setting) is None


def test_replicas_and_passes_follow_from_what_is_stated() -> None:
    request = Request(
        model=DENSE, gpu="H100", phase="train", n_gpus=64, tp=4, pp=2, cp=2, global_batch=128, micro_batch=2
    )
    assert (request.dp, request.grad_accum) == (4, 16)
    alone = Request(model=DENSE, gpu="H100", phase="train", n_gpus=8)
    assert (alone.tp, alone.dp, alone.grad_accum) == (1, 8, 1)
    assert Request.of({column: getattr(request, column) for column in request.__slots__}) == request


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_gpus": 12, "tp": 8}, "n_gpus is 12; tp * cp * pp, 8, must divide it."),
        ({"n_gpus": 8, "tp": 2, "dp": 2}, "n_gpus is 8; tp * cp * pp * dp is 4. Make them equal or drop one."),
        ({"global_batch": 6, "dp": 4}, "global_batch is 6; it must be a multiple of micro_batch * dp, 4."),
        (
            {"global_batch": 8, "dp": 4, "grad_accum": 3},
            "global_batch is 8; it must be grad_accum, 3, times micro_batch * dp, 4.",
        ),
        ({"tp": 16}, "tp is 16; it must be at most the 8 GPUs of a node. Lower tp or raise pp."),
        ({"vp": 2}, "vp is 2; a pipeline of 1 stage has nothing to interleave. Raise pp."),
        ({"pp": 8, "vp": 5}, "pp * vp is 40; Llama-3.1-8B has 32 layers. Lower pp * vp."),
        ({"pp": 33}, "pp is 33; Llama-3.1-8B has 32 layers. Lower pp."),
        (
            {"cp": 3},
            "cp is 3; 2 * cp must divide seq_len, 2048, as each GPU takes a part of the start and one of the end. "
            "Lower cp or pad the sequences.",
        ),
        ({"ep": 2, "dp": 2}, "ep is 2; Llama-3.1-8B has no experts. Leave it out."),
        ({"dp": 4, "dp_replicate": 3, "zero_stage": 3}, "dp_replicate is 3; it must divide dp, 4."),
        (
            {"dp": 4, "dp_replicate": 2},
            "dp_replicate is 2; zero_stage 0 shards nothing, so that all replicas are such. Set zero_stage to 1, 2 or "
            "3.",
        ),
        (
            {"model": ROUTED, "ep": 8, "dp": 4},
            "ep is 8; it must divide tp * cp * dp / (dp_replicate * expert_tp), 4. Lower ep or add GPUs.",
        ),
        ({"model": ROUTED, "ep": 3, "dp": 3}, "ep is 3; it must divide the 128 experts."),
        (
            {"model": ROUTED, "ep": 2, "dp": 2, "tp": 2},
            "ep is 2 with tp 2; the GPUs of a layer must send tokens of their own to experts. Set sequence_parallel to "
            "1.",
        ),
        (
            {"model": ROUTED, "expert_tp": 3},
            "expert_tp is 3; it must divide the 1 GPUs of tp * cp * dp / dp_replicate.",
        ),
        ({"cp": 2, "cp_comm_type": "a2a", "tp": 8, "model": "Qwen3-0.6B"}, ""),
    ],
)
def test_what_no_engine_runs_is_refused(changed: dict[str, Any], message: str) -> None:
    row = {"model": DENSE, "gpu": "H100", **changed}
    if not message:
        assert predict_training(**row).step_s.value > 0
        return
    with pytest.raises(InvalidRequest) as raised:
        predict_training(**row)
    assert str(raised.value) == message


def test_heads_are_exchanged_whole() -> None:
    with pytest.raises(InvalidRequest, match="cp is 8 with cp_comm_type a2a; it must divide the 4 attention heads"):
        predict_training(DENSE, "H100", tp=8, cp=8, cp_comm_type="a2a")


def test_serving_has_no_layout_of_training() -> None:
    with pytest.raises(InvalidRequest, match=r"cp is 2; serving has none\. Set phase to train, or leave it out\."):
        Request(model=DENSE, gpu="H100", cp=2)
    with pytest.raises(InvalidRequest, match=r"attention_dp is 2; training has none\. Leave it out\."):
        Request(model=DENSE, gpu="H100", phase="train", attention_dp=2)


def test_formats_of_products_keep_all_else() -> None:
    setting = TrainingSetting(**PLAIN)
    made = {
        dtype: training_calls(get_model(DENSE), replace(setting, dtype=dtype)).forward
        for dtype in ("bf16", "fp8", "mxfp8", "nvfp4")
    }
    products = {dtype: {str(c.op.dtype) for c in calls if c.name == "qkv_proj"} for dtype, calls in made.items()}
    assert products == {"bf16": {"bf16"}, "fp8": {"fp8"}, "mxfp8": {"fp8"}, "nvfp4": {"nvfp4"}}
    assert all(
        str(c.op.dtype) == "bf16" for calls in made.values() for c in calls if c.name in ("lm_head", "attention")
    )


def test_what_would_make_a_layout_fit_keeps_its_global_batch_and_its_parts() -> None:
    shape = {"tp": 2, "cp": 2, "n_gpus": 16, "global_batch": 64, "micro_batch": 8, "seq_len": 4096}
    report = predict_training(DENSE, "H100", **shape)
    told = fixes(report, resolve(report.request), bundle())
    changed = set[str]().union(*(fix.settings for fix in told))
    assert told and "grad_accum" not in changed
    room = training_room(get_model(DENSE), H100, TrainingSetting(**PLAIN, cp=4))
    assert room.max_seq_len and room.max_seq_len % 8 == 0


@given(
    name=st.sampled_from([DENSE, ROUTED]),
    method=st.sampled_from(["full", "lora", "qlora"]),
    tp=st.sampled_from([2, 4]),
    checkpointing=st.sampled_from(["none", "selective", "selective_ops", "modules", "full", "offloaded"]),
    lora_targets=st.sampled_from(["all", "qv", "mlp", "all_and_head"]),
    lora_dropout=st.sampled_from([0.0, 0.1]),
    kernels=st.sampled_from(["eager", "library", "fused"]),
    zero_stage=st.integers(0, 3),
)
@settings(max_examples=80, deadline=None)
def test_tokens_that_are_split_never_need_more_whatever_learns(name: str, method: str, tp: int, **more: Any) -> None:
    """Korthikanti et al., arXiv:2205.05198, 4.2.2: what is outside attention and feed-forward is split by tp."""
    setting: dict[str, Any] = {**more, "method": method, "tp": tp, "dp": 2, "micro_batch": 2, "grad_accum": 2}
    split, whole = (needs(name, **setting, sequence_parallel=on) for on in (True, False))
    assert split <= whole * (1 + 1e-9)
    assert split <= needs(name, **{**setting, "tp": 1}, sequence_parallel=True) * (1 + 1e-9)


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("tp", [2, 8])
def test_adapters_split_the_inputs_of_layers_too(method: str, tp: int) -> None:
    """Each of 32 layers keeps its input of 2048 tokens of 4096 elements in 16 bits, a part of it where tokens are
    split; messages are as long either way, and norms take a part of the time."""
    setting: dict[str, Any] = {"method": method, "tp": tp, "grad_accum": 1, "zero_stage": 0}
    kept = {
        on: training_memory(
            get_model(DENSE), H100, TrainingSetting(**PLAIN | setting, checkpointing="full", sequence_parallel=on)
        ).activations_bytes
        for on in (True, False)
    }
    assert kept[False] - kept[True] >= 2 * 32 * 2048 * 4096 * (1 - 1 / tp)
    for checkpointing in ("none", "full"):
        split, whole = (step(**setting, checkpointing=checkpointing, sequence_parallel=on) for on in (True, False))
        assert 0.6 * whole.step_s.value < split.step_s.value < whole.step_s.value
        assert split.optimizer_s == whole.optimizer_s
        sent = [
            sum(float(line.op.message_bytes) * line.count for line in of.lines if isinstance(line.op, Collective))
            for of in (split, whole)
        ]
        assert sent[0] == pytest.approx(sent[1])
