"""The command line: what it prints, and that bad input is one line on stderr and status 2."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from predictor.cli import COMMANDS, _app, main
from predictor.cli.common.display import duration, duration_interval
from predictor.estimators.bundle import DEFAULT_BUNDLE, released_roots

LLAMA = ("predict", "Llama-3.1-8B")
KEYS = [
    "model",
    "gpu",
    "n_gpus",
    "engine",
    "batch",
    "input_len",
    "output_len",
    "dtype",
    "kv_dtype",
    "tp",
    "ttft_s",
    "ttft_s_low",
    "ttft_s_high",
    "tpot_s",
    "tpot_s_low",
    "tpot_s_high",
    "e2e_s",
    "e2e_s_low",
    "e2e_s_high",
    "tokens_per_s",
    "tokens_per_s_low",
    "tokens_per_s_high",
    "tokens_per_s_per_gpu",
    "memory_bytes",
    "fits",
    "weights_bytes",
    "kv_cache_bytes",
    "kv_cache_bytes_per_token",
    "activations_bytes",
    "runtime_bytes",
    "capacity_bytes",
    "limiter",
    "basis",
    "nearest_gpu",
    "bundle",
    "notes",
    "error",
]
OPS = {
    "gemm": "--m 4096 --n 4096 --k 4096",
    "attention": "--phase decode --batch 8 --q-len 1 --kv-len 4096 --heads 32 --kv-heads 8 --head-dim 128",
    "moe": "--tokens 128 --hidden 4096 --inter 14336 --experts 8 --topk 2",
    "mla": "--phase decode --batch 8 --q-len 1 --kv-len 4096 --heads 128",
    "pointwise": "--kind rms_norm --rows 4096 --cols 4096",
    "conv": "--batch 8 --in-channels 64 --out-channels 64 --size 56 --kernel 3 --padding 1",
    "collective": "--kind all_reduce --message-bytes 1e8 --n-gpus 8",
}


@pytest.fixture(scope="session")
def bundle() -> Path:
    """Folder of the default bundle."""
    for root in released_roots():
        if (root / DEFAULT_BUNDLE / "bundle.json").is_file():
            return root / DEFAULT_BUNDLE
    pytest.skip(f"no bundle {DEFAULT_BUNDLE} is released yet; `make release-model` makes it")


@pytest.fixture
def run(capsys):
    """run(*arguments) → (status, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def error_of(run):
    """error_of(*arguments) → the one line on stderr of a command that fails with status 2 and prints nothing else."""

    def error_of(*arguments: str) -> str:
        status, out, err = run(*arguments)
        assert (status, out) == (2, "")
        assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1
        return err.removeprefix("error: ").removesuffix("\n")

    return error_of


# What it prints


def test_help_lists_every_command(run):
    status, out, _ = run("--help")
    assert status == 0
    assert all(f"\n  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_their_help_says(name):
    command = typer.main.get_command(_app()).get_command(None, name)
    assert command.name == name
    assert " ".join(command.help.split("\n\n")[0].split()) == COMMANDS[name]


def test_every_module_of_a_command_is_listed():
    files = Path(sys.modules["predictor.cli"].__file__).parent.glob("*.py")
    assert {file.stem.replace("_", "-") for file in files if file.stem != "__init__"} == set(COMMANDS)


def test_nothing_asked_is_help(run):
    assert run() == run("--help")


@pytest.mark.parametrize("command", ["predict", "op", "gpus", "models", "check", "train", "evaluate", "doctor"])
def test_every_command_has_help(run, command):
    status, out, err = run(command, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: predictor {command}")


@pytest.mark.parametrize("family", OPS)
def test_help_of_a_family_names_its_fields(run, family):
    status, out, _ = run("op", family, "--help")
    assert status == 0
    assert all(word in out for word in OPS[family].split() if word.startswith("--"))


def test_version(run):
    assert run("--version")[1].startswith("predictor ")


def test_json_has_one_object_per_gpu_with_all_keys(run, bundle):
    status, out, err = run(*LLAMA, "--gpu", "H100", "--gpu", "L4", "--json")
    rows = json.loads(out)
    assert (status, err) == (0, "")
    assert [row["gpu"] for row in rows] == ["H100-SXM-80GB", "L4"]
    for row in rows:
        assert not set(KEYS) - set(row)
        assert row["ttft_s_low"] <= row["ttft_s"] <= row["ttft_s_high"]
        assert row["error"] is None
    assert rows[0]["notes"] and not any("taken as" in note for note in rows[1]["notes"])
    assert rows[1]["nearest_gpu"] in ("L40S", "RTX-4090")


def test_table_has_a_line_per_gpu_and_the_notes(run, bundle):
    status, out, _ = run(*LLAMA, "--gpu", "H100", "--gpu", "L4")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines() if " of " in line and " GB " in line] == [
        "H100-SXM-80GB",
        "L4",
    ]
    assert 'Note: "H100" taken as H100-SXM-80GB' in out


def test_a_note_of_one_gpu_among_several_says_of_which(run, bundle):
    _, out, _ = run(*LLAMA, "--gpu", "H100", "--gpu", "L4", "--input-len", "6000", "--batch", "16")
    assert "Note: L4: vllm has room for" in out, out
    _, alone, _ = run(*LLAMA, "--gpu", "L4", "--input-len", "6000", "--batch", "16")
    assert "Note: vllm has room for" in alone, "there is nothing to tell apart"
    waiting = next(line for line in out.splitlines() if line.split()[:1] == ["L4"] and "GB" in line)
    assert "(waits)" in waiting and "(NO)" not in out


def test_explain_adds_both_phases_in_order_of_time(run, bundle):
    _, out, _ = run(*LLAMA, "--gpu", "L4", "--explain")
    assert "L4 · prefill" in out and "L4 · one decode step" in out
    rows = json.loads(run(*LLAMA, "--gpu", "L4", "--explain", "--json")[1])
    assert {line["phase"] for line in rows[0]["ops"]} == {"prefill", "decode"}
    assert all(line["latency_s"] >= line["bound_s"] for line in rows[0]["ops"])


@pytest.mark.parametrize("family", OPS)
def test_op_of_every_family(run, bundle, family):
    status, out, err = run("op", family, *OPS[family].split(), "--gpu", "H100", "--gpu", "A100", "--json")
    assert (status, err) == (0, "")
    for row in json.loads(out):
        assert row["family"] == family
        assert 0 < row["utilization"] <= 1
        assert row["latency_s_low"] <= row["latency_s"] <= row["latency_s_high"]
    assert run("op", family, *OPS[family].split(), "--gpu", "H100")[0] == 0


def test_gpus_lists_shows_and_filters(run):
    assert "H100-SXM-80GB" in run("gpus")[1]
    assert "source" in run("gpus", "h100")[1]
    assert {gpu["vendor"] for gpu in json.loads(run("gpus", "--vendor", "amd", "--json")[1])} == {"AMD"}
    assert json.loads(run("gpus", "H100", "--json")[1])["mem_bytes_per_s"] == 3.35e12
    laptops = json.loads(run("gpus", "--segment", "laptop", "--json")[1])
    assert laptops and {gpu["segment"] for gpu in laptops} == {"laptop"}
    status, _, err = run("gpus", "--segment", "lapop")
    assert (status, "the segments are data-centre, " in err) == (2, True)


def test_a_models_sheet_has_what_the_model_has(run):
    sheet = run("models", "Qwen3-30B-A3B")[1]
    assert "experts 128" in sheet and "qk_norm" in sheet and not any(word in sheet for word in ("{", "False", "None"))


def test_a_gpus_sheet_says_what_is_derived_converted_and_allowed(run):
    spark, p40, laptop = (run("gpus", name)[1] for name in ("DGX Spark", "P40", "RTX 4090 Laptop GPU"))
    assert "bf16 125 (derived)" in spark and "of what it shares with the CPU" in spark
    assert "fp16 at 90% of fp32" in p40 and "GPU to GPU" in p40
    assert "3105 MHz at most" in laptop and "set to 80 to 175 W" in laptop and "through the host" in laptop
    facts = json.loads(run("gpus", "DGX Spark", "--json")[1])
    assert facts["derived_dtypes"] == ["bf16", "fp16", "fp8", "int8", "tf32"]
    assert facts["card_class"] == "NVIDIA consumer and workstation"


def test_an_op_without_units_is_answered_with_a_note(run, bundle):
    op = ("op", "gemm", "--m", 64, "--n", 4096, "--k", 4096, "--dtype", "bf16", "--json")
    (row,) = json.loads(run(*op, "--gpu", "RTX 2080 Ti")[1])
    assert row["notes"] == ["RTX-2080-Ti has no units for bf16: converted and run in fp32."]
    (row,) = json.loads(run(*op, "--gpu", "DGX Spark")[1])
    assert row["notes"] == ["no bf16 rate of DGX-Spark is published; it follows from its others."]


def test_lint_of_a_spec_file_ends_with_1_where_it_finds_something(run, tmp_path):
    good, odd = tmp_path / "good.toml", tmp_path / "odd.toml"
    good.write_text('base = "H100-SXM-80GB"\nmem_gib = 96\n')
    odd.write_text('base = "H100-SXM-80GB"\npeak_tflops = { bf16 = 1979 }\n')
    assert run("gpus", "--lint", good)[0] == 0
    assert run("gpus", "--lint", odd)[0] == 1


def test_a_spec_file_is_a_gpu(run, bundle, tmp_path):
    spec = tmp_path / "half.toml"
    spec.write_text('base = "H100-SXM-80GB"\nmem_bandwidth_gb_per_s = 1675\n')
    _, out, _ = run(*LLAMA, "--gpu", spec, "--gpu", "H100", "--json")
    half, whole = json.loads(out)
    assert (half["gpu"], half["basis"]) == ("half", "unseen-gpu")
    assert half["tpot_s"] > whole["tpot_s"]


def test_models_lists_and_shows(run):
    assert "Llama-3.1-8B" in run("models")[1]
    assert json.loads(run("models", "Llama-3.1-8B", "--json")[1])["parameters"] == 8_030_261_248


def test_check_counts_rows_by_reason_and_writes_them(run, tmp_path):
    table, out = tmp_path / "table.csv", tmp_path / "checked.parquet"
    table.write_text(
        "family,gpu,engine,dtype,m,n,k,latency_s\n"
        "gemm,H100,vllm,bf16,4096,4096,4096,0.0002\n"
        "gemm,H100,vllm,bf16,8192,8192,4096,0.0000001\n"
    )
    status, printed, _ = run("check", table, "--out", out)
    assert status == 0 and out.is_file()
    assert "accepted" in printed and "faster than the bf16 roofline bound" in printed


def test_durations_share_the_unit_of_their_interval():
    assert duration_interval(0.0123, 0.000_9, 1.5) == "12.3 ms (0.90–1,500)"
    assert [duration(s) for s in (2, 0.5, 3e-8)] == ["2.00 s", "500 ms", "30.0 ns"]


# Bad input


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["predict", "Llama-3.1-8B", "--gpu", "H1000"], "did you mean"),
        (["predict", "Lama-3.1-8B", "--gpu", "H100"], "did you mean Llama-3.1-8B"),
        (["predict", "Llama-3.1-8B"], "Missing option '--gpu'."),
        (["predict"], "Missing argument"),
        ([*LLAMA, "--gpu", "H100", "--batch", "many"], "--batch"),
        ([*LLAMA, "--gpu", "H100", "--bathc", "1"], "--batch"),
        ([*LLAMA, "--gpu", "H100", "--bundle", "nope"], 'no bundle "nope"'),
        (["predicts"], "predict"),
        (["op", "gem"], 'family is "gem"; it must be one of gemm, attention'),
        (["op", "gemm", "--m", "4", "--gpu", "H100"], "gemm lacks --n, --k"),
        (["op", "gemm", "--m", "0", "--n", "1", "--k", "1", "--gpu", "H100"], "m is 0; it must be a whole number"),
        (["op", "gemm", "--m", "x", "--gpu", "H100"], "--m"),
        (["gpus", "--vendor", "Acme"], 'vendor is "Acme"; it must be one of NVIDIA'),
        (["check", "nowhere.parquet"], "nowhere.parquet does not exist"),
        (["train", "nowhere.parquet", "--recipe", "nowhere.toml", "--out", "nowhere"], "nowhere.toml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_status_2(error_of, arguments, says):
    assert says in error_of(*arguments)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--batch 0", "batch is 0; it must be at least 1."),
        ("--tp 3", "tp is 3"),
        ("--dtype bf15", 'dtype is "bf15"; it must be one of'),
        ("--kv-dtype bf15", 'kv_dtype is "bf15"; it must be one of'),
        ("--engine slow", 'engine is "slow"; it must be one of'),
        ("--input-len 1000000000", "input_len + output_len"),
    ],
)
def test_impossible_workloads_are_one_line(error_of, bundle, options, says):
    assert says in error_of(*LLAMA, "--gpu", "H100", *options.split())


def test_a_dtype_that_a_gpu_lacks_names_the_next_best(error_of, bundle):
    assert 'use dtype="fp16"' in error_of(*LLAMA, "--gpu", "V100", "--dtype", "bf16")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0\0\0",
        "[" * 5000,
        'base = "H100-SXM-80GB"\nmem_gib = -1',
        'base = "H100-SXM-80GB"\nmem_gib = nan',
        'base = "H100-SXM-80GB"\nsms = "__import__(\'os\')"',
        'base = "H100-SXM-80GB"\ncolour = "red"',
        'base = ["H100"]',
        'base = "H100-SXM-80GB"\npeak_tflops = 3',
    ],
)
def test_hostile_gpu_spec_is_one_line(error_of, tmp_path, text):
    spec = tmp_path / "gpu.toml"
    spec.write_text(text)
    error_of(*LLAMA, "--gpu", spec)
    error_of("gpus", "--lint", spec)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        "{}",
        '{"model_type": "llama"}',
        '{"model_type": "llama", "hidden_size": 1e400, "num_hidden_layers": -1}',
        '{"model_type": ["llama"], "hidden_size": "' + "9" * 5000 + '"}',
    ],
)
def test_hostile_model_config_is_one_line(error_of, tmp_path, text):
    config = tmp_path / "config.json"
    config.write_text(text)
    error_of("predict", config, "--gpu", "H100")
    error_of("models", config)


def test_a_file_instead_of_a_table_is_one_line(error_of, bundle, tmp_path):
    table = tmp_path / "table.parquet"
    table.write_bytes(b"PAR1" + b"\0" * 100)
    assert "cannot be read" in error_of("evaluate", table)
    assert "cannot be read" in error_of("check", table)


def test_a_truncated_table_is_one_line(run, error_of, bundle, tmp_path):
    table, whole = tmp_path / "table.csv", tmp_path / "whole.parquet"
    table.write_text("family,gpu,dtype,m,n,k,latency_s\ngemm,H100,bf16,4096,4096,4096,0.0002\n")
    assert run("check", table, "--out", whole)[0] == 0
    whole.write_bytes(whole.read_bytes()[:-100])
    assert "cannot be read" in error_of("evaluate", whole)


def test_an_output_that_is_a_folder_is_one_line(run, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("family,gpu,dtype,m,n,k,latency_s\ngemm,H100,bf16,4096,4096,4096,0.0002\n")
    folder = tmp_path / "out.parquet"
    folder.mkdir()
    status, _, err = run("check", table, "--out", folder)
    assert (status, err.count("\n")) == (2, 1)
    assert "cannot be used (Is a directory)" in err


def test_a_flipped_byte_in_an_estimator_is_found(error_of, bundle, tmp_path):
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    estimator = copy / "gemm.transfer.ubj"
    content = bytearray(estimator.read_bytes())
    content[len(content) // 2] ^= 1
    estimator.write_bytes(content)
    assert "is corrupt (sha256 differs" in error_of("predict", "Llama-3.1-8B", "--gpu", "H100", "--bundle", copy)


def test_a_broken_manifest_is_one_line(error_of, bundle, tmp_path):
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    manifest = copy / "bundle.json"
    for text in ("", "[]", "{}", manifest.read_text()[:-100]):
        manifest.write_text(text)
        error_of("predict", "Llama-3.1-8B", "--gpu", "H100", "--bundle", copy)


# As a process


def predictor(*arguments: str, **options) -> subprocess.Popen:
    code = "import sys; from predictor.cli import main; sys.exit(main())"
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True, **options)


def test_an_error_of_the_user_has_no_traceback():
    process = predictor("predict", "Llama-3.1-8B", "--gpu", "H1000", stdout=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    assert "Traceback" not in err


def test_a_closed_pipe_ends_quietly():
    process = predictor("gpus", "--json", stdout=subprocess.PIPE)
    process.stdout.close()
    err = process.stderr.read()
    process.wait(timeout=60)
    assert err == ""


def test_an_unexpected_exception_is_not_hidden(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("predictor.hardware.gpu.catalogue", broken)
    with pytest.raises(ZeroDivisionError):
        main(["gpus"])


def test_ctrl_c_is_status_130_and_quiet(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("predictor.hardware.gpu.catalogue", interrupted)
    assert main(["gpus"]) == 130
    assert capsys.readouterr().err.strip() == ""


def test_the_ledger_answers_for_one_cell(run, error_of, bundle):
    status, text, _ = run("evaluate", "--ledger", "--gpu", "B200", "--family", "attention")
    assert status == 0
    assert "generation-out" in text and "model-like" in text
    assert "B200-SXM-180GB" in text and "A100" not in text
    assert "the nearest is" in error_of("evaluate", "--ledger", "--gpu", "B300")
    assert "either a table of measurements or --ledger" in error_of("evaluate")
