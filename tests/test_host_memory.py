"""What training takes of the host: bytes of a parameter that others publish, and laws of loading."""

from __future__ import annotations

from typing import Any

import pytest

from predictor.estimators.bundle import load_bundle
from predictor.hardware.gpu import get_gpu
from predictor.memory.host import SHARD_BYTES
from predictor.memory.training import TrainingMemory, training_memory
from predictor.prediction.rows import answer_row
from predictor.prediction.single import predict_training
from predictor.workloads.models import get_model
from predictor.workloads.passes.training import TrainingSetting

MODEL, A100 = get_model("Llama-3.1-8B"), get_gpu("A100")
WHOLE = MODEL.parameters()
ZERO_3: dict[str, Any] = {"dp": 8, "zero_stage": 3}


def needs(**changes: Any) -> TrainingMemory:
    return training_memory(MODEL, A100, TrainingSetting(seq_len=512, **changes))


@pytest.mark.parametrize(
    ("changes", "each"),
    [
        ({"offload": "optimizer"}, 16),  # deepspeed.readthedocs.io/en/latest/memory.html
        ({"offload": "gradients"}, 16),
        ({"offload": "parameters"}, 18),
        ({"offload": "parameters", "precision": "fsdp"}, 16),  # CPUOffloadPolicy: parameters are stepped there
        ({"offload": "optimizer", "precision": "pure"}, 8),  # CPUOffloadOptimizer of torchao, all in 16 bits
        ({"offload": "optimizer", "precision": "pure", "optimizer": "adamw_8bit"}, 6),
        ({"optimizer": "paged_adamw"}, 8),  # bitsandbytes
        ({"optimizer": "paged_adamw_8bit"}, 2),
        ({}, 0),
    ],
)
@pytest.mark.parametrize("layout", [{"dp": 8, "zero_stage": 3}, {"dp": 8, "zero_stage": 1}])
def test_the_host_of_a_node_holds_so_many_bytes_of_a_parameter(
    changes: dict[str, Any], each: int, layout: dict[str, Any]
) -> None:
    copies = 8 if changes.get("offload") == "parameters" and layout["zero_stage"] < 3 else 1
    if copies > 1:
        each += {"mixed": 2, "fsdp": 4}[changes.get("precision", "mixed")] * (copies - 1)
    assert needs(**layout, **changes).host_held_bytes == pytest.approx(each * WHOLE, rel=1e-3)


def test_nodes_share_what_is_sharded() -> None:
    one, four = (needs(dp=gpus, zero_stage=3, offload="optimizer") for gpus in (8, 32))
    assert one.host_held_bytes == pytest.approx(4 * four.host_held_bytes)


def test_adapters_offload_what_learns_and_frozen_weights_with_the_parameters() -> None:
    adapters = needs(**ZERO_3, method="lora", offload="optimizer").host_held_bytes
    assert 0 < adapters < WHOLE / 10
    assert needs(**ZERO_3, method="lora", offload="parameters").host_held_bytes == pytest.approx(
        adapters + 2 * WHOLE, rel=0.01
    )


def test_inputs_of_layers_that_are_offloaded_lie_on_the_host() -> None:
    held = needs(method="lora", checkpointing="offloaded", micro_batch=4).host_held_bytes
    assert held == 2 * 4 * 512 * MODEL.hidden * MODEL.layers
    assert needs(method="lora", checkpointing="full", micro_batch=4).host_held_bytes == 0


def test_processes_load_a_part_or_the_whole_of_a_model() -> None:
    """pytorch/pytorch issue 105840: each of the processes of a node holds the whole model."""
    sharded, rank0, whole = (needs(**ZERO_3, load=load) for load in ("sharded", "rank0", "whole"))
    assert sharded.host_load_bytes == pytest.approx(2 * WHOLE, rel=1e-3)  # each reads less than a file
    assert rank0.host_load_bytes == pytest.approx(2 * WHOLE + SHARD_BYTES, rel=1e-3)
    assert whole.host_load_bytes == pytest.approx(8 * rank0.host_load_bytes)
    assert sharded.load_peak_bytes == rank0.load_peak_bytes < whole.load_peak_bytes
    assert needs().host_load_bytes == SHARD_BYTES


def test_the_host_needs_the_most_of_loading_and_training() -> None:
    for changes in ({"load": "whole"}, {"offload": "optimizer"}, {"load": "whole", "offload": "optimizer"}):
        found = needs(**ZERO_3, **changes)
        assert found.host_memory_bytes == max(found.host_load_bytes, found.host_held_bytes) > 0
        assert found.row()["host_memory_bytes"] == found.host_memory_bytes


def test_a_matrix_that_is_quantised_is_whole_for_a_while() -> None:
    found = needs(method="qlora")
    largest = 2 * MODEL.inter * MODEL.hidden  # gate and up are one product
    assert found.load_peak_bytes == found.weights_bytes + 2 * largest


def test_answers_tell_the_memory_of_the_host_and_what_it_leaves_out() -> None:
    columns: dict[str, Any] = {"model": "Llama-3.1-8B", "gpu": "H100", "phase": "train", "seq_len": 512}
    answer = answer_row(columns | {"offload": "optimizer"}, load_bundle())
    assert answer["host_memory_bytes"] == pytest.approx(16 * WHOLE, rel=1e-3)
    assert "pinned block" in answer["notes"]
    served = answer_row({"model": "Llama-3.1-8B", "gpu": "H100"}, load_bundle())
    assert served["host_memory_bytes"] is None
    assert not any("pinned" in note for note in predict_training("Llama-3.1-8B", "H100-SXM-80GB").notes)
