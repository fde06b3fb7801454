"""Messages between nodes: nothing within one, more with more nodes, never below the network's own least time."""

import pytest
from hypothesis import given, strategies as st

from predictor.hardware.gpu import get_gpu
from predictor.hardware.interconnect import NODE_LINK_BYTES_PER_S, between_nodes_s, node_gpus, within_node
from predictor.ops import Collective
from predictor.prediction.single import predict

H100 = get_gpu("H100")
kinds = st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all"])


def collective(kind: str, message_bytes: float, n_gpus: int) -> Collective:
    return Collective(kind=kind, message_bytes=message_bytes, n_gpus=n_gpus)


@given(kind=kinds, size=st.integers(1, 2**34), gpus=st.integers(2, 8))
def test_one_node_needs_no_network(kind: str, size: int, gpus: int) -> None:
    op = collective(kind, size, gpus)
    assert between_nodes_s(op, H100) == 0.0
    assert within_node(op, H100) == op


@given(kind=kinds, size=st.integers(1, 2**34), nodes=st.integers(2, 32))
def test_more_nodes_and_bytes_take_longer(kind: str, size: int, nodes: int) -> None:
    here = between_nodes_s(collective(kind, size, 8 * nodes), H100)
    assert here < between_nodes_s(collective(kind, size, 8 * (nodes + 1)), H100)
    assert here < between_nodes_s(collective(kind, 2 * size, 8 * nodes), H100)
    assert float(within_node(collective(kind, size, 8 * nodes), H100).n_gpus) == 8


def test_an_all_reduce_sends_each_rank_s_shard_to_the_other_nodes_and_back() -> None:
    seconds = between_nodes_s(collective("all_reduce", 8e9, 16), H100)
    assert seconds == pytest.approx(2 * 0.5 * 1e9 / NODE_LINK_BYTES_PER_S, rel=1e-3)


def test_a_rack_of_72_is_one_node() -> None:
    assert node_gpus(get_gpu("GB200")) == 72
    assert between_nodes_s(collective("all_reduce", 1e9, 64), get_gpu("GB200")) == 0.0


def test_tensor_parallelism_across_nodes_says_that_the_network_was_not_measured() -> None:
    one, two = (predict("Llama-3.1-405B", "H100", tp=tp, dtype="fp8", batch=64) for tp in (8, 16))
    waits = [next(line for line in each.ops if line.name == "all_reduce").latency_s.value for each in (one, two)]
    assert waits[0] < waits[1]
    assert any("network of all_reduce" in note for note in two.notes)
