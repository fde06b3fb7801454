"""What joins the GPUs: rates of links, the network that a user states, and what is answered where nobody states it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from toy import quick_recipe

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import Bundle
from predictor.estimators.features import Setting, features
from predictor.estimators.features.collective import UNSWITCHED_GPUS, collective_group, collective_terms
from predictor.estimators.operators import OpPrediction, predict_op
from predictor.hardware.architectures import generation
from predictor.hardware.gpu import Gpu, catalogue, get_gpu
from predictor.hardware.interconnect import (
    BRIDGED,
    BUS_SHARE,
    HOP_S,
    MESH,
    Links,
    between_nodes_ends,
    between_nodes_s,
    joined_gpus,
    link_rate,
    paths,
    stated_network,
)
from predictor.hardware.roofline import roofline
from predictor.latency.report import Report
from predictor.learning.train import train
from predictor.measurements.schema import write_table
from predictor.ops import Collective
from predictor.ops.collective import LEAST_TRAFFIC, LINKS
from predictor.prediction.rows import answer_row
from predictor.prediction.single import predict, predict_training
from predictor.workloads.request import JOINED_BY, Request

H100, A100, L40S, MI300X, PAIRED = map(get_gpu, ("H100", "A100", "L40S", "MI300X", "A100-PCIe-80GB"))
kinds = st.sampled_from(sorted(LEAST_TRAFFIC))
links = st.sampled_from(LINKS)
sizes = st.integers(1, 2**34)


def call(kind: str, size: float, gpus: float, link: str = "gpu") -> Collective:
    return Collective(kind=kind, message_bytes=float(size), n_gpus=float(gpus), link=link)


@given(kind=kinds, link=links, size=sizes, gpus=st.integers(2, 63), gpu=st.sampled_from([H100, A100]))
def test_more_gpus_on_a_ring_are_never_faster(kind: str, link: str, size: int, gpus: int, gpu: Gpu) -> None:
    few, more = (call(kind, size, count, link) for count in (gpus, gpus + 1))
    assert roofline(few, gpu).latency_s <= roofline(more, gpu).latency_s * (1 + 1e-12)
    if kind == "all_reduce" and link == "gpu" and gpu is H100 and gpus == UNSWITCHED_GPUS:
        return  # eight H100 are faster than four
    names, *_ = few_features = features(few, gpu, Setting("nccl"))
    more_values = features(more, gpu, Setting("nccl")).values
    for at, name in enumerate(names[: few_features.times]):
        assert few_features.values[0, at] <= more_values[0, at] + 1e-6, name


@given(kind=kinds, link=links, size=sizes, gpus=st.integers(2, 16), share=st.floats(1.0, 4.0))
def test_a_slower_gpu_or_link_waits_no_less(kind: str, link: str, size: int, gpus: int, share: float) -> None:
    slower = replace(
        H100,
        boost_clock_hz=H100.boost_clock_hz / share,
        link_bytes_per_s=H100.link_bytes_per_s / share,
        pcie_bytes_per_s=H100.pcie_bytes_per_s / share,
    )
    op = call(kind, size, gpus, link)
    for setting in (Setting("nccl"), Setting("vllm"), Setting("nccl", timing="host")):
        one, other = (features(op, gpu, setting) for gpu in (H100, slower))
        assert (one.values[:, : one.times] <= other.values[:, : one.times] + 1e-6).all()
        assert (one.work_s <= other.work_s).all() and (one.tick_s <= other.tick_s).all()


def test_a_switch_that_adds_takes_the_message_once() -> None:
    """1 GiB in eight H100 of aiconfigurator, NCCL: 4.0 ms, while four take 4.5 and eight A100 8.3."""
    gib = call("all_reduce", 2**30, 8)
    paths_s = [float(collective_terms(gib, gpu, Setting("nccl")).times["path_s"][0]) for gpu in (H100, A100)]
    assert paths_s == pytest.approx([4.0e-3, 8.3e-3], rel=0.12)


def test_engines_call_the_library_where_they_have_no_kernels() -> None:
    def program(kind: str, gpus: float, link: str) -> str:
        return str(collective_group(call(kind, 8, gpus, link), L40S, Setting("vllm"))).split("|")[1]

    assert program("all_reduce", 8, "gpu") == program("all_reduce", 2, "pcie") == "vllm"
    assert program("all_reduce", 4, "pcie") == program("all_gather", 2, "gpu") == "nccl"
    column = Collective(kind="all_reduce", message_bytes=8.0, n_gpus=np.array([2.0, 4.0]), link="host")
    assert [name.split("|")[1] for name in collective_group(column, L40S, Setting("vllm"))] == ["vllm", "nccl"]


def test_the_host_sets_the_floor_of_host_times() -> None:
    op = call("all_reduce", 8, 2)
    times = {gpu.name: features(op, gpu, Setting("nccl", timing="host")).tick_s[0] for gpu in (H100, A100)}
    assert times[A100.name] == pytest.approx(times[H100.name] * generation("Ampere").host_share)


@given(kind=kinds, size=sizes, gpus=st.integers(2, 8), share=st.floats(1.0, 8.0), link=st.sampled_from(LINKS[:3]))
def test_a_faster_link_has_no_longer_bound_and_work(kind: str, size: int, gpus: int, share: float, link: str) -> None:
    wider = replace(
        L40S, pcie_bytes_per_s=L40S.pcie_bytes_per_s * share, link_bytes_per_s=L40S.link_bytes_per_s * share
    )
    op = call(kind, size, gpus, link)
    assert roofline(op, wider).latency_s <= roofline(op, L40S).latency_s
    assert features(op, wider, Setting("nccl")).work_s <= features(op, L40S, Setting("nccl")).work_s


@given(kind=kinds, size=sizes, gpus=st.integers(2, 8))
def test_through_the_host_is_nominally_slower_than_peer_to_peer(kind: str, size: int, gpus: int) -> None:
    peer, host = (
        collective_terms(call(kind, size, gpus, link), L40S, Setting("nccl")).times["path_s"]
        for link in ("pcie", "host")
    )
    assert host == pytest.approx(peer * BUS_SHARE["pcie"] / BUS_SHARE["host"])


def test_a_pair_of_a_mesh_has_one_link_of_seven() -> None:
    """XLA's tables: two MI300X reach 48 GB/s, eight 300 of 448."""
    rates = link_rate("gpu", np.array([2.0, 4.0, 8.0, 16.0]), MI300X)
    assert rates == pytest.approx(MI300X.link_bytes_per_s * np.array([1, 3, 7, 7]) / 7)
    assert (link_rate("gpu", np.array([2.0, 8.0]), H100) == H100.link_bytes_per_s).all()


def test_prefixes_of_bridges_and_meshes_are_names_of_the_catalogue() -> None:
    for begin in (*BRIDGED, *MESH):
        assert any(name.startswith(begin) for name in catalogue()), begin


def test_a_message_takes_what_joins_its_gpus() -> None:
    pair, four = call("all_reduce", 8, 2), call("all_reduce", 8, 4)
    assert paths(four, H100) == paths(pair, PAIRED) == ("gpu",)
    assert paths(four, PAIRED) == paths(pair, L40S) == ("pcie", "host")
    assert paths(four, PAIRED, Links("nvlink")) == ("gpu",)
    assert paths(pair, H100, Links("host")) == ("host",)
    assert paths(call("all_reduce", 8, 2, "host"), L40S, Links("pcie")) == ("host",)  # a measured call says its own
    assert joined_gpus(get_gpu("GB200")) == 72 and joined_gpus(get_gpu("RTX-4090")) == 1


@pytest.mark.parametrize(
    ("text", "bytes_per_s"), [("ib-400", 50e9), ("roce-200", 25e9), ("eth-100", 12.5e9), ("25", 25e9), ("2.5", 2.5e9)]
)
def test_a_network_is_a_kind_with_its_rate_or_a_rate(text: str, bytes_per_s: float) -> None:
    network = stated_network(text)
    assert network is not None and network.bytes_per_s == bytes_per_s and network.hop_s >= HOP_S


@pytest.mark.parametrize("text", ["wifi-6", "ib", "ib-0", "-400", "0", "ib-4e2", "fast"])
def test_another_network_names_the_rule(text: str) -> None:
    rule = "it must be GB/s of a GPU and direction, or one like ib-400, roce-400, eth-400."
    with pytest.raises(InvalidRequest, match=f'node_link is "{text}"; {rule}'):
        Request(model="Llama-3.1-8B", gpu="H100", node_link=text)


def test_a_number_is_a_network_too() -> None:
    request = Request.of({"model": "Llama-3.1-8B", "gpu": "H100", "node_link": 25.0})
    assert request.node_link == "25"


@given(kind=kinds.filter(lambda kind: kind != "send_recv"), size=sizes, nodes=st.integers(2, 32))
def test_an_unstated_network_covers_those_that_are(kind: str, size: int, nodes: int) -> None:
    op = call(kind, size, 8 * nodes)
    least, most = between_nodes_ends(op, H100)
    slower = 0.0
    for text in ("ib-800", "ib-400", "roce-400", "roce-200", "eth-100"):
        seconds = between_nodes_s(op, H100, stated_network(text))
        assert least <= slower <= seconds <= most or least <= seconds <= most
        assert seconds >= slower
        slower = seconds
    assert least <= between_nodes_s(op, H100) <= most


@pytest.mark.parametrize(
    ("gpu", "link", "message"),
    [
        ("L40S", "nvlink", "link is nvlink; L40S has no link of its own. Use pcie or host."),
        ("Apple-M2-Max", "pcie", "link is pcie; the PCIe rate of Apple-M2-Max is not known. Leave link out."),
        ("L40S", "wifi", 'link is "wifi"; it must be one of nvlink, pcie, host.'),
    ],
)
def test_a_link_that_is_not_there_names_the_cure(gpu: str, link: str, message: str, linked: Bundle) -> None:
    with pytest.raises(InvalidRequest) as caught:
        predict("Llama-3.1-8B", gpu, tp=2, link=link, bundle=linked)
    assert str(caught.value) == message
    assert answer_row({"model": "Llama-3.1-8B", "gpu": gpu, "tp": 2, "link": link}, linked)["error"] == message


def measured(gpus: tuple[str, ...], seed: int = 3) -> pd.DataFrame:
    """Collectives that obey a law: a floor, and the ring at the share of the link that rings reach."""
    draw, rows = np.random.default_rng(seed), 60
    parts = []
    for name in gpus:
        gpu = get_gpu(name)
        for link in ("pcie", "host") if gpu.link_bytes_per_s == gpu.pcie_bytes_per_s else ("gpu", "pcie", "host"):
            cells = {"message_bytes": 4.0 ** draw.integers(6, 16, rows), "n_gpus": 2.0 ** draw.integers(1, 4, rows)}
            part = pd.DataFrame(cells).assign(gpu=name, link=link, kind="all_reduce")
            op = Collective(**{name: part[name].to_numpy() for name in ("kind", "message_bytes", "n_gpus", "link")})
            work = features(op, gpu, Setting("vllm")).work_s
            parts.append(part.assign(latency_s=(8e-6 + work) * np.exp(draw.normal(0, 0.02, rows))))
    return pd.concat(parts, ignore_index=True).assign(family="collective", engine="vllm", timing="device")


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    """A bundle that knows collectives over each link of three generations."""
    folder: Path = tmp_path_factory.mktemp("linked")
    write_table(measured(("A100-SXM-80GB", "H100-SXM-80GB", "L40S")), folder / "t.parquet")
    with joblib.parallel_config(backend="threading", n_jobs=2):
        yield train([folder / "t.parquet"], quick_recipe(), folder / "b", lambda text: None)


def answers(gpu: str, bundle: Bundle, **settings: object) -> dict[str, Report]:
    ways = ("", "pcie", "host", *(("nvlink",) if joined_gpus(get_gpu(gpu)) > 1 else ()))
    return {way: predict("Llama-3.1-8B", gpu, link=way, bundle=bundle, **settings) for way in ways}


@pytest.mark.parametrize("scheduling", ["static", "continuous"])
@pytest.mark.parametrize("gpu", ["L40S", "L4"])
def test_without_a_link_the_interval_contains_both_answers_with_one(gpu: str, scheduling: str, linked: Bundle) -> None:
    told = answers(gpu, linked, tp=4, batch=8, scheduling=scheduling)
    for name in ("ttft_s", "tpot_s", "e2e_s", "tokens_per_s"):
        open_, peer, host = (getattr(told[way], name) for way in ("", "pcie", "host"))
        assert open_.low <= min(peer.value, host.value) <= open_.value <= max(peer.value, host.value) <= open_.high
    assert told["pcie"].ttft_s.value < told["host"].ttft_s.value
    assert any("Set link to pcie or host." in note for note in told[""].notes)
    assert not any("Set link" in note for note in told["host"].notes)


def test_of_one_call_the_point_is_the_geometric_middle_and_the_interval_covers_both(linked: Bundle) -> None:
    told = answers("L40S", linked, tp=4, batch=8)
    open_, peer, host = (
        next(line for line in told[way].ops if line.name == "all_reduce") for way in ("", "pcie", "host")
    )
    assert open_.latency_s.value == pytest.approx(np.sqrt(peer.latency_s.value * host.latency_s.value))
    assert open_.latency_s.low == min(peer.latency_s.low, host.latency_s.low)
    assert open_.latency_s.high == max(peer.latency_s.high, host.latency_s.high)


def test_a_column_of_calls_lies_between_both_ways_where_no_link_joins_them(linked: Bundle) -> None:
    def told(link: str, gpus: float | np.ndarray, name: str = "A100-PCIe-80GB") -> OpPrediction:
        op = Collective(kind="all_reduce", message_bytes=2.0**24, n_gpus=gpus, link=link)
        return predict_op(op, get_gpu(name), None, linked)

    open_, peer, host = (told(link, np.array([2.0, 4.0])) for link in ("gpu", "pcie", "host"))
    assert open_.latency_s[0] == told("gpu", 2.0).latency_s[0] < peer.latency_s[0]  # a bridge joins two
    assert open_.latency_s[1] == told("gpu", 4.0).latency_s[0]
    assert open_.low_s[1] <= peer.latency_s[1] < open_.latency_s[1] < host.latency_s[1] <= open_.high_s[1]


@pytest.mark.parametrize("gpu", ["H100", "A100-PCIe-80GB", "RTX-4090"])
def test_a_faster_link_is_never_slower(gpu: str, linked: Bundle) -> None:
    told = answers(gpu, linked, tp=2, batch=8)
    times = [told[way].e2e_s.value for way in JOINED_BY if way in told]
    assert times == sorted(times)


def test_gpus_with_a_link_take_it_unless_they_are_said_not_to(linked: Bundle) -> None:
    told = answers("H100", linked, tp=4)
    assert told[""].e2e_s == told["nvlink"].e2e_s and told[""].e2e_s.value < told["pcie"].e2e_s.value


def test_a_peer_to_peer_that_the_driver_lacks_is_noted(linked: Bundle) -> None:
    notes = answers("RTX-4090", linked, tp=2)["pcie"].notes
    assert any("RTX-4090 is not known to copy over PCIe from one to another" in note for note in notes)


def test_a_stated_network_replaces_the_one_of_data_sheets(linked: Bundle) -> None:
    told = {
        text: predict("Llama-3.1-405B", "H100", tp=16, dtype="fp8", node_link=text, bundle=linked)
        for text in ("", "ib-800", "ib-400", "eth-100")
    }
    times = [told[text].ttft_s.value for text in ("ib-800", "ib-400", "eth-100")]
    assert times == sorted(times) and times[0] < times[-1]
    assert told[""].ttft_s.value == told["ib-400"].ttft_s.value
    assert told[""].ttft_s.low <= times[0] and times[-1] <= told[""].ttft_s.high


def test_training_over_a_stated_link_and_network(linked: Bundle) -> None:
    def step(gpu: str, **settings: object) -> float:
        asked = {"method": "full", "zero_stage": 3, "seq_len": 512, "bundle": linked}
        return predict_training("Llama-3.1-8B", gpu, **asked, **settings).step_s.value

    assert step("L40S", dp=8, link="pcie") < step("L40S", dp=8) < step("L40S", dp=8, link="host")
    assert step("H100", dp=16, node_link="100") < step("H100", dp=16, node_link="eth-10")


def test_rows_of_a_table_state_their_links(linked: Bundle) -> None:
    row = {"model": "Llama-3.1-8B", "gpu": "L40S", "tp": 4}
    told = [answer_row({**row, "link": link}, linked)["ttft_s"] for link in ("pcie", "", "host")]
    assert told == sorted(told) and told[0] < told[-1]


def test_a_large_message_through_the_host_waits_for_its_link_not_for_launches(linked: Bundle) -> None:
    host = predict("Llama-3.1-8B", "L40S", tp=8, batch=32, output_len=1, link="host", bundle=linked)
    reduce = next(line for line in host.ops if line.name == "all_reduce" and line.phase == "prefill")
    assert reduce.latency_s.value > 2 * reduce.bound_s and host.limiter == "link"
