"""What tests of the page send, and what commands print of the same."""

import json

from predictor.cli import main

CONFIG = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 3072,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}

LLAMA = "pretrained=meta-llama/Llama-3.1-8B-Instruct"


def result_file(accuracy, arguments=LLAMA, **more):
    """A results_….json of lm-evaluation-harness, whose numbers are made up."""
    mmlu = {"acc,none": accuracy, "acc_stderr,none": 0.004}
    audit = {"crows_pairs_english": {"pct_stereotype,none": 0.62, "pct_stereotype_stderr,none": 0.012}}
    config = {"model_args": arguments, "limit": 100}
    return json.dumps({"results": {"mmlu": mmlu, **audit}, "n-shot": {"mmlu": 5}, "config": config, **more})


def printed(capsys, *arguments):
    assert main([*arguments, "--json"]) in (0, 1)
    return json.loads(capsys.readouterr().out)
