"""Published configs of many architectures: the parameters that are counted of them, or what is named instead.

config_sizes.jsonl has one a line: sizes of a config.json of the hub, or of a configuration class of transformers 5.24
(whose defaults are those of a published model), without what changes none; and the parameters of the model that
transformers builds of it on PyTorch's meta device, tied tensors once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from predictor.errors import InvalidRequest, InvalidSpec
from predictor.memory.sizes import weights_bytes
from predictor.workloads import Workload, model_from_config

ROWS = [json.loads(line) for line in (Path(__file__).parent / "config_sizes.jsonl").read_text().splitlines()]
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "vocab_size": 128256,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
}
LINEAR = 32 * (4096 * (4096 * 2 + 2 * 1024) + 3 * 4096 * 14336)


def test_the_table_has_many_architectures() -> None:
    assert len(ROWS) >= 150 and len({row["config"]["model_type"] for row in ROWS}) >= 60


@pytest.mark.parametrize("row", ROWS, ids=[row["name"] for row in ROWS])
def test_parameters_are_those_that_transformers_builds_or_what_lacks_is_named(row: dict[str, Any]) -> None:
    found = model_from_config(row["config"], row["name"])
    apart = abs(found.parameters() / row["parameters"] - 1)
    assert apart <= 0.005 or any("not counted" in note for note in found.notes)


def test_most_of_the_table_is_counted_whole() -> None:
    counts = [model_from_config(row["config"]).parameters() / row["parameters"] for row in ROWS]
    assert sum(abs(count - 1) <= 0.005 for count in counts) >= 175


def quantised(**config: Any) -> Any:
    return model_from_config({**LLAMA, "quantization_config": config})


@pytest.mark.parametrize(
    ("config", "bits"),
    [  # 16-bit scale per group; a zero point as wide as the weights (AWQ, asymmetric GPTQ), or of 16 bits (HQQ, quanto)
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}, 4.125),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}, 4.5),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": True}, 8),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128, "sym": False}, 3 + 19 / 128),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, 4 + 20 / 128),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "zero_point": True}, 4 + 20 / 64),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True}, 4.125),
        ({"quant_method": "intel/auto-round", "bits": 2, "group_size": 64, "sym": True}, 2.25),
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}}, 4.5),
        ({"quant_method": "quanto", "weights": "int4"}, 4.25),
        ({"quant_method": "quanto", "weights": "int8"}, 8),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, 4.127),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only", "quant_type_kwargs": {"group_size": 64}}, 4.5),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}}, 8),
        ({"quant_method": "torchao", "quant_type": "float8_dynamic_activation_float8_weight"}, 8),
        ({"quant_method": "fbgemm_fp8"}, 8),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8 + 32 / 128**2),
        ({"quant_method": "mxfp4"}, 4.25),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4.5),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4"}}}, 4.25),
        ({"quant_method": "eetq"}, 8),
    ],
)
def test_weights_have_the_bits_of_their_groups(config: dict[str, Any], bits: float) -> None:
    plain = weights_bytes(Workload(model=model_from_config(LLAMA), dtype="fp16"))
    found = weights_bytes(Workload(model=quantised(**config)))
    assert (plain - found) * 8 == pytest.approx(LINEAR * (16 - bits), rel=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        {"quant_method": "gptq", "bits": 4, "group_size": 100},
        {"quant_method": "gptq", "bits": "4"},
        {"quant_method": "awq", "bits": True},
        {"quant_method": "hqq", "quant_config": []},
        {"quant_method": "torchao", "quant_type": "codebook"},
        {"quant_method": "aqlm"},
        {"quant_method": ["gptq"]},
        {"quant_method": "fp8", "weight_block_size": [64, 64]},
        {"quant_method": "gptq", "bits": 4, "modules_to_not_convert": "lm_head"},
    ],
)
def test_formats_that_are_not_known_are_named(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec, match=r"quantization_config|quant_method"):
        quantised(**config)


def test_a_group_that_gpus_would_cut_is_refused() -> None:
    model = quantised(quant_method="gptq", bits=4, group_size=1024)
    assert Workload(model=model, tp=2)
    with pytest.raises(InvalidRequest, match="takes whole blocks of 1024"):
        Workload(model=model, tp=8)


def test_modules_that_stay_in_16_bits_are_named() -> None:
    layers = [f"model.layers.{layer}.mlp.down_proj" for layer in range(4)]
    told = quantised(quant_method="awq", bits=4, modules_to_not_convert=["lm_head", *layers]).notes
    assert any("keeps model.layers.0.mlp.down_proj" in note and "and 1 more" in note for note in told)
    assert not quantised(quant_method="awq", bits=4, modules_to_not_convert=["lm_head", "model.embed_tokens"]).notes


def test_keys_that_nobody_reads_are_named_where_they_may_change_sizes() -> None:
    assert model_from_config(LLAMA).notes == ()
    told = model_from_config({**LLAMA, "num_memory_tables": 12, "bos_token_id": 128000, "rope_theta": 500000.0}).notes
    assert len(told) == 1 and "num_memory_tables" in told[0]
    shared = model_from_config({**LLAMA, "use_cla": True, "cla_share_factor": 2}).notes
    assert any("share their cache" in note for note in shared)


def test_a_sparse_text_config_has_the_defaults_of_its_class_and_a_whole_config_has_not() -> None:
    tower = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "image_size": 336}
    tower |= {"num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14}
    text = {"model_type": "llama", "vocab_size": 32064, "torch_dtype": "float16"}
    model = model_from_config({"model_type": "llava", "text_config": text, "vision_config": tower})
    assert model.parameters() == 7_063_427_072  # llava-hf/llava-1.5-7b-hf, built on the meta device
    assert any("time is predicted with images" in note for note in model.notes)
    with pytest.raises(InvalidSpec, match="hidden_size"):
        model_from_config(text)


def test_layers_that_share_their_cache_keep_none() -> None:
    row = next(row for row in ROWS if row["name"] == "gemma3n_text")
    few, none = (
        Workload(model=model_from_config({**row["config"], "num_kv_shared_layers": shared}), input_len=1024)
        for shared in (15, 0)
    )
    ratio = few.model.cached(512, few.layout) / none.model.cached(512, none.layout)
    assert ratio == pytest.approx(20 / 35)


@pytest.mark.parametrize("name", ["mamba2", "jamba", "falcon_h1", "recurrent_gemma", "granitemoehybrid", "minimax"])
def test_states_are_kept_whatever_the_length(name: str) -> None:
    row = next(row for row in ROWS if row["name"] == name)
    workload = Workload(model=model_from_config(row["config"]), input_len=128, output_len=8)
    assert workload.model.state_bytes(workload.layout) > 0
    assert all(call.op.flops() >= 0 for call in workload.prefill_ops())


def test_objects_that_nest_too_deep_are_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(30):
        deep = {"inner": deep}
    with pytest.raises(InvalidSpec, match="nests more than"):
        model_from_config({**LLAMA, "deep": deep})


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": -1},
        {"hidden_size": float("nan")},
        {"hidden_size": "4096"},
        {"num_hidden_layers": 10**400},
        {"vocab_size": [1]},
        {"rope_scaling": {"rope_type": "yarn", "factor": -4.0}},
        {"vision_config": [1], "hidden_size": None},
        {"torch_dtype": {"a": 1}},
        {"text_config": [1]},
    ],
)
def test_values_of_other_kinds_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec, match=r"in config.json|of config.json"):
        model_from_config({**LLAMA, **change})


def test_a_scaling_of_no_known_kind_stretches_nothing() -> None:
    for kind in ([], {}, None, 7, "unheard"):
        assert model_from_config({**LLAMA, "rope_scaling": {"rope_type": kind, "factor": 4.0}}).max_len == 131072


def test_draft_heads_are_said_to_be_such() -> None:
    told = model_from_config({**LLAMA, "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": 32000}).notes
    assert any("draft head" in note for note in told) and any("draft_vocab_size" in note for note in told)
    ahead = model_from_config({**LLAMA, "num_nextn_predict_layers": 1}).notes
    assert any("multi-token-prediction layers are not counted" in note for note in ahead)


def test_no_list_of_endless_layers_is_made() -> None:
    row = next(row for row in ROWS if row["name"] == "qwen2_moe")
    with pytest.raises(InvalidSpec, match=r"num_hidden_layers in config.json is 2147483648; it must be at most 4096"):
        model_from_config({**row["config"], "num_hidden_layers": 2**31})
