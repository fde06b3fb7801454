"""Laws of traced modules: FLOPs and parameters are those PyTorch counts, the module stays as it was, errors say why."""

import copy
import dataclasses
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from predictor.errors import InvalidRequest
from predictor.latency.network import predict_network
from predictor.ops import Attention, Conv, Gemm, Pointwise
from predictor.workloads.torch.network import Network, from_torch
from predictor.workloads.torch.operators import BYTES_ONLY, ELEMENTWISE, NOTHING, RULES

HAS_TORCH, HAS_TRANSFORMERS = (find_spec(name) is not None for name in ("torch", "transformers"))
if HAS_TORCH:
    import torch
    from torch import nn
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed; pip install 'gpu-predictor[torch]'")
needs_transformers = pytest.mark.skipif(
    not (HAS_TORCH and HAS_TRANSFORMERS), reason="pip install 'gpu-predictor[simulator]'"
)
VOCAB = 100


def residual_net() -> Any:
    """A residual network of two blocks, with strides, a grouped and a dilated convolution."""

    class Block(nn.Module):
        def __init__(self, inner: int, outer: int, stride: int) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer))
            self.second = nn.Sequential(nn.Conv2d(outer, outer, 3, 1, 2, 2, groups=4), nn.BatchNorm2d(outer))
            self.short = nn.Conv2d(inner, outer, 1, stride)

        def forward(self, x: Any) -> Any:
            return torch.relu(self.second(torch.relu(self.first(x))) + self.short(x))

    return nn.Sequential(
        nn.Conv2d(3, 16, 7, 2, 3),
        nn.MaxPool2d(3, 2, 1),
        Block(16, 16, 1),
        Block(16, 32, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def language_model(kind: str, attention: str) -> Any:
    import transformers

    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 128,
    }
    if kind == "bert":
        return transformers.BertModel(transformers.BertConfig(**sizes, attn_implementation=attention))
    config = transformers.LlamaConfig(**sizes, num_key_value_heads=2, attn_implementation=attention)
    return transformers.LlamaForCausalLM(config)


def zeros(*shape: int) -> Any:
    return torch.zeros(shape)


CASES = {
    "mlp": lambda: (nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 10)), zeros(32, 64)),
    "residual": lambda: (residual_net(), zeros(4, 3, 64, 64)),
    "encoder": lambda: (nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), zeros(2, 10, 64)),
    "transformer": lambda: (nn.Transformer(64, 4, 2, 2, 128, batch_first=True), (zeros(2, 30, 64), zeros(2, 10, 64))),
    "attention": lambda: (nn.MultiheadAttention(64, 4, batch_first=True), (zeros(2, 10, 64),) * 3),
    "cross attention": lambda: (
        nn.MultiheadAttention(64, 4, batch_first=True),
        {"query": zeros(2, 30, 64), "key": zeros(2, 7, 64), "value": zeros(2, 7, 64), "need_weights": False},
    ),
    "lstm cell": lambda: (nn.LSTMCell(8, 16), zeros(2, 8)),
    "lstm": lambda: (nn.LSTM(8, 16, 2, bidirectional=True), zeros(5, 2, 8)),
    "gru": lambda: (nn.GRU(8, 16), zeros(5, 2, 8)),
    "convolution of a sequence": lambda: (nn.Conv1d(8, 16, 3, padding=1), zeros(2, 8, 100)),
    "oblong kernel": lambda: (nn.Conv2d(8, 16, (1, 7), padding=(0, 3)), zeros(2, 8, 20, 33)),
    "oblong image": lambda: (nn.Conv2d(8, 16, 3, 2, 1), zeros(2, 8, 800, 1333)),
    "even kernel": lambda: (nn.Conv2d(8, 16, 4, 1, 1), zeros(1, 8, 13, 17)),
    "sparse stride": lambda: (nn.Conv2d(8, 16, 1, 3), zeros(1, 8, 14, 20)),
    "depthwise": lambda: (nn.Conv1d(8, 8, 4, padding=3, groups=8), zeros(2, 8, 100)),
    "transposed": lambda: (nn.ConvTranspose2d(8, 16, 4, 2, 1), zeros(2, 8, 20, 20)),
    "oblong transposed": lambda: (nn.ConvTranspose2d(8, 16, 3, 2, 1), zeros(2, 8, 20, 30)),
    "video patches": lambda: (nn.Conv3d(3, 16, (2, 14, 14), (2, 14, 14)), zeros(2, 3, 4, 28, 28)),
}


def counted(network: Network) -> float:
    """FLOPs as FlopCounterMode counts them: no pointwise ops, attention without its causal half."""
    ops = [(call.op, call.count) for call in network.ops if not isinstance(call.op, Pointwise)]
    ops = [(dataclasses.replace(op, causal=0) if isinstance(op, Attention) else op, count) for op, count in ops]
    return sum(float(op.flops()) * count for op, count in ops)


def counted_by_torch(module: Any, inputs: Any) -> int:
    """FLOPs of a real pass on the CPU, by kernels that FlopCounterMode knows."""
    args, kwargs = (
        ((), inputs) if isinstance(inputs, dict) else (inputs if isinstance(inputs, tuple) else (inputs,), {})
    )
    onednn = torch.backends.mkldnn.enabled
    torch._C._set_mkldnn_enabled(False)  # its fused LSTM is not counted
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            copy.deepcopy(module).eval()(*args, **kwargs)
    finally:
        torch._C._set_mkldnn_enabled(onednn)
    return int(counter.get_total_flops())


def test_without_torch_the_error_names_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InvalidRequest) as error:
        from_torch(object(), ())
    expected = "from_torch needs PyTorch, which is not installed; run pip install 'gpu-predictor[torch]'."
    assert str(error.value) == expected


def test_importing_the_tracer_does_not_import_torch():
    code = "import sys, predictor.workloads.torch.network; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "False"


def test_every_operator_has_one_rule():
    groups = [set(RULES), set(ELEMENTWISE), set(BYTES_ONLY), set(NOTHING)]
    assert sum(len(group) for group in groups) == len(set().union(*groups))


@needs_torch
@pytest.mark.parametrize("case", CASES)
def test_flops_and_parameters_are_those_that_torch_counts(case):
    module, inputs = CASES[case]()
    network = from_torch(module, inputs)
    assert counted(network) == counted_by_torch(module, inputs) > 0
    assert network.parameters == sum(weight.numel() for weight in module.parameters())
    assert not network.unknown


@needs_transformers
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_language_models_have_the_flops_that_torch_counts(kind, attention):
    module = language_model(kind, attention)
    inputs = {"input_ids": torch.zeros(2, 16, dtype=torch.long)}
    network = from_torch(module, inputs)
    assert counted(network) == counted_by_torch(module, inputs)
    assert network.parameters == module.num_parameters()
    assert {call.count for call in network.ops if "q_proj" in call.name or "query" in call.name} == {3}


@needs_torch
def test_the_module_stays_as_it_is():
    module, inputs = CASES["residual"]()
    module.train()
    before = {name: (value.data_ptr(), value.clone()) for name, value in module.state_dict().items()}
    from_torch(module, inputs)
    for name, value in module.state_dict().items():
        assert value.data_ptr() == before[name][0]
        assert value.device.type == "cpu"
        assert torch.equal(value, before[name][1])
    assert module.training
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert not torch.is_inference_mode_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


@needs_torch
def test_what_a_module_keeps_of_its_inputs_stays_in_the_copy():
    class Keeper(nn.Module):
        kept: Any = None

        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.ones(4)

        def forward(self, x: Any) -> Any:
            self.kept = x * self.scale
            return self.kept

    module = Keeper()
    from_torch(module, zeros(2, 4))
    assert module.kept is None
    assert torch.equal(module.scale, torch.ones(4))


@needs_torch
def test_weights_and_inputs_need_no_data():
    with torch.device("meta"):
        module, inputs = CASES["encoder"]()
    on_cpu = from_torch(*CASES["encoder"]())
    assert from_torch(module, inputs).ops == on_cpu.ops
    assert from_torch(module, inputs, name="mine").name == "mine"


@needs_torch
def test_equal_layers_are_one_line_with_their_count():
    network = from_torch(
        nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 5), zeros(2, 10, 64)
    )
    assert {call.name: call.count for call in network.ops}["layers.*.linear1.linear"] == 5
    assert len({(call.name, call.op) for call in network.ops}) == len(network.ops)


@needs_torch
def test_dtypes_are_those_of_the_tensors():
    for dtype, name in ((torch.float16, "fp16"), (torch.bfloat16, "bf16"), (torch.float32, "fp32")):
        network = from_torch(nn.Linear(4, 8).to(dtype), zeros(2, 4).to(dtype))
        assert [call.op for call in network.ops] == [Gemm(m=2, n=8, k=4, dtype=name)]


@needs_torch
def test_a_square_convolution_keeps_its_fields():
    (call,) = from_torch(nn.Conv2d(3, 64, 7, 2, 3, bias=False), zeros(8, 3, 224, 224)).ops
    wanted = {"batch": 8, "in_channels": 3, "out_channels": 64, "size": 224, "kernel": 7, "stride": 2, "padding": 3}
    assert call.op == Conv(**wanted, dtype="fp32")


@needs_torch
def test_one_query_on_many_keys_is_a_decode_step():
    class Decode(nn.Module):
        def forward(self, q: Any, k: Any, v: Any) -> Any:
            return nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    (call,) = from_torch(Decode(), (zeros(2, 8, 1, 64), zeros(2, 2, 99, 64), zeros(2, 2, 99, 64))).ops
    wanted = {"batch": 2, "q_len": 1, "kv_len": 99, "heads": 8, "kv_heads": 2, "head_dim": 64, "causal": 0}
    assert call.op == Attention(phase="decode", **wanted, dtype="fp32", kv_dtype="fp32")


@needs_torch
def test_views_and_dropout_take_no_time():
    class Views(nn.Module):
        def forward(self, x: Any) -> Any:
            return nn.functional.dropout(
                x.view(2, 8).t().reshape(8, 2)[:4].unsqueeze(0).expand(3, 4, 2), training=False
            )

    network = from_torch(Views(), zeros(16))
    assert network.ops == ()
    with pytest.raises(InvalidRequest, match="Views runs no operator that takes time"):
        predict_network(network, "H100")


@needs_torch
def test_elementwise_ops_move_the_bytes_of_their_tensors():
    class Sums(nn.Module):
        def forward(self, x: Any, y: Any) -> Any:
            return (x + y) * 2

    full, scaled = (call.op for call in from_torch(Sums(), (zeros(64, 4096), zeros(64, 4096))).ops)
    assert full.bytes_moved() == 3 * 4 * 64 * 4096
    assert scaled.bytes_moved() == pytest.approx(2 * 4 * 64 * 4096, rel=0.01)


@needs_torch
def test_an_unknown_operator_is_counted_by_its_bytes_and_named():
    class Sorted(nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.sort(x)[0]

    network = from_torch(Sorted(), zeros(64, 4096))
    assert network.unknown == ("aten.sort",)
    assert network.ops[0].op.bytes_moved() == (4 + 4 + 8) * 64 * 4096
    assert "counted by their bytes only: aten.sort." in predict_network(network, "H100").notes


@needs_torch
def test_latency_never_beats_the_roofline_and_grows_with_the_batch():
    latencies = []
    for batch in (1, 64, 1024):
        module = nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024)).half()
        found = predict_network(from_torch(module, zeros(batch, 1024).half()), "A100")
        assert found.bound_s <= found.latency_s.low <= found.latency_s.value <= found.latency_s.high
        assert found.basis == "seen-gpu"
        assert sum(line.latency_s.value for line in found.ops) == pytest.approx(found.latency_s.value)
        latencies.append(found.latency_s.value)
    assert latencies == sorted(latencies)


@needs_torch
def test_weights_beyond_the_memory_are_noted():
    with torch.device("meta"):
        module = nn.Linear(2**18, 2**17, bias=False).half()
        network = from_torch(module, torch.zeros(1, 2**18).half())
    notes = predict_network(network, "L4").notes
    assert "does not fit: the weights take 69 GB; 1 × L4 has 24 GB." in notes


def branching() -> Any:
    class Inner(nn.Module):
        def forward(self, x: Any) -> Any:
            return x if x.sum() > 0 else -x

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Inner()])

        def forward(self, x: Any) -> Any:
            return self.blocks[0](x)

    return Branching()


REFUSED = {
    "branch": (
        lambda: (branching(), zeros(2)),
        "Branching at blocks.* depends on the values of a tensor (aten._local_scalar_dense.default), which tracing "
        "does not know; replace the branch, .item() or boolean index, for instance by torch.where, or trace its parts.",
    ),
    "shape": (
        lambda: (nn.Linear(3, 4), zeros(2, 5)),
        "Linear does not run on these inputs: RuntimeError: a and b must have same reduction dim, but got "
        "[2, 5] X [3, 4].",
    ),
    "inputs": (
        lambda: (nn.Linear(3, 4), [1]),
        "example_inputs is of type list; it must be a tensor, a tuple of arguments or a mapping of keyword arguments, "
        "such as (torch.zeros(8, 3, 224, 224),).",
    ),
    "module": (
        lambda: (torch.relu, zeros(2)),
        "module is of type builtin_function_or_method; it must be a torch.nn.Module that runs as Python code.",
    ),
    "double": (
        lambda: (nn.Linear(3, 4).double(), zeros(2, 3).double()),
        "linear runs in float64, for which no peak is known; convert the module and its inputs, for instance with "
        ".float() or .bfloat16().",
    ),
    "lazy": (
        lambda: (nn.LazyLinear(3), zeros(2, 3)),
        "a tensor is a UninitializedParameter of layout torch.strided; only plain dense tensors can be traced. Call a "
        "lazy module once first; trace a quantized or sharded one before it is converted.",
    ),
}


@needs_torch
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_traced_says_why(case):
    make, message = REFUSED[case]
    with pytest.raises(InvalidRequest) as error:
        from_torch(*make())
    assert str(error.value) == message


@needs_torch
def test_an_unknown_engine_is_refused():
    with pytest.raises(InvalidRequest) as error:
        predict_network(from_torch(nn.Linear(3, 4), zeros(2, 3)), "A100", engine="tf")
    assert str(error.value).startswith('engine is "tf"; it must be one of vllm, vllm-v0, ')
