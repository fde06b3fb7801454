"""Sizes of weights from headers: exact, and never a traceback."""

import json
from pathlib import Path
from typing import Any

import pytest
from headers import NUMBER_OF, SMALL, described, gguf, refused, safetensors, shapes

from predictor.errors import InvalidSpec
from predictor.memory.sizes import weights_bytes
from predictor.prediction.single import predict
from predictor.workloads import Workload, get_model
from predictor.workloads.weights.files import stored_weights
from predictor.workloads.weights.gguf import TYPES, Array, read_gguf

LLAMA = get_model("Llama-3.2-1B")


def test_a_header_with_every_shape_of_a_model_gives_what_the_closed_form_counts(tmp_path: Path) -> None:
    file = safetensors(tmp_path / "model.safetensors", {name: ("BF16", s) for name, s in shapes(LLAMA).items()})
    found = stored_weights(file)
    assert found.total_bytes == weights_bytes(Workload(model=LLAMA)) and found.tensors == 9 * LLAMA.layers + 2
    assert found.bytes_of == {"BF16": found.total_bytes}
    assert found.parameters == LLAMA.parameters() and found.tied and found.source == "model.safetensors"


def test_packed_weights_have_the_bytes_of_the_file_and_no_count(tmp_path: Path) -> None:
    tensors = {"q.qweight": ("I32", [8, 4]), "q.scales": ("F16", [4]), "f4": ("F4", [4])}
    found = stored_weights(safetensors(tmp_path / "a.safetensors", tensors))
    assert found.total_bytes == 138 and found.parameters is None and found.tied is None


@pytest.mark.parametrize(
    ("names", "tied"),
    [
        (["model.embed_tokens.weight"], True),
        (["model.embed_tokens.weight", "lm_head.weight"], False),
        (["transformer.wte.weight", "lm_head.qweight"], False),
        (["gpt_neox.embed_in.weight", "embed_out.weight"], False),
        (["tok_embeddings.weight", "output.weight"], False),
        (["embeddings.word_embeddings.weight", "encoder.layer.0.output.dense.weight"], True),
        (["model.layers.0.mlp.weight"], None),
    ],
)
def test_a_file_without_a_head_is_tied(names: list[str], tied: bool | None, tmp_path: Path) -> None:
    assert stored_weights(safetensors(tmp_path / "a.safetensors", dict.fromkeys(names, ("F32", [2])))).tied is tied


def test_an_index_alone_with_its_shards_and_half_copied(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    names = {"lm_head.weight": "1.safetensors", "model.embed_tokens.weight": "2.safetensors"}
    index.write_text(json.dumps({"metadata": {"total_size": 99}, "weight_map": names}))
    alone = stored_weights(index)
    assert alone == stored_weights(tmp_path) and alone.total_bytes == 99 and alone.bytes_of == {}
    assert alone.parameters is None and alone.tied is False and alone.tensors == 2
    safetensors(tmp_path / "1.safetensors", {"lm_head.weight": ("F32", [2])})
    assert "lacks 1 shards, such as 2.safetensors; finish the download" in refused(index)
    safetensors(tmp_path / "2.safetensors", {"model.embed_tokens.weight": ("F32", [3])})
    assert stored_weights(tmp_path).total_bytes == 20
    safetensors(tmp_path / "2.safetensors", {"lm_head.weight": ("F32", [3])})
    assert 'tensor "lm_head.weight", as another file has' in refused(index)


@pytest.mark.parametrize("total", [None, 0, -1, True, "x" * 10**6, float("nan"), 1e300])
def test_an_index_alone_must_say_its_size(total: Any, tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": {"a": "1.safetensors"}}))
    assert "metadata.total_size" in refused(index)


def test_a_folder_is_read_whole_or_leaves_no_choice(tmp_path: Path) -> None:
    safetensors(tmp_path / "model-00001-of-00002.safetensors", {"a": ("F32", [2])})
    assert "lacks 1 parts, such as model-00002-of-00002.safetensors" in refused(tmp_path)
    last = safetensors(tmp_path / "model-00002-of-00002.safetensors", {"b": ("F32", [3])})
    safetensors(tmp_path / "consolidated.safetensors", {"c": ("F32", [5])})  # the same again, as Mistral names it
    (tmp_path / "cache.safetensors").mkdir()
    assert stored_weights(tmp_path).total_bytes == stored_weights(last).total_bytes == 20
    safetensors(tmp_path / "model.fp16.safetensors", {"a": ("F16", [2])})
    assert 'has tensor "a", as another file has' in refused(tmp_path)


def test_of_several_ggufs_in_a_folder_one_must_be_named(tmp_path: Path) -> None:
    gguf(tmp_path / "qwen-q8.gguf", SMALL)
    gguf(tmp_path / "mmproj-qwen.gguf", {"v": ("F16", [9])})  # sorts first, and is not the model
    assert stored_weights(tmp_path).total_bytes == 1536
    gguf(tmp_path / "qwen-q4.gguf", SMALL)
    assert "has 2 sets of weights, such as qwen-q4.gguf and qwen-q8.gguf; give the file of one" in refused(tmp_path)


def test_blocks_of_gguf(tmp_path: Path) -> None:
    """ggml-common.h: 144 bytes for 256 weights of Q4_K, 34 for 32 of Q8_0."""
    file = gguf(tmp_path / "a.gguf", SMALL, {"a": "b", "c": 16, "d": ["a", "bc"], "e": [1, 2, 3]})
    found = stored_weights(file)
    assert found.bytes_of == {"Q4_K": 1440, "Q8_0": 68, "F32": 28} and found.total_bytes == 1536
    assert found.parameters == 2560 + 64 + 7 and found.tied is None
    assert read_gguf(file).metadata == {"a": "b", "c": 16, "d": Array(2), "e": Array(3)}


@pytest.mark.parametrize("dtype", NUMBER_OF)
def test_every_type_of_ggml_agrees_with_the_offset_of_the_next_tensor(dtype: str, tmp_path: Path) -> None:
    elements, size = TYPES[NUMBER_OF[dtype]][1:]
    file = gguf(tmp_path / "a.gguf", {"a": (dtype, [elements * 32]), "token_embd.weight": ("F32", [8])})
    found = stored_weights(file)
    assert found.bytes_of.pop(dtype) == 32 * size + (32 if dtype == "F32" else 0) and found.tied


def test_constants_of_the_rotary_embedding_are_no_parameters(tmp_path: Path) -> None:
    found = stored_weights(gguf(tmp_path / "a.gguf", {"w": ("F16", [4]), "rope_freqs.weight": ("F32", [64])}))
    assert found.parameters == 4 and found.total_bytes == 8 + 256


def test_all_parts_of_a_split_gguf_are_wanted_and_read(tmp_path: Path) -> None:
    told = described(LLAMA, "llama", **{"rope.freq_base": 1}) | {"split.count": 2}
    first = gguf(tmp_path / "m-00001-of-00002.gguf", {}, told)
    assert "lacks 1 parts, such as m-00002-of-00002.gguf" in refused(first)
    with pytest.raises(InvalidSpec, match="lacks 1 parts"):
        get_model(first)
    last = gguf(tmp_path / "m-00002-of-00002.gguf", {"output.weight": ("Q6_K", [256])}, {"split.count": 2})
    assert stored_weights(first) == stored_weights(tmp_path) and stored_weights(last).total_bytes == 210
    model = get_model(first)
    assert (model.name, model.tied_embeddings, model.linear_dtype) == ("m", False, "q6_k")
    assert 'has tensor "output.weight" twice' in refused(
        gguf(first, {"output.weight": ("F32", [1])}, {"split.count": 2})
    )
    assert "is one of 2 parts by its split.count, but its name says 1" in refused(last.rename(tmp_path / "one.gguf"))
    assert "is part 3 of 2 by its name" in refused(gguf(tmp_path / "m-00003-of-00002.gguf", SMALL))


@pytest.mark.parametrize(
    ("name", "architecture", "more"),
    [
        ("Llama-3.2-1B", "llama", {"attention.key_length": None, "rope.dimension_count": 64}),
        ("Llama-3.1-8B", "llama", {}),
        ("Qwen2.5-0.5B", "qwen2", {"attention.key_length": None}),
        ("Qwen3-0.6B", "qwen3", {}),
        ("Qwen3-8B", "qwen3", {}),
        ("gemma-2-2b", "gemma2", {"attention.sliding_window": 4096}),
        ("gemma-3-1b-pt", "gemma3", {"attention.sliding_window": 512}),
        ("Phi-3-mini-4k-instruct", "phi3", {"attention.sliding_window": 2047}),
        ("phi-4", "phi3", {"attention.sliding_window": 0}),
    ],
)
def test_a_gguf_describes_the_model_of_the_catalogue(
    name: str, architecture: str, more: dict[str, Any], tmp_path: Path
) -> None:
    known = get_model(name)
    tensors = {} if known.tied_embeddings else {"output.weight": ("F16", [4])}
    tensors |= {"token_embd.weight": ("Q4_K", [256])}
    found = get_model(gguf(tmp_path / "mine.gguf", tensors, described(known, architecture, **more)))
    same = ("layers", "hidden", "heads", "kv_heads", "head_dim", "inter", "vocab", "max_len", "tied_embeddings")
    same += ("qkv_bias", "o_bias", "qk_norm", "norm_order", "window", "window_layers", "activation", "rotary_dim")
    assert {each: getattr(found, each) for each in same} == {each: getattr(known, each) for each in same}
    assert found.parameters() == known.parameters() and found.linear_dtype == "q4_k_m" and found.name == "mine"


def test_a_gguf_is_predicted_with_the_bytes_of_its_file(tmp_path: Path) -> None:
    file = gguf(tmp_path / "mine.gguf", {"w": ("Q4_K", [256, 10])}, described(LLAMA, "llama"))
    assert predict(str(file), "L4").memory.weights_bytes == 1440


def test_mixtral_is_a_llama_of_experts(tmp_path: Path) -> None:
    """llama.cpp has one architecture for both; a dense model of these sizes has 7e9 parameters, not 47e9."""
    known = get_model("Mixtral-8x7B-v0.1")
    sizes = {"embedding_length": 4096, "block_count": 32, "feed_forward_length": 14336, "context_length": 32768}
    sizes |= {"attention.head_count": 32, "attention.head_count_kv": 8, "vocab_size": 32000}
    told = {"general.architecture": "llama"} | {f"llama.{key}": value for key, value in sizes.items()}
    told |= {"llama.expert_count": 8, "llama.expert_used_count": 2}
    file = gguf(tmp_path / "a.gguf", {"output.weight": ("Q4_K", [256])}, told)
    found = get_model(file)
    assert found.parameters() == known.parameters() and found.expert_dtype == found.linear_dtype == "q4_k_m"
    told = {key.replace("llama", "qwen2"): value for key, value in told.items()} | {"general.architecture": "qwen2"}
    with pytest.raises(InvalidSpec, match=r"is a qwen2 of experts; of those llama is known"):
        get_model(gguf(file, {}, told))


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"general.architecture": "mamba\n"}, r'general\.architecture "mamba\\n"; known: llama, qwen2, .* phi3\.'),
        ({"general.architecture": 7}, r"general\.architecture 7; known"),
        ({"llama.embedding_length": None}, r"has no llama\.embedding_length; give a config\.json"),
        ({"llama.embedding_length": 0}, r"llama\.embedding_length 0; it must be 1 to"),
        ({"llama.block_count": "x"}, r'llama\.block_count "x"; it must be 1 to'),
        ({"llama.attention.head_count_kv": [4] * 16}, r"16 values of llama\.attention\.head_count_kv; one is known"),
        ({"llama.vocab_size": None, "tokenizer.ggml.tokens": None}, r"neither llama\.vocab_size nor a vocabulary"),
    ],
)
def test_metadata_that_does_not_suffice_is_said(told: dict[str, Any], said: str, tmp_path: Path) -> None:
    metadata = {key: value for key, value in (described(LLAMA, "llama") | told).items() if value is not None}
    with pytest.raises(InvalidSpec, match=said):
        get_model(gguf(tmp_path / "a.gguf", SMALL, metadata))


def test_a_header_alone_is_enough(tmp_path: Path) -> None:
    """As a range request fetches it; a file that ends within its data is a broken download."""
    whole = safetensors(tmp_path / "a.safetensors", {"w": ("BF16", [4, 4]), "v": ("F32", [2])})
    size = whole.stat().st_size
    for kept, fits in ((size - 40, True), (size - 1, False)):
        with whole.open("r+b") as file:
            file.truncate(size)
            file.truncate(kept)
        assert (stored_weights(whole).total_bytes == 40) if fits else "Download it again" in refused(whole)
