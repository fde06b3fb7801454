"""What a GPU has room for, and what makes a run fit."""

from typing import Any

import pytest

from predictor.estimators.bundle import load_bundle
from predictor.hardware.gpu import get_gpu
from predictor.memory.capacity import RISK, fewest, has_room, largest, room, training_room
from predictor.memory.closed_form import memory
from predictor.memory.training import training_memory
from predictor.prediction.advice import fixes
from predictor.prediction.footprint import footprint
from predictor.prediction.single import answer, resolve, room_of
from predictor.workloads import Workload, get_model
from predictor.workloads.passes.training import TrainingSetting
from predictor.workloads.request import Request

H100 = get_gpu("H100")
LLAMA_8B = get_model("Llama-3.1-8B")


@pytest.mark.parametrize("most", [1, 2, 3, 99, 100, 101, 1000])
@pytest.mark.parametrize("limit", [0, 1, 2, 7, 100])
def test_the_largest_that_fits(limit: int, most: int) -> None:
    assert largest(lambda size: size <= limit, most) == (min(limit, most) or None)


def test_the_fewest_that_fit() -> None:
    wanted = (1, 2, 3, 9, 5000)
    assert [fewest(lambda gpus, least=least: gpus >= least) for least in wanted] == [1, 2, 4, 16, None]  # type: ignore[misc]


def test_the_largest_batch_has_room_and_one_more_has_not() -> None:
    workload = Workload(model=LLAMA_8B, input_len=2048)
    most = room(workload, H100).max_batch
    assert most is not None
    assert has_room(memory(Workload(model=LLAMA_8B, input_len=2048, batch=most), H100))
    assert not has_room(memory(Workload(model=LLAMA_8B, input_len=2048, batch=most + 1), H100))


def test_requests_at_once_times_their_length_are_the_tokens_of_the_cache() -> None:
    found = room(Workload(model=LLAMA_8B, input_len=2000, output_len=48), H100)
    assert found.max_kv_tokens is not None and found.max_concurrent_requests is not None
    assert found.max_concurrent_requests == found.max_kv_tokens // 2048


@pytest.mark.parametrize("engine", ["vllm", "trtllm"])
def test_beams_count_among_the_requests_at_once(engine: str) -> None:
    searched = Workload(model=LLAMA_8B, engine=engine, beam_width=64)
    found, alone = room(searched, H100), room(Workload(model=LLAMA_8B, engine=engine), H100)
    assert found.max_batch == found.max_concurrent_requests_low
    assert found.max_kv_tokens == alone.max_kv_tokens


@pytest.mark.parametrize("engine", ["torch", "tensorrt"])
def test_what_serves_no_requests_has_no_room_that_is_set_aside(engine: str) -> None:
    found = room(Workload(model=LLAMA_8B, engine=engine), H100)
    assert found.max_kv_tokens is found.max_concurrent_requests is None
    assert found.max_batch and found.max_batch > 100


def test_70b_needs_two_gpus_in_fp8_and_four_in_bf16() -> None:
    """141 GB of weights; two GPUs of 85.5 GB have 15 GB each left; 128 requests cache 24 GB on each."""
    model = get_model("Llama-3.1-70B")
    found = {dtype: room(Workload(model=model, dtype=dtype, batch=128), H100) for dtype in ("fp8", "bf16")}
    assert (found["fp8"].min_tp, found["bf16"].min_tp) == (2, 4)
    assert (found["fp8"].min_n_gpus, found["bf16"].min_n_gpus) == (2, 4)


def test_an_encoder_has_no_cache_to_fill() -> None:
    found = room(Workload(model=get_model("bert-large"), input_len=512), H100)
    assert found.max_kv_tokens is found.max_concurrent_requests is found.max_context_len is None
    assert found.max_batch and found.min_n_gpus == 1


def test_room_to_train() -> None:
    setting = TrainingSetting(method="lora", seq_len=2048, kernels="eager", checkpointing="full")
    found = training_room(LLAMA_8B, H100, setting)
    assert found.max_micro_batch and found.max_seq_len and found.min_n_gpus == 1
    whole = training_room(LLAMA_8B, H100, TrainingSetting(seq_len=2048, checkpointing="full"))
    assert whole.max_micro_batch is None and (whole.min_n_gpus, whole.min_tp) == (2, 2)


def advised(**asked: Any) -> Any:
    resolved, bundle = resolve(Request(**asked)), load_bundle()
    report = answer(resolved, bundle)
    return report, fixes(report, resolved, bundle)


def test_advice_needs_less_and_tells_what_it_costs() -> None:
    found, helping = advised(model="Llama-3.1-70B", gpu="H100", batch=16, input_len=4096)
    assert found.memory.p_oom > 0.9 and helping[0].has_room
    assert {"dtype", "tp"} <= {name for fix in helping for name in fix.settings}
    for fix in helping:
        assert fix.memory.total_bytes < found.memory.total_bytes and fix.speed > 0
        again = answer(Request(model="Llama-3.1-70B", gpu="H100", batch=16, input_len=4096, **{**fix.settings}))
        assert again.memory.total_bytes == fix.memory.total_bytes
    assert [fix.has_room for fix in helping] == sorted((fix.has_room for fix in helping), reverse=True)


def test_changes_add_up_where_none_alone_is_enough() -> None:
    _, helping = advised(model="Qwen2.5-32B", gpu="RTX 4090", phase="train", method="qlora", seq_len=4096)
    assert helping[0].has_room and len(helping[0].settings) > 1
    assert not any(fix.has_room for fix in helping[1:])


def test_training_advice_keeps_the_tokens_of_a_step() -> None:
    _, helping = advised(
        model="Llama-3.1-8B", gpu="H100", phase="train", method="lora", micro_batch=32, checkpointing="full"
    )
    smaller = next(fix for fix in helping if "micro_batch" in fix.settings)
    assert smaller.settings["micro_batch"] * smaller.settings["grad_accum"] >= 32
    setting = TrainingSetting(method="lora", kernels="eager", checkpointing="full", **smaller.settings)
    assert training_memory(LLAMA_8B, H100, setting).p_oom <= RISK


def test_leaving_padding_out_is_advice_where_there_is_some() -> None:
    columns: dict[str, Any] = {"model": "Llama-3.1-8B", "gpu": "RTX 4090", "phase": "train", "method": "qlora"}
    columns |= {"micro_batch": 8, "seq_len": 4096, "mean_seq_len": 512}
    found, helping = advised(**columns, padding="longest")
    unpadded = next(fix for fix in helping if fix.change == "no padding")
    assert unpadded.speed > 1 and unpadded.memory.total_bytes < found.memory.total_bytes
    assert all(fix.change != "no padding" for fix in advised(**columns)[1])


def test_fewest_gpus_of_training_share_layers_where_replicas_do_not_help() -> None:
    """Activations of a micro-batch of one do not shrink with replicas: Q-LoRA said "–" while its own advice fitted."""
    setting = TrainingSetting(method="qlora", seq_len=2048, kernels="eager", zero_stage=0)
    model = get_model("Qwen2.5-72B")
    found = training_room(model, H100, setting)
    assert found.min_n_gpus and found.min_tp and found.min_n_gpus >= found.min_tp > 1
    _, helping = advised(model="Qwen2.5-72B", gpu="H100", phase="train", method="qlora")
    assert any("share each layer" in fix.change and fix.has_room for fix in helping)


@pytest.mark.parametrize(
    ("gpu", "asked", "changed"),
    [
        ("H100-SXM-80GB", {"gpu_memory_utilization": 1.0}, "gpu_memory_utilization"),
        ("H100-SXM-80GB", {"gpu_memory_utilization": 0.2}, "gpu_memory_utilization"),
        ("RTX-3090", {"max_model_len": 131_072}, "max_model_len"),
    ],
)
def test_advice_knows_the_settings_with_which_an_engine_starts(gpu: str, asked: dict[str, Any], changed: str) -> None:
    request = Request(model="Llama-3.1-8B", gpu=gpu, **asked)
    resolved, bundle = resolve(request, LLAMA_8B), load_bundle()
    report = answer(resolved, bundle)
    assert not has_room(report.memory)
    (fix,) = [fix for fix in fixes(report, resolved, bundle) if set(fix.settings) == {changed}]
    again = answer(resolve(Request(model="Llama-3.1-8B", gpu=gpu, **{**asked, **fix.settings}), LLAMA_8B), bundle)
    assert fix.has_room and has_room(again.memory)


def test_advice_narrows_nothing_that_is_as_narrow() -> None:
    resolved, bundle = resolve(Request(model="gpt-oss-120b", gpu="RTX-4090")), load_bundle()
    assert all("dtype" not in fix.settings for fix in fixes(answer(resolved, bundle), resolved, bundle))


def test_fewer_sequences_that_have_room_are_advice_though_the_cache_stays_full() -> None:
    resolved, bundle = (
        resolve(Request(model="Llama-3.1-8B", gpu="Apple-M3-Max", engine="mlx", batch=1000)),
        load_bundle(),
    )
    assert any("batch" in fix.settings for fix in fixes(answer(resolved, bundle), resolved, bundle))


@pytest.mark.parametrize(
    "asked",
    [
        {"phase": "train", "method": "lora", "n_gpus": 8, "zero_stage": 3},
        {"phase": "train", "method": "full", "n_gpus": 8, "zero_stage": 3},
        {"phase": "train", "method": "full", "n_gpus": 8, "global_batch": 64},
        {"n_gpus": 2},
    ],
)
def test_advice_on_gpus_is_asked_back_in_place_of_what_was_asked(asked: dict[str, Any]) -> None:
    stated = {"model": "Llama-3.1-70B", "gpu": "H100-SXM-80GB", **asked}
    resolved, bundle = resolve(Request(**stated)), load_bundle()
    told = [fix for fix in fixes(answer(resolved, bundle), resolved, bundle) if {"tp", "dp"} & set(fix.settings)]
    assert told and all("n_gpus" in fix.settings for fix in told)
    for fix in told:
        again = answer(resolve(Request(**{**stated, **fix.settings})), bundle)
        assert again.memory == fix.memory and again.n_gpus == fix.settings["n_gpus"]


def test_sharing_layers_takes_no_more_gpus_than_are_told_as_the_fewest() -> None:
    asked = Request(model="Llama-3.1-70B", gpu="H100-SXM-80GB", phase="train", method="lora", n_gpus=8, zero_stage=3)
    resolved, bundle = resolve(asked), load_bundle()
    (fix,) = [fix for fix in fixes(answer(resolved, bundle), resolved, bundle) if "share each layer" in fix.change]
    assert fix.settings["n_gpus"] == room_of(resolved).min_n_gpus


@pytest.mark.parametrize("asked", [{}, {"phase": "train", "method": "lora"}])
def test_what_nothing_joins_to_others_is_never_told_to_share(asked: dict[str, Any]) -> None:
    """A Mac serves a model alone; where several are joined, a spec says how fast."""
    alone, joined = (
        resolve(Request(model="Llama-3.1-70B", gpu=name, **asked))
        for name in ("Apple-M4-Max", "Apple-M4-Max, link_gb_per_s=10")
    )
    found = room_of(alone)
    assert found.min_tp is None and found.min_n_gpus is None
    told = (
        "this does not fit, and nothing joins Apple-M4-Max to another. Choose a narrower dtype or shorter sequences; "
        "where several computers are joined, give link_gb_per_s in its spec."
    )
    assert told in footprint(alone, load_bundle()).notes
    assert (room_of(joined).min_tp or 0) > 1 and told not in footprint(joined, load_bundle()).notes
    settings = [fix.settings for fix in fixes(answer(alone, load_bundle()), alone, load_bundle())]
    assert settings and not any({"tp", "dp", "n_gpus"} & set(changes) for changes in settings)


def test_memory_that_the_host_shares_is_not_advised_to_move_there() -> None:
    resolved = resolve(Request(model="Llama-3.1-8B", gpu="Apple-M4-Max", phase="train"))
    changes = [fix.settings for fix in fixes(answer(resolved, load_bundle()), resolved, load_bundle())]
    assert changes and not any("offload" in settings for settings in changes)


def test_a_model_that_fits_a_computer_alone_says_nothing_of_others() -> None:
    resolved = resolve(Request(model="Llama-3.1-8B", gpu="Apple-M4-Max"))
    assert room_of(resolved).min_n_gpus == 1
    assert not any("joins" in note for note in footprint(resolved, load_bundle()).notes)
