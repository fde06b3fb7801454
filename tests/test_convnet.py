"""Laws and golden numbers of convolutional networks."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from predictor.errors import InvalidRequest, InvalidSpec, UnsupportedDtype
from predictor.workloads.architectures.convnet import (
    Block,
    ConvLayer,
    ConvNet,
    convnet_from_entry,
    resnet,
)
from predictor.workloads.models import get_model, models, published_parameters
from predictor.workloads.passes.calls import OpCall

NETS = [pytest.param(net, id=name) for name, net in models().items() if isinstance(net, ConvNet)]
RESNET = get_model("ResNet-50")


def flops(calls: Sequence[OpCall], *families: str) -> float:
    return sum(float(c.op.flops()) * c.count for c in calls if not families or c.op.family in families)


def moved(calls: Sequence[OpCall]) -> float:
    return sum(float(c.op.bytes_moved()) * c.count for c in calls)


@pytest.mark.parametrize("dtype", ["int8", "fp8"])
def test_eight_bits_are_eight_bits_everywhere(dtype):
    """ResNet-50 in int8 was predicted as 16 bits without a word."""
    wide, narrow = (RESNET.pass_ops(8, dtype=name) for name in ("bf16", dtype))
    heavy = [c.op for c in narrow if c.op.family in ("conv", "gemm")]
    assert {op.dtype for op in heavy} == {dtype} and flops(narrow, "conv", "gemm") == flops(wide, "conv", "gemm")
    assert moved(narrow) < 0.55 * moved(wide)


@pytest.mark.parametrize("dtype", ["int4_wo", "nf4", "fp8_block"])
def test_a_format_that_nobody_convolves_in_is_refused(dtype):
    rule = f"dtype is {dtype}; convolutions run in fp32, tf32, fp16, bf16, int8, fp8."
    with pytest.raises(UnsupportedDtype, match=rule):
        RESNET.pass_ops(8, dtype=dtype)


def test_other_passes_beside_eight_bits_take_the_half_that_the_gpu_has():
    assert {c.op.dtype for c in RESNET.pass_ops(8, dtype="int8", half="fp16")} == {"int8", "fp16"}


@pytest.mark.parametrize("net", NETS)
def test_parameters_are_the_published_ones(net):
    assert net.parameters() == published_parameters()[net.name]


def test_every_catalogue_network_has_a_source():
    assert all(net.source for net in models().values())


@pytest.mark.parametrize(
    ("name", "giga"),
    [
        ("ResNet-18", 1.814),
        ("ResNet-50", 4.089),
        ("ResNet-101", 7.801),
        ("ResNet-152", 11.514),
        ("ResNeXt-50-32x4d", 4.23),
        ("Wide-ResNet-50-2", 11.398),
        ("VGG-16", 15.470),
    ],
)
def test_multiply_adds_are_the_published_ones(name, giga):
    """GFLOPS of the tables of torchvision's weights, which count a multiply-add once."""
    assert flops(get_model(name).pass_ops(1), "conv", "gemm") / 2e9 == pytest.approx(giga, rel=5e-4)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("mode", [{}, {"eager": True}, {"training": True}])
def test_more_work_never_means_fewer_flops_or_bytes(net, mode):
    passes = [net.pass_ops(*size, **mode) for size in ((1, 64), (1, 224), (4, 224), (4, 320))]
    for less, more in pairwise(passes):
        assert flops(less) <= flops(more)
        assert moved(less) <= moved(more)


@pytest.mark.parametrize("net", NETS)
def test_eager_and_training_run_the_same_convolutions_and_move_more(net):
    fused = net.pass_ops(8)
    for mode in ({"eager": True}, {"training": True}):
        apart = net.pass_ops(8, **mode)
        assert flops(apart, "conv", "gemm") == flops(fused, "conv", "gemm")
        assert flops(apart) >= flops(fused)
        assert moved(apart) > moved(fused)


def test_batch_norm_is_folded_in_inference_and_apart_in_training():
    norms = sum(call.count for call in RESNET.pass_ops(1, training=True) if call.name == "batch_norm")
    assert norms == 53  # one for each convolution of ResNet-50
    assert not [call for call in RESNET.pass_ops(1) if call.name == "batch_norm"]


def test_calls_are_told_once_with_their_count():
    calls = RESNET.pass_ops(2)
    assert len({(call.name, call.op) for call in calls}) == len(calls)
    convolutions = [call for call in calls if call.name.startswith("conv")]
    assert sum(call.count for call in convolutions) == 53
    assert sum(call.count for call in convolutions if call.op.family == "gemm") == 36  # those of one pixel


def test_a_network_of_ones_own():
    """MobileNet's inverted residual: widen, depthwise, narrow; the input is added where shapes agree."""
    inverted = Block((ConvLayer(96, kernel=1), ConvLayer(96, groups=96), ConvLayer(16, kernel=1)), "identity")
    net = ConvNet(name="mine", blocks=(Block((ConvLayer(16, stride=2),)), inverted), classes=10, source="made up")
    weights = 27 * 16 + 16 * 96 + 9 * 96 + 96 * 16 + 2 * (16 + 96 + 96 + 16) + 17 * 10
    assert net.parameters() == weights
    assert [call.name for call in net.pass_ops(1)].count("residual_add") == 1


def test_names_and_aliases_find_a_network():
    assert get_model("resnet50") is get_model("microsoft/resnet-50") is RESNET


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (ConvLayer(0), "out_channels of a layer of mine is 0; it must be a whole number from 1 to 65536."),
        (ConvLayer(8, groups=3), "groups of mine is 3; it must divide the 8 output channels."),
        (ConvLayer(8, groups=8), "groups of mine is 8; it must divide the 3 channels of block1.conv1."),
    ],
)
def test_a_wrong_layer_says_what_is_right(layer, message):
    with pytest.raises(InvalidSpec) as error:
        ConvNet(name="mine", blocks=(Block((layer,)),), source="made up")
    assert str(error.value) == message


def test_wrong_networks_say_what_is_right():
    with pytest.raises(InvalidSpec, match=r'^block of mine is "wide"; it must be one of basic, bottleneck\.$'):
        resnet("mine", (1,), "wide", "made up")
    with pytest.raises(InvalidSpec, match=r'^shortcut of mine is "no"; it must be one of "", "identity", "project"\.$'):
        ConvNet(name="mine", blocks=(Block((ConvLayer(8),), "no"),), source="made up")
    with pytest.raises(InvalidSpec, match=r"^mine has neither depths nor plain; give the blocks of each stage, or a"):
        convnet_from_entry("mine", {"source": "made up"})
    with pytest.raises(InvalidSpec, match=r"^classes of ResNet-50 is 0; it must be a whole number from 1 to 1048576\."):
        replace(RESNET, classes=0)
    with pytest.raises(InvalidRequest, match=r"^batch is 0; it must be at least 1\.$"):
        RESNET.pass_ops(0)
