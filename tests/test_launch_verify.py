"""Folders of plans, the benchmarks in them, and what a benchmark's result says of a plan."""

import json
import math
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from launches import LOAD, launch_of

from predictor.cli import main
from predictor.errors import InvalidRequest, InvalidTable
from predictor.hardware.gpu import get_gpu
from predictor.measurements.ingest import ingest
from predictor.planning import plan
from predictor.planning.launch import launched, verified, written
from predictor.planning.launch.benchmark import load_of, script
from predictor.planning.launch.folder import _run
from predictor.planning.launch.manifests import Replicas
from predictor.planning.launch.verify import columns_of, read_plan
from predictor.workloads.request import Request

PROMISED = {"ttft_p99_s": 1.0, "tpot_s": 0.05}


@pytest.fixture(scope="module")
def planned():
    return plan("Qwen3-8B", "L4, L40S", **LOAD, ttft_p99_s=1.0, tpot_s=0.05, engines=("vllm", "sglang"), shown=8)


# Benchmarks


def benchmark_words(engine: str, **columns) -> dict[str, str]:
    columns = {"model": "Qwen3-8B", "gpu": "L40S", "engine": engine} | LOAD | columns
    text = script("", Request.of(columns), launch_of(**columns))
    words = shlex.split(text.partition("\nurl=")[2].partition("\n")[2].replace("\\\n", " "), comments=True)
    return {w: n for w, n in zip(words, [*words[1:], ""], strict=True) if w.startswith("--")}


@settings(deadline=None, max_examples=50)
@given(st.integers(20, 4000), st.integers(20, 4000), st.floats(0, 1))
def test_clients_make_the_lengths_that_were_predicted(input_len, output_len, spread):
    """vLLM's lengths are middle ± ratio · middle, SGLang's from a share of the longest up to it."""
    lengths = {"input_len": input_len, "output_len": output_len, "length_spread": spread}
    vllm, sglang = (benchmark_words(engine, **lengths) for engine in ("vllm", "sglang"))
    for name, longest in (("input", input_len), ("output", output_len)):
        middle, ratio = float(vllm[f"--random-{name}-len"]), float(vllm["--random-range-ratio"])
        assert 0 <= ratio < 1
        assert middle * (1 + ratio) == pytest.approx(longest, rel=0.02, abs=2.001)  # whole tokens
        assert middle * (1 - ratio) == pytest.approx(longest * (1 - spread), rel=0.02, abs=2.001)  # whole tokens
        assert float(sglang[f"--random-{name}-len"]) == longest
        assert float(sglang["--random-range-ratio"]) == pytest.approx(1 - spread, abs=1e-3)


def test_clients_come_as_predicted():
    assert benchmark_words("vllm")["--request-rate"] == "4"
    asked = {"request_rate": 0.0, "concurrency": 16}
    for engine in ("vllm", "sglang"):
        words = benchmark_words(engine, **asked)
        assert (words["--max-concurrency"], words["--num-prompts"]) == ("16", "160") and "--request-rate" not in words
    assert benchmark_words("vllm", shared_prefix_len=2000)["--random-prefix-len"] == "2000"
    assert benchmark_words("sglang", shared_prefix_len=2000)["--gsp-system-prompt-len"] == "2000"
    assert load_of(Request.of({"model": "m", "gpu": "g", "request_rate": 0.01})).prompts == 200


def test_a_load_that_no_client_makes_is_said(tmp_path):
    columns = {"model": "Qwen3-8B", "gpu": "L40S", "turns": 3} | LOAD
    file = tmp_path / "benchmark.sh"
    file.write_text(script("", Request.of(columns), launch_of(**columns)))
    done = subprocess.run(["bash", file], check=False, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("no client is known here for sessions of 3 turns")


# Folders


def test_every_plan_has_its_folder(planned, tmp_path):
    names = written(planned, tmp_path / "plans")
    assert len(names) == len(planned.plans) == len(set(names))
    assert {path.name for path in (tmp_path / "plans").iterdir()} == {*names, "plans.json"}
    for name, one in zip(names, planned.plans, strict=True):
        folder = tmp_path / "plans" / name
        several = one.deployment.replicas > 1
        expected = {"run.sh", "benchmark.sh", "compose.yaml", "kubernetes.yaml", "plan.json"}
        assert {path.name for path in folder.iterdir()} == expected | ({"nginx.conf"} if several else set())
        for file in folder.glob("*.sh"):
            assert file.stat().st_mode & 0o111
            assert subprocess.run(["bash", "-n", file], check=False).returncode == 0
        row = json.loads((folder / "plan.json").read_text())
        assert row.items() >= one.row().items()
        assert Request.of(row["request"]) == one.request
        # the script is the command, a line an option
        run = (folder / "run.sh").read_text().partition("\nexec ")[2].replace("\\\n", " ")
        port = str(launched(one.request, one.deployment.workload, one.deployment.candidate.gpu).server.port)
        assert shlex.split(run.replace('"${PORT:-' + port + '}"', port)) == shlex.split(row["command"])


def said_by(script_file: Path, program: str, *arguments: str, **variables: str) -> list[str]:
    """What a script of a plan calls its program with."""
    place = script_file.parent / "bin"
    place.mkdir(exist_ok=True)
    (place / program).write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (place / program).chmod(0o755)
    environment = {"PATH": f"{place}:/usr/bin:/bin", **variables}
    done = subprocess.run([script_file, *arguments], env=environment, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def test_scripts_run_what_they_show(planned, tmp_path):
    folder = tmp_path / "plans" / written(planned, tmp_path / "plans")[0]
    told = said_by(folder / "run.sh", "vllm", PORT="9000")
    command = launched(planned.plans[0].request, planned.plans[0].deployment.workload, get_gpu("L40S")).words
    assert told == ["9000" if word == "8000" else word for word in command[1:]]
    told = said_by(folder / "benchmark.sh", "vllm", "http://there:1")
    assert (
        told[:4] == ["bench", "serve", "--backend", "vllm"] and told[told.index("--base-url") + 1] == "http://there:1"
    )


def test_each_machine_of_a_replica_is_told_its_place(tmp_path):
    launch = launch_of(model="DeepSeek-V3", gpu="H100", tp=8, pp=2)
    file = tmp_path / "run.sh"
    file.write_text(_run("", Replicas("ds", launch, get_gpu("H100"), 1)))
    file.chmod(0o755)
    first, second = (said_by(file, "vllm", NODE_RANK=rank, LEADER_ADDRESS="10.0.0.1") for rank in "01")
    assert first[first.index("--node-rank") :] == ["--node-rank", "0", "--master-addr", "10.0.0.1"]
    assert second[second.index("--node-rank") :] == ["--node-rank", "1", "--master-addr", "10.0.0.1", "--headless"]


def test_nothing_is_written_over_silently(planned, tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(InvalidRequest) as error:
        written(planned, tmp_path)
    assert str(error.value) == (
        f"{tmp_path} is not empty; choose another folder, or --force to write over the plans in it."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    names = written(planned, tmp_path, force=True)
    assert (tmp_path / "mine").read_text() == "kept" and (tmp_path / names[0] / "plan.json").exists()


def test_what_fails_leaves_nothing(planned, tmp_path, monkeypatch):
    monkeypatch.setattr("predictor.planning.launch.folder.kubernetes", lambda of: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        written(planned, tmp_path / "plans")
    assert not list(tmp_path.iterdir())


def test_no_plan_is_no_folder(planned, tmp_path):
    with pytest.raises(InvalidRequest, match="there is no plan to write"):
        written(replace(planned, plans=()), tmp_path / "plans")


# Verifying


def result_of(row, factor: float = 1.0, **changes) -> dict:
    """What `vllm bench serve` would write of a run that goes as a plan's row says, times a factor."""
    request = Request.of({"model": "Qwen3-8B", "gpu": "L40S"} | LOAD)
    done, middle = 400, 1 - request.length_spread / 2
    figures = {"mean_ttft_ms": "ttft_s", "p99_ttft_ms": "ttft_p99_s", "mean_tpot_ms": "tpot_s"}
    figures |= {"p99_tpot_ms": "tpot_p99_s", "mean_e2el_ms": "e2e_s"}
    return {
        "backend": "vllm",
        "model_id": "Qwen/Qwen3-8B",
        "request_rate": request.request_rate,
        "max_concurrency": None,
        "completed": done,
        "total_input_tokens": round(done * request.input_len * middle),
        "total_output_tokens": round(done * request.output_len * middle),
        "request_throughput": row["requests_per_s"],
        "output_throughput": row["tokens_per_s"],
        **{name: 1e3 * factor * row[figure] for name, figure in figures.items()},
        **changes,
    }


def run_of(planned, tmp_path, **changes):
    name = written(planned, tmp_path / "plans")[0]
    folder = tmp_path / "plans" / name
    (folder / "result.json").write_text(json.dumps(result_of(planned.plans[0].row(), **changes)))
    return folder


def test_a_run_as_predicted_is_inside(planned, tmp_path):
    folder = run_of(planned, tmp_path)
    told = read_plan(folder / "plan.json")
    lines, notes = verified(ingest([folder / "result.json"], columns=columns_of(told)), told)
    assert [line.figure for line in lines] == ["ttft_s", "ttft_p99_s", "tpot_s", "tpot_p99_s", "e2e_s"]
    assert all(line.inside and line.kept for line in lines) and not notes
    promised = {line.figure: line.promised for line in lines if not math.isnan(line.promised)}
    assert promised == PROMISED


def test_a_slow_run_is_outside(planned, tmp_path):
    folder = run_of(planned, tmp_path, factor=20.0)
    told = read_plan(folder / "plan.json")
    lines, _ = verified(ingest([folder / "result.json"], columns=columns_of(told)), told)
    assert not any(line.inside for line in lines)
    assert not any(line.kept for line in lines if line.figure in PROMISED)


def test_tokens_per_second_of_clients_are_compared(tmp_path):
    """Of requests that arrive they are what arrives, of which there is no interval worth a word."""
    load = {name: value for name, value in LOAD.items() if name != "request_rate"} | {"concurrency": 8}
    planned = plan("Qwen3-8B", "L40S", **load, tpot_s=0.05, engines=("vllm",), shown=1, vary=False)
    folder = run_of(planned, tmp_path, request_rate="inf", max_concurrency=8)
    told = read_plan(folder / "plan.json")
    lines, notes = verified(ingest([folder / "result.json"], columns=columns_of(told)), told)
    assert lines[-1].figure == "tokens_per_s" and all(line.inside for line in lines) and not notes


def test_another_load_is_not_compared(planned, tmp_path):
    folder = run_of(planned, tmp_path, request_rate=8.0, request_throughput=8.0)
    told = read_plan(folder / "plan.json")
    lines, notes = verified(ingest([folder / "result.json"], columns=columns_of(told)), told)
    assert not lines and notes == ["run 1 is not compared: it has 8 requests/s, the plan 4."]


def test_the_command_line_closes_the_loop(tmp_path, monkeypatch, capsys):
    """Plan, write, run the benchmark (here: as predicted), and ask what it says."""
    monkeypatch.chdir(tmp_path)
    asked = "plan Qwen3-8B --gpus L40S --engine vllm --request-rate 4 --input-len 500 --output-len 100"
    assert main([*asked.split(), "--ttft-p99", "1", "--tpot", "0.05", "--top", "1", "--write", "plans"]) == 0
    assert "1 plans in plans" in capsys.readouterr().out
    folder = next(path for path in Path("plans").iterdir() if path.is_dir())
    row = json.loads((folder / "plan.json").read_text())

    (folder / "result.json").write_text(json.dumps(result_of(row)))
    ingested = ["ingest", str(folder / "result.json"), "--plan", str(folder / "plan.json"), "--out", "runs.parquet"]
    assert main(ingested) == 0
    out = capsys.readouterr().out
    assert "5 of 5 figures lie in their intervals." in out and "inside" in out and "OUTSIDE" not in out
    assert main(["evaluate", "runs.parquet"]) == 0
    (folder / "result.json").write_text(json.dumps(result_of(row, factor=20.0)))
    assert main(ingested) == 0
    out = capsys.readouterr().out
    assert "OUTSIDE" in out and "predictor suggest --gpu L40S --model Qwen3-8B --out shapes.csv" in out
    assert "predictor calibrate --data runs.parquet --out my-bundle" in out
    assert main(["calibrate", "--data", "runs.parquet", "--out", "bundle"]) == 0
    assert "1 run on L40S with vllm: runs.parquet" in capsys.readouterr().out
    assert main([*asked.split(), "--bundle", "bundle", "--json"]) == 0
    assert "corrected by 1 run of yours on L40S with vllm" in capsys.readouterr().out
    assert main([*asked.split(), "--write", "plans"]) == 2
    assert "plans is not empty; choose another folder" in capsys.readouterr().err


def test_columns_that_a_benchmark_was_told_are_read(planned, tmp_path):
    """--metadata of benchmark.sh: the result alone says what ran, and lengths that agree with what was counted."""
    columns = {"gpu": "L40S", "engine": "vllm", "dtype": "fp8", "tp": "1"}
    lengths = {"input_len": "500", "output_len": "100", "length_spread": "0.2"}
    file = tmp_path / "result.json"
    file.write_text(json.dumps(result_of(planned.plans[0].row(), **columns, **lengths)))
    run = ingest([file]).iloc[0]
    assert run[["gpu", "dtype", "tp", "input_len", "output_len", "length_spread"]].tolist() == [
        *("L40S", "fp8", 1.0),
        *(500.0, 100.0, 0.2),
    ]
    file.write_text(json.dumps(result_of(planned.plans[0].row(), **columns, **lengths | {"output_len": "300"})))
    run = ingest([file]).iloc[0]
    assert run[["input_len", "output_len"]].tolist() == [450.0, 90.0] and run["length_spread"] == 0.0


def test_no_plan_is_said(tmp_path):
    for text in ("[]", "{", '{"request": {}}'):
        (tmp_path / "plan.json").write_text(text)
        with pytest.raises(InvalidTable, match=r"give a plan\.json of `predictor plan --write`"):
            read_plan(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"request": None}, "request"),
        ({"replicas": "two"}, "replicas"),
        ({"bundle": None}, "bundle"),
        ({"promised": [1]}, "promised"),
        ({"promised": {"tpot_s": "soon"}}, "promised tpot_s"),
        ({"tpot_s": "fast"}, "tpot_s"),
        ({"tpot_s": math.nan}, "tpot_s"),
        ({"tpot_s_low": None}, "tpot_s_low"),
        ({"ttft_s": -1.0}, "ttft_s"),
    ],
)
def test_a_file_that_is_no_plan_says_by_what(planned, tmp_path, changes, wrong):
    written(planned, tmp_path / "plans")
    (path, *_) = sorted((tmp_path / "plans").glob("*/plan.json"))
    read_plan(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InvalidTable, match=f"is no plan, by its {wrong}; give a plan.json"):
        read_plan(path)
