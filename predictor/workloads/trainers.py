"""Programs that train, and what they do where a request does not say.

Facts of the programs' sources, as of 2025: how norms, gates and the loss run, dropout of adapters as their recipes have
it, formats of weights and of gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# transformers/loss/loss_utils.py: ForCausalLMLoss widens logits to fp32; peft/tuners/lora/config.py: no dropout.
# trl/scripts and ms-swift (swift/llm/argument): the same with dropout of 0.05. torchtune/modules/loss and
# recipes/configs: all in 16 bits, chunks that stay. torchtitan/distributed/fsdp: fp32 shards, torch.nn.functional's
# loss of widened logits. litgpt/finetune/lora.py: chunks of 128 tokens that stay, dropout of 0.05. Megatron-LM: fused
# kernels, gradients kept in fp32 (accumulate_allreduce_grads_in_fp32). unsloth/kernels: fused, the loss by chunks.
TRAINERS: Mapping[str, Mapping[str, Any]] = {
    "transformers": {"kernels": "eager", "loss": "eager", "lora_dropout": 0.0},
    "trl": {"kernels": "eager", "loss": "eager", "lora_dropout": 0.05},
    "ms-swift": {"kernels": "eager", "loss": "eager", "lora_dropout": 0.05},
    "torchtune": {"kernels": "eager", "loss": "chunked_kept", "precision": "pure", "lora_dropout": 0.0},
    "torchtitan": {"kernels": "eager", "loss": "eager", "precision": "fsdp"},
    "litgpt": {"kernels": "eager", "loss": "chunked_kept", "precision": "pure", "lora_dropout": 0.05},
    "megatron": {"kernels": "fused", "loss": "fused", "grad_dtype": "fp32", "lora_dropout": 0.0},
    "unsloth": {"kernels": "fused", "loss": "chunked", "lora_dropout": 0.0},
}
