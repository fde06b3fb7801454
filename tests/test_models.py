"""The catalogue of models, and config.json files, friendly and hostile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tomllib
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from predictor.errors import InvalidSpec, PredictorError, UnknownModel
from predictor.workloads import Workload, decoder_from_config, get_model, models
from predictor.workloads.configs.classic import CLASSIC
from predictor.workloads.configs.dense import FAMILIES
from predictor.workloads.configs.layered import LAYERED
from predictor.workloads.models import FILES, published_parameters

CATALOGUE = resources.files("predictor").joinpath("catalog")
PARTS = {(file, part): tomllib.loads(CATALOGUE.joinpath(file).read_text(encoding="utf-8")) for file, part, _ in FILES}
ENTRIES = {
    hub_id: entry
    for (_, part), entries in PARTS.items()
    for hub_id, entry in (entries[part] if part else entries).items()
}
LLAMA_31_8B: dict[str, Any] = {  # huggingface.co/meta-llama/Llama-3.1-8B
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
GEMMA_3_4B: dict[str, Any] = {  # huggingface.co/google/gemma-3-4b-it, vision_config shortened
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "torch_dtype": "bfloat16",
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
}


@pytest.mark.parametrize("name", list(models()))
def test_shapes_give_the_published_parameter_count(name: str) -> None:
    assert models()[name].parameters() == pytest.approx(published_parameters()[name], rel=0.01)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # safetensors metadata on the hub
        ("Llama-3.1-8B", 8_030_261_248),
        ("Llama-3.1-405B", 405_853_388_800),
        ("Qwen2.5-7B", 7_615_616_512),
        ("Qwen3-32B", 32_762_123_264),
        ("Mistral-7B-v0.3", 7_248_023_552),
        ("phi-4", 14_659_507_200),
        ("gemma-2-9b", 9_241_705_984),
        ("OLMo-2-1124-13B", 13_716_198_400),
        ("starcoder2-15b", 15_957_889_024),
    ],
)
def test_parameter_formula_is_exact(name: str, parameters: int) -> None:
    assert get_model(name).parameters() == parameters


def test_every_entry_has_a_source_and_the_catalogue_is_broad() -> None:
    assert len(ENTRIES) >= 200
    whole = [ENTRIES[entry["base"]] | entry if "base" in entry else entry for entry in ENTRIES.values()]
    assert all(entry["source"] and entry["parameters"] > 1e7 for entry in whole)
    assert len(models()) == len(ENTRIES)  # short names are unique


@pytest.mark.parametrize("hub_id", list(ENTRIES))
def test_every_name_and_alias_finds_its_own_model(hub_id: str) -> None:
    name = hub_id.rpartition("/")[2]
    for each in (hub_id, name, name.upper(), f" {name}-Instruct", *ENTRIES[hub_id].get("aliases", ())):
        assert get_model(each) is models()[name]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("llama-3.1-8b", "Llama-3.1-8B"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "Llama-3.1-8B"),
        ("Llama-2-7b-chat-hf", "Llama-2-7b-hf"),
        ("Mistral-7B-Instruct-v0.3", "Mistral-7B-v0.3"),
        ("google/gemma-2-27b-it", "gemma-2-27b"),
        ("Qwen/Qwen2.5-72B-Instruct", "Qwen2.5-72B"),
    ],
)
def test_variants_have_the_shapes_of_their_base(name: str, found: str) -> None:
    assert get_model(name).name == found


def test_an_unknown_model_gets_a_suggestion() -> None:
    with pytest.raises(UnknownModel, match=r'unknown model "llama-3.1-9b"; did you mean .*Llama-3.1-8B'):
        get_model("llama-3.1-9b")
    with pytest.raises(UnknownModel, match=r"did you mean .*Qwen3-8B"):
        get_model("someone/Qwen3-8B-FP8")


@pytest.mark.parametrize("name", ["", " ", "x" * 100_000, "\0", "./\0", "~nobody-here/x", "../no.json", "é\ud800", "/"])
def test_hostile_names_raise_one_clear_error(name: str) -> None:
    with pytest.raises(PredictorError) as raised:
        get_model(name)
    assert len(str(raised.value)) < 500
    str(raised.value).encode()


@pytest.mark.parametrize("name", [None, 3, b"llama", ["llama"]])
def test_names_that_are_no_text_are_refused(name: Any) -> None:
    with pytest.raises(UnknownModel, match="give a name such as"):
        get_model(name)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "int4_wo"),
        ("Qwen2.5-7B-Instruct-GPTQ-Int8", "int8_wo"),
        ("Qwen/Qwen3-30B-A3B-GPTQ-Int4", "int4_wo"),
    ],
)
def test_a_name_can_say_the_format_of_its_weights(name: str, dtype: str) -> None:
    assert Workload(model=get_model(name), input_len=8).dtype == dtype


def test_the_catalogue_loads_without_pandas() -> None:
    code = "import sys, predictor.workloads as w; w.models(); print('pandas' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def write(path: Path, config: object) -> Path:
    path.write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return path


def test_a_config_file_a_directory_and_a_mapping_agree(tmp_path: Path) -> None:
    folder = tmp_path / "my-llama"
    folder.mkdir()
    path = write(folder / "config.json", LLAMA_31_8B)
    found = decoder_from_config(LLAMA_31_8B, name="my-llama")
    for each in (get_model(path), get_model(str(path)), get_model(str(folder)), decoder_from_config(folder)):
        assert each.name == "my-llama" and each.parameters() == found.parameters() == 8_030_261_248


def test_a_nested_text_config_takes_the_defaults_of_its_class() -> None:
    found = decoder_from_config(GEMMA_3_4B)
    catalogue = get_model("gemma-3-4b")
    assert found.parameters() - found.beside == catalogue.parameters()  # the catalogue has the language model alone
    assert (found.window, found.window_layers) == (1024, 29) and found.tied_embeddings


def test_attention_biases_head_widths_and_windows_are_read() -> None:
    llama = {**LLAMA_31_8B, "attention_bias": True, "mlp_bias": True, "head_dim": 256}
    found = decoder_from_config(llama)
    assert found.qkv_bias and found.o_bias and found.mlp_bias and found.head_dim == 256
    qwen = {**LLAMA_31_8B, "model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 28}
    assert decoder_from_config({**qwen, "sliding_window": 4096}).window_layers == 4
    mistral = {**LLAMA_31_8B, "model_type": "mistral"}
    assert decoder_from_config({**mistral, "sliding_window": None}).window == 0
    assert decoder_from_config(mistral).window == 4096  # the default of MistralConfig
    types = ["sliding_attention"] * 24 + ["full_attention"] * 8
    assert decoder_from_config({**mistral, "model_type": "ministral", "layer_types": types}).window_layers == 24


def test_heads_of_llama_1_default_to_multi_head_attention() -> None:
    config = {key: value for key, value in LLAMA_31_8B.items() if key != "num_key_value_heads"}
    assert decoder_from_config(config).kv_heads == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "qwen2", "num_key_value_heads": ...},
            "of model_type qwen2 has no num_key_value_heads; add it from the model's published config.json.",
        ),
        ({"hidden_size": ...}, "config.json of model_type llama has no hidden_size"),
        ({"torch_dtype": ...}, "config.json has no torch_dtype"),
        ({"model_type": ...}, "config.json has no model_type"),
        ({"model_type": "rwkv"}, "not yet supported: architecture 'rwkv'; supported: llama, mistral"),
        (
            {"model_type": "afmoe", "num_experts": 8},
            "not yet supported: architecture 'afmoe' with num_experts",
        ),
        ({"model_type": "mixtral"}, "config.json of model_type mixtral has no num_local_experts"),
        ({"kv_lora_rank": 512}, "with kv_lora_rank (multi-head latent attention)"),
        ({"hidden_size": "4096"}, "hidden_size in config.json is '4096'; it must be a whole number"),
        ({"hidden_size": True}, "hidden_size in config.json is True; it must be a whole number"),
        ({"hidden_size": -1}, "hidden_size in config.json is -1; it must be a whole number"),
        ({"hidden_size": 4096.5}, "hidden_size in config.json is 4096.5; it must be a whole number"),
        ({"hidden_size": 10**400}, "hidden_size in config.json is a number of 1329 bits"),
        ({"hidden_size": 2**31}, "hidden of custom model is 2147483648; it must be a whole number from 1 to 1048576"),
        ({"num_attention_heads": 33}, "head_dim in config.json is None"),
        ({"num_key_value_heads": 7}, "kv_heads of custom model is 7; it must divide the 32 attention heads"),
        ({"hidden_act": "mish"}, "hidden_act in config.json is 'mish'; one of silu"),
        ({"hidden_act": ["silu"]}, "hidden_act in config.json is a list of 1 entries"),
        ({"torch_dtype": "int3"}, "torch_dtype in config.json is 'int3'; it must be one of bfloat16"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings in config.json is 'no'; it must be true or false."),
        ({"partial_rotary_factor": float("nan")}, "partial_rotary_factor in config.json is nan"),
        ({"text_config": 3}, "text_config of config.json is 3; it must be an object."),
    ],
)
def test_what_is_missing_or_not_understood_is_named(change: dict[str, Any], message: str) -> None:
    config = {key: value for key, value in {**LLAMA_31_8B, **change}.items() if value is not ...}
    with pytest.raises(InvalidSpec) as raised:
        decoder_from_config(config)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "as JSON"),
        ("not json", "as JSON"),
        ("[1, 2]", "config is a list; it must be a JSON object"),
        ('"text"', "config is a str; it must be a JSON object"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' appears twice in config.json; keep one."),
        ('{"model_type": "llama", "hidden_size": NaN}', "hidden_size in config.json is nan; it must be a whole number"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ('{"hidden_size": ' + "9" * 10_000 + "}", "as JSON"),
        ('{"model_type": "\\ud800💥"}', "not yet supported: architecture"),
    ],
)
def test_hostile_files_raise_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidSpec) as raised:
        decoder_from_config(write(tmp_path / "config.json", text))
    assert message in str(raised.value) and len(str(raised.value)) < 800


def test_large_missing_binary_and_blocking_files_raise_at_once(tmp_path: Path) -> None:
    start = time.perf_counter()
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(100 * 2**20)
    with pytest.raises(InvalidSpec, match="has 104857600 bytes; a"):
        decoder_from_config(large)
    binary = tmp_path / "binary.json"
    binary.write_bytes(bytes(range(256)))
    with pytest.raises(InvalidSpec, match="as JSON"):
        decoder_from_config(binary)
    repeated = write(tmp_path / "repeated.json", "{" + ",".join(f'"{i}":1' for i in range(300_000)) + ',"0":1}')
    with pytest.raises(InvalidSpec, match="'0' appears twice"):
        decoder_from_config(repeated)
    if hasattr(os, "mkfifo"):  # not on Windows
        os.mkfifo(tmp_path / "pipe.json")
    for absent in (tmp_path / "pipe.json", tmp_path / "absent.json", tmp_path):
        with pytest.raises(UnknownModel, match="give the path of a config"):
            decoder_from_config(absent)
    assert time.perf_counter() - start < 10


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from([*LLAMA_31_8B, "head_dim", "sliding_window", "layer_types", "rope_parameters", "text_config"])


SPARSE = {
    "moe_intermediate_size": 1024,
    "intermediate_size_mlp": 8192,
    "num_experts": 16,
    "num_local_experts": 16,
    "n_routed_experts": 16,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "interleave_moe_layer_step": 2,
    "attention_chunk_size": 8192,
    "sliding_window": 128,
    "rotary_dim": 64,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
}


@given(model_type=st.sampled_from([*FAMILIES, *CLASSIC, *LAYERED]), change=st.dictionaries(KEYS, JSON, max_size=3))
@settings(max_examples=200, deadline=None)
def test_any_config_gives_a_model_or_one_clear_error(model_type: str, change: dict[str, Any]) -> None:
    try:
        sizes = SPARSE if model_type in LAYERED else {}
        assert decoder_from_config({**LLAMA_31_8B, **sizes, "model_type": model_type, **change}).parameters() > 0
    except PredictorError as error:
        assert 0 < len(str(error)) < 800


@pytest.mark.data
def test_published_configs_give_the_catalogue(data_root: Path) -> None:
    """The config.json files of ai-dynamo/aiconfigurator: what is read has the shapes and formats of the catalogue."""
    files = sorted((data_root / "aiconfigurator").rglob("model_configs/*_config.json"))
    if not files:
        pytest.skip(f"no clone of ai-dynamo/aiconfigurator in {data_root}")
    read = 0
    for path in files:
        name = path.name.removesuffix("_config.json").partition("--")[2].removeprefix("Meta-")
        found = decoder_from_config(path, name=name)
        if name in models() and not name.startswith("Step"):  # the copy has the heads of full layers in all
            read += 1
            expected = models()[name]
            language = found.parameters() - found.beside  # the catalogue has language models alone
            assert (language, found.max_len) == (expected.parameters(), expected.max_len)
            if found.linear_dtype or found.expert_dtype:  # others keep their format in a second file
                assert (found.linear_dtype, found.expert_dtype) == (expected.linear_dtype, expected.expert_dtype)
    assert read >= 72


def test_the_hub_is_asked_for_what_the_catalogue_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = write(tmp_path / "config.json", json.dumps(LLAMA_31_8B))
    asked = []

    def hf_hub_download(name: str, file: str) -> str:
        asked.append((name, file))
        if name.startswith("nobody/"):
            raise OSError("404 Client Error\nnot found")
        return str(config)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
    found = get_model("somebody/my-llama")
    assert (found.name, found.parameters()) == ("my-llama", 8_030_261_248)
    assert asked == [("somebody/my-llama", "config.json")]
    with pytest.raises(UnknownModel, match="The hub was asked: 404 Client Error"):
        get_model("nobody/my-llama")


def test_without_the_hub_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UnknownModel, match=r"gpu-predictor\[hub\]"):
        get_model("somebody/my-llama")


def test_a_cap_of_the_logits_is_read() -> None:
    """Gemma2Config caps logits at 30 unless told otherwise; Gemma 3 has no cap."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 512, "sliding_window": 128}
    sizes |= {"torch_dtype": "bfloat16"}
    two, three = ({"model_type": kind, **sizes} for kind in ("gemma2", "gemma3_text"))
    configs = (two, {**two, "final_logit_softcapping": None}, three, {**three, "final_logit_softcapping": 30.0})
    assert [decoder_from_config(config).capped_logits for config in configs] == [True, False, False, True]
    assert get_model("gemma-2-9b").capped_logits and not get_model("gemma-3-1b").capped_logits
