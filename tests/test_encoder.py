"""Laws and golden numbers of encoders, vision transformers, encoder-decoders and eager operators."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from predictor import predict
from predictor.errors import InvalidRequest, InvalidSpec, UnknownModel
from predictor.ops import Attention, Gemm
from predictor.workloads.architectures.encoder import Encoder, VisionEncoder
from predictor.workloads.architectures.seq2seq import Seq2Seq
from predictor.workloads.configs.encoder import encoder_from_config
from predictor.workloads.models import get_model, model_from_config, models, published_parameters
from predictor.workloads.passes.calls import OpCall
from predictor.workloads.passes.eager import Gpt, Scores, attention, backward, compiled, gpt_ops, unfused
from predictor.workloads.workload import Workload

TEXT = [model for model in models().values() if isinstance(model, Encoder)]
VISION = [model for model in models().values() if isinstance(model, VisionEncoder)]
TRANSLATORS = [model for model in models().values() if isinstance(model, Seq2Seq)]
BERT, VIT, T5 = get_model("bert-base"), get_model("ViT-B/16"), get_model("flan-t5-base")
assert isinstance(BERT, Encoder)
assert isinstance(VIT, VisionEncoder)


def named(models: Sequence[object]) -> list[object]:
    return [pytest.param(model, id=str(getattr(model, "name", ""))) for model in models]


def flops(calls: Sequence[OpCall], *families: str) -> float:
    return sum(float(c.op.flops()) * c.count for c in calls if not families or c.op.family in families)


def moved(calls: Sequence[OpCall]) -> float:
    return sum(float(c.op.bytes_moved()) * c.count for c in calls)


@pytest.mark.parametrize("model", named([*TEXT, *VISION]))
def test_encoder_parameters_are_the_published_ones(model):
    assert model.parameters() == published_parameters()[model.name]


@pytest.mark.parametrize("model", named(TRANSLATORS))
def test_seq2seq_parameters_are_the_published_ones(model):
    assert model.parameters() == pytest.approx(
        published_parameters()[model.name], rel=0.002
    )  # ByT5 states three digits


def test_every_catalogue_encoder_has_a_source():
    assert all(model.source for model in [*TEXT, *VISION, *TRANSLATORS])


@pytest.mark.parametrize("model", named(TEXT))
def test_text_flops_are_those_of_the_weights_and_of_attention(model):
    """2 FLOPs for each weight of a layer and token, 4 · hidden for each pair of positions, and the pooler."""
    batch, length = 3, 128
    weights = model.layers * (4 * model.hidden**2 + 2 * model.hidden * model.inter)
    widening = model.embedding_dim * model.hidden
    pooler = 2 * batch * model.hidden**2 if model.pooler else 0
    pairs = 4 * batch * length**2 * model.hidden * model.layers
    told = flops(model.pass_ops(batch, length), "gemm", "attention")
    assert told == 2 * batch * length * (weights + widening) + pairs + pooler


@pytest.mark.parametrize("model", named(VISION))
def test_vision_flops_are_near_those_of_the_weights_and_of_attention(model):
    tokens = model.tokens()
    weights = model.layers * (4 * model.hidden**2 + (3 if model.gated else 2) * model.hidden * model.inter)
    patches = model.patch**2 * model.channels * model.hidden * (tokens - model.extra_tokens)
    closed = 2 * (tokens * weights + patches) + 4 * tokens**2 * model.hidden * model.layers
    assert flops(model.pass_ops(1), "gemm", "attention", "conv") == pytest.approx(closed, rel=0.05)


def test_vit_b_16_takes_the_published_flops():
    """17.56 giga multiply-adds of an image of 224 x 224 (torchvision, ViT_B_16_Weights)."""
    assert flops(VIT.pass_ops(1), "gemm", "attention", "conv") / 2e9 == pytest.approx(17.56, rel=0.01)


@pytest.mark.parametrize("model", named([*TEXT, *VISION]))
@pytest.mark.parametrize("eager", [False, True])
def test_more_work_never_means_fewer_flops_or_bytes(model, eager):
    sizes = (32, 64, 96) if isinstance(model, Encoder) else (112, 224, 448)
    for batch in (1, 4):
        passes = [model.pass_ops(batch, size, eager=eager) for size in sizes]
        passes.append(model.pass_ops(2 * batch, sizes[-1], eager=eager))
        for less, more in pairwise(passes):
            assert flops(less) <= flops(more)
            assert moved(less) <= moved(more)


@pytest.mark.parametrize("model", named([*TEXT, *VISION]))
def test_eager_runs_the_products_of_the_fused_engine_and_moves_more(model):
    size = 64 if isinstance(model, Encoder) else 224
    fused, eager = model.pass_ops(2, size), model.pass_ops(2, size, eager=True)
    assert flops(eager, "gemm") == pytest.approx(flops(fused, "gemm", "attention"))
    assert flops(eager) >= flops(fused)
    assert moved(eager) > moved(fused)


def test_calls_are_told_once_with_their_count():
    for calls in (BERT.pass_ops(2, 64), VIT.pass_ops(2), T5.pass_ops(2, 64, eager=True)):
        assert len({(call.name, call.op) for call in calls}) == len(calls)


def test_narrow_weights_pass_on_bf16():
    calls = BERT.pass_ops(8, 512, "fp8")
    dtypes = {call.name: call.op.dtype for call in calls}
    assert dtypes["qkv_proj"] == "fp8"
    assert dtypes["attention"] == dtypes["layer_norm"] == "bf16"


def test_a_config_says_what_the_catalogue_says():
    config = {"model_type": "bert", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
    found = encoder_from_config({**config, "intermediate_size": 4096}, "bert-large-uncased")
    assert found == replace(get_model("bert-large"), source="a config mapping")
    roberta = {"model_type": "roberta", "max_position_embeddings": 514, "type_vocab_size": 1}
    assert encoder_from_config(roberta).parameters() == published_parameters()["roberta-base"]


def test_t5_and_resnet_configs_say_what_the_catalogue_says():
    t5 = {"model_type": "t5", "d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32}
    flan = model_from_config({**t5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False})
    assert flan.parameters() == published_parameters()["flan-t5-xl"]
    assert model_from_config({"model_type": "resnet", "num_labels": 1000}).parameters() == 25_557_032
    with pytest.raises(InvalidSpec, match=r"^feed_forward_proj in config.json is 'moe'; it must be one of relu, gated"):
        model_from_config({**t5, "feed_forward_proj": "moe"})
    with pytest.raises(InvalidSpec, match=r"^hidden_sizes in config.json is \[64\]; a 'bottleneck' ResNet here has"):
        model_from_config({"model_type": "resnet", "hidden_sizes": [64], "num_labels": 10})


def test_vision_configs_say_what_the_catalogue_says():
    clip = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    found = encoder_from_config({"model_type": "clip", "vision_config": {**clip, "patch_size": 14}})
    assert found.parameters() == published_parameters()["clip-vit-large-patch14"]
    giant = {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True}
    dino = encoder_from_config({"model_type": "dinov2", **giant, "image_size": 518})
    assert dino.parameters() == published_parameters()["dinov2-giant"]
    labels = {str(label): "a name" for label in range(1000)}
    vit = encoder_from_config({"model_type": "vit", "architectures": ["ViTForImageClassification"], "id2label": labels})
    assert vit.parameters() == published_parameters()["vit-base-patch16-224"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "deberta-v2"}, "not yet supported: encoder 'deberta-v2' (disentangled attention); supported:"),
        ({"model_type": "bert", "hidden_act": "mish"}, "hidden_act in config.json is 'mish'; one of gelu, quick_gelu,"),
        (
            {"model_type": "bert", "hidden_size": "768"},
            "hidden_size in config.json is '768'; it must be a whole number",
        ),
        ({"model_type": "bert", "is_decoder": True}, "is_decoder in config.json is True (a decoder); only False is"),
        ({"model_type": "vit", "architectures": ["ViTForImageClassification"]}, "config.json of model_type vit has no"),
        ({"model_type": "clip"}, "vision_config in config.json is None; it must be an object."),
        (
            {"model_type": "roberta", "max_position_embeddings": 2},
            "max_position_embeddings in config.json is 2; it must",
        ),
    ],
)
def test_a_config_that_is_not_understood_names_the_field(config, message):
    with pytest.raises(InvalidSpec) as error:
        encoder_from_config(config)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layers", 0, "layers of bert-base-uncased is 0; it must be a whole number from 1 to 1048576. Take it from"),
        ("heads", 7, "heads of bert-base-uncased is 7; it must divide hidden, 768."),
        ("activation", "mish", 'activation of bert-base-uncased is "mish"; it must be one of "gelu",'),
        ("pooler", 1, "pooler of bert-base-uncased is 1; it must be true or false."),
    ],
)
def test_a_wrong_field_says_what_is_right(field, value, message):
    with pytest.raises(InvalidSpec) as error:
        replace(BERT, **{field: value})
    assert str(error.value).startswith(message)


def test_wrong_vision_fields_say_what_is_right():
    with pytest.raises(
        InvalidSpec, match=r"^patch of vit-base-patch16-224 is 256; it must be at most the image, 224\.$"
    ):
        replace(VIT, patch=256)
    with pytest.raises(
        InvalidSpec, match=r'^classes of vit-base-patch16-224 is 0 with head "linear"; it must be above 0'
    ):
        replace(VIT, classes=0)


def test_wrong_requests_say_what_is_right():
    with pytest.raises(
        InvalidRequest, match=r"^length is 513; bert-base-uncased takes at most 512 tokens\. Shorten it\."
    ):
        BERT.pass_ops(1, 513)
    with pytest.raises(InvalidRequest, match=r"^batch is 0; it must be at least 1\.$"):
        BERT.pass_ops(0, 8)
    with pytest.raises(InvalidRequest, match=r'^dtype is "int7"; it must be one of '):
        BERT.pass_ops(1, 8, "int7")
    with pytest.raises(
        InvalidRequest, match=r"^q_len is 9; it must be at most kv_len, 8, which counts the new tokens\.$"
    ):
        T5.decoder_ops(1, 8, 8, q_len=9)
    with pytest.raises(UnknownModel, match=r'^unknown model "bert-huge"; did you mean bert-large-uncased'):
        get_model("bert-huge")


def test_a_decoder_step_asks_all_of_the_source():
    calls = {call.name: call.op for call in T5.decoder_ops(4, 10, 512)}
    own, across = calls["attention"], calls["cross_attention"]
    assert isinstance(own, Attention)
    assert isinstance(across, Attention)
    assert (own.kv_len, across.kv_len, across.phase) == (10.0, 512.0, "decode")


@pytest.mark.parametrize("target_len", [1, 16, 256])
def test_seq2seq_flops_are_those_of_the_weights_and_of_attention(target_len):
    batch, length, inner = 2, 64, T5.width * T5.hidden
    feed = 3 * T5.hidden * T5.inter
    encoder = T5.layers * (4 * inner + feed) * length
    decoder = T5.decoder_layers * ((6 * inner + feed) * target_len + 2 * inner * length)
    head = T5.vocab * T5.hidden * target_len
    told = flops(T5.pass_ops(batch, length, target_len=target_len), "gemm")
    assert told == 2 * batch * (encoder + decoder + head)
    pairs = T5.layers * length**2 + T5.decoder_layers * (target_len * (target_len + 1) / 2 + target_len * length)
    attended = flops(T5.pass_ops(batch, length, target_len=target_len), "attention")
    assert attended == 4 * batch * T5.width * pairs


def test_eager_attention_is_two_products_and_a_softmax():
    calls = attention(Scores(2, 4, 16, 16, 8), "fp32", 3.0, mask="row")
    products = [call.op for call in calls if isinstance(call.op, Gemm)]
    assert [(op.m, op.n, op.k, op.batch) for op in products] == [(16, 16, 8, 8), (16, 8, 16, 8)]
    assert [call.name for call in calls][3:6] == ["scores_scale", "mask", "softmax"]


def test_a_backward_pass_multiplies_twice_as_much():
    forward = gpt_ops(Gpt("gpt2", 64, 2, 4, 256, 1000), 2, 32, "fp32")
    assert flops(backward(forward), "gemm") == 2 * flops(forward, "gemm")


def test_gpt_flops_are_those_of_the_weights_and_of_attention():
    for style in ("gpt2", "opt"):
        model = Gpt(style, 64, 2, 4, 256, 1000)
        weights = 2 * 12 * 64**2 + 64 * 1000
        told = flops(gpt_ops(model, 2, 32, "fp32"), "gemm")
        assert told == 2 * 2 * 32 * weights + 4 * 2 * 32**2 * 64 * 2


def test_torch_compile_keeps_the_products_and_moves_less():
    for calls in (BERT.pass_ops(2, 64, eager=True), gpt_ops(Gpt("gpt2", 64, 2, 4, 256, 1000), 2, 32, "fp32")):
        left = compiled(calls)
        assert flops(left, "gemm") == flops(calls, "gemm")
        assert moved(left) < moved(calls)


@pytest.mark.parametrize("model", ["Llama-2-7b-hf", "Mistral-7B-v0.1"])
def test_eager_attention_runs_the_products_of_an_engine_and_moves_more(model):
    job = Workload(model=get_model(model), batch=4, input_len=128, dtype="fp16")
    for served in (job.prefill_ops(), job.decode_ops(256)):
        apart = unfused(served)
        assert moved(apart) > moved(served)
        # causal attention leaves half of the pairs that eager attention multiplies and then masks
        assert flops(apart, "gemm") >= flops(served, "gemm", "attention")


def test_transformers_repeats_keys_and_values_in_a_decode_step():
    model = get_model("Qwen2.5-7B")
    served, apart = (Workload(model=model, input_len=30_000, engine=engine) for engine in ("vllm", "torch"))
    assert {call.op.family for call in apart.prefill_ops()} >= {"attention"}
    repeated = next(call for call in apart.decode_ops(30_000) if call.name == "repeat_kv")
    groups, cache = model.heads // model.kv_heads, 30_000 * 2 * model.kv_heads * model.head_dim * 2 * model.layers
    assert float(repeated.op.bytes_moved()) * repeated.count == 2 * groups * cache
    assert moved(apart.decode_ops(30_000)) > moved(served.decode_ops(30_000)) + 2 * groups * cache


def test_settings_of_a_cache_are_not_read_of_what_is_no_decoder_and_that_is_said() -> None:
    plain = predict("bge-base-en-v1.5", "H100-SXM-80GB", input_len=512)
    told = predict("bge-base-en-v1.5", "H100-SXM-80GB", input_len=512, beam_width=4, gpu_memory_utilization=0.5)
    assert told.memory == plain.memory and not any("nothing reads" in note for note in plain.notes)
    assert "nothing reads beam_width, gpu_memory_utilization (bge-base-en-v1.5 is no decoder)." in told.notes
