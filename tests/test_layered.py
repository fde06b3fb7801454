"""Decoders with experts, latent and linear attention: counts of parameters, FLOPs, cache bytes and shards."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

import pytest
from hypothesis import assume, given, settings, strategies as st

from predictor.errors import InvalidRequest, InvalidSpec
from predictor.estimators.features import Setting, groups
from predictor.hardware.gpu import get_gpu
from predictor.latency.as_run import measured_as
from predictor.memory.closed_form import memory
from predictor.ops import Attention, Collective, Gemm, Moe
from predictor.workloads import Workload, get_model, models
from predictor.workloads.architectures.layered import LayeredDecoder
from predictor.workloads.architectures.mixers import LatentAttention
from predictor.workloads.configs.dense import decoder_from_config
from predictor.workloads.engines import Settings, get_engine

H200 = get_gpu("H200-SXM-141GB")
SPARSE = [model for model in models().values() if isinstance(model, LayeredDecoder)]
ENTRIES = tomllib.loads(resources.files("predictor").joinpath("catalog", "sparse_models.toml").read_text())
SMALL = settings(max_examples=60, deadline=None)


def run(name: str, **settings: Any) -> Workload:
    return Workload(model=get_model(name), **{"input_len": 512, "output_len": 16} | settings)


@pytest.mark.parametrize(
    ("name", "total"),
    [  # safetensors metadata on the hub, or the report
        ("Mixtral-8x7B-v0.1", 46_702_792_704),
        ("Qwen3-235B-A22B", 235_093_634_560),
        ("Qwen3-Coder-480B-A35B", 480_154_875_392),
        ("Qwen1.5-MoE-A2.7B", 14_315_784_192),
        ("DeepSeek-V2", 235_741_434_880),
        ("DeepSeek-V2-Lite", 15_706_484_224),
        ("Qwen3-Next-80B-A3B", 79_674_391_296),
        ("Llama-3_3-Nemotron-Super-49B-v1", 49_867_145_216),
        ("Qwen3.5-0.8B", 752_393_024),  # of the language model
        ("Qwen3.5-2B", 1_881_825_088),
        ("Qwen3.5-4B", 4_205_751_296),
        ("Qwen3.5-9B", 8_953_803_264),
        ("Kimi-Linear-48B-A3B", 49_122_681_728 - 26 * 256),  # without the routers' correction biases
    ],
)
def test_parameter_formula_is_exact(name: str, total: int) -> None:
    assert get_model(name).parameters() == total


@pytest.mark.parametrize(
    ("name", "active"),
    [
        ("Qwen3-235B-A22B", 22e9),
        ("Qwen3-30B-A3B", 3.3e9),
        ("gpt-oss-120b", 5.1e9),
        ("gpt-oss-20b", 3.6e9),
        ("DeepSeek-V3", 37e9),
        ("Kimi-K2-Instruct", 32e9),
        ("Mixtral-8x7B-v0.1", 12.9e9),
        ("Llama-4-Scout-17B-16E", 17e9),
        ("DeepSeek-V4-Flash", 13e9),
        ("Step-3.7-Flash", 11e9),
        ("NVIDIA-Nemotron-3-Super-120B-A12B-BF16", 12e9),
        ("NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16", 55e9),
    ],
)
def test_flops_of_a_token_are_twice_the_published_active_parameters(name: str, active: float) -> None:
    """The output head runs once per sequence here; publishers count it, and some the embedding too."""
    workload = run(name, dtype="bf16")
    matrices = sum(call.op.flops() * call.count for call in workload.prefill_ops() if call.op.family in ("gemm", "moe"))
    head = workload.model.vocab * workload.model.hidden
    assert matrices / 512 / 2 + head == pytest.approx(active, rel=0.1)


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [
        ("DeepSeek-V3", 61 * (512 + 64) * 2),
        ("Qwen3-235B-A22B", 94 * 2 * 4 * 128 * 2),
        ("gpt-oss-120b", 36 * 2 * 8 * 64 * 2),
        ("Qwen3-Next-80B-A3B", 12 * 2 * 2 * 256 * 2),  # only 12 of 48 layers cache
        ("Mistral-Small-24B-Base-2501", 163_840),
        ("GLM-5", 78 * (576 + 128) * 2),
        ("GLM-5.2", (78 * 576 + 21 * 128) * 2),  # 57 layers take the keys that an indexer before them chose
        ("MiniMax-M3", (60 * 2 * 4 * 128 + 57 * 128) * 2),  # and an index key in the sparse layers
    ],
)
def test_cache_of_a_token(name: str, bytes_per_token: float) -> None:
    assert memory(run(name), H200).kv_cache_bytes_per_token == bytes_per_token


def test_compressed_keys_stand_for_many_tokens() -> None:
    """DeepSeek V4: 128 tokens in every layer, a quarter of the others with an index in 21, 1/128 of them in 20."""
    length = 65_536
    kept = memory(run("DeepSeek-V4-Flash", input_len=length - 16, kv_dtype="bf16"), H200).kv_cache_bytes / 2
    assert kept == 43 * 128 * 512 + 21 * length // 4 * (512 + 128) + 20 * length // 128 * 512


@pytest.mark.parametrize("name", ["DeepSeek-V4-Flash", "MiniMax-M3"])
def test_sparse_attention_costs_little_more_over_longer_contexts(name: str) -> None:
    workload = run(name, input_len=262_144, dtype="bf16")
    short, long = (
        sum(c.op.flops() * c.count for c in workload.decode_ops(n) if c.op.family in ("attention", "mla"))
        for n in (32_768, 262_144)
    )
    assert short <= long < 5 * short  # of 8; three layers of MiniMax M3 are dense
    assert any("sparse attention" in note for note in workload.model.notes)


def test_a_recurrent_state_does_not_grow() -> None:
    short, long = (memory(run("Qwen3.5-35B-A3B", input_len=n, kv_block=1), H200) for n in (1000, 2000))
    state = 2 * short.kv_cache_bytes - long.kv_cache_bytes - 16 * short.kv_cache_bytes_per_token
    assert state == pytest.approx(30 * (4 * 32 * 128 * 128 + 2 * 3 * 8192))


@given(
    model=st.sampled_from(SPARSE),
    tp=st.sampled_from([1, 2, 4, 8]),
    ep=st.sampled_from([1, 2, 4, 8]),
    attention_dp=st.sampled_from([1, 2, 4]),
)
@SMALL
def test_every_expert_is_held_once(model: LayeredDecoder, tp: int, ep: int, attention_dp: int) -> None:
    assume(model.has_experts)
    try:
        workload = Workload(model=model, input_len=64, output_len=8, tp=tp, ep=ep, attention_dp=attention_dp)
    except InvalidRequest:
        return
    shards = tp * attention_dp
    whole = model.elements(Workload(model=model).layout)[1]
    assert model.elements(workload.layout)[1] * shards == pytest.approx(whole)
    flops = sum(call.op.flops() * call.count for call in workload.prefill_ops() if isinstance(call.op, Moe))
    alone = Workload(model=model, input_len=64, output_len=8, batch=1)
    routed = sum(call.op.flops() * call.count for call in alone.prefill_ops() if isinstance(call.op, Moe))
    assert flops * shards == pytest.approx(routed * attention_dp)  # each of attention_dp groups brings a sequence


@given(model=st.sampled_from(SPARSE), batch=st.integers(1, 64), more=st.integers(1, 64))
@SMALL
def test_more_sequences_are_more_work_and_memory(model: LayeredDecoder, batch: int, more: int) -> None:
    one, two = (Workload(model=model, input_len=64, output_len=8, batch=n) for n in (batch, batch + more))
    work = [sum(call.op.flops() * call.count for call in each.decode_ops(72)) for each in (one, two)]
    assert work[0] < work[1]
    assert memory(one, H200).total_bytes <= memory(two, H200).total_bytes


def test_attention_data_parallel_gathers_and_scatters_tokens() -> None:
    calls = run("DeepSeek-V3", tp=1, attention_dp=8, ep=8, batch=64).decode_ops(600)
    kinds = {call.name: call.op for call in calls if isinstance(call.op, Collective)}
    assert set(kinds) == {"dispatch", "combine"}
    assert kinds["dispatch"].message_bytes == 64 * 7168 * 2
    attention = next(call.op for call in calls if call.name == "attention")
    assert (attention.batch, attention.heads) == (8, 128)


def test_sparse_latent_attention_reads_no_more_keys_than_its_indexer_picks() -> None:
    calls = {call.name: call.op for call in run("DeepSeek-V3.2", input_len=30_000).decode_ops(30_001)}
    assert calls["attention"].kv_len == 2048
    assert calls["index_scores"].n == 30_001
    layer = next(layer for layer in models()["DeepSeek-V3.2"].layers_of)  # type: ignore[union-attr]
    assert isinstance(layer.mixer, LatentAttention)


def test_layers_that_share_an_indexer_read_no_more_keys_and_choose_none() -> None:
    counts = [
        {call.name: call.count for call in run(name, input_len=30_000).decode_ops(30_001)}
        for name in ("GLM-5", "GLM-5.2")
    ]
    assert [count["index_scores"] for count in counts] == [78, 21]
    attention = [c.op for c in run("GLM-5.2", input_len=30_000).decode_ops(30_001) if c.name == "attention"]
    assert [op.kv_len for op in attention] == [2048]


def test_sliding_layers_of_step_have_heads_of_their_own() -> None:
    calls = run("Step-3.7-Flash", tp=8).prefill_ops()
    found = {call.name: (call.op.heads, call.count) for call in calls if isinstance(call.op, Attention)}
    assert found == {"attention": (8, 12), "window_attention": (12, 33)}


@pytest.mark.parametrize("name", ["Qwen3.6-27B-NVFP4", "Gemma-4-31B-IT-NVFP4"])
def test_feed_forwards_have_a_format_of_their_own_where_there_are_no_experts(name: str) -> None:
    workload = run(name)
    formats = {call.name: call.op.dtype for call in workload.decode_ops(600) if isinstance(call.op, Gemm)}
    assert formats["down_proj"] == workload.expert_dtype != workload.dtype == formats["o_proj"]
    plain = run(name, dtype="bf16")
    feed_forwards = workload.model.elements(workload.layout)[1]
    saved = memory(plain, H200).weights_bytes - memory(workload, H200).weights_bytes
    assert saved >= feed_forwards * (16 - 4.5) / 8
    assert {call.op.dtype for call in plain.decode_ops(600) if isinstance(call.op, Gemm)} == {"bf16"}


def test_published_formats_are_the_default_and_a_flag_replaces_them() -> None:
    assert (run("gpt-oss-120b").dtype, run("gpt-oss-120b").expert_dtype) == ("bf16", "mxfp4_wo")
    assert (run("gpt-oss-120b", dtype="bf16").dtype, run("gpt-oss-120b", dtype="bf16").expert_dtype) == ("bf16", "")
    assert run("Qwen3-32B-FP8").dtype == "fp8_block"


def test_pipeline_stages_share_layers_and_the_batch() -> None:
    whole, staged = run("Mixtral-8x7B-v0.1", batch=8), run("Mixtral-8x7B-v0.1", batch=8, pp=4)
    assert memory(staged, H200).weights_bytes < 0.3 * memory(whole, H200).weights_bytes
    assert {call.name: call.count for call in staged.decode_ops(600)}["pipeline_send"] == 3
    assert staged.step("decode", 1, 600).batch == 2


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("zai-org/GLM-5", {"index_topk_freq": 4}, "index_topk_freq in config.json needs indexer_types"),
        ("zai-org/GLM-5.2", {"indexer_types": ["full"]}, "indexer_types in config.json is a list of 1 entries"),
        ("stepfun-ai/Step-3.7-Flash", {"moe_layers_enum": "3,99"}, "moe_layers_enum in config.json is '3,99'"),
        ("stepfun-ai/Step-3.7-Flash", {"attention_other_setting": {}}, "attention_type"),
        ("moonshotai/Kimi-K3", {"linear_attn_config": 1}, "linear_attn_config in config.json is 1"),
        ("Qwen/Qwen3.5-27B", {"quantization_config": {"quant_algo": "MIXED_PRECISION"}}, "quantized_layers"),
    ],
)
def test_a_config_that_is_not_understood_names_its_field(name: str, change: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidSpec, match=says):
        decoder_from_config(ENTRIES[name] | change)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ep": 3}, "ep is 3; it must divide tp"),
        ({"tp": 8, "ep": 8, "pp": 99}, "pp is 99"),
        ({"tp": 3}, "tp is 3; it must divide the 64 attention heads"),
        ({"expert_dtype": "fp9"}, "expert_dtype"),
    ],
)
def test_impossible_layouts_name_the_rule(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        run("Qwen3-235B-A22B", **settings)


def test_dense_models_have_no_experts_to_share() -> None:
    with pytest.raises(InvalidRequest, match="has no experts"):
        run("Llama-3.1-8B", tp=2, ep=2)


@pytest.mark.parametrize(("attention_dp", "kind"), [(8, "all_gather"), (16, "all_to_all")])
def test_tokens_go_to_their_experts_where_those_are_fewer_than_the_gpus(attention_dp: int, kind: str) -> None:
    workload = run("DeepSeek-V3", batch=16 * 32, attention_dp=attention_dp, ep=attention_dp)
    dispatch = next(call.op for call in workload.decode_ops(513) if call.name == "dispatch")
    assert isinstance(dispatch, Collective) and dispatch.kind == kind
    copies = 8 if kind == "all_to_all" else 2 * attention_dp  # fp8 to 8 experts, or 16 bits to all GPUs
    assert dispatch.message_bytes == pytest.approx(16 * 32 / attention_dp * 7168 * copies, rel=0.04)  # and scales


def names(workload: Workload, phase: str = "decode") -> dict[str, float]:
    """Names and counts of the calls of one step."""
    calls = workload.prefill_ops() if phase == "prefill" else workload.decode_ops(600)
    return {call.name: call.count for call in calls}


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_captured_steps_run_shared_experts_beside_the_routed_ones(engine: str) -> None:
    workload = run("DeepSeek-V3", engine=engine, tp=8, batch=4)
    experts = next(call.op for call in workload.decode_ops(600) if isinstance(call.op, Moe))
    assert (experts.experts, experts.topk) == (257, 9)
    assert not any(name.startswith("shared_") for name in names(workload))
    for other in (names(workload, "prefill"), names(run("DeepSeek-V3", engine="vllm-v0", tp=8))):
        assert {"shared_gate_up_proj", "shared_down_proj", "shared_add"} <= set(other)
    eager = run("DeepSeek-V3", engine=engine, tp=8, settings=Settings(enforce_eager=True))
    assert "shared_add" in names(eager)


def test_an_engine_has_no_call_for_what_its_kernels_do_beside_their_own_op() -> None:
    fused = {"rope", "routing"}
    for model in ("gpt-oss-120b", "DeepSeek-V3"):
        for phase in ("prefill", "decode"):
            assert fused.isdisjoint(names(run(model, engine="trtllm"), phase)), (model, phase)
            assert fused <= set(names(run(model, engine="vllm"), phase)), (model, phase)
    assert "kv_norm" in names(run("DeepSeek-V3", engine="vllm"))
    assert "kv_norm" not in names(run("DeepSeek-V3", engine="sglang"))


@pytest.mark.parametrize(
    ("name", "engine", "fuses"),
    [
        ("Llama-3.1-70B", "trtllm", True),
        ("Qwen3-32B", "trtllm", False),  # its file has no fused all-reduce
        ("gpt-oss-120b", "trtllm", True),
        ("gpt-oss-120b", "sglang", True),
        ("Llama-3.1-70B", "sglang", False),
        ("gpt-oss-120b", "vllm", False),
    ],
)
def test_norms_are_part_of_the_all_reduces_of_captured_steps(name: str, engine: str, fuses: bool) -> None:
    shared = run(name, engine=engine, tp=8)
    assert ("add_rms_norm" not in names(shared)) == fuses
    assert "add_rms_norm" in names(shared, "prefill") and "add_rms_norm" in names(run(name, engine=engine))


def test_tables_of_other_engines_stand_in_where_they_hold_the_kernels_that_run() -> None:
    def whose(engine: str, gpu: str, dtype: str) -> str:
        op = Moe(tokens=4, hidden=2880, inter=2880, experts=128, topk=4, dtype=dtype)
        return measured_as(engine, op, get_gpu(gpu))

    assert [whose("trtllm", "B200", dtype) for dtype in ("nvfp4", "fp8_block", "bf16")] == ["vllm", "vllm", "trtllm"]
    assert [whose(engine, "B200", "mxfp4_mxfp8") for engine in ("trtllm", "vllm")] == ["sglang", "sglang"]
    assert [whose("trtllm", "H200", dtype) for dtype in ("mxfp4_wo", "fp8_block")] == ["vllm", "trtllm"]
    assert whose("trtllm", "RTX PRO 6000", "nvfp4") == "trtllm"


def test_the_host_issues_more_calls_for_experts_and_latent_attention_than_for_other_operators() -> None:
    alone = get_engine("trtllm").on(H200).launch_s
    launched = {name: run(name, engine="trtllm").engine_on(H200).launch_s for name in ("DeepSeek-V3", "gpt-oss-120b")}
    assert (
        launched["DeepSeek-V3"]
        > launched["gpt-oss-120b"]
        > alone
        == pytest.approx(run("Llama-3.1-8B", engine="trtllm").engine_on(H200).launch_s)
    )


def test_openai_kernels_multiply_experts_in_mxfp4_on_hopper() -> None:
    for dtype, kernel in (("mxfp4_wo", "ogs"), ("bf16", "triton")):
        op = Moe(tokens=4, hidden=2880, inter=2880, experts=128, topk=4, dtype=dtype)
        assert groups(op, H200, Setting(engine="vllm")) == f"device|{kernel}|vllm|{dtype}"
