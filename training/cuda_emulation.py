"""What CUDA does and the meta device does not: attention kernels, dropout, autocast, 4-bit weights.

On the meta device PyTorch runs a model without data or kernels: every tensor has its shape, format and life time, and
what a step allocates can be counted (allocation_tracker.py). Here is what makes it allocate as on an NVIDIA GPU:

- CudaFunctions replaces what CUDA computes by a kernel of its own, e.g. one of the SDPA backends.
- Autocast is torch.autocast("cuda") with its cache of cast weights.
- FourBitLinear is the linear layer of bitsandbytes that QLoRA freezes.

Sources are those of PyTorch 2.13, transformers 5.23, bitsandbytes 0.50 and flash-attn 2.8 where not said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
import transformers.masking_utils as masking
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, AttentionMaskInterface

aten = torch.ops.aten
HALF = (torch.float16, torch.bfloat16)


class CudaFunctions(TorchFunctionMode):
    """Functions that CUDA computes with kernels of its own. math: SDPA may only use its unfused backend."""

    def __init__(self, sm: int, math: bool) -> None:
        super().__init__()
        self.sm, self.math = sm, math

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if func is F.dropout:
            return _dropout(*args, **kwargs)
        if func is F.softmax and kwargs.get("dtype") is torch.float32 and args[0].dtype is torch.float16:
            # at::softmax widens fp16 (not bf16) inside the kernel: SoftMax.cpp, half_to_float.
            return aten._softmax(args[0], kwargs["dim"] if "dim" in kwargs else args[1], True)
        return func(*args, **kwargs)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """The first backend that can: flash, memory-efficient, unfused (sdp_utils.cpp). cuDNN's, which is preferred
        on compute capability 9 and 10 from cuDNN 9.15.1 on, is taken for flash, which it equals but in workspaces."""
        grouped = enable_gqa and key.size(1) != query.size(1)
        half, width = query.dtype in HALF, query.size(-1)
        if not self.math:
            if half and self.sm >= 80 and attn_mask is None and width <= 256:
                return flash(query, key, value, dropout_p, is_causal, scale)
            fits = width % (8 if half else 4) == 0 and (self.sm >= 80 or query.dtype is not torch.bfloat16)
            if fits and not grouped:
                return _efficient(query, key, value, attn_mask, dropout_p, is_causal, scale)
        math = aten._scaled_dot_product_attention_math
        return math(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=grouped)[0]


def flash(query: Tensor, key: Tensor, value: Tensor, dropout: float, causal: bool, scale: float | None) -> Tensor:
    """Flash attention of tensors (batch, heads, tokens, width); grouped heads as they are, widths in eights."""
    width = query.size(-1)
    if pad := -width % 8:
        query, key, value = (F.pad(each, (0, pad)) for each in (query, key, value))
    out = aten._scaled_dot_product_flash_attention(query, key, value, dropout, causal, scale=scale)[0]
    return out[..., :width] if pad else out


def _efficient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    causal: bool,
    scale: float | None,
) -> Tensor:
    """Memory-efficient attention: a mask becomes an additive one, with rows of a multiple of 16 (attention.cpp:
    convert_boolean_attn_mask, preprocess_mask)."""
    if mask is not None:
        if mask.dtype is torch.bool:
            zeros = torch.zeros_like(mask, dtype=query.dtype)
            mask = zeros.masked_fill_(mask.logical_not(), float("-inf"))
        columns = mask.size(-1)
        if pad := -columns % 16:
            mask = F.pad(mask, (0, pad))[..., :columns]
        mask = mask.expand(query.size(0), query.size(1), query.size(2), key.size(2))
    learns = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    efficient = aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, mask, learns, dropout, causal, scale=scale)[0]


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """The fused kernel keeps a mask of a byte per element (aten/src/ATen/native/Dropout.cpp)."""
    return torch.native_dropout(input, p, True)[0] if training and p > 0 else input


def _flash_package(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' flash_attention_2, from (batch, heads, tokens, width) to (batch, tokens, heads, width).

    With a padding mask the tokens are packed, into as much memory where hardly any is padding, and spread again
    (transformers/modeling_flash_attention_utils.py). A sliding window needs no mask.
    """
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    if attention_mask is not None and query.size(2) > 1:
        query, key, value = (_packed(each) for each in (query, key, value))
    out = F.scaled_dot_product_attention(
        query,
        key,
        value,
        None,
        dropout if module.training else 0.0,
        causal and query.size(2) > 1,
        scale=scaling,
        enable_gqa=True,
    )
    out = out.transpose(1, 2)
    if attention_mask is not None and query.size(2) > 1:
        # pad_input: rows are put into zeros by index.
        rows = out.reshape(-1, out.size(2) * out.size(3))
        spread = torch.zeros_like(rows)
        index = torch.empty(rows.size(0), dtype=torch.long, device=rows.device)
        out = spread.index_put((index,), rows).view(out.shape)
    return out.contiguous(), None


def _packed(heads: Tensor) -> Tensor:
    batch, n_heads, tokens, width = heads.shape
    rows = heads.transpose(1, 2).reshape(batch * tokens, n_heads * width)
    index = torch.empty(batch * tokens, dtype=torch.long, device=rows.device)
    return rows.index_select(0, index).view(batch, tokens, n_heads, width).transpose(1, 2)


def _flash_mask(*_: Any, attention_mask: Tensor | None = None, **__: Any) -> Tensor | None:
    return attention_mask


FLASH = "emulated_fa2"
AttentionInterface.register(FLASH, _flash_package)
AttentionMaskInterface.register(FLASH, _flash_mask)


@contextmanager
def masks_without_data() -> Iterator[None]:
    """Lets transformers make attention masks without reading them: a mask that is given has padding in it, and
    sequences are not packed (transformers/masking_utils.py)."""

    def heedless(ignorable: Callable[..., bool]) -> Callable[..., bool]:
        return lambda padding_mask, *args, **kwargs: padding_mask is None and ignorable(None, *args, **kwargs)

    with mock.patch.multiple(
        masking,
        find_packed_sequence_indices=lambda *_, **__: None,
        _ignore_causal_mask_sdpa=heedless(masking._ignore_causal_mask_sdpa),
        _ignore_bidirectional_mask_sdpa=heedless(masking._ignore_bidirectional_mask_sdpa),
    ):
        yield


T = Tensor
# Lists of aten/src/ATen/autocast_mode.h, as far as models call them from Python.
LOWER_PRECISION = frozenset(
    {F.linear, F.conv1d, F.conv2d, F.conv3d, F.prelu, F.scaled_dot_product_attention, torch.einsum, torch.chain_matmul}
    | {torch.matmul, T.matmul, T.__matmul__, T.__rmatmul__, torch.mm, T.mm, torch.mv, T.mv, torch.bmm, T.bmm}
    | {torch.addmm, T.addmm, torch.baddbmm, T.baddbmm, torch.addbmm, torch.conv1d, torch.conv2d, torch.conv3d}
)
WIDENED = frozenset(
    {F.layer_norm, F.group_norm, F.rms_norm, F.cross_entropy, F.nll_loss, F.mse_loss, F.l1_loss, F.smooth_l1_loss}
    | {F.kl_div, F.binary_cross_entropy_with_logits, F.cosine_embedding_loss, F.softplus, torch.layer_norm}
    | {torch.pow, T.pow, T.__pow__, torch.exp, T.exp, torch.log, T.log, torch.rsqrt, T.rsqrt, torch.reciprocal}
    | {torch.cosh, torch.sinh, torch.tan, torch.norm, T.norm}
)
RESULT_WIDENED = frozenset(
    {F.softmax, torch.softmax, T.softmax, F.log_softmax, torch.log_softmax, T.log_softmax, F.softmin}
    | {torch.sum, T.sum, torch.cumsum, T.cumsum, torch.prod, T.prod}
)


class Autocast(TorchFunctionMode):
    """torch.autocast("cuda", dtype): casts of weights that learn are kept until the end of the region."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self._casts: dict[int, Tensor] = {}

    def __exit__(self, *args: Any) -> None:
        self._casts.clear()
        super().__exit__(*args)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in LOWER_PRECISION:
            args, kwargs = self._each(self._narrow, args, kwargs)
        elif func in WIDENED:
            args, kwargs = self._each(_widen, args, kwargs)
        elif func in RESULT_WIDENED and kwargs.get("dtype") is None and args[0].dtype in HALF:
            kwargs = {**kwargs, "dtype": torch.float32}
        return func(*args, **kwargs)

    @staticmethod
    def _each(
        change: Callable[[Any], Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(change(each) for each in args), {name: change(each) for name, each in kwargs.items()}

    def _narrow(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(self._narrow(each) for each in value)
        if not isinstance(value, Tensor) or value.dtype is not torch.float32:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(self.dtype)
        if id(value) not in self._casts:
            self._casts[id(value)] = value.to(self.dtype)
        return self._casts[id(value)]


def _widen(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in HALF else value


class FourBitLinear(nn.Linear):
    """A frozen linear layer with weights in NF4, doubly quantised, as bitsandbytes stores and multiplies them.

    Two weights a byte; a scale for 64, in 8 bits, with a scale in fp32 for 256 of those (functional.py: quantize_4bit,
    compress_statistics). Every product widens the weight, forward and backward (autograd/_functions.py: MatMul4Bit
    up to 0.49, and 0.50 beyond 1,536 rows).
    """

    def __init__(self, linear: nn.Module, in_features: int, out_features: int, compute_dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.compute_dtype = in_features, out_features, compute_dtype
        count, device = in_features * out_features, "meta"
        scales = -(-count // 64)
        packed = torch.empty(-(-count // 2), 1, dtype=torch.uint8, device=device)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = linear.bias
        for name, size, dtype in (
            ("scales", scales, torch.uint8),
            ("scales_of_scales", -(-scales // 256), torch.float32),
            ("code", 16, torch.float32),
            ("code_of_scales", 256, torch.float32),
            ("offset", 1, torch.float32),
        ):
            self.register_buffer(name, torch.empty(size, dtype=dtype, device=device))

    def widened(self) -> Tensor:
        """The weight in the compute format; its scales in fp32 are in memory for as long as that takes."""
        scales = torch.empty_like(self.scales, dtype=torch.float32)
        weight = torch.empty(self.out_features, self.in_features, dtype=self.compute_dtype, device="meta")
        del scales
        return weight

    def forward(self, input: Tensor) -> Tensor:
        """PEFT copies the result before it adds the adapter's (tuners/lora/bnb.py)."""
        narrow = input.to(self.compute_dtype)
        return _WidenedProduct.apply(narrow, self).to(input.dtype).clone()


class _WidenedProduct(torch.autograd.Function):
    """Keeps the packed weight alone for the backward pass."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: FourBitLinear) -> Tensor:
        ctx.layer = layer
        bias = None if layer.bias is None else layer.bias.to(input.dtype)
        return F.linear(input, layer.widened(), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return torch.matmul(grad, ctx.layer.widened()), None
