"""Traces: the files that people share are read as what they are, and others are refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from predictor.errors import InvalidRequest
from predictor.latency.serving.clients import Load
from predictor.latency.serving.traces import read_trace
from predictor.prediction.single import predict
from predictor.workloads.request import Request


def test_mooncake_has_milliseconds_and_blocks_that_are_cached(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 0, "input_length": 1500, "output_length": 10, "hash_ids": [1, 2, 3]},
        {"timestamp": 2000, "input_length": 1600, "output_length": 20, "hash_ids": [1, 2, 4, 5]},
        {"timestamp": 1000, "input_length": 600, "output_length": 5, "hash_ids": [9, 8]},
    ]
    path = tmp_path / "mooncake.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trace = read_trace(str(path))
    assert trace.arrivals_s == (0.0, 1.0, 2.0) and trace.input_len == (1500, 600, 1600)
    assert trace.cached == (0, 0, 1024) and trace.output_len == (10, 5, 20)


def test_azure_has_dates_and_vidur_seconds(tmp_path: Path) -> None:
    azure, vidur = tmp_path / "azure.csv", tmp_path / "vidur.parquet"
    azure.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.97,374,44\n2023-11-16 18:17:04.47,396,109\n"
    )
    assert read_trace(str(azure)).arrivals_s == pytest.approx((0.0, 0.5))
    frame = pd.DataFrame({"arrived_at": [3.0, 1.0], "num_prefill_tokens": [10, 20], "num_decode_tokens": [1, 2]})
    frame.to_parquet(vidur)
    assert read_trace(str(vidur))[:4] == ((20, 10), (2, 1), (0, 0), (0.0, 2.0))


def test_conversations_are_counted_by_their_characters_and_that_is_said(tmp_path: Path) -> None:
    said = [{"from": "human", "value": "x" * 400}, {"from": "gpt", "value": "y" * 80}, {"from": "human", "value": "z"}]
    path = tmp_path / "sharegpt.json"
    path.write_text(json.dumps([{"id": "a", "conversations": said}]))
    trace = read_trace(str(path))
    assert trace[:2] == ((100,), (20,)) and trace.arrivals_s is None and "4 characters" in trace.note


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "input_len\n5\n", "no column says the tokens of answers"),
        ("a.csv", "input_len,output_len\n0,5\n", "no request with tokens"),
        ("a.csv", "arrived_at,input_len,output_len\nsoon,5,5\n", "arrived_at of row 1 is no time"),
        ("a.jsonl", "{not json\n", "is no jsonl of requests"),
        ("a.xlsx", "", "must end in .csv"),
        ("a.csv", "", "is no csv of requests"),
    ],
)
def test_other_files_are_refused_with_a_reason(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InvalidRequest, match=says):
        read_trace(str(tmp_path / name))


def test_a_trace_is_asked_as_any_load_and_its_means_are_the_lengths(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    rows = "".join(f"{0.5 * i},{500 + 100 * (i % 3)},{20 + 10 * (i % 2)}\n" for i in range(60))
    path.write_text("arrival_s,input_len,output_len\n" + rows)
    row = predict("Llama-3.1-8B", "H100-SXM-80GB", trace=str(path)).to_dict()
    assert row["input_len"] == 600 and row["output_len"] == 25 and row["saturated"] is False
    assert row["sustainable_rate"] > 2.0 and row["ttft_p50_s"] <= row["ttft_p99_s"]
    clients = predict("Llama-3.1-8B", "H100-SXM-80GB", trace=str(path), concurrency=4)
    assert clients.served and clients.served.batch > 1
    with pytest.raises(InvalidRequest, match="concurrency is 4 and request_rate 2"):
        Request(model="Llama-3.1-8B", gpu="H100", concurrency=4, request_rate=2.0)


def test_a_load_is_one_thing() -> None:
    with pytest.raises(InvalidRequest, match="give exactly one"):
        Load(input_len=10, output_len=10)
