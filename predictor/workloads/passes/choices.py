"""Words that a training may be set by, by column of a request; light, since the command line lists them."""

from __future__ import annotations

from collections.abc import Mapping

CHOICES: Mapping[str, tuple[str, ...]] = {
    "method": ("full", "lora", "qlora"),
    "optimizer": (
        *("adamw", "adamw_foreach", "adamw_8bit", "adamw_fp8", "adamw_4bit", "paged_adamw", "paged_adamw_8bit"),
        *("galore_adamw", "lion", "sgd", "sgd_momentum", "adafactor"),
    ),
    "checkpointing": ("none", "selective", "selective_ops", "modules", "full", "offloaded"),
    "lora_targets": ("all", "qkv", "qv", "qkvo", "mlp", "all_and_head"),
    "adapter_dtype": ("bf16", "fp16", "fp32"),
    "quantization": ("nf4", "gptq", "int8"),
    "precision": ("mixed", "amp", "pure", "fsdp"),
    "grad_dtype": ("bf16", "fp16", "fp32"),
    "attention": ("flash2", "sdpa", "cudnn", "triton", "eager"),
    "kernels": ("fused", "library", "eager"),
    "loss": ("eager", "eager_kept", "plain", "fused", "chunked", "chunked_kept"),
    "offload": ("none", "optimizer", "gradients", "parameters"),
    "load": ("sharded", "rank0", "whole"),
    # Of a micro-batch whose sequences differ, as Transformers' tokenizers call it; "none": without padding, attention
    # by sequence (padding_free of TRL, DataCollatorWithFlattening, BERT unpadded).
    "padding": ("longest", "max_length", "none"),
    # How the ranks of a sequence attend to the keys and values of the others: around a ring beside the attention of
    # what is there already, gathered before it, or heads for tokens (Ulysses, arXiv:2309.14509).
    "cp_comm_type": ("p2p", "all_gather", "a2a"),
    # Of a library, or kernels that send and sort tokens ("flex": DeepEP, HybridEP).
    "moe_token_dispatcher_type": ("alltoall", "flex"),
}
