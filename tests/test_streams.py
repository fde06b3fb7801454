"""Standard output that is closed, full, or read by somebody who has seen enough; and GPUs of which some cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from predictor.cli import main

CODE = "import sys; from predictor.cli import main; sys.exit(main(sys.argv[1:]))"
PRINTING = (
    "--help",
    "--version",
    "gpus",
    "models --json",
    "op --help",
    "predict --help",
    "predict Qwen2.5-0.5B --gpu H100",
    "predict Qwen2.5-0.5B --gpu H100 --json --explain",
    "memory Qwen2.5-0.5B --gpu H100",
    "op gemm --m 1 --n 64 --k 64 --gpu H100",
    "doctor",
)


def ended(arguments: str, redirection: str, **environment: str) -> tuple[int, str]:
    """Status and standard error of a command whose output is redirected by the shell."""
    command = f'"{sys.executable}" -c "$CODE" {arguments} {redirection}'
    done = subprocess.run(
        command,
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CODE": CODE, **environment},
    )
    return done.returncode, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", PRINTING)
def test_an_output_that_is_full_is_one_line(arguments: str, unbuffered: str) -> None:
    status, said = ended(arguments, ">/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert status == 2
    assert said == "error: standard output cannot be written (No space left on device); redirect it.\n"


@pytest.mark.parametrize("arguments", PRINTING[:5])
def test_an_output_that_is_closed_is_one_line(arguments: str) -> None:
    status, said = ended(arguments, ">&-")
    assert status == 2
    assert said == "error: standard output is closed; redirect it, to /dev/null where nobody reads it.\n"


@pytest.mark.parametrize("redirection", ["2>&- >/dev/null", ">/dev/full 2>/dev/full"])
def test_errors_that_nobody_can_read_end_quietly(redirection: str) -> None:
    status, _ = ended("gpus H1000", redirection)
    assert status == 2


def test_a_reader_that_has_seen_enough_gets_no_error() -> None:
    assert ended("models", "| head -1 >/dev/null")[1] == ""


def test_an_error_of_another_file_is_not_taken_for_one_of_the_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("predictor.prediction.single.resolve_gpu", full)
    assert main(["predict", "Qwen2.5-0.5B", "--gpu", "H100"]) == 2
    assert capsys.readouterr().err == "error: a file cannot be used (No space left on device); give another path.\n"


COMPARED = {
    "predict": "predict Qwen3-32B --gpu H200 --gpu T4 --dtype fp8",
    "memory": "memory Qwen3-32B --gpu H200 --gpu T4 --dtype fp8",
    "op": "op gemm --m 8 --n 64 --k 64 --dtype fp8 --gpu H200 --gpu T4",
}


@pytest.mark.parametrize("command", COMPARED)
def test_a_gpu_that_cannot_run_it_says_why_beside_the_others(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = COMPARED[command].split()
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert "H200-SXM-141GB" in said.out and said.err == ""
    assert [line for line in said.out.splitlines() if line.startswith("Tesla-T4: no fp8 peak for Tesla-T4")]
    assert main([*arguments, "--json"]) == 1
    first, second = json.loads(capsys.readouterr().out)
    assert first["error"] is None if command != "memory" else first["memory_bytes"] > 0
    assert second["gpu"] == "Tesla-T4" and second["error"].startswith("no fp8 peak") and len(second) <= 4


@pytest.mark.parametrize("command", COMPARED)
def test_where_no_gpu_can_run_it_each_is_told(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [each.replace("H200", "V100") for each in COMPARED[command].split()]
    for more in ([], ["--json"]):
        assert main([*arguments, *more]) == 2
        said = capsys.readouterr()
        assert said.out == "" and "V100-SXM2-32GB: no fp8" in said.err and "Tesla-T4: no fp8" in said.err


def test_what_is_wrong_for_every_gpu_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "Qwen2.5-0.5B", "--gpu", "H100", "--gpu", "L4", "--input-len", "99999999"]) == 2
    assert capsys.readouterr().err.count("input_len + output_len is") == 1
