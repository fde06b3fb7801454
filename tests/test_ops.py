"""What an op counts: published FLOPs and bytes, laws between shapes, and shapes that cannot exist."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

from predictor.errors import InvalidOp, UnsupportedDtype
from predictor.ops import DTYPES, FAMILIES, Attention, Collective, Conv, Gemm, Mla, Moe, Op, Pointwise
from predictor.ops.attention import causal_pairs
from predictor.ops.base import stack
from predictor.ops.dtypes import act_bytes, out_bytes, weight_bytes
from predictor.ops.pointwise import KINDS

ATTENTION: dict[str, Any] = {"batch": 2, "heads": 32, "kv_heads": 8, "head_dim": 128}
ONE_OF_EACH: tuple[Op, ...] = (
    Gemm(m=17, n=4096, k=1024, dtype="fp8"),
    Attention(phase="prefill", q_len=64, kv_len=100, window=48, **ATTENTION),
    Attention(phase="decode", q_len=1, kv_len=100, kv_dtype="fp8", **ATTENTION),
    Moe(tokens=33, hidden=1024, inter=512, experts=16, topk=4, tp=2, ep=4),
    Moe(tokens=33, hidden=1024, inter=512, experts=16, topk=4, skew=1.2),
    Mla(phase="prefill", batch=2, q_len=64, kv_len=100, heads=16),
    Mla(phase="decode", batch=2, q_len=1, kv_len=100, heads=16),
    Pointwise(kind="quantise_fp8", rows=33, cols=1024),
    Conv(batch=2, in_channels=16, out_channels=32, size=14, kernel=3, padding=1, groups=2),
    Collective(kind="all_gather", message_bytes=4096, n_gpus=8, link="pcie"),
    Collective(kind="all_gather", message_bytes=4096, n_gpus=8, link="network"),
)


def pairs_by_hand(q_len: int, kv_len: int, window: int) -> int:
    """Keys that a causal mask leaves each of the last q_len positions, counted one by one."""
    mask = [
        (query, key)
        for query in range(kv_len - q_len, kv_len)
        for key in range(kv_len)
        if key <= query and (window == 0 or key > query - window)
    ]
    return len(mask)


# Published counts


def test_linear_layers_of_llama_2_7b_need_two_flops_per_parameter() -> None:
    """arXiv:2307.09288, hidden 4096, feed-forward 11008, 32 layers, 32000 words: 6.738 billion parameters.

    All but the norms (65 * 4096) and one of the two embeddings (32000 * 4096) are linear layers.
    """
    layer = [Gemm(m=1, n=4096, k=4096)] * 4 + [Gemm(m=1, n=11008, k=4096)] * 2 + [Gemm(m=1, n=4096, k=11008)]
    assert sum(gemm.flops() for gemm in layer) == 2 * 202_375_168
    head = Gemm(m=1, n=32000, k=4096)
    linear = 6_738_415_616 - 65 * 4096 - 32000 * 4096
    assert sum(gemm.flops() for gemm in layer) * 32 + head.flops() == 2 * linear


@pytest.mark.parametrize(("length", "heads", "dim"), [(512, 32, 64), (2048, 16, 128), (16384, 16, 128)])
def test_attention_counts_as_in_the_flash_attention_paper(length: int, heads: int, dim: int) -> None:
    """arXiv:2307.08691, 4.1: 4 * seqlen^2 * head_dim * heads, divided by 2 with a causal mask (diagonal aside)."""
    shape: dict[str, Any] = {"phase": "prefill", "batch": 1, "q_len": length, "kv_len": length}
    shape |= {"heads": heads, "kv_heads": heads, "head_dim": dim}
    full = 4 * length**2 * dim * heads
    assert Attention(causal=0, **shape).flops() == full
    assert Attention(**shape).flops() == full / 2 * (1 + 1 / length)


def test_gpt_3_forward_pass_has_the_flops_of_the_megatron_formula() -> None:
    """Narayanan et al., arXiv:2104.04473, 5.1 without recomputation: 24·B·s·l·h²·(1 + s/6h + V/12lh), no mask."""
    batch, length, layers, hidden, words = 4, 2048, 96, 12288, 51200
    tokens = batch * length
    shapes = [(3 * hidden, hidden), (hidden, hidden), (4 * hidden, hidden), (hidden, 4 * hidden)]
    linear = sum(Gemm(m=tokens, n=n, k=k).flops() for n, k in shapes)
    attention = Attention(
        phase="prefill", batch=batch, q_len=length, kv_len=length, heads=96, kv_heads=96, head_dim=128, causal=0
    )
    head = Gemm(m=tokens, n=words, k=hidden)
    published = 24 * tokens * layers * hidden**2 * (1 + length / (6 * hidden) + words / (12 * layers * hidden))
    assert layers * (linear + attention.flops()) + head.flops() == pytest.approx(published, rel=1e-12)


def test_first_convolution_of_resnet_50_has_118_million_multiply_adds() -> None:
    """He et al., arXiv:1512.03385, table 1: 7x7, 64, stride 2 over 224x224x3 gives 112x112; 2 * 118,013,952 FLOPs."""
    conv1 = Conv(batch=1, in_channels=3, out_channels=64, size=224, kernel=7, stride=2, padding=3)
    assert conv1.out_size() == 112
    assert conv1.flops() == 236_027_904
    assert conv1.least_flops() == conv1.flops()


def test_winograd_saves_three_quarters_of_a_3x3_convolution() -> None:
    """Lavin & Gray, CVPR 2016: F(4x4, 3x3) multiplies 36 times where the direct method does 144 times."""
    shape: dict[str, Any] = {"batch": 1, "in_channels": 64, "out_channels": 64, "size": 56, "padding": 1}
    assert Conv(kernel=3, **shape).least_flops() == Conv(kernel=3, **shape).flops() * 36 / 144
    assert Conv(kernel=3, stride=2, **shape).least_flops() == Conv(kernel=3, stride=2, **shape).flops()


def test_depthwise_convolution_is_one_map_per_channel() -> None:
    """Howard et al., MobileNets, arXiv:1704.04861, 3.1: K·K·M·F·F multiply-adds for M channels."""
    op = Conv(batch=1, in_channels=32, out_channels=32, size=112, kernel=3, padding=1, groups=32)
    assert op.flops() == 2 * 3 * 3 * 32 * 112 * 112


def test_a_mixtral_token_visits_two_experts_of_176_million_parameters() -> None:
    """arXiv:2401.04088: hidden 4096, expert 14336 wide, 8 experts, 2 per token; 3 * 4096 * 14336 = 176,160,768."""
    one = Moe(tokens=1, hidden=4096, inter=14336, experts=8, topk=2)
    assert one.flops() == 2 * 2 * 176_160_768
    assert one.experts_touched() == 2
    assert one.bytes_moved() == 2 * 2 * 176_160_768 + 2 * 4096 * 2


def test_deepseek_v3_decodes_on_the_latent_of_576_elements() -> None:
    """arXiv:2412.19437: 128 heads, latent 512 + rotary 64. FlashMLA: 2·heads·(576 + 512) FLOPs and 1152 bytes a key."""
    short, long = (Mla(phase="decode", batch=1, q_len=1, kv_len=length, heads=128) for length in (1000, 2000))
    assert long.flops() - short.flops() == 1000 * 2 * 128 * (576 + 512)
    assert long.bytes_moved() - short.bytes_moved() == 1000 * 1152


def test_deepseek_v3_prefills_with_192_wide_keys_and_128_wide_values() -> None:
    """arXiv:2412.19437, 4.2: per head 128 + 64 for keys and 128 for values."""
    op = Mla(phase="prefill", batch=1, q_len=1, kv_len=1, heads=128)
    assert op.flops() == 2 * 128 * (192 + 128)


@pytest.mark.parametrize(
    ("kind", "sent"), [("all_gather", 7 / 8), ("reduce_scatter", 7 / 8), ("all_to_all", 7 / 8), ("send_recv", 1)]
)
def test_collectives_send_what_the_ring_literature_says(kind: str, sent: float) -> None:
    """Thakur et al., IJHPCA 2005: (n-1)/n of the message through every process's link, in each direction."""
    assert Collective(kind=kind, message_bytes=2**20, n_gpus=8).link_bytes() == sent * 2**20


@given(n_gpus=st.integers(2, 64))
def test_all_reduce_needs_no_more_than_a_ring_and_no_less_than_the_message(n_gpus: int) -> None:
    """A ring sends 2(n-1)/n (Patarasuk & Yuan 2009); a reducing switch (SHARP) lets one message do."""
    sent = Collective(kind="all_reduce", message_bytes=2**20, n_gpus=n_gpus).link_bytes()
    assert 1 <= sent / 2**20 <= 2 * (n_gpus - 1) / n_gpus


# Laws


@given(kv_len=st.integers(1, 40), asked=st.integers(1, 40), window=st.integers(0, 45))
def test_causal_pairs_match_counting_the_mask(kv_len: int, asked: int, window: int) -> None:
    q_len = min(asked, kv_len)
    assert causal_pairs(q_len, kv_len, window) == pairs_by_hand(q_len, kv_len, window)


@given(lengths=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12), st.integers(0, 15)), min_size=1))
def test_causal_pairs_of_a_column_match_counting_the_mask(lengths: list[tuple[int, int, int]]) -> None:
    new, past, window = np.array(lengths).T
    counted = [pairs_by_hand(q, q + before, seen) for q, before, seen in lengths]
    np.testing.assert_array_equal(causal_pairs(new, new + past, window), counted)


def columns_of(op: Op, calls: int) -> Op:
    """op repeated as arrays of `calls` calls, text fields of the call too except the phase."""
    values = {f.name: getattr(op, f.name) for f in fields(op)}
    kept = ("phase",)
    return type(op)(**{k: v if k in kept else np.repeat(np.asarray(v), calls) for k, v in values.items()})


@pytest.mark.parametrize("op", ONE_OF_EACH, ids=lambda op: op.estimator)
def test_array_and_scalar_agree(op: Op) -> None:
    column = columns_of(op, 3)
    assert (len(op), len(column)) == (1, 3)
    for count in ("flops", "bytes_moved", "link_bytes"):
        single = getattr(op, count)()
        assert np.ndim(single) == 0, count
        assert np.broadcast_to(getattr(column, count)(), 3).tolist() == [single] * 3, count


def test_every_family_is_tried() -> None:
    assert {type(op) for op in ONE_OF_EACH} == set(FAMILIES)


@pytest.mark.parametrize("op", ONE_OF_EACH, ids=lambda op: op.estimator)
def test_growing_any_one_number_changes_the_counts_as_its_own_call(op: Op) -> None:
    """One field as a column, the rest scalars: each entry must equal the call alone."""
    for field in fields(op):
        value = getattr(op, field.name)
        if isinstance(value, str) or field.name in ("topk", "q_len", "kv_heads", "ep", "n_gpus", "causal"):
            continue
        values = {f.name: getattr(op, f.name) for f in fields(op)}
        column = type(op)(**{**values, field.name: np.array([value, 2 * value])})
        for count in ("flops", "bytes_moved", "link_bytes"):
            alone = [getattr(type(op)(**{**values, field.name: v}), count)() for v in (value, 2 * value)]
            np.testing.assert_allclose(np.broadcast_to(getattr(column, count)(), 2), alone, err_msg=field.name)


def test_link_bytes_of_growing_groups_is_a_column() -> None:
    op = Collective(kind="all_gather", message_bytes=800, n_gpus=np.array([2, 8]))
    assert np.asarray(op.link_bytes()).tolist() == [400.0, 700.0]


@given(kv_len=st.integers(1, 10_000), window=st.integers(0, 5_000))
def test_decode_is_prefill_of_one_token(kv_len: int, window: int) -> None:
    prefill, decode = (
        Attention(phase=phase, q_len=1, kv_len=kv_len, window=window, **ATTENTION) for phase in ("prefill", "decode")
    )
    assert (prefill.flops(), prefill.bytes_moved()) == (decode.flops(), decode.bytes_moved())


def test_sharing_keys_saves_cache_bytes_and_no_flops() -> None:
    """Shazeer, arXiv:1911.02150 (MQA), and Ainslie et al., arXiv:2305.13245 (GQA): cache is kv_heads / heads."""
    cache: dict[int, float] = {}
    for kv_heads in (1, 8, 32):
        op = Attention(phase="decode", batch=1, q_len=1, kv_len=4096, heads=32, kv_heads=kv_heads, head_dim=128)
        assert op.flops() == 4 * 32 * 128 * 4096
        cache[kv_heads] = op.bytes_moved() - 2 * 32 * 128 * 2  # query and output
    assert cache[32] == 2 * 4096 * 32 * 128 * 2
    assert (cache[8], cache[1]) == (cache[32] / 4, cache[32] / 32)


@given(kv_len=st.integers(2, 20_000))
def test_a_window_caps_the_keys(kv_len: int) -> None:
    windowed = Attention(phase="decode", q_len=1, kv_len=kv_len, window=1024, **ATTENTION)
    assert windowed.keys_read() == windowed.pairs() == min(kv_len, 1024)
    chunk = Attention(phase="prefill", q_len=2, kv_len=kv_len, window=1024, **ATTENTION)
    assert chunk.keys_read() == min(kv_len, 1025)


@pytest.mark.parametrize(
    ("dtype", "weight_bits", "act_bits", "out"),
    [
        ("fp32", 32, 32, 4),
        ("tf32", 32, 32, 4),
        ("bf16", 16, 16, 2),
        ("fp8", 8, 8, 2),
        ("fp8_block", 8 + 32 / 16384, 8.25, 2),  # DeepSeek-V3, arXiv:2412.19437, 3.3.2
        ("nvfp4", 4.5, 4.5, 2),  # NVIDIA: one fp8 scale per 16 elements
        ("mxfp4", 4.25, 4.25, 2),  # OCP MX v1.0: one 8-bit scale per 32 elements
        ("int4_wo", 4.125, 16, 2),
        ("mxfp4_mxfp8", 4.25, 8.25, 2),
    ],
)
def test_dtypes_take_their_published_bits(dtype: str, weight_bits: float, act_bits: float, out: float) -> None:
    assert (weight_bytes(dtype), act_bytes(dtype), out_bytes(dtype)) == (weight_bits / 8, act_bits / 8, out)
    bits = 4096 * 1024 * weight_bits + 7 * 1024 * act_bits
    assert Gemm(m=7, n=4096, k=1024, dtype=dtype).bytes_moved() == bits / 8 + 7 * 4096 * out


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_column_of_dtypes_counts_like_each_alone(dtype: str) -> None:
    both = Gemm(m=8, n=64, k=64, dtype=np.array(["bf16", dtype]))
    assert np.asarray(both.bytes_moved()).tolist() == [
        Gemm(m=8, n=64, k=64, dtype=name).bytes_moved() for name in ("bf16", dtype)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_pointwise_moves_its_tensors_once(kind: str) -> None:
    facts = KINDS[kind]
    op = Pointwise(kind=kind, rows=10, cols=64, dtype="bf16")
    assert op.flops() == 640 * facts.flops
    assert op.bytes_moved() == 640 * (2 * facts.reads + (facts.out_bits / 8 or 2) * facts.writes)


@given(tokens=st.integers(1, 4096), experts=st.integers(1, 64), topk=st.integers(1, 8))
def test_balanced_tokens_touch_as_many_experts_as_they_can(tokens: int, experts: int, topk: int) -> None:
    topk = min(topk, experts)
    op = Moe(tokens=tokens, hidden=64, inter=64, experts=experts, topk=topk)
    assert op.experts_touched() == min(experts, tokens * topk)


@given(tokens=st.integers(1, 4096), skew=st.sampled_from([0.3, 1.0, 1.01, 1.2, 3.0]))
def test_skew_never_touches_more_experts_and_changes_no_flops(tokens: int, skew: float) -> None:
    shape: dict[str, Any] = {"tokens": tokens, "hidden": 64, "inter": 64, "experts": 256, "topk": 8}
    even, skewed = Moe(**shape), Moe(skew=skew, **shape)
    assert skewed.experts_touched() <= even.experts_touched()
    assert skewed.flops() == even.flops()
    more = Moe(skew=skew, **{**shape, "tokens": tokens + 1})
    assert more.bytes_moved() >= skewed.bytes_moved()


def test_skew_touches_fewer_experts() -> None:
    assert Moe(tokens=512, hidden=64, inter=64, experts=256, topk=8, skew=1.2).experts_touched() < 256


@given(tp=st.sampled_from([1, 2, 4, 8]), ep=st.sampled_from([1, 2, 4, 8]), tokens=st.integers(1, 2000))
def test_the_shares_of_a_split_sum_to_the_whole(tp: int, ep: int, tokens: int) -> None:
    shape: dict[str, Any] = {"tokens": tokens, "hidden": 1024, "inter": 512, "experts": 8, "topk": 2}
    whole, share = Moe(**shape), Moe(tp=tp, ep=ep, **shape)
    assert share.flops() * tp * ep == pytest.approx(whole.flops())
    assert share.routed_tokens() * ep == whole.routed_tokens()
    assert share.bytes_moved() * tp * ep >= whole.bytes_moved() * (1 - 1e-12)


@pytest.mark.parametrize("op", ONE_OF_EACH, ids=lambda op: op.estimator)
def test_take_undoes_stack(op: Op) -> None:
    doubled = {f.name: getattr(op, f.name) for f in fields(op)}
    grown = next(name for name in ("m", "batch", "tokens", "rows", "message_bytes") if name in doubled)
    other = type(op)(**{**doubled, grown: 2 * doubled[grown]})
    column = stack([op, other, op])
    assert len(column) == 3
    assert [len(column.take(rows)) for rows in ([1], np.array([True, False, True]), slice(1, 3))] == [1, 2, 2]
    assert np.asarray(column.take([1]).bytes_moved()).tolist() == [other.bytes_moved()]
    assert np.asarray(column.bytes_moved()).tolist() == [op.bytes_moved(), other.bytes_moved(), op.bytes_moved()]


def test_take_keeps_scalars() -> None:
    op = Gemm(m=np.array([1, 2, 3]), n=64, k=32, dtype=np.array(["bf16", "fp8", "fp16"])).take([2, 0])
    assert np.asarray(op.m).tolist() == [3, 1]
    assert np.asarray(op.dtype).tolist() == ["fp16", "bf16"]
    assert op.n == 64.0


# Shapes that cannot exist

HOSTILE = [
    (0, "m is 0; it must be a whole number of at least 1 (at most 2**53)."),
    (-3, "m is -3; it must be a whole number of at least 1 (at most 2**53)."),
    (1.5, "m is 1.5; it must be a whole number of at least 1 (at most 2**53)."),
    (float("nan"), "m is nan; it must be a whole number of at least 1 (at most 2**53)."),
    (float("inf"), "m is inf; it must be a whole number of at least 1 (at most 2**53)."),
    (2**60, "m is 1.15292e+18; it must be a whole number of at least 1 (at most 2**53)."),
    (None, "m is nan; it must be a whole number of at least 1 (at most 2**53)."),
    ("many", "m is 'many'; it must be a number."),
    ([4, -7, 0], "m is -7; it must be a whole number of at least 1 (at most 2**53)."),
]


@pytest.mark.parametrize(("value", "message"), HOSTILE, ids=[repr(value) for value, _ in HOSTILE])
def test_a_hostile_number_raises_one_clear_error(value: Any, message: str) -> None:
    with pytest.raises(InvalidOp) as caught:
        Gemm(m=value, n=4096, k=4096)
    assert str(caught.value) == message


def test_an_integer_beyond_float64_raises_an_invalid_op() -> None:
    with pytest.raises(InvalidOp):
        Gemm(m=10**400, n=1, k=1)


@pytest.mark.parametrize("op", ONE_OF_EACH, ids=lambda op: op.estimator)
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 2**60, "x"])
def test_every_number_of_every_family_is_checked(op: Op, value: Any) -> None:
    values = {f.name: getattr(op, f.name) for f in fields(op)}
    for name in (name for name, found in values.items() if not isinstance(found, str)):
        with pytest.raises(InvalidOp, match=f"^{name} is "):
            type(op)(**{**values, name: value})


PREFILL: dict[str, Any] = {"phase": "prefill", "q_len": 8, "kv_len": 8, **ATTENTION}
MLA: dict[str, Any] = {"phase": "decode", "batch": 1, "q_len": 1, "kv_len": 2, "heads": 1}
MOE: dict[str, Any] = {"tokens": 1, "hidden": 64, "inter": 64, "experts": 8, "topk": 2}
CONV: dict[str, Any] = {"batch": 1, "in_channels": 1, "out_channels": 1, "size": 4, "kernel": 3}
SORT: dict[str, Any] = {"kind": "sort", "rows": 1, "cols": 1}
RING: dict[str, Any] = {"kind": "all_reduce", "message_bytes": 8, "n_gpus": 2}


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        (Attention, {**PREFILL, "phase": "train"}, 'phase is "train"; it must be "prefill" or "decode".'),
        (
            Attention,
            {**PREFILL, "q_len": 9},
            "q_len is above kv_len; kv_len counts the new tokens too, so give past + new.",
        ),
        (
            Attention,
            {**PREFILL, "kv_heads": 64},
            "kv_heads is above heads; it must be at most heads (equal for MHA, 1 for MQA).",
        ),
        (Mla, {**MLA, "phase": ""}, 'phase is ""; it must be "prefill" or "decode".'),
        (Moe, {**MOE, "topk": 9}, "topk is above experts; a token can visit each expert once."),
        (Moe, {**MOE, "ep": 16}, "ep is above experts; every GPU must hold at least one expert."),
        (Conv, {**CONV, "kernel": 5}, "kernel is wider than the padded image; it must be at most size + 2 * padding."),
        (Collective, {**RING, "n_gpus": 1}, "n_gpus is below 2; a collective needs at least 2 GPUs."),
        (
            Collective,
            {**RING, "kind": "gossip"},
            'kind is "gossip"; a collective is one of all_reduce, all_gather, reduce_scatter, all_to_all, send_recv.',
        ),
        (Collective, {**RING, "link": "wifi"}, 'link is "wifi"; it must be one of gpu, pcie, host, network.'),
        (Pointwise, SORT, f'kind is "sort"; a pointwise op is one of {", ".join(KINDS)}.'),
    ],
)
def test_an_impossible_shape_names_rule_and_cure(kind: type[Op], shape: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOp) as caught:
        kind(**shape)
    assert str(caught.value) == message


@pytest.mark.parametrize("dtype", ["bf17", "", np.array(["bf16", "bf17"])], ids=["one", "empty", "column"])
def test_an_unknown_dtype_lists_the_known_ones(dtype: Any) -> None:
    with pytest.raises(UnsupportedDtype, match=r'^unknown dtype "(bf17)?"; it must be one of fp32, tf32, .*\.$'):
        Gemm(m=1, n=1, k=1, dtype=dtype)


def test_mla_queries_are_among_the_keys() -> None:
    with pytest.raises(InvalidOp, match="q_len is above kv_len"):
        Mla(**{**MLA, "q_len": 10})
