"""Narrow terminals: no line is wider, and nothing that matters is cut."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pandas as pd
import pytest

from predictor.cli import main
from predictor.cli.common.display import show, show_sheet
from predictor.measurements.schema import write_table

COMMANDS = (
    "predict Llama-3.1-8B --gpu H100 --gpu T4 --dtype fp8",
    "predict Llama-3.1-70B --gpu H100 --tp 4 --pp 2 --explain",
    "predict Qwen2.5-0.5B --gpu H100 --gpu L4 --scheduling continuous --batch 8",
    "predict Qwen2.5-0.5B --gpu A100 --phase train --dp 8 --zero-stage 3 --explain",
    "memory Llama-3.1-70B --gpu H100",
    "memory Llama-3.1-8B --gpu L4 --mode full",
    "op gemm --m 1 --n 4096 --k 4096 --gpu H100 --gpu 4090",
    "op attention --phase decode --batch 4 --q-len 1 --kv-len 1000 --heads 32 --kv-heads 8 --head-dim 128 --gpu H100",
    "gpus",
    "gpus H100",
    "models",
    "models DeepSeek-V3",
    "champion",
    "suggest --model Qwen2.5-0.5B --gpu H100 --budget 3",
    "disaggregated Llama-3.1-8B --gpu H100 --n-gpus 8",
    "evaluate --ledger --family conv",
    "promote base-5 --dry-run",
    "evaluate {table}",
    "monitor --data {table}",
    "check {table}",
    "calibrate --data {table} --out {folder}",
)


@pytest.fixture
def places(tmp_path: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREDICTOR_STORE", str(tmp_path / "store"))
    write_table(frame[frame["gpu"] == "L4"].head(90), tmp_path / "t.parquet")
    return {"table": "t.parquet", "folder": "made"}


@pytest.mark.parametrize("width", [80, 60])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_line_is_wider_than_the_terminal(
    command: str,
    width: int,
    places: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    main(command.format(**places).split())
    said = capsys.readouterr()
    assert said.out, said.err
    beyond = [line for line in said.out.splitlines() if len(line.rstrip()) > width and len(line.split()) > 1]
    assert not beyond
    assert "…" not in said.out


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if not command.startswith(("gpus", "models", "ev"))]
)
def test_a_narrow_terminal_shows_every_word_of_a_wide_one(
    command: str, places: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = []
    for width, folder in (("80", "made"), ("400", "made-too")):
        monkeypatch.setenv("COLUMNS", width)
        main(command.format(**places | {"folder": folder}).split())
        words.append(set(re.findall(r"[^\s─]+", capsys.readouterr().out.replace("made-too", "made"))))
    assert words[0] == words[1]


def test_what_is_left_out_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    main(["gpus", "--vendor", "AMD"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Not shown, as they do not fit: fp4, link GB/s, W. --json has all." in said
    monkeypatch.setenv("COLUMNS", "160")
    main(["gpus", "--vendor", "AMD"])
    assert "Not shown" not in capsys.readouterr().out


def test_a_pipe_is_wide_where_nobody_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    show(["a", ">b"], [["x" * 90, "y" * 90]])
    show_sheet({"name": "word " * 99}, "title")
    rows = capsys.readouterr().out.splitlines()
    assert any(len(row) > 180 for row in rows) and len(rows[-1]) > 400


def test_rows_of_several_tables_keep_their_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    show(["a", "b", *(f">column {i}" for i in range(6))], [["one", "two", *"345678"]], title="t", keys=2)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line[:2] == ["one", "two"]] == [
        ["one", "two", "3", "4", "5", "6"],
        ["one", "two", "7", "8"],
    ]


def test_a_terminal_is_asked_for_its_width() -> None:
    """A pseudo terminal of 80 columns, as `stty cols 80` makes one."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    code = "from predictor.cli import main; main(['predict', 'Qwen2.5-0.5B', '--gpu', 'H100', '--explain'])"
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    running = subprocess.Popen([sys.executable, "-c", code], stdout=slave, env=environment | {"TERM": "dumb"})
    os.close(slave)
    said = b""
    try:
        while chunk := os.read(master, 65536):
            said += chunk
    except OSError:  # how a pseudo terminal ends
        pass
    running.wait()
    lines = said.decode().replace("\r", "").splitlines()
    assert len(lines) > 30 and max(map(len, lines)) <= 80 and not any("…" in line for line in lines)
