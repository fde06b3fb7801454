"""Images in a prompt: tokens and passes of vision towers, what they add to time and memory, and who refuses them.

Tokens of an image are those of the image processors of transformers 5.24 (smart_resize, get_optimal_tiled_canvas,
get_resize_output_image_size, get_best_fit), called by themselves.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from predictor import predict
from predictor.errors import InvalidRequest
from predictor.estimators.bundle import load_bundle
from predictor.hardware.gpu import get_gpu
from predictor.latency.explain import explained
from predictor.memory.closed_form import memory
from predictor.prediction.rows import answer_columns
from predictor.workloads import Workload, model_from_config
from predictor.workloads.images import image_ops

H100 = "H100-SXM-80GB"
SMALL = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
TEXT = {**SMALL, "model_type": "llama", "num_key_value_heads": 8, "vocab_size": 32064, "torch_dtype": "bfloat16"}
TEXT |= {"max_position_embeddings": 131072, "head_dim": 64, "tie_word_embeddings": False}
CLIP = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "image_size": 336}
CLIP |= {"num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14}
SIGLIP = {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "patch_size": 14}
SIGLIP |= {"num_attention_heads": 16, "num_hidden_layers": 27}
LLAVA = {"model_type": "llava", "text_config": TEXT, "vision_config": CLIP, "vision_feature_layer": -2}
QWEN = {"model_type": "qwen2_5_vl_vision", "hidden_size": 1280, "out_hidden_size": 2048, "window_size": 112}
QWEN |= {"depth": 32, "num_heads": 16, "intermediate_size": 3420, "fullatt_block_indexes": [7, 15, 23, 31]}
PIXTRAL = {"model_type": "pixtral", "image_size": 1024, "patch_size": 16}
INTERN = {"model_type": "internvl_vision", "image_size": [448, 448], "patch_size": [14, 14]}
LLAMA_4 = {"model_type": "llama4_vision_model", "image_size": 336, "patch_size": 14, "hidden_size": 1408}


def seeing(kind: str, vision: dict[str, Any], **outer: Any) -> Any:
    return model_from_config({"model_type": kind, "text_config": TEXT, "vision_config": vision, **outer}, "seer")


def config(tmp_path: Path, contents: dict[str, Any]) -> str:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(contents), encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("kind", "vision", "outer", "size", "tokens", "tiles"),
    [
        ("llava", CLIP, {}, 0, 576, 1),
        ("llava", CLIP, {}, 2000, 576, 1),  # resized
        ("llava", PIXTRAL, {}, 0, 64 * 65, 1),  # rows end in a token
        ("llava", PIXTRAL, {}, 1000, 63 * 64, 1),
        ("mistral3", {**PIXTRAL, "image_size": 1540, "patch_size": 14}, {}, 0, 55 * 56, 1),
        ("mistral3", {**PIXTRAL, "image_size": 1540, "patch_size": 14}, {}, 1024, 37 * 38, 1),
        ("mistral3", {**PIXTRAL, "image_size": 1540, "patch_size": 14}, {}, 3000, 55 * 56, 1),
        ("qwen2_vl", {"model_type": "qwen2_vl"}, {}, 448, 256, 1),
        ("qwen2_vl", {"model_type": "qwen2_vl"}, {}, 20, 4, 1),
        ("qwen2_5_vl", QWEN, {}, 1024, 1369, 1),
        ("qwen2_5_vl", QWEN, {}, 8000, 16384, 1),
        ("qwen3_vl", {"model_type": "qwen3_vl_vision"}, {}, 336, 100, 1),
        ("qwen3_vl", {"model_type": "qwen3_vl_vision"}, {}, 1024, 1024, 1),
        ("qwen3_vl", {"model_type": "qwen3_vl_vision"}, {}, 100, 64, 1),
        ("gemma3", {**SIGLIP, "image_size": 896}, {}, 0, 256, 1),
        ("paligemma", {**SIGLIP, "image_size": 224}, {}, 0, 256, 1),
        ("paligemma", {**SIGLIP, "image_size": 448}, {}, 0, 1024, 1),
        ("paligemma", {**SIGLIP, "image_size": 896}, {}, 0, 4096, 1),
        ("internvl", INTERN, {}, 0, 256, 1),
        ("internvl", INTERN, {}, 633, 256, 1),
        ("internvl", INTERN, {}, 634, 5 * 256, 5),
        ("internvl", INTERN, {}, 951, 10 * 256, 10),
        ("idefics3", {**SIGLIP, "model_type": "idefics3_vision", "image_size": 364}, {}, 0, 17 * 169, 17),
        ("smolvlm", {"image_size": 512, "patch_size": 16}, {"scale_factor": 4}, 0, 17 * 64, 17),
        ("llama4", LLAMA_4, {}, 0, 144, 1),
        ("llama4", LLAMA_4, {}, 337, 5 * 144, 5),
        ("llama4", LLAMA_4, {}, 5000, 17 * 144, 17),
    ],
)
def test_an_image_has_the_tokens_of_its_processor(
    kind: str, vision: dict[str, Any], outer: dict[str, Any], size: int, tokens: int, tiles: int
) -> None:
    tower = seeing(kind, vision, **outer).tower.sized(size)
    assert (tower.tokens, tower.tiles) == (tokens, tiles)


def test_a_larger_image_never_has_fewer_tokens() -> None:
    kinds = [("llava", PIXTRAL), ("qwen2_5_vl", QWEN), ("internvl", INTERN), ("llama4", LLAMA_4), ("gemma3", SIGLIP)]
    for kind, vision in kinds:
        tower = seeing(kind, {"image_size": 448, **vision}).tower
        tokens = [tower.sized(size).tokens for size in range(16, 4200, 61)]
        assert tokens == sorted(tokens)


def flops(calls: Any) -> float:
    return sum(float(call.op.flops()) * call.count for call in calls if call.op.family in ("gemm", "attention"))


def test_the_pass_of_clip_has_the_flops_of_a_calculation_by_hand() -> None:
    workload = Workload(model=seeing("llava", CLIP, vision_feature_layer=-2), batch=3, images=2, input_len=1153)
    patches, tokens, width, inter, hidden, layers = 576, 577, 1024, 4096, 2048, 23
    layer = 2 * tokens * (4 * width**2 + 2 * width * inter) + 4 * tokens**2 * width
    around = 2 * patches * (3 * 14**2 * width + width * hidden + hidden**2)
    assert flops(image_ops(workload)) == pytest.approx(6 * (layers * layer + around), rel=1e-9)


def test_windows_of_qwen_2_5_vl_see_64_patches_in_all_but_four_layers() -> None:
    calls = seeing("qwen2_5_vl", QWEN).tower.sized(448).pass_ops(2, "bf16")
    seen = {
        call.name: (int(call.op.batch), int(call.op.q_len), call.count) for call in calls if "attention" in call.name
    }
    assert seen == {"vision_attention": (2, 1024, 4.0), "vision_window_attention": (32, 64, 28.0)}
    first = next(call.op for call in calls if call.name == "vision_patch_embedding")
    assert (float(first.m), float(first.k)) == (2 * 1024, 2 * 3 * 14**2)  # an image is two frames


def test_deepstack_has_a_merger_for_each_of_its_layers() -> None:
    vision = {"model_type": "qwen3_vl_vision", "deepstack_visual_indexes": [8, 16, 24]}
    calls = seeing("qwen3_vl", vision).tower.sized(512).pass_ops(1, "bf16")
    assert [call.count for call in calls if call.name == "vision_projector_2"] == [4.0]


@pytest.mark.parametrize("tp", [2, 4, 8, 3])
def test_gpus_that_share_a_tower_do_the_same_work_together(tp: int) -> None:
    tower = seeing("llava", CLIP).tower
    alone, shared = (flops(tower.pass_ops(1, "bf16", gpus)) for gpus in (1, tp))
    once = flops([call for call in tower.pass_ops(1, "bf16") if call.name == "vision_patch_embedding"])
    if tp == 3:  # does not divide 16 heads
        assert shared == alone and not any("all_reduce" in call.name for call in tower.pass_ops(1, "bf16", tp))
    else:
        assert (shared - once) * tp == pytest.approx(alone - once)


def test_parts_add_up_and_name_the_tower() -> None:
    bundle = load_bundle()
    report = predict(model_from_config(LLAVA, "seer"), H100, bundle=bundle, batch=4, images=3)
    lines = [line for line in explained(report, bundle) if line.phase == "prefill"]
    assert sum(line.latency_s.value for line in lines) == pytest.approx(report.ttft_s.value)
    names = {line.name for line in lines}
    assert {"vision_patch_embedding", "vision_qkv_proj", "vision_projector_1", "vision_projector_2"} <= names
    assert report.workload.input_len == 1024 + 3 * 576
    assert any("576 image tokens an image" in note and "prompt of 1024" in note for note in report.notes)
    assert any("No vision tower was measured" in note for note in report.notes)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "torch"])
def test_more_images_are_never_faster_or_smaller(engine: str) -> None:
    model = model_from_config(LLAVA, "seer")
    reports = [predict(model, H100, engine=engine, images=images) for images in (0, 1, 2, 4, 16)]
    for less, more in pairwise(reports):
        assert more.ttft_s.value >= less.ttft_s.value and more.ttft_s.high >= less.ttft_s.high
        assert more.tpot_s.value >= less.tpot_s.value
        assert more.memory.kv_cache_bytes > less.memory.kv_cache_bytes
        assert more.memory.activations_bytes >= less.memory.activations_bytes
        assert more.memory.total_bytes > less.memory.total_bytes
    assert reports[-1].ttft_s.value > reports[1].ttft_s.value > reports[0].ttft_s.value


def test_images_take_more_than_as_many_tokens_of_text() -> None:
    model = model_from_config(LLAVA, "seer")
    images, text = predict(model, H100, images=8), predict(model, H100, input_len=1024 + 8 * 576)
    assert images.ttft_s.value > text.ttft_s.value
    assert images.tpot_s == text.tpot_s
    assert images.memory.kv_cache_bytes == text.memory.kv_cache_bytes
    wide, narrow = (each.ttft_s.high / each.ttft_s.value for each in (images, text))
    assert wide > narrow  # no tower was measured


def test_the_memory_of_a_pass_is_the_towers_where_that_is_larger() -> None:
    gpu = get_gpu(H100)
    model = seeing("paligemma", {**SIGLIP, "image_size": 896})
    few = Workload(model=model, engine="torch", images=1, input_len=4100)
    text = memory(replace(few, images=0), gpu).activations_bytes
    kept = 4096 * 2048 * 2
    assert memory(few, gpu).activations_bytes == pytest.approx(max(text, 4096 * (2 * 1152 + 2 * 4304) * 2) + kept)


def test_rows_of_a_table_are_answered_as_one_request_is(tmp_path: Path) -> None:
    path = config(tmp_path, LLAVA)
    rows = [{"model": path, "gpu": H100, "batch": batch, "images": 2} for batch in (1, 2, 3, 4, 5)]
    found = answer_columns(rows, load_bundle())
    alone = predict(path, H100, batch=5, images=2)
    assert found["ttft_s"][-1] == pytest.approx(alone.ttft_s.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"concurrency": 4, "turns": 2},
            "images is 1 and turns 2; which of them bring images, and which are cached, is not known. Leave one of",
        ),
        ({"concurrency": 4, "shared_prefix_len": 64}, "images is 1 and shared_prefix_len 64; which of them"),
        ({"pp": 2}, "images is 1 and pp 2; the time of a vision tower before stages of layers is not predicted."),
        ({"dtype": "q4_k_m"}, "images is 1; llama.cpp runs a vision tower in kernels whose time is not known."),
        ({"images": 5000}, "images is 5000; it must be at most 4096. Lower it."),
        ({"images": 300}, "input_len + output_len, images among it, is 173952; "),
        ({"images": 0, "image_size": 336}, "image_size is 336 and images 0; seer is given none. Set images to serve."),
    ],
)
def test_what_is_not_predicted_of_images_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        predict(model_from_config(LLAVA, "seer"), H100, **{"images": 1, **settings})
    assert told in str(error.value)


def test_a_model_that_takes_images_of_any_size_asks_for_one() -> None:
    model = seeing("qwen2_5_vl", QWEN)
    with pytest.raises(InvalidRequest, match=r"seer takes images of any size\. Set image_size, such as 1024"):
        predict(model, H100, images=1)
    assert predict(model, H100, images=1, image_size=448).workload.input_len == 1024 + 256


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            "Llama-3.1-8B",
            "Llama-3.1-8B is known as a language model alone, as all of the catalogue. Give the config.json",
        ),
        ("vit-base-patch16-224", "vit-base-patch16-224 takes an image for an input. Set batch instead."),
        ("bge-base-en-v1.5", "bge-base-en-v1.5 is known as a language model alone"),
        (("llava_next", CLIP), "how seer takes images is not known, or it takes none. Leave images out"),
        (("glm4v", {"hidden_size": 64}), "how seer takes images is not known"),
        ({"model_type": "qwen2_audio", "text_config": TEXT, "audio_config": {}}, "how seer takes images is not known"),
    ],
)
def test_models_without_a_known_tower_refuse_images(model: Any, told: str) -> None:
    if isinstance(model, tuple):
        model = seeing(*model)
    elif isinstance(model, dict):
        model = model_from_config({**model, "audio_config": {"d_model": 1280}}, "seer")
    with pytest.raises(InvalidRequest) as error:
        predict(model, H100, images=1)
    assert told in str(error.value)


def test_training_has_no_images() -> None:
    from predictor.workloads.request import Request

    with pytest.raises(InvalidRequest, match=r"images is 1; training has none\. Leave it out\."):
        Request(model="seer", gpu=H100, phase="train", images=1)


def test_the_whole_of_a_config_says_how_patches_are_merged() -> None:
    """It was read from the language model's part, which has no such key, so that the default was taken."""
    vision = {"image_size": 512, "patch_size": 16, "num_hidden_layers": 12, "hidden_size": 768}
    two, four = (seeing("smolvlm", vision, scale_factor=scale).parameters() for scale in (2, 4))
    assert four - two == 768 * (16 - 4) * 2048


def test_a_tower_that_is_named_as_the_whole_is_read() -> None:
    named, not_named = (
        seeing("qwen2_5_vl", {**QWEN, "model_type": kind}) for kind in ("qwen2_5_vl", "qwen2_5_vl_vision")
    )
    assert named.parameters() == not_named.parameters() and named.tower == not_named.tower


def test_under_load_more_images_are_never_faster_and_parts_add_up() -> None:
    model, bundle = model_from_config(LLAVA, "seer"), load_bundle()
    reports = [predict(model, H100, bundle=bundle, concurrency=8, images=images) for images in (0, 1, 2, 8)]
    for less, more in pairwise(reports):
        assert more.ttft_s.value > less.ttft_s.value and more.tpot_s.value > less.tpot_s.value
        assert more.tokens_per_s.value < less.tokens_per_s.value
        assert more.memory.total_bytes > less.memory.total_bytes
    text = predict(model, H100, bundle=bundle, concurrency=8, input_len=1024 + 8 * 576)
    assert reports[-1].ttft_s.value > text.ttft_s.value and reports[-1].tokens_per_s.value < text.tokens_per_s.value
    lines = [line for line in explained(reports[-1], bundle) if line.phase == "prefill"]
    assert sum(line.latency_s.value for line in lines) == pytest.approx(reports[-1].ttft_s.value)
    assert any(line.name == "vision_qkv_proj" for line in lines)
    assert reports[-1].served is not None
    mean = 8 * 576 + 1024 * 0.9  # only text has a spread
    assert reports[-1].served.mean_len[0] == pytest.approx(mean, rel=0.01)


def test_a_tower_that_sees_nothing_widens_no_load() -> None:
    """Any note of a config, and so every tower, made intervals under load those of layers that nobody timed."""
    text = model_from_config(TEXT, "reader")
    both, alone = (predict(model, H100, concurrency=4) for model in (model_from_config(LLAVA, "seer"), text))
    assert both.ttft_s == alone.ttft_s and both.tpot_s == alone.tpot_s


def test_an_open_load_and_drafts_take_images_too() -> None:
    model = model_from_config(LLAVA, "seer")
    settings = {"request_rate": 2.0, "output_len": 64, "draft_tokens": 3, "acceptance": 0.7}
    with_one, without = (predict(model, H100, images=images, **settings) for images in (1, 0))
    assert with_one.ttft_s.value > without.ttft_s.value


def test_a_plan_has_no_images() -> None:
    from predictor import plan

    with pytest.raises(InvalidRequest, match=r"images is 1; a plan decides it\. Add their tokens to input_len\."):
        plan("Qwen3-8B", "H100", concurrency=4, images=1)
