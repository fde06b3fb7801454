"""Laws of the op lists: what a forward pass costs, and how it splits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from predictor.errors import InvalidRequest, InvalidSpec, PredictorError, UnsupportedDtype
from predictor.ops import DTYPES, Attention, Gemm
from predictor.workloads import Decoder, OpCall, Workload, get_model, models
from predictor.workloads.architectures.convnet import CONVOLVED, ConvNet
from predictor.workloads.engine_tables import engine_names
from predictor.workloads.engines import engine_with
from predictor.workloads.models import Model

LLAMA = get_model("Llama-3.1-8B")
TOY = Decoder(
    name="toy",
    hidden=64,
    layers=3,
    heads=8,
    kv_heads=2,
    head_dim=16,
    inter=192,
    vocab=1000,
    max_len=4096,
    source="made up",
)
SMALL = settings(max_examples=40, deadline=None)


def total(calls: tuple[OpCall, ...], kind: type = object) -> tuple[float, float]:
    """(FLOPs, bytes) of the calls whose op is of a kind."""
    chosen = [call for call in calls if isinstance(call.op, kind)]
    flops = sum(float(call.op.flops()) * call.count for call in chosen)
    return flops, sum(float(call.op.bytes_moved()) * call.count for call in chosen)


def by_name(calls: tuple[OpCall, ...]) -> dict[str, OpCall]:
    named = {call.name: call for call in calls}
    assert len(named) == len(calls)
    return named


def test_prefill_flops_are_two_per_parameter_and_token_plus_attention() -> None:
    """Kaplan et al., arXiv:2001.08361, 2.1: 2·N per token; causal attention 2·n²·width per layer."""
    tokens = 2048
    calls = Workload(model=LLAMA, input_len=tokens).prefill_ops()
    attention = LLAMA.layers * 4 * (tokens * (tokens + 1) / 2) * LLAMA.heads * LLAMA.head_dim
    assert total(calls, Gemm)[0] == 2 * LLAMA.linear_parameters() * tokens + 2 * LLAMA.hidden * LLAMA.vocab
    assert total(calls, Attention)[0] == attention
    whole = 2 * (LLAMA.parameters() - LLAMA.hidden * LLAMA.vocab) * tokens
    assert total(calls)[0] == pytest.approx(whole + attention, rel=0.07)  # the head runs once, not per token


def test_gpt3_flops_match_the_formula_of_narayanan() -> None:
    """Forward: 24·B·s·l·h²·(1 + s/(6h) + V/(12·l·h)), the head on all tokens (arXiv:2104.04473, 5.1).

    There attention is not causal, so twice the pairs of ours; ours takes the head on one token per sequence.
    """
    layers, hidden, seq, batch, vocab = 96, 12288, 2048, 4, 51200
    gpt3 = replace(
        TOY,
        name="GPT-3",
        hidden=hidden,
        layers=layers,
        heads=96,
        kv_heads=96,
        head_dim=128,
        inter=4 * hidden,
        vocab=vocab,
        gated=False,
        activation="gelu",
    )
    calls = Workload(model=gpt3, batch=batch, input_len=seq).prefill_ops()
    linear = sum(float(c.op.flops()) * c.count for c in calls if isinstance(c.op, Gemm) and c.name != "lm_head")
    pairs = 2 * total(calls, Attention)[0] * seq / (seq + 1)
    head = total(tuple(c for c in calls if c.name == "lm_head"))[0] * seq
    formula = 24 * batch * seq * layers * hidden**2 * (1 + seq / (6 * hidden) + vocab / (12 * layers * hidden))
    assert linear + pairs + head == pytest.approx(formula, rel=1e-12)


def test_decode_reads_every_weight_and_the_whole_cache_once() -> None:
    calls = Workload(model=LLAMA).decode_ops(1100)
    weights = 2 * (LLAMA.linear_parameters() + LLAMA.vocab * LLAMA.hidden)
    cache = 1100 * 131072
    assert weights + cache < total(calls)[1] < 1.01 * (weights + cache)


@given(model=st.sampled_from(list(models().values())), dtype=st.sampled_from(sorted(DTYPES)))
@example(model=models()["vit_h_14"], dtype="q2_k")  # one row of the classifier in each of two passes
@settings(max_examples=150, deadline=None)
def test_every_model_runs_in_every_dtype(model: Model, dtype: str) -> None:
    engine = engine_with(dtype) or "vllm"
    workload = Workload(model=model, batch=2, input_len=512, output_len=64, dtype=dtype, engine=engine)
    if isinstance(model, ConvNet) and dtype not in CONVOLVED:
        with pytest.raises(UnsupportedDtype, match="convolutions run in"):
            workload.prefill_ops()
        return
    for calls in (workload.prefill_ops(), *((workload.decode_ops(513),) if workload.generates else ())):
        assert len({(call.name, call.op) for call in calls}) == len(calls)  # equal ones once
        for call in calls:
            assert len(call.op) == 1 and call.count > 0
            assert float(call.op.flops()) >= 0 and float(call.op.bytes_moved()) > 0


@given(batch=st.integers(1, 64), input_len=st.integers(1, 3000), more=st.integers(1, 500))
@SMALL
def test_more_tokens_never_cost_less(batch: int, input_len: int, more: int) -> None:
    def costs(b: int, n: int) -> np.ndarray:
        workload = Workload(model=TOY, batch=b, input_len=n)
        return np.array([*total(workload.prefill_ops()), *total(workload.decode_ops(n))])

    assert (costs(batch, input_len + more) >= costs(batch, input_len)).all()
    assert (costs(batch + more, input_len) >= costs(batch, input_len)).all()


@given(tp=st.sampled_from([1, 2]), phase=st.sampled_from(["prefill", "decode"]), dtype=st.sampled_from(["bf16", "fp8"]))
@SMALL
def test_shards_sum_to_the_whole(tp: int, phase: str, dtype: str) -> None:
    def flops(degree: int, kind: type) -> float:
        workload = Workload(model=TOY, batch=3, input_len=100, tp=degree, dtype=dtype)
        return total(workload.prefill_ops() if phase == "prefill" else workload.decode_ops(77), kind)[0]

    for kind in (Gemm, Attention):
        assert tp * flops(tp, kind) == flops(1, kind)


def test_key_value_heads_are_copied_where_tp_exceeds_them() -> None:
    calls = by_name(Workload(model=TOY, tp=8).decode_ops(5))
    assert calls["attention"].op.kv_heads == 1 and calls["attention"].op.heads == 1  # type: ignore[attr-defined]
    assert calls["qkv_proj"].op.n == 3 * 16  # type: ignore[attr-defined]


def test_collectives_appear_with_tensor_parallelism_only() -> None:
    assert not any(call.op.family == "collective" for call in Workload(model=LLAMA).prefill_ops())
    calls = by_name(Workload(model=LLAMA, batch=4, tp=2).decode_ops(100))
    assert calls["all_reduce"].count == 2 * 32 + 1
    assert calls["all_reduce"].op.message_bytes == 4 * 4096 * 2  # type: ignore[attr-defined]
    assert calls["logits_all_gather"].op.message_bytes == 4 * 128256 * 2  # type: ignore[attr-defined]


def test_a_fused_engine_runs_these_ops() -> None:
    """Names and counts of vLLM's Llama, Qwen 3, OLMo 2, Gemma 3 and StarCoder2 layers."""
    llama = {call.name: call.count for call in Workload(model=LLAMA).decode_ops(9)}
    layer = ("qkv_proj", "rope", "attention", "o_proj", "gate_up_proj", "silu_mul", "down_proj")
    once = {"embedding": 1, "rms_norm": 1, "lm_head": 1, "add_rms_norm": 64}
    assert llama == {**once, **dict.fromkeys(layer, 32)}
    qwen = by_name(Workload(model=get_model("Qwen3-8B"), batch=5).decode_ops(9))
    assert (qwen["q_norm"].op.rows, qwen["k_norm"].op.rows) == (5 * 32, 5 * 8)  # type: ignore[attr-defined]
    olmo = by_name(Workload(model=get_model("OLMo-2-13B"), tp=2).decode_ops(9))
    assert olmo["rms_norm"].count == 81 and olmo["add"].count == 80 and "add_rms_norm" not in olmo
    assert olmo["q_norm_all_gather"].count == 40
    gemma = by_name(Workload(model=get_model("gemma-3-27b")).decode_ops(9))
    assert gemma["rms_norm"].count == 2 * 62 + 1 and gemma["add_rms_norm"].count == 2 * 62
    star = by_name(Workload(model=get_model("starcoder2-15b")).decode_ops(9))
    assert {"layer_norm", "add", "gelu", "up_proj"} <= set(star) and "rms_norm" not in star


def test_sliding_windows_are_calls_of_their_own() -> None:
    calls = by_name(Workload(model=get_model("gemma-3-27b"), input_len=5000).prefill_ops())
    assert (calls["attention"].count, calls["window_attention"].count) == (10, 52)
    assert calls["window_attention"].op.window == 1024  # type: ignore[attr-defined]
    assert "attention" not in by_name(Workload(model=get_model("Mistral-7B-v0.1")).decode_ops(7))


def test_only_linear_layers_run_in_the_workload_s_dtype() -> None:
    for dtype in ("fp8", "fp8_block", "nvfp4", "int4_wo", "bf16"):
        calls = by_name(Workload(model=LLAMA, dtype=dtype).decode_ops(9))
        assert calls["lm_head"].op.dtype == "bf16"  # type: ignore[attr-defined]
        assert calls["down_proj"].op.dtype == dtype  # type: ignore[attr-defined]
        assert not any(name.startswith("quantise") for name in calls)  # part of the measured GEMMs


@pytest.mark.parametrize(
    ("dtype", "kv_dtype", "attention", "cache"),
    [
        ("bf16", "", "bf16", "bf16"),
        ("fp16", "", "fp16", "fp16"),
        ("fp32", "", "fp32", "fp32"),
        ("fp8", "", "bf16", "bf16"),
        ("fp8", "fp8", "bf16", "fp8"),
        ("tf32", "", "tf32", "fp32"),
    ],
)
def test_attention_keeps_the_format_of_the_activations(dtype: str, kv_dtype: str, attention: str, cache: str) -> None:
    op = by_name(Workload(model=LLAMA, dtype=dtype, kv_dtype=kv_dtype).decode_ops(9))["attention"].op
    assert (op.dtype, op.kv_dtype) == (attention, cache)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"batch": 0}, "batch is 0; it must be at least 1."),
        ({"input_len": -5}, "input_len is -5; it must be at least 1."),
        ({"batch": 1.5}, "batch is 1.5; it must be a whole number from 1 to 2**31."),
        ({"batch": True}, "batch is True; it must be a whole number from 1 to 2**31."),
        ({"output_len": float("nan")}, "output_len is nan; it must be a whole number from 1 to 2**31."),
        ({"tp": 2**31 + 1}, "tp is 2147483649; it must be a whole number from 1 to 2**31."),
        ({"batch": "8"}, 'batch is "8"; it must be a whole number from 1 to 2**31.'),
        ({"batch": 10**5000}, "batch is a number of 16610 bits; it must be a whole number from 1 to 2**31."),
        (
            {"tp": 3},
            "tp is 3; it must divide the 32 attention heads of Llama-3.1-8B; use 1, 2, 4, 8, 16 or 32.",
        ),
        (
            {"input_len": 131072},
            "input_len + output_len is 131200; Llama-3.1-8B takes at most 131072 tokens (max_position_embeddings). "
            "Shorten one of them, or set max_model_len, as engines allow.",
        ),
        (
            {"batch": 2**22},
            "batch * (input_len + output_len) is 4831838208; it must be at most 2**31. Lower batch.",
        ),
        ({"engine": "tgi"}, f'engine is "tgi"; it must be one of {", ".join(engine_names())}.'),
        (
            {"kv_dtype": "int4_wo"},
            'kv_dtype is "int4_wo"; it must be one of fp32, fp16, bf16, fp8, int8, nvfp4, q8_0, q4_0, mlx_8bit, '
            "mlx_4bit.",
        ),
        ({"kv_dtype": "q8_0"}, "kv_dtype is q8_0; vllm has none such. Set engine to llama.cpp."),
        ({"ubatch": 512}, "ubatch is 512; vllm has none. Set engine to llama.cpp (May 2024) or mlx, or leave it out."),
        ({"model": "llama"}, 'model is "llama"; it must be a model: get_model("Llama-3.1-8B").'),
    ],
)
def test_impossible_requests_name_value_rule_and_cure(setting: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        Workload(**{"model": LLAMA, **setting})  # type: ignore[arg-type]
    assert str(raised.value) == message


def test_key_value_heads_that_neither_split_nor_copy_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"tp is 4; it must divide the 10 key/value heads of phi-4 .*use 1, 2, 5"):
        Workload(model=get_model("phi-4"), tp=4)


def test_a_cache_longer_than_the_context_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"kv_len is 131073; .* at most 131072"):
        Workload(model=LLAMA).decode_ops(131073)
    with pytest.raises(InvalidRequest, match="kv_len is 0; it must be at least 1"):
        Workload(model=LLAMA).decode_ops(0)


@given(
    st.dictionaries(
        st.sampled_from(["batch", "input_len", "output_len", "dtype", "kv_dtype", "tp", "engine", "model"]),
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())),
    )
)
@SMALL
def test_hostile_requests_raise_one_clear_error_or_work(setting: dict[str, object]) -> None:
    try:
        Workload(**{"model": LLAMA, **setting}).prefill_ops()  # type: ignore[arg-type]
    except PredictorError as error:
        assert 0 < len(str(error)) < 500


def test_the_largest_request_stays_countable() -> None:
    model = get_model("gemma-3-27b")
    calls = Workload(model=model, batch=2**14 - 16, input_len=131000, output_len=72, tp=16).prefill_ops()
    assert all(np.isfinite(float(call.op.flops())) for call in calls)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden", 0),
        ("hidden", 2**21),
        ("layers", True),
        ("kv_heads", 3),
        ("window", 5),
        ("norm", "batch"),
        ("vocab", 1.0),
    ],
)
def test_impossible_architectures_are_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidSpec, match=field):
        replace(TOY, **{field: value})  # type: ignore[arg-type]


def test_numpy_integers_are_whole_numbers() -> None:
    assert type(Workload(model=LLAMA, batch=np.int64(4)).batch) is int  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "tp"), [("Qwen3-235B-A22B-FP8", 8), ("Qwen3-30B-A3B-FP8", 4)])
def test_engines_do_not_cut_blocks_of_published_weights(name: str, tp: int) -> None:
    """1536 / 8 and 768 / 4 are 192, no multiple of the blocks of 128."""
    model = get_model(name)
    with pytest.raises(InvalidRequest, match=r"leaves 192 columns of each expert .* takes whole blocks of 128"):
        Workload(model=model, tp=tp)
    assert Workload(model=model, tp=tp, ep=tp).ep == tp
    assert Workload(model=model, tp=tp, engine="trtllm").tp == Workload(model=model, tp=tp, dtype="bf16").tp == tp


def test_who_quantises_may_choose_other_blocks() -> None:
    """29568 / 8 is no multiple of 128, but Qwen published 4-bit weights of 72B with 29696 columns."""
    assert Workload(model=get_model("Qwen2-72B"), dtype="int4_wo", tp=8).tp == 8
    with pytest.raises(InvalidRequest, match="leaves 3696 columns of a feed-forward"):
        Workload(model=replace(get_model("Qwen2-72B"), linear_dtype="int4_wo"), tp=8)
