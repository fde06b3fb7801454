"""Any torch.nn.Module as a list of ops, read off one forward pass in which no number is computed, and its latency.

torch is imported when a function needs it; its objects are typed Any.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from predictor.errors import InvalidRequest, PredictorError
from predictor.ops import Op
from predictor.values import show
from predictor.workloads.passes.calls import OpCall
from predictor.workloads.torch.operators import Call, by_bytes, is_known, ops_of, tensors

INSTALL = "pip install 'gpu-predictor[torch]'"
LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Network:
    """One forward pass of a module on given inputs.

    ops: each named by its place in the module, layers of a list together as "layers.*.mlp.up_proj.linear"; equal ops
    of one place once, with their count. parameters: elements, shared ones once; parameter_bytes: what they take.
    unknown: operators of PyTorch without a rule, counted as copies of the bytes they read and write.
    """

    name: str
    ops: tuple[OpCall, ...]
    parameters: int
    parameter_bytes: int
    unknown: tuple[str, ...] = ()

    @property
    def flops(self) -> float:
        """Floating-point operations of the pass (a multiply-add counts 2)."""
        return sum(float(call.op.flops()) * call.count for call in self.ops)


def from_torch(module: Any, example_inputs: Any, *, name: str = "") -> Network:
    """The ops of one forward pass of `module`, traced for inference: no GPU, no data, no copy of the weights.

    example_inputs: a tensor, a tuple of arguments or a mapping of keyword arguments; of tensors only shapes and dtypes
    count, so they may lie on the device "meta", as may the module. The module stays as it is. name: by default that of
    its class. Raises InvalidRequest where torch is missing, the inputs do not fit, or a branch depends on data.

    Attention counts as the fused kernel, a mask given as a tensor as if it left every pair; float32 is not TF32.
    """
    torch = _torch()
    module = getattr(module, "_orig_mod", module)  # what torch.compile wrapped
    if not isinstance(module, torch.nn.Module) or isinstance(module, torch.jit.ScriptModule):
        raise InvalidRequest(f"module is {_kind(module)}; it must be a torch.nn.Module that runs as Python code.")
    called = name or type(module).__name__
    trace = _Trace(called)
    fake = import_module("torch._subclasses.fake_tensor").FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        twin = _twin(torch, module, called)
        args, kwargs = _arguments(torch, example_inputs)
    trace.follow(twin)
    with _quiet(torch), fake, torch.device("cpu"), torch.inference_mode(), _recorder(trace):
        try:
            twin(*args, **kwargs)
        except PredictorError:
            raise
        except Exception as error:  # whatever a user's module raises
            raise InvalidRequest(trace.complaint(error)) from error
    weights = list(module.parameters())
    return Network(
        name=called,
        ops=tuple(OpCall(place, op, count) for (place, op), count in trace.counts.items()),
        parameters=sum(weight.numel() for weight in weights),
        parameter_bytes=sum(weight.numel() * weight.element_size() for weight in weights),
        unknown=tuple(trace.unknown),
    )


def _torch() -> Any:
    try:
        return import_module("torch")
    except ImportError:
        raise InvalidRequest(f"from_torch needs PyTorch, which is not installed; run {INSTALL}.") from None


def _kind(value: Any) -> str:
    return show(value) if isinstance(value, str) else f"of type {type(value).__name__}"


def _shadow(torch: Any, tensor: Any) -> Any:
    """A tensor of the same shape, strides and dtype without data; to be called under a FakeTensorMode."""
    kind = type(tensor)
    if tensor.layout is not torch.strided or kind.__name__ not in ("Tensor", "Parameter", "Buffer", "FakeTensor"):
        raise InvalidRequest(
            f"a tensor is a {kind.__name__} of layout {tensor.layout}; only plain dense tensors can be traced. "
            "Call a lazy module once first; trace a quantized or sharded one before it is converted."
        )
    shadow = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    return torch.nn.Parameter(shadow, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else shadow


def _twin(torch: Any, module: Any, called: str) -> Any:
    """A copy of the module for inference that holds shadows of its tensors; shared ones stay shared."""
    held = [*module.parameters(), *module.buffers()]
    held += [value for part in module.modules() for value in tensors(vars(part).values())]
    shadows = {id(tensor): _shadow(torch, tensor) for tensor in held if isinstance(tensor, torch.Tensor)}
    try:
        return copy.deepcopy(module, shadows).eval()
    except (TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise InvalidRequest(
            f"{called} cannot be copied ({_line_of(error)}), and tracing leaves the original alone; "
            "give it a __deepcopy__, or build it anew and trace that."
        ) from error


def _arguments(torch: Any, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of the forward pass, tensors inside them as shadows."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    if isinstance(example, torch.Tensor):
        args, kwargs = (example,), {}
    elif isinstance(example, tuple):
        args, kwargs = example, {}
    elif isinstance(example, Mapping):
        args, kwargs = (), {str(key): value for key, value in example.items()}
    else:
        raise InvalidRequest(
            f"example_inputs is {_kind(example)}; it must be a tensor, a tuple of arguments or a mapping of keyword "
            "arguments, such as (torch.zeros(8, 3, 224, 224),)."
        )
    tree_map = import_module("torch.utils._pytree").tree_map

    def shadow(value: Any) -> Any:
        return _shadow(torch, value) if isinstance(value, torch.Tensor) else value

    return tree_map(shadow, args), tree_map(shadow, kwargs)


@contextmanager
def _quiet(torch: Any) -> Iterator[None]:
    """Plain operators instead of those that PyTorch fuses on a CPU, and errors told once, by us."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    fused, onednn, muted = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled, log.disabled
    with ExitStack() as undo:
        undo.callback(torch.backends.mha.set_fastpath_enabled, fused)
        undo.callback(torch._C._set_mkldnn_enabled, onednn)
        undo.callback(setattr, log, "disabled", muted)
        torch.backends.mha.set_fastpath_enabled(False)
        torch._C._set_mkldnn_enabled(False)
        log.disabled = True
        yield


class _Trace:
    """What a forward pass ran so far, and where in the module it is."""

    def __init__(self, called: str) -> None:
        self.called = called
        self.places: list[str] = []
        self.counts: dict[tuple[str, Op], int] = {}
        self.unknown: dict[str, None] = {}

    def follow(self, module: Any) -> None:
        """Keep track of which part of `module` is running."""
        for name, part in module.named_modules():
            place = re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name)
            part.register_forward_pre_hook(lambda *_, place=place: self.places.append(place), prepend=True)
            part.register_forward_hook(lambda *_: (self.places.pop(), None)[1])

    def add(self, call: Call, full_name: str) -> None:
        """Count one call of an operator; full_name: with its namespace."""
        ops = ops_of(call)
        if ops is None:
            ops = by_bytes(call)
            if ops:
                self.unknown[full_name] = None
        for op in ops:
            key = (".".join(filter(None, (self.places[-1] if self.places else "", call.name))), op)
            self.counts[key] = self.counts.get(key, 0) + 1

    def complaint(self, error: Exception) -> str:
        """One line that says what stopped the trace, where, and what to do."""
        where = f"{self.called} at {self.places[-1]}" if self.places and self.places[-1] else self.called
        kind = type(error).__name__
        if kind in ("DataDependentOutputException", "DynamicOutputShapeException"):
            return (
                f"{where} depends on the values of a tensor ({getattr(error, 'func', error)}), which tracing does not "
                "know; replace the branch, .item() or boolean index, for instance by torch.where, or trace its parts."
            )
        if kind == "UnsupportedOperatorException":
            return (
                f"{where} runs {getattr(error, 'func', error)}, of which PyTorch does not know the output's shape; "
                "register it with torch.library.register_fake."
            )
        return f"{where} does not run on these inputs: {_line_of(error)}"


def _line_of(error: Exception) -> str:
    """An error's message in one line of LONGEST_MESSAGE characters at most, with its type."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 3] + '...'}"


def _recorder(trace: _Trace) -> Any:
    """A mode under which every operator call is told to `trace`."""
    mode: Any = import_module("torch.utils._python_dispatch").TorchDispatchMode

    class Recorder(mode):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if not hasattr(func, "_schema") or func.namespace == "prim":
                return func(*args, **kwargs)
            name = func._schema.name.split("::")[1].strip("_")
            inputs = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
            # In inference mode composite operators arrive whole: linear, attention. Those without a rule are unpacked.
            if not is_known(name):
                with self:
                    result = func.decompose(*args, **kwargs)
                if result is not NotImplemented:
                    return result
            result = func(*args, **kwargs)
            views = [r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns]
            if not any(views):
                trace.add(Call(name, inputs, tuple(tensors([result]))), func._schema.name.replace("::", "."))
            return result

    return Recorder()
