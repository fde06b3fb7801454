"""The main path with the released bundle: laws that every prediction keeps, and what a report says."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from predictor.errors import InvalidRequest, PredictorError, UnknownModel, UnsupportedDtype
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.estimators.features import Setting
from predictor.estimators.operators import predict_op
from predictor.hardware.gpu import Gpu, catalogue, get_gpu
from predictor.latency.static_batch import composed, static_times
from predictor.latency.steps import Steps, op_lines, op_lines_of_many
from predictor.ops import Attention, Collective, Gemm, Mla, Moe, Op, Pointwise
from predictor.prediction.single import predict
from predictor.workloads import Workload, get_model
from predictor.workloads.workload import phases

SOME_GPUS = ("H100", "A100", "L4", "MI300X", "B200", "RTX 4090", "V100", "T4", "M4 Max", "Arc B580")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle()


def ladder(**grown: list[float]) -> list[Op]:
    """One column of calls per family whose token dimension grows."""
    sizes = np.array(grown["sizes"])
    one = np.ones(len(sizes))
    return [
        Gemm(m=sizes, n=4096 * one, k=4096 * one, dtype="bf16"),
        Attention(phase="prefill", batch=one, q_len=sizes, kv_len=sizes, heads=32, kv_heads=8, head_dim=128),
        Attention(phase="decode", batch=8 * one, q_len=1, kv_len=sizes, heads=32, kv_heads=8, head_dim=128),
        Attention(phase="decode", batch=sizes, q_len=1, kv_len=1024 * one, heads=32, kv_heads=8, head_dim=128),
        Attention(phase="prefill", batch=4 * one, q_len=sizes, kv_len=sizes + 1000, heads=8, kv_heads=8, head_dim=64),
        Attention(phase="prefill", batch=sizes, q_len=64, kv_len=4096, heads=32, kv_heads=8, head_dim=128, window=512),
        Mla(phase="prefill", batch=one, q_len=sizes, kv_len=sizes, heads=16 * one),
        Mla(phase="decode", batch=sizes, q_len=one, kv_len=2048 * one, heads=16 * one),
        Moe(tokens=sizes, hidden=4096, inter=1536, experts=128, topk=8),
        Pointwise(kind="rms_norm", rows=sizes, cols=4096),
        Collective(kind="all_reduce", message_bytes=8192 * sizes, n_gpus=4),
    ]


@pytest.mark.parametrize("name", ["H100", "RTX 5090", "L40S", "MI300X", "B200"])
def test_a_step_that_is_busy_with_its_bytes_is_limited_by_memory(name: str) -> None:
    """Whatever the last cache: 16 GB of weights at 1.8 TB/s are 9 of an RTX 5090's 12 ms."""
    found = predict("Llama-3.1-8B", name, batch=8)
    moved = sum(line.bytes_moved for line in found.ops if line.phase == "decode")
    assert moved / found.gpu.mem_bytes_per_s > 0.4 * found.tpot_s.value and found.limiter == "memory"


def test_a_prompt_that_may_run_in_graphs_may_be_quicker_than_its_launches() -> None:
    """vLLM has graphs of up to 512 tokens; nobody timed such prompts, so that both ways lie in the interval."""

    def lowest(**settings: Any) -> float:
        ttft = predict("Llama-3.1-8B", "H100", **settings).ttft_s
        assert ttft.low < ttft.value <= ttft.high
        return ttft.low / ttft.value

    assert lowest(input_len=1) < lowest(input_len=512) < 0.65
    assert min(lowest(input_len=513), lowest(input_len=1, enforce_eager=True), lowest(batch=2, input_len=300)) > 0.7


def test_a_step_far_above_its_bytes_waits_for_launches() -> None:
    assert predict("Qwen3-0.6B", "B200").limiter == "launch"
    eager = predict("Llama-3.1-8B", "B200", enforce_eager=True)
    assert eager.host_s.value > eager.e2e_s.value / 2 and eager.limiter == "launch", "the GPU waits for its host"


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
@given(sizes=st.lists(st.integers(1, 16_384), min_size=2, max_size=12))
@settings(max_examples=15, deadline=None)
def test_latency_never_falls_when_tokens_are_added(bundle: Bundle, engine: str, sizes: list[int]) -> None:
    for name in ("H100", "L4", "A30"):
        for op in ladder(sizes=sorted(sizes)):
            latency = predict_op(op, get_gpu(name), Setting(engine=engine), bundle).latency_s
            assert (np.diff(latency) >= -1e-9 * latency[:-1]).all(), (name, op)


def worse(gpu: Gpu, share: float, part: str) -> Gpu:
    if part == "bandwidth":
        return dataclasses.replace(gpu, mem_bytes_per_s=gpu.mem_bytes_per_s * share)
    if part == "arithmetic":
        rates = {dtype: rate * share for dtype, rate in gpu.peak_flop_per_s.items()}
        return dataclasses.replace(gpu, peak_flop_per_s=rates)
    if part == "link":
        return dataclasses.replace(gpu, link_bytes_per_s=gpu.link_bytes_per_s * share)
    return dataclasses.replace(gpu, l2_bytes=gpu.l2_bytes * share, llc_bytes=gpu.llc_bytes * share)


@pytest.mark.parametrize("part", ["bandwidth", "arithmetic", "link", "cache"])
@given(
    share=st.floats(0.3, 1.0),
    sizes=st.lists(st.integers(1, 8192), min_size=3, max_size=6),
    name=st.sampled_from(["H100", "H20", "L4"]),  # measured, sibling of measured ones, neither
)
@settings(max_examples=15, deadline=None)
def test_a_worse_gpu_is_never_faster(bundle: Bundle, part: str, share: float, sizes: list[int], name: str) -> None:
    gpu = get_gpu(name)
    for op in ladder(sizes=sizes):
        full = predict_op(op, gpu, Setting(), bundle).latency_s
        less = predict_op(op, worse(gpu, share, part), Setting(), bundle).latency_s
        assert (less >= full * (1 - 1e-6)).all(), (part, op)


@given(sizes=st.lists(st.integers(1, 100_000), min_size=1, max_size=5), name=st.sampled_from(SOME_GPUS))
@settings(max_examples=30, deadline=None)
def test_no_prediction_beats_its_bound(bundle: Bundle, sizes: list[int], name: str) -> None:
    gpu = get_gpu(name)
    dtype = "bf16" if "bf16" in gpu.peak_flop_per_s else "fp16"
    op = Gemm(m=np.array(sizes), n=1000, k=3000, dtype=dtype)
    found = predict_op(op, gpu, Setting(), bundle)
    assert (found.low_s >= found.bound_s).all()
    assert (found.low_s <= found.latency_s).all()
    assert (found.latency_s <= found.high_s).all()


def test_a_column_of_calls_equals_single_calls(bundle: Bundle) -> None:
    gpu = get_gpu("L40S")
    for op in ladder(sizes=[1, 7, 64, 1000]):
        whole = predict_op(op, gpu, Setting(), bundle).latency_s
        single = [predict_op(op.take([i]), gpu, Setting(), bundle).latency_s[0] for i in range(len(op))]
        np.testing.assert_allclose(whole, single, rtol=1e-6)


@pytest.mark.parametrize("phase", ["ttft_s", "e2e_s"])
def test_doubling_the_batch_or_the_prompt_never_shortens_a_report(phase: str) -> None:
    for change in ({"batch": [1, 2, 4, 8, 16, 64]}, {"input_len": [128, 256, 1024, 4096]}):
        name, values = next(iter(change.items()))
        times = [getattr(predict("Llama-3.1-8B", "A100", **{name: value}), phase).value for value in values]
        assert times == sorted(times)


def test_a_gpu_of_every_kind_predicts_a_small_model() -> None:
    for gpu in {(gpu.generation, gpu.compute_capability, gpu.segment): gpu for gpu in catalogue().values()}.values():
        report = predict("Qwen2.5-0.5B", gpu)
        assert 0 < report.ttft_s.low <= report.ttft_s.value <= report.ttft_s.high < 60, gpu.name
        assert 0 < report.tpot_s.low <= report.tpot_s.value <= report.tpot_s.high < 10, gpu.name


def test_basis_says_whether_the_gpu_was_measured() -> None:
    assert predict("Llama-3.1-8B", "H100").basis == "seen-gpu"
    assert predict("Llama-3.1-8B", "A30").basis == "unseen-gpu"


def test_a_gpu_that_nobody_measured_names_the_nearest_one() -> None:
    report = predict("Llama-3.1-8B", "B300")
    assert report.nearest_gpu == report.to_dict()["nearest_gpu"] == "B200-SXM-180GB"
    assert "B300-SXM-288GB was not measured; of the measured GPUs B200-SXM-180GB is the nearest." in report.notes
    notes = predict("Llama-3.1-8B", "MI300X").notes
    assert "MI300X was measured for some of these operators only." in notes
    assert (
        "no card of class AMD CDNA was measured for attention_decode, attention_prefill; "
        "intervals are those of other classes."
    ) in notes


def test_what_lies_outside_the_measurements_is_said_and_gets_a_wider_interval(bundle: Bundle) -> None:
    inside, far = (predict_op(Gemm(m=64, n=n, k=4096), get_gpu("H100"), Setting(), bundle) for n in (4096.0, 2.0**24))
    assert (inside.outside, far.outside) == ((), ("n",))
    spread = [float(found.high_s[0] / found.low_s[0]) for found in (inside, far)]
    assert spread[1] > 2 * spread[0]
    assert (far.bound_s <= far.low_s).all()


def test_the_interval_of_a_sum_is_relatively_narrower_than_those_of_its_parts() -> None:
    report = predict("Llama-3.1-8B", "B300", batch=16)  # the host is hidden
    parts = [line.latency_s for line in report.ops if line.phase == "prefill"]
    widest = sum(part.high - part.low for part in parts)
    assert 0 < report.ttft_s.high - report.ttft_s.low < widest


def test_a_small_prompt_waits_for_the_host_that_launches_its_operators() -> None:
    served, eager = (predict("Qwen2.5-0.5B", "B200", engine=engine) for engine in ("vllm", "torch"))
    assert served.ttft_s.value > sum(line.latency_s.value for line in served.ops if line.phase == "prefill")
    assert served.ttft_s.low < served.ttft_s.value < served.ttft_s.high
    assert eager.tpot_s.value > 2 * served.tpot_s.value  # no CUDA graph, keys repeated for all heads


def test_report_is_one_flat_row() -> None:
    row = predict("Llama-3.1-8B", "H100", batch=4, tp=2).to_dict()
    request = {"model", "gpu", "n_gpus", "engine", "batch", "input_len", "output_len", "dtype", "kv_dtype", "tp"}
    times = {f"{name}{end}" for name in ("ttft_s", "tpot_s", "e2e_s") for end in ("", "_low", "_high")}
    answer = {"tokens_per_s", "tokens_per_s_per_gpu", "memory_bytes", "fits", "limiter", "basis", "bundle", "error"}
    assert request | times | answer <= set(row)
    assert row["n_gpus"] == 2
    assert row["tokens_per_s_per_gpu"] == row["tokens_per_s"] / 2
    assert row["error"] is None


def test_llama_8b_decodes_on_h100_near_its_memory_bound() -> None:
    """16.06 GB of weights over 3.35 TB/s are 4.8 ms; serving benchmarks of vLLM on H100 report 6 to 8 ms."""
    assert 0.0048 < predict("Llama-3.1-8B", "H100").tpot_s.value < 0.0085


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"batch": 0}, InvalidRequest, "batch is 0"),
        ({"tp": 3}, InvalidRequest, "tp is 3"),
        ({"dtype": "bf17"}, PredictorError, "bf17"),
        ({"engine": "mlx"}, InvalidRequest, "mlx"),
        ({"output_len": 10**9}, InvalidRequest, "output_len"),
    ],
)
def test_impossible_requests_raise_one_clear_error(wrong: dict[str, object], error: type, says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        predict("Llama-3.1-8B", "H100", **wrong)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_dtype_the_gpu_lacks_names_the_cure() -> None:
    with pytest.raises(UnsupportedDtype, match='use dtype="fp16"'):
        predict("Llama-3.1-8B", "V100", dtype="bf16")


def test_a_gpu_without_bf16_takes_fp16_and_says_so() -> None:
    report = predict("Llama-3.1-8B", "V100")
    assert report.workload.dtype == "fp16"
    assert "V100-SXM2-32GB has no bf16; fp16 is taken." in report.notes


@pytest.mark.parametrize("name", ["bert-large", "vit-base-patch16-224", "resnet50"])
@pytest.mark.parametrize("engine", ["vllm", "torch"])
def test_a_network_of_one_pass_has_a_time_and_no_tpot(name: str, engine: str) -> None:
    small, large = (predict(name, "A100", batch=batch, input_len=256, engine=engine) for batch in (4, 256))
    row = large.to_dict()
    assert row["tpot_s"] is None and row["output_len"] is None
    assert row["ttft_s"] == row["e2e_s"] == pytest.approx(256 / row["inputs_per_s"])
    assert row["usd_per_million_inputs"] == pytest.approx(large.price_usd / 3600 / row["inputs_per_s"] * 1e6)
    assert small.e2e_s.value < large.e2e_s.value
    assert row["memory_bytes"] > row["weights_bytes"] > 0 == row["kv_cache_bytes"]


def test_an_encoder_decoder_has_prompt_and_steps() -> None:
    short, long = (predict("flan-t5-xl", "A100", input_len=n, batch=8) for n in (256, 2048))
    assert short.ttft_s.value < long.ttft_s.value
    assert short.tpot_s.value < long.tpot_s.value  # which reads the encoder's keys and values
    assert {line.name for line in long.ops if line.phase == "decode"} >= {"cross_attention", "attention"}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"model": "bert-base"}, "input_len is 1024; bert-base-uncased takes at most 512 tokens"),
        ({"model": "resnet50", "tp": 2}, "tp is 2; ResNet-50 runs whole on each GPU. Set it to 1 and use dp."),
        ({"model": "flan-t5-xl", "scheduling": "continuous"}, "scheduling is continuous; flan-t5-xl is no decoder"),
        ({"model": "Llama-3.1-8B", "image_size": 8}, "image_size is 8; Llama-3.1-8B takes no images"),
        ({"model": "vit-base-patch16-224", "image_size": 8}, "patch of vit-base-patch16-224 is 16; it must be at most"),
    ],
)
def test_what_such_networks_cannot_do_is_said(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(PredictorError) as caught:
        predict(gpu="A100", **asked)
    assert str(caught.value).startswith(says)


def test_an_unknown_model_is_never_guessed() -> None:
    with pytest.raises(UnknownModel, match=r"Llama-3\.1-8B"):
        predict("Llama-3.1-9B", "H100")


def test_many_are_predicted_as_one_is() -> None:
    """To the bit, whatever else is in the column."""
    model = get_model("Llama-3.1-8B")
    cards = [get_gpu(name) for name in ("H100", "L4", "MI300X", "RTX 4090")]
    jobs = [
        (Workload(model=model, batch=1 + 3 * i, input_len=100 + 37 * i, output_len=8 + i), cards[i % 4])
        for i in range(24)
    ]
    bundle = load_bundle()
    many = op_lines_of_many([Steps(phases(job), gpu, job.engine) for job, gpu in jobs], bundle)
    for (job, gpu), lines in zip(jobs, many, strict=True):
        times = static_times(job, gpu, bundle, lines)
        alone = op_lines(phases(job), gpu, job.engine, bundle)
        own = composed(job, gpu, bundle, alone, static_times(job, gpu, bundle, alone))
        assert composed(job, gpu, bundle, lines, times).to_dict() == own.to_dict()


# GPUs without bf16 units: engines widen narrow weights to fp16 there.
@pytest.mark.parametrize("gpu", ["T4", "V100", "RTX 2080 Ti", "P40"])
@pytest.mark.parametrize("dtype", ["q4_k_m", "int4_wo", "int8_wo", "nf4"])
def test_narrow_weights_run_with_fp16_activations_without_bf16(gpu: str, dtype: str) -> None:
    report = predict("Llama-3.1-8B", gpu, dtype=dtype, engine="vllm")
    assert (report.workload.dtype, report.workload.act_dtype, report.workload.cache_dtype) == (dtype, "fp16", "fp16")
    assert f"{report.gpu.name} has no bf16; activations are in fp16." in report.notes
    ran = {getattr(line.op, "dtype", "") for line in report.ops}
    assert ran <= {dtype, "fp16", "fp32", ""}


@pytest.mark.parametrize("model", ["Qwen2.5-7B-Instruct-GPTQ-Int4", "bert-large-uncased", "gpt-oss-20b"])
def test_published_formats_run_without_bf16(model: str) -> None:
    report = predict(model, "T4", input_len=128, output_len=16)
    assert "bf16" not in {getattr(line.op, "dtype", "") for line in report.ops}


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_engines_refuse_bf16_where_pytorch_converts(engine: str) -> None:
    with pytest.raises(UnsupportedDtype, match=r'^no bf16 peak for Tesla-T4 .*; use dtype="fp16"\.$'):
        predict("Llama-3.1-8B", "T4", dtype="bf16", engine=engine)
    converted = predict("Llama-3.1-8B", "T4", dtype="bf16", engine="torch")
    assert "Tesla-T4 has no units for bf16: converted and run in fp32." in converted.notes
    assert converted.ttft_s.value > predict("Llama-3.1-8B", "T4", dtype="fp16", engine="torch").ttft_s.value


@pytest.mark.parametrize("gpu", ["DGX Spark", "Jetson AGX Thor", "P40"])
def test_an_unpublished_rate_is_no_impossible_one(gpu: str) -> None:
    for model in ("Llama-3.1-8B", "gpt-oss-120b"):
        report = predict(model, gpu)
        assert any("published" in note or "converted" in note for note in report.notes)
